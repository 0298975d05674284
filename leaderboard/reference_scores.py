"""Scores that the papers print (protocol 6), shown as reference rows beside measured ones and never ranked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedRow:
    """Scores of one model as printed, by task."""

    title: str
    source: str
    scores: dict[str, float]


_TASKS = ("cremi", "guay", "kasthuri", "perez-lyso", "perez-mito", "perez-nuclei", "perez-nucleoli", "urocell")
_CONRAD = "Conrad & Narayan 2021, Table 2 (mean of five runs)"
_RETINA = "RETINA paper, text"


def _row(title: str, *scores: float) -> PublishedRow:
    return PublishedRow(title, _CONRAD, dict(zip(_TASKS, scores, strict=True)))


PUBLISHED: tuple[PublishedRow, ...] = (
    _row("UNet-ResNet50, random weights", 0.000, 0.308, 0.905, 0.842, 0.130, 0.984, 0.731, 0.424),
    _row("UNet-ResNet50, ImageNet supervised", 0.196, 0.275, 0.908, 0.838, 0.860, 0.987, 0.859, 0.584),
    _row("UNet-ResNet50, ImageNet MoCoV2", 0.226, 0.300, 0.911, 0.816, 0.866, 0.986, 0.865, 0.618),
    _row("UNet-ResNet50, CEM500K MoCoV2", 0.254, 0.429, 0.915, 0.849, 0.884, 0.988, 0.885, 0.734),
    PublishedRow(
        "Earlier best, as cited there",
        _CONRAD.removesuffix(" (mean of five runs)"),
        {
            "guay": 0.417,
            "kasthuri": 0.845,
            "perez-lyso": 0.726,
            "perez-mito": 0.780,
            "perez-nuclei": 0.942,
            "perez-nucleoli": 0.835,
        },
    ),
    PublishedRow("UNet-ResNet50, random weights", _RETINA, {"cremi": 0.000}),
    PublishedRow("UNet-ResNet50, MoCoV2", _RETINA, {"cremi": 0.246}),
    PublishedRow("TransUNet", _RETINA, {"cremi": 0.294}),
    PublishedRow("RETINA", _RETINA, {"cremi": 0.330}),
)
"""What the RETINA paper gives only as a bound or in percent is left out; its Table 1 is not available."""


def published_for(tasks: list[str]) -> list[PublishedRow]:
    """Return the rows with a score on any of ``tasks``."""
    return [row for row in PUBLISHED if row.scores.keys() & set(tasks)]

"""What rows can be ranked by: one entry each; the ranking, the pages and the downloads loop over them.

Besides the protocol's score and the average precision of probabilities these are the metrics of the harness that may
rank (:attr:`embench.scoring.metrics.Metric.ranks`) and of which more is better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from embench.scoring.metrics import Metric, metrics
from embench.scoring.schema import SnapshotScore


@dataclass(frozen=True)
class Measure:
    """One figure of a trial by which rows can be ranked; more is better.

    Parameters
    ----------
    name : str
    title : str
        For headings and the choice on the page.
    description : str
        One sentence.
    by_class : callable
        From the last snapshot and a label value to the figure, ``None`` where the file has nothing to tell it from.
    """

    name: str
    title: str
    description: str
    by_class: Callable[[SnapshotScore, int], float | None]

    def of(self, final: SnapshotScore, classes: Iterable[int]) -> float | None:
        """Return the mean over the classes that have the figure; ``None`` where none has."""
        if self.name == "score":  # the protocol's own mean
            return final.score
        known = [value for label in classes if (value := self.by_class(final, label)) is not None]
        return sum(known) / len(known) if known else None


def _class_iou(final: SnapshotScore, label: int) -> float | None:
    return final.class_iou.get(label)


def _average_precision(final: SnapshotScore, label: int) -> float | None:
    return final.diagnostics.average_precision.get(label) if final.diagnostics else None


def metric_of(name: str, final: SnapshotScore, label: int) -> float | None:
    """Return a metric that a result stores, of one class."""
    return (final.metrics or {}).get(name, {}).get(label)


def _ranks(metric: Metric) -> bool:
    # What follows from the same counts as the score would only repeat it.
    return metric.ranks and metric.higher_is_better and "scores" not in metric.needs and metric.name not in _REPEATED


_REPEATED = ("iou", "dice", "precision", "recall")

REGISTRY: dict[str, Measure] = {
    each.name: each
    for each in (
        Measure("score", "IoU under the protocol", "Shared voxels by all voxels of prediction or truth.", _class_iou),
        Measure(
            "average_precision",
            "average precision",
            "Precision averaged over recall: needs no threshold.",
            _average_precision,
        ),
        *(
            Measure(metric.name, metric.title, metric.description, partial(metric_of, metric.name))
            for metric in metrics().values()
            if _ranks(metric)
        ),
    )
}

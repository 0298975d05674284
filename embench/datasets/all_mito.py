"""All Mitochondria: the mitochondria of five benchmarks together; an extension of the published suite (protocol 1).

Training follows the published scripts: sections of Perez, Lucchi++, Kasthuri++, UroCell (along all three axes) and
Guay, cut into 256-pixel patches so that few large images weigh like many small ones, patches that are almost all
padding left out.

The published score is the mean of five test sets, each under a rule of its own. A task here has one rule, so it is
scored on the test sections of the three whose mitochondria are all labelled (Lucchi++, Kasthuri++, UroCell), as 2D
images: NOT comparable with the published figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.readers.base import Computed
from embench.data.task import Dataset, Item, Measurement, Scoring, Sections, Split, Task
from embench.datasets import guay, kasthuri, lucchi, perez, urocell

SIDE = 256
"""Pixels of a training patch (or the whole section where that is smaller)."""
_LEAST_IMAGE = 0.05
"""Share of a patch that must not be black padding."""

_PARTS: tuple[tuple[Dataset, str, int, tuple[int, ...], tuple[Split, ...]], ...] = (
    (perez.DATASET, "perez-mito", 1, (0,), ("train",)),
    (lucchi.DATASET, "lucchi", 1, (0,), ("train", "test")),
    (kasthuri.DATASET, "kasthuri", 1, (0,), ("train", "test")),
    (urocell.DATASET, "urocell", 2, (0, 1, 2), ("train", "test")),
    (guay.DATASET, "guay", 2, (0,), ("train",)),
)
"""Data set, task, label value of mitochondria, axes that training sections are cut along, splits used."""


def read(source: Path | None, name: str) -> Iterator[Item]:
    """Yield training patches and test sections from a folder that holds the published files of all five data sets.

    Raises
    ------
    BadInput
        Whatever is wrong with any of the five.
    """
    del name
    faults: list[str] = []
    for dataset, task, value, axes, splits in _PARTS:
        try:
            for item in dataset.read(source, task):
                if item.split not in splits:
                    continue
                try:
                    yield from _converted(item, task, value, axes)
                except BadInput as error:
                    faults += error.lines
        except BadInput as error:
            faults += error.lines
    if faults:
        raise BadInput(faults)


def _converted(item: Item, task: str, value: int, axes: tuple[int, ...]) -> Iterator[Item]:
    assert item.labels is not None
    name = f"{task}-{item.name}"
    if item.split == "test":
        labels = Computed(_shape(item.labels), partial(_of_value, item.labels, value))
        yield Item("test", name, item.image, labels, item.origin, item.notes)
        return
    image_ZYX, labels_ZYX = _loaded(item.image), _loaded(item.labels)
    for axis in axes:
        image, labels = np.moveaxis(image_ZYX, axis, 0), np.moveaxis(labels_ZYX == value, axis, 0)
        places = [
            place
            for z in range(len(image))
            for place in _patches(image[z], z)
            if (_patch(image, place) > 0).mean() >= _LEAST_IMAGE
        ]
        if not places:
            continue
        shape = (len(places), *_patch(image, places[0]).shape)
        yield Item(
            "train",
            f"{name}-axis{axis}",
            Computed(shape, partial(_nth_patch, image, places)),
            Computed(shape, partial(_nth_patch, labels, places)),
            item.origin,
            item.notes if axis == axes[0] else [],
        )


Place = tuple[int, slice, slice]


def _patches(section_YX: NDArray[np.uint8], z: int) -> Iterator[Place]:
    height, width = section_YX.shape
    for y in _starts(height):
        for x in _starts(width):
            yield z, slice(y, min(y + SIDE, height)), slice(x, min(x + SIDE, width))


def _starts(length: int) -> list[int]:
    """Return where patches start along an axis: as many as cover it, overlapping evenly."""
    count = -(-length // SIDE)
    overlaps = np.linspace(0, count * SIDE - length, count) if length > SIDE else np.zeros(1)
    return [number * SIDE - int(overlap) for number, overlap in enumerate(overlaps)]


def _patch(volume: NDArray[np.uint8], place: Place) -> NDArray[np.uint8]:
    return volume[place]


def _nth_patch(volume: NDArray[np.uint8], places: list[Place], number: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(volume[places[number]], np.uint8)


def _of_value(labels: Sections, value: int, z: int) -> NDArray[np.uint8]:
    return (labels[z] == value).astype(np.uint8)


def _loaded(volume: Sections) -> NDArray[np.uint8]:
    return np.stack([volume[z] for z in range(volume.shape[0])])


def _shape(volume: Sections) -> tuple[int, int, int]:
    depth, height, width = volume.shape
    return depth, height, width


DATASET = Dataset(
    name="all-mito",
    tasks=(
        Task(
            name="all-mito",
            title="All mitochondria (scored on Lucchi++, Kasthuri++, UroCell)",
            dataset="all-mito",
            classes=("background", "mitochondria"),
            scoring=Scoring("2d"),
            measurement=Measurement(structures=("blob",)),
            iterations=10000,
            batch_size=32,
            crop=256,
            norms=(0.555664, 0.09931),
            noise_and_blur=True,
            modality="various",
            licence="of its five parts",
            citation="""@article{conrad2021cem500k,
  title = {{CEM500K}, a large-scale heterogeneous unlabeled cellular electron microscopy image dataset for deep
           learning},
  author = {Conrad, Ryan and Narayan, Kedar},
  journal = {eLife}, volume = {10}, pages = {e65894}, year = {2021}, doi = {10.7554/eLife.65894}
}""",
            homepage="https://doi.org/10.7554/eLife.65894",
        ),
    ),
    read=read,
    downloads=tuple(download for dataset, *_ in _PARTS for download in dataset.downloads),
)

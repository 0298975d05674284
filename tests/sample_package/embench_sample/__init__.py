"""A package as another lab would write it: a data set, a model, a recipe and a metric."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from embench import BadInput, Dataset, Item, Metric, Recipe, Scoring, Task, TorchModel

TASK = Task(
    name="sample-spots",
    title="Bright spots",
    dataset="sample",
    classes=("background", "spot"),
    scoring=Scoring("2d"),
    iterations=3,
    batch_size=2,
    crop=64,
    scale="tiny",
    licence="CC0-1.0",
)


def read(source: Path | None, name: str) -> Iterator[Item]:
    """Read ``SPLIT/*.png``, the mask of each in the file that ends in ``-mask.png``."""
    assert source is not None
    for split in ("train", "test"):
        files = sorted(path for path in (source / split).glob("*.png") if not path.stem.endswith("-mask"))
        if not files:
            raise BadInput(f"{source / split}: no .png images")
        for path in files:
            image, mask = (np.asarray(Image.open(each)) for each in (path, path.with_name(f"{path.stem}-mask.png")))
            yield Item(split, path.stem, image[None], (mask > 0).astype(np.uint8)[None], origin=str(path))


DATASET = Dataset(name="sample", tasks=(TASK,), read=read)


class Small(TorchModel):
    """Two convolutions."""

    name = "sample-small"
    title = "Two convolutions"
    recipe = Recipe(name="sample", optimiser="adam", learning_rate=0.01, crop=64, batch_size=2, augmentation="flips")

    def network(self, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, outputs, 3, padding=1))


class Overlap(Metric):
    """Pixels found, of those that are there."""

    name = "sample-found"
    title = "Found"
    parts = ("found", "there")

    def evidence(self, masks):
        return float((masks.prediction & masks.truth).sum()), float(masks.truth.sum())

    def score(self, evidence):
        found, there = evidence
        return found / there if there else None

"""A task of bright discs on noise that trains in seconds, and what runs on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from embench import results, store
from embench.experiment import Request, trials
from embench.pretraining import Settings
from embench.registry import find_pretraining
from embench.task import Item, Scoring, Task, UnlabelledSet
from embench.trial import TrialSpec
from embench.weights import PretrainingCard, save_weights, weights_path

TOY = Task(
    name="toy",
    title="Bright discs on noise",
    dataset="toy",
    classes=("background", "disc"),
    scoring=Scoring("2d"),
    iterations=8,
    pretraining="toy-unlabelled",
    scale="tiny",
)


def discs(seed: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image_ZYX = rng.normal(90, 12, (depth, 96, 96))
    y, x = np.mgrid[:96, :96]
    labels_ZYX = np.zeros(image_ZYX.shape, np.uint8)
    for z in range(depth):
        for cy, cx in rng.integers(12, 84, (3, 2)):
            labels_ZYX[z] |= ((y - cy) ** 2 + (x - cx) ** 2 < 120).astype(np.uint8)
    return np.clip(image_ZYX + 70 * labels_ZYX, 0, 255).astype(np.uint8), labels_ZYX


def make(folder: Path) -> Path:
    """Make in ``folder`` the toy task, and checkpoints of both pre-trainings from random networks."""
    items = [Item(split, split, *discs(seed, depth)) for split, seed, depth in (("train", 1, 6), ("test", 2, 2))]  # type: ignore[arg-type]
    store.write(store.prepared_path("toy", folder), TOY, items)
    unlabelled = UnlabelledSet("toy-unlabelled", "", "toy", scale="tiny")
    store.write(store.prepared_path("toy-unlabelled", folder), unlabelled, [Item("train", "a", discs(3, 4)[0])])
    for method in ("retina", "mocov2"):
        torch.manual_seed(0)
        made = find_pretraining(method)()
        settings = made.settings("tiny", batch_size=4, epochs=1)
        assert isinstance(settings, Settings)
        tensors = made.weights(made.module(settings, 8))
        save_weights(weights_path(method, "toy-unlabelled", "tiny", folder), tensors, card(method))
    return folder


def card(method: str, **changes: object) -> PretrainingCard:
    facts = {
        "method": method,
        "data": "toy-unlabelled",
        "data_hash": "0" * 64,
        "scale": "tiny",
        "epochs": 1,
        "iterations": 1,
        "images": 8,
        "crop": 64,
        "batch_size": 4,
        "norms": (0.4, 0.2),
        "seed": 0,
        "loss_curve": ((1, 0.5),),
        "seconds": 1.0,
        "synthetic": True,
        "environment": {},
    }
    return PretrainingCard.model_validate(facts | changes)


def request(data: Path, folder: Path, models: list[str], **changes: object) -> Request:
    settings = {"tasks": ["toy"], "seeds": 1, "snapshots": 2, "device": "cpu", "data": data, "results": folder}
    return Request(models=models, **(settings | changes))  # type: ignore[arg-type]


def planned(data: Path, folder: Path, model: str = "unet-resnet50", **changes: object) -> TrialSpec:
    return trials(request(data, folder, [model], **changes))[0]


def comparable(result: results.TrialResult) -> str:
    """Everything of a result but what a clock, a memory gauge or the state of the source tree gave."""
    timeless = result.model_copy(
        update={
            "seconds_training": 0,
            "seconds_prediction": 0,
            "peak_memory_bytes": 0,
            "environment": {**result.environment, "commit": ""},
            "snapshots": tuple(snapshot.model_copy(update={"seconds": 0}) for snapshot in result.snapshots),
        }
    )
    return timeless.model_dump_json()

"""A task of bright discs on noise that trains in seconds, and what runs on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from embench.core import paths
from embench.data import store
from embench.data.task import Item, Scoring, Task, UnlabelledSet
from embench.models.base import TorchModel
from embench.models.checkpoints import PretrainingCard, save_weights
from embench.models.registry import find_model
from embench.pretraining.initial_checkpoint import start_path
from embench.pretraining.registry import find_pretraining, pretraining_names
from embench.runs.options import RunRequest
from embench.runs.request import trials
from embench.runs.trial import TrialSpec
from embench.scoring import schema

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


def make_task(folder: Path) -> Path:
    """Make in ``folder`` the toy task."""
    items = [Item(split, split, *discs(seed, depth)) for split, seed, depth in (("train", 1, 6), ("test", 2, 2))]  # type: ignore[arg-type]
    store.write(paths.prepared_path("toy", folder), TOY, items)
    return folder


def make(folder: Path) -> Path:
    """Make in ``folder`` the toy task, and checkpoints of both pre-trainings from random networks."""
    make_task(folder)
    unlabelled = UnlabelledSet("toy-unlabelled", "", "toy", scale="tiny")
    store.write(paths.prepared_path("toy-unlabelled", folder), unlabelled, [Item("train", "a", discs(3, 4)[0])])
    for model in ("retina", "unet-resnet50-mocov2"):
        make_start(model, folder)
    return folder


def make_start(spec: str, folder: Path) -> None:
    """Make the checkpoint that a model starts from, of a random network, unless it starts at random or it is there."""
    model = find_model(spec)
    if not isinstance(model, TorchModel) or model.pretraining is None:
        return
    path = start_path(model, "toy-unlabelled", "tiny", folder)
    if not path.exists():
        torch.manual_seed(0)
        about = card(model.pretraining, model=model.base.name, data=model.pretraining_data or "toy-unlabelled")
        save_weights(path, pretrained_tensors(model), about)


def pretrained_tensors(model: TorchModel) -> dict[str, torch.Tensor]:
    """Return what the pre-training of ``model`` writes; of one that is only published, what is transferred."""
    assert model.pretraining is not None
    if model.pretraining not in pretraining_names():
        own = model.at("tiny").network(1).state_dict()
        given = {key: tensor for key, tensor in own.items() if key.startswith(model.transferred)}
        # a ResNet of others is stored as its encoder alone
        alone = model.base.name.startswith("unet-resnet50")
        return {key.removeprefix("encoder.") if alone else key: tensor for key, tensor in given.items()}
    method = find_pretraining(model.pretraining)(model.base())
    return method.weights(method.module(method.settings("tiny", batch_size=4, epochs=1), 8))


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


def request(data: Path, folder: Path, models: list[str], **changes: object) -> RunRequest:
    settings = {"tasks": ["toy"], "seeds": 1, "evaluations": 2, "device": "cpu", "data": data, "results": folder}
    return RunRequest(models=models, **(settings | changes))  # type: ignore[arg-type]


def planned(data: Path, folder: Path, model: str = "unet-resnet50", **changes: object) -> TrialSpec:
    return trials(request(data, folder, [model], **changes))[0]


def comparable(result: schema.TrialResult) -> str:
    """Everything of a result but what a clock, a memory gauge or the state of the source tree gave."""
    timeless = result.model_copy(
        update={
            "seconds_training": 0,
            "seconds_prediction": 0,
            "seconds_waiting": 0,
            "peak_memory_bytes": 0,
            "environment": {**result.environment, "commit": ""},
            "snapshots": tuple(snapshot.model_copy(update={"seconds": 0}) for snapshot in result.snapshots),
        }
    )
    return timeless.model_dump_json()

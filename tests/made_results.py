"""Result files made up for the leaderboard's tests: true to the schema, with counts from which the scores follow."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from embench.recipe import RECIPES
from embench.results import (
    Diagnostics,
    ImageCounts,
    ModelCard,
    SnapshotScore,
    TrialResult,
    fingerprint,
    save,
    score,
    tuned_iou,
)
from embench.task import Scoring, Task

MODELS: dict[str, tuple[str, str, int, str]] = {
    "unet-resnet50": ("UNet-ResNet50", "convolutional", 32_500_000, "none"),
    "unet-resnet50-mocov2": ("UNet-ResNet50, MoCoV2", "convolutional", 32_500_000, "cem500k"),
    "transunet": ("TransUNet", "hybrid", 22_200_000, "none"),
    "retina": ("RETINA", "hybrid", 22_200_000, "cem500k"),
}


def task(name: str = "vnc-mito", **changes: Any) -> Task:
    facts: dict[str, Any] = {
        "name": name,
        "title": name,
        "dataset": "made-up",
        "classes": ("background", "mitochondrion"),
        "scoring": Scoring("2d"),
        "iterations": 1000,
        "licence": "CC BY-NC-SA 3.0",
        "citation": "doi 10.6084/m9.figshare.856713",
        "pretraining": "vnc-unlabelled",
    }
    return Task(**{**facts, **changes})


def result(
    model: str = "retina",
    on: Task | None = None,
    seed: int = 0,
    quality: float = 0.6,
    *,
    noise: float = 0.03,
    recipe: str | None = None,
    crop: int | None = None,
    batch: int | None = None,
    iterations: int | None = None,
    status: str = "done",
    tuned: float | None = None,
    precision: float | None = None,
    data_hash: str | None = None,
    texts: dict[str, Any] | None = None,
    **changes: Any,
) -> TrialResult:
    """Return a trial whose score is about ``quality``, drawn from the seed and the names alone."""
    on = on or task()
    budget = iterations or on.iterations
    generator = np.random.default_rng([seed, *hashlib.sha256(f"{model}{on.name}{recipe}".encode()).digest()])
    own = "unet" if model.startswith("unet") else "retina"
    used = RECIPES[recipe or own].for_task(on).resized(crop=crop, batch_size=batch)
    title, family, parameters, pretraining = MODELS.get(model, (model, "other", 1_000_000, "none"))
    data_hash = data_hash or hashlib.sha256(on.name.encode()).hexdigest()
    reached = float(np.clip(quality + noise * generator.standard_normal(), 0, 0.99))
    snapshots = []
    for step in range(1, 6):
        target = reached * (1 - np.exp(-1.2 * step)) / (1 - np.exp(-6))
        snapshots.append(_snapshot(on, budget * step // 5, target, tuned, precision, generator))
    if status == "diverged":
        snapshots = snapshots[:2]
    facts: dict[str, Any] = {
        "model": ModelCard(
            name=model,
            title=title,
            family=family,
            parameters=parameters,
            trained_parameters=parameters,
            pretraining="none" if pretraining == "none" else "self-supervised",
            pretraining_data=pretraining,
            weights_hash=None if pretraining == "none" else hashlib.sha256(model.encode()).hexdigest(),
            licence="MIT",
            citation="A paper, 2024",
        ),
        "task": on.name,
        "seed": seed,
        "recipe": asdict(used),
        "pairing": "default" if recipe in (None, own) else recipe,
        "track": "published" if recipe in (None, own) and not crop and budget == on.iterations else "open",
        "synthetic": on.synthetic,
        "status": status,
        "message": "the loss is not finite at iteration 512" if status == "diverged" else "",
        "fingerprint": fingerprint(on, data_hash, budget),
        "iterations_asked": budget,
        "iterations_done": budget if status != "diverged" else 512,
        "snapshots": tuple(snapshots),
        "loss_curve": tuple((i, float(np.exp(-i / 300)), 0.003) for i in range(0, budget, max(1, budget // 20))),
        "seconds_training": 300 + 20 * seed,
        "seconds_prediction": 12.5,
        "peak_memory_bytes": 2 * 2**30,
        "environment": {"device": "cpu", "threads": 2, "commit": "0123456789ab", "python": "3.11.9"},
        "class_names": on.classes,
    }
    return TrialResult.model_validate({**facts, **(texts or {}), **changes})


def write(results: list[TrialResult], folder: Path) -> Path:
    """Save results where a run would put them."""
    for each in results:
        way = f"{each.recipe['name']}-{each.fingerprint.digest}-{each.recipe['crop']}-{each.recipe['batch_size']}"
        save(each, folder / each.task / each.model.name / way / f"seed-{each.seed}.json")
    return folder


def forged(result: TrialResult, path: Path, **changes: Any) -> Path:
    """Write a changed result with the digest that its new content has, as somebody would who means to deceive."""
    changed = TrialResult.model_validate({**result.model_dump(), **changes})
    said = TrialResult.model_validate_json(changed.model_dump_json())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**said.model_dump(mode="json"), "sha256": said.digest}))
    return path


def suite(models: dict[str, float], tasks: list[Task], seeds: int = 6, **changes: Any) -> list[TrialResult]:
    """Return every model on every task under every seed, each task a little harder than the one before."""
    return [
        result(model, on, seed, max(0.02, quality - 0.05 * k), **changes)
        for model, quality in models.items()
        for k, on in enumerate(tasks)
        for seed in range(seeds)
    ]


def _snapshot(
    on: Task,
    iteration: int,
    target: float,
    tuned: float | None,
    precision: float | None,
    generator: np.random.Generator,
) -> SnapshotScore:
    images = []
    labels = on.scoring.classes
    count = 1 if on.scoring.is_volume else 4
    for z in range(count):
        classes = {}
        for label in range(1, len(on.classes)):
            level = float(np.clip(target + 0.04 * generator.standard_normal(), 0, 0.99)) if target > 0 else 0.0
            union = 10_000
            overlap = round(level * union)
            classes[label] = (overlap, (union - overlap) // 2, union - overlap - (union - overlap) // 2)
        level = min(1.0, target + 0.02) if tuned is None else tuned
        at_threshold = dict.fromkeys(labels, (round(level * 10_000), 10_000 - round(level * 10_000), 0))
        images.append(ImageCounts(name=f"stack1-z{16 + z}", classes=classes, tuned=at_threshold))
    total, per_class = score(on.scoring, [image.classes for image in images])
    return SnapshotScore(
        iteration=iteration,
        score=total,
        class_iou=per_class,
        plain_score=None,
        images=tuple(images),
        diagnostics=Diagnostics(
            average_precision={label: min(1.0, total + 0.1) if precision is None else precision for label in labels},
            largest_score=dict.fromkeys(labels, 0.98 if total > 0.01 else 0.49),
            threshold=dict.fromkeys(labels, 0.4),
            tuned_iou=tuned_iou(on.scoring, [image.tuned for image in images if image.tuned]),
        ),
        seconds=iteration * 0.3,
    )

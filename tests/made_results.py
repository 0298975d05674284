"""Result files made up for the leaderboard's tests: true to the schema, with counts from which the scores follow."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from calibration import simulate
from calibration.simulate import forged as forged

from embench.data.task import Scoring, Task
from embench.scoring.results import save
from embench.scoring.schema import ModelCard, SnapshotScore, TrialResult, fingerprint
from embench.training.recipe import RECIPES

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
        "recipe": used.facts(),
        "pairing": "default" if recipe in (None, own) else recipe,
        "track": "published" if recipe in (None, own) and not crop and budget == on.iterations else "open",
        "status": status,
        "message": "the loss is not finite at iteration 512" if status == "diverged" else "",
        "fingerprint": fingerprint(on, data_hash, budget),
        "iterations_asked": budget,
        "iterations_done": budget if status != "diverged" else 512,
        "loss_curve": tuple((i, float(np.exp(-i / 300)), 0.003) for i in range(0, budget, max(1, budget // 20))),
        "seconds_training": 300 + 20 * seed,
        "seconds_prediction": 12.5,
        "peak_memory_bytes": 2 * 2**30,
        "environment": {"device": "cpu", "threads": 2, "commit": "0123456789ab", "python": "3.11.9"},
    }
    return simulate.result(model, on, seed, snapshots, **{**facts, **(texts or {}), **changes})


def write(results: list[TrialResult], folder: Path) -> Path:
    """Save results where a run would put them."""
    for each in results:
        way = f"{each.recipe['name']}-{each.fingerprint.digest}-{each.recipe['crop']}-{each.recipe['batch_size']}"
        save(each, folder / each.task / each.model.name / way / f"seed-{each.seed}.json")
    return folder


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
    scored, count = on.scoring.classes, 1 if on.scoring.is_volume else 4
    names = [f"stack1-z{16 + z}" for z in range(count)]
    noise = 0.04 * generator.standard_normal((count, len(on.classes) - 1)) if target > 0 else 0.0
    levels = np.clip(target + noise, 0, 0.99) * np.ones((count, len(on.classes) - 1))
    at_threshold = np.full(count, min(1.0, target + 0.02) if tuned is None else tuned)
    return simulate.snapshot(
        on,
        iteration,
        dict(enumerate(levels.T, start=1)),
        dict.fromkeys(scored, at_threshold),
        names,
        threshold=dict.fromkeys(scored, 0.4),
        **({} if target > 0.01 else {"largest_score": dict.fromkeys(scored, 0.49)}),
        **({} if precision is None else {"average_precision": dict.fromkeys(scored, precision)}),
    )

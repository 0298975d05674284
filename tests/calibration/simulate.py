"""Results made up where the truth has to be known: true to the schema, with counts from which the scores follow.

The controls, the tests and the measurements of the leaderboard make theirs here, so that all of them have the same
idea of a result file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from embench.core.files import write_atomic
from embench.data.task import Task
from embench.scoring.counts import score, tuned_iou
from embench.scoring.schema import Diagnostics, ImageCounts, ModelCard, SnapshotScore, TrialResult, fingerprint
from embench.training.recipe import find_recipe

TRUTH = 10_000
"""Pixels labelled on every image: an IoU is kept to four digits."""


def snapshot(
    task: Task,
    iteration: int,
    levels: Mapping[int, ArrayLike],
    tuned: Mapping[int, ArrayLike] | None = None,
    names: Sequence[str] | None = None,
    **diagnostics: Any,
) -> SnapshotScore:
    """Return a snapshot with the given IoU on every image.

    Parameters
    ----------
    task : Task
    iteration : int
    levels : mapping of int to sequence of float
        By label, at least those that the task scores: the IoU, 0..1, on each test image or volume.
    tuned : mapping of int to sequence of float, optional
        The same at the threshold chosen on training images (default: ``levels``).
    names : sequence of str, optional
        Of the images.
    **diagnostics
        Fields of :class:`embench.scoring.schema.Diagnostics`.
    """
    labels = task.scoring.classes
    found = _by_image(levels)
    at_threshold = _by_image({label: (tuned or levels)[label] for label in labels})
    names = names or [f"test-{k:04d}" for k in range(len(found))]
    images = tuple(
        ImageCounts(name=name, classes=classes, tuned=chosen)
        for name, classes, chosen in zip(names, found, at_threshold, strict=True)
    )
    total, per_class = score(task.scoring, found)
    facts: dict[str, Any] = {
        "average_precision": {label: min(1.0, per_class[label] + 0.1) for label in labels},
        "largest_score": dict.fromkeys(labels, 0.98),
        "threshold": dict.fromkeys(labels, 0.45),
        "tuned_iou": tuned_iou(task.scoring, at_threshold),
    }
    return SnapshotScore(
        iteration=iteration,
        score=total,
        class_iou=per_class,
        images=images,
        diagnostics=Diagnostics(**{**facts, **diagnostics}),
        seconds=iteration * 0.3,
    )


def result(model: str, task: Task, seed: int, snapshots: Sequence[SnapshotScore], /, **facts: Any) -> TrialResult:
    """Return a finished trial of the task's own budget with these snapshots; ``facts`` replace fields of it."""
    made: dict[str, Any] = {
        "model": ModelCard(name=model),
        "task": task.name,
        "seed": seed,
        "recipe": find_recipe("unet").for_task(task).facts(),
        "pairing": "default",
        "track": "published",
        "synthetic": task.synthetic,
        "status": "done",
        "fingerprint": fingerprint(task, hashlib.sha256(task.name.encode()).hexdigest(), task.iterations),
        "iterations_asked": task.iterations,
        "iterations_done": task.iterations,
        "snapshots": tuple(snapshots),
        "class_names": task.classes,
    }
    return TrialResult.model_validate({**made, **facts})


def forged(result: TrialResult, path: Path, **changes: Any) -> Path:
    """Write a changed result with the digest that its new content has, as somebody would who means to deceive."""
    changed = TrialResult.model_validate({**result.model_dump(), **changes})
    said = TrialResult.model_validate_json(changed.model_dump_json())
    write_atomic(path, json.dumps({**said.model_dump(mode="json"), "sha256": said.digest}))
    return path


def _by_image(levels: Mapping[int, ArrayLike]) -> list[dict[int, tuple[int, int, int]]]:
    return [
        dict(zip(levels, map(_counts, each), strict=True))
        for each in zip(*(np.asarray(values, float).tolist() for values in levels.values()), strict=True)
    ]


def _counts(level: float) -> tuple[int, int, int]:
    """Return (TP, FP, FN) of this IoU on a truth that is the same for all."""
    overlap = round(level * TRUTH)
    return overlap, 0, TRUTH - overlap

"""What a prepared file holds, in words: for ``prepare``, ``show``, ``run`` and the page of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embench.data.store import Prepared
from embench.data.task import SPLITS, Task

PUBLISHED_NORMS = {
    "lucchi": "as published: the standard deviation is the mean of those of the sections, not that of all grey values",
}
"""By task: how published norms were computed, where they were found to be (0.11859143 to eight digits)."""


def lines(prepared: Prepared) -> list[str]:
    """Return what a user must know of prepared data: splits and classes, what is absent, duplicates, crop and norms.

    Parameters
    ----------
    prepared : Prepared
        Files written before the facts were stored give fewer lines.
    """
    spec, card = prepared.spec, prepared.card
    found = []
    splits: dict[str, Any] = card.get("splits", {})
    for split in SPLITS:
        if facts := splits.get(split):
            classes = _shares(spec.classes, facts["labels"]) if isinstance(spec, Task) else ""
            images = "image" if facts["volumes"] == 1 else "images"
            sections = "section" if facts["sections"] == 1 else "sections"
            head = f"{split}: {facts['volumes']} {images}, {facts['sections']} {sections}"
            found.append(f"{head}: {classes}" if classes else head)
    if isinstance(spec, Task):
        found += warnings(spec, card)
        if told := card.get("leakage"):
            found.append(_duplicates(told))
            if twice := card.get("test sections in train"):
                found.append(f"warning: {twice} test sections are exactly in the training split (--allow-duplicates)")
            found += [f"note: {line}" for line in told.get("interleaved", [])]
        crop, budget = card.get("crop", str(spec.crop)), card.get("budget", f"{spec.iterations} iterations")
        found += [f"crop: {crop}", f"budget: {budget}"]
    how = PUBLISHED_NORMS.get(spec.name, "as published; how they were computed is not stated")
    if not getattr(spec, "norms", None):
        how = card.get("norms", "mean and standard deviation of all training grey values together")
    found.append(f"norms: {prepared.norms[0]:.8f} {prepared.norms[1]:.8f} ({how})")
    if (threshold := card.get("threshold")) is not None:
        found.append(f"masks: values above {threshold:g} are class 1 (--threshold)")
    return found + [f"note: {note}" for note in card.get("notes", [])]


def warnings(task: Task, card: dict[str, Any]) -> list[str]:
    """Return a line per class that some split lacks: its score there says nothing of a model."""
    splits: dict[str, Any] = card.get("splits", {})
    found = []
    for value in task.scoring.classes:
        absent = [split for split in ("train", "test") if split in splits and not splits[split]["labels"][value]]
        name = task.classes[value]
        if absent == ["train", "test"]:
            found.append(
                f"warning: no mask holds {name} (class {value}); leave it out of --classes, or check the masks"
            )
        elif "test" in absent:
            found.append(
                f"warning: the test split holds no {name} (class {value}): predicting none of it counts as a full score"
            )
        elif "train" in absent:
            found.append(f"warning: the training split holds no {name} (class {value}); no model can learn it")
    return found


def _shares(classes: Sequence[str], counts: Sequence[int]) -> str:
    total = sum(counts) or 1
    return ", ".join(f"{name} {_percent(count / total)}" for name, count in zip(classes, counts, strict=True))


def _percent(share: float) -> str:
    return "none" if share == 0 else "under 0.1 %" if share < 0.001 else f"{share:.1%}".replace("%", " %")


def _duplicates(told: dict[str, Any]) -> str:
    found = (
        f"duplicates: of {told['patches']} test patches {told['exact']} are exactly, {told['near']} nearly in training"
    )
    return f"{found} (as in {told['examples'][0]})" if told["near"] and told["examples"] else found

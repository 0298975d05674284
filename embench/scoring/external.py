"""Scoring label maps that were made elsewhere, by the code that scores trials.

Everything is checked before anything is scored, and nothing is repaired: no mask is thresholded, clipped, transposed
or resized.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

import embench
from embench.core import confined, environment
from embench.core.errors import BadInput
from embench.core.names import check_name
from embench.data import duplicates
from embench.data.convert import label_advice, label_section, palette_faults
from embench.data.listing import is_image, is_junk, stem
from embench.data.readers.base import Stored
from embench.data.readers.open import open_volume
from embench.data.store import Prepared, Volume
from embench.data.task import Task
from embench.models import registry
from embench.scoring import evidence, results, schema
from embench.scoring import score as scoring
from embench.scoring.predictions import keep_section, kept_sections
from embench.scoring.results import RECIPE, result_path
from embench.scoring.schema import (
    ONE_RESULT,
    ImageCounts,
    ModelCard,
    SnapshotScore,
    TrialResult,
    predictions_digest,
)


@dataclass(frozen=True)
class Expected:
    """One test image, or one volume: what a file of predictions must cover.

    Parameters
    ----------
    name : str
        As in the result.
    file : str
        The name that its file must have, without suffix.
    volume : Volume
    sections : range
        Of the volume.
    """

    name: str
    file: str
    volume: Volume
    sections: range

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        _, height, width = self.volume.image.shape
        return len(self.sections), height, width

    def truth(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the true label sections."""
        assert self.volume.labels is not None
        return (self.volume.labels[z] for z in self.sections)


def file_name(name: str) -> str:
    """Return how files are called after an item: its name, with what might form a path percent-encoded."""
    safe = quote(name, safe="")
    return safe if not safe.startswith(".") else f"%2E{safe[1:]}"


def expected(prepared: Prepared) -> list[Expected]:
    """Return what the predictions of a task must cover: volumes where a volume is scored as one, sections otherwise."""
    found = []
    for volume in prepared.volumes("test"):
        depth = volume.image.shape[0]
        if prepared.task.scoring.is_volume:
            found.append(Expected(volume.name, file_name(volume.name), volume, range(depth)))
            continue
        for z in range(depth):
            name = scoring.section_name(volume.name, depth, z)
            found.append(Expected(name, file_name(name), volume, range(z, z + 1)))
    return found


@dataclass(frozen=True)
class Predictions:
    """Files that passed every check.

    Parameters
    ----------
    parts : list of (Expected, Stored, int)
        What is covered, by which file, from which of its sections on.
    files : int
    sha256 : str
        Over the label values of all of them, in order of name.
    unread : list of str
        Files in the folder that are no images.
    """

    parts: list[tuple[Expected, Stored, int]]
    files: int
    sha256: str
    unread: list[str]

    def labels(self, number: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the label sections of one part."""
        return (self.section(number, z) for z in range(len(self.parts[number][0].sections)))

    def section(self, number: int, z: int) -> NDArray[np.uint8]:
        """Return one label section of one part."""
        _, stored, first = self.parts[number]
        return np.ascontiguousarray(label_section(stored, first + z).astype(np.uint8))


def check(prepared: Prepared, folder: Path) -> Predictions:
    """Read every file of predictions and say everything that is wrong with them.

    Parameters
    ----------
    prepared : Prepared
        The task.
    folder : Path
        One label map per test volume; for a 2D task one per test section, or one per stack of them. Any format of
        :data:`embench.data.listing.SUFFIXES`, named as ``embench export`` names the images (nnU-Net's predictions are).

    Raises
    ------
    BadInput
        One line per file that is missing, not asked for, given twice, unreadable, of another shape, or that holds
        anything but the label values of the task.
    """
    task = prepared.task
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; give the folder of label maps with --predictions")
    wanted = expected(prepared)
    given, unread, faults = _given(folder, wanted, prepared)
    parts, opened = _assigned(folder, wanted, given, faults)
    digest = hashlib.sha256()
    for name in sorted(opened):
        stored, shape = opened[name]
        if fault := _shape_fault(stored, shape) or _value_fault(stored, task, digest):
            faults.append(f"{given[name]}: {fault}")
    faults += palette_faults(stored for stored, _ in opened.values())
    if faults:
        raise BadInput(faults)
    return Predictions(parts, len(opened), digest.hexdigest(), unread)


def score(
    prepared: Prepared,
    predictions: Path,
    name: str,
    seed: int,
    folder: Path,
    *,
    iterations: int | None = None,
    deterministic: bool = False,
) -> tuple[TrialResult, Path]:
    """Check predictions, score them, and write a result marked as submitted.

    Nothing is known of how they were made: the model card says so, and the track is open. Without ``iterations`` the
    budget is not known either: the result stands beside the trials of the task's budget, unranked.

    Parameters
    ----------
    prepared : Prepared
    predictions : Path
    name : str
        Of the model: a row of the leaderboard.
    seed : int
        Tells several sets of predictions of one model apart.
    folder : Path
        Of results.
    iterations : int, optional
        Optimiser steps of the training that made the model, as whoever hands it in states them.
    deterministic : bool
        The method has no randomness: this is its one result, compared over images.

    Returns
    -------
    result : TrialResult
    path : Path

    Raises
    ------
    BadInput
        Whatever :func:`check` finds; a name that is not one or that is a model of the harness; a result of this name
        and seed from other predictions, or of another seed from the same ones.
    """
    check_name(name, "--name")
    if name in registry.model_names():
        raise BadInput(f"--name {name}: a model that is trained here; name the one that made the predictions")
    if seed < 0:
        raise BadInput(f"--seed {seed}: must not be negative")
    task = prepared.task
    if iterations is not None and iterations < 1:
        raise BadInput(f"--iterations {iterations}: give the number of optimiser steps, or leave it out")
    fingerprint = schema.fingerprint(task, prepared.hash, iterations or task.iterations)
    path = result_path(folder, name, fingerprint, seed)
    checked = check(prepared, predictions)
    others: list[str] = []
    if confined.status(path, folder) is not None:
        before = results.load(path, folder)
        if predictions_digest(before) == checked.sha256:
            return before, path
        raise BadInput(
            f"{path}: already holds the score of other predictions of {name}, seed {seed}; "
            "give another --seed or --name, or remove it"
        )
    with suppress(FileNotFoundError):  # no result of this model yet
        others = fnmatch.filter(confined.names(path.parent, folder), "seed-*.json")
    for other in (path.with_name(name) for name in others):
        before = results.load(other, folder)
        if predictions_digest(before) == checked.sha256:
            raise BadInput(
                f"{predictions}: the label maps of seed {before.seed} ({other}), voxel by voxel; {ONE_RESULT}"
            )
        if deterministic or before.environment.get("predictions", {}).get("deterministic"):
            raise BadInput(f"{other}: {name} is deterministic and has one result; give another --name, or remove it")
    snapshot, kept = snapshot_of(prepared, checked, iterations or 0, path)
    result = TrialResult(
        model=ModelCard(name=name, pretraining="unknown", pretraining_data="unknown"),
        task=task.name,
        seed=seed,
        recipe=RECIPE,
        pairing="default",
        track="open",
        synthetic=task.synthetic,
        status="submitted",
        message=f"predictions made elsewhere; training data{'' if iterations else ', budget'} and recipe are not known",
        fingerprint=fingerprint,
        iterations_asked=iterations or 0,
        iterations_done=iterations or 0,
        snapshots=(snapshot,),
        environment={
            "embench": embench.__version__,
            "commit": environment.commit(),
            "predictions": {
                "files": checked.files,
                "sha256": checked.sha256,
                **({"deterministic": True} if deterministic else {}),
            },
        },
        leakage=duplicates.of_trial(prepared),
        class_names=task.classes,
        sections=kept,
    )
    results.save(result, path, folder)
    return result, path


def snapshot_of(
    prepared: Prepared, checked: Predictions, iteration: int, path: Path
) -> tuple[SnapshotScore, tuple[str, ...]]:
    """Score predictions that passed every check, and store a few sections of them beside the result file ``path``.

    Returns
    -------
    snapshot : SnapshotScore
    kept : tuple of str
        The stored sections, relative to the folder of ``path``.
    """
    started = time.perf_counter()
    task = prepared.task
    keep = kept_sections(task, prepared.volumes("test"))
    images: list[ImageCounts] = []
    kept: list[str] = []
    for number, (part, _, _) in enumerate(checked.parts):
        labels_ZYX, truth_ZYX = (np.stack(list(each)) for each in (checked.labels(number), part.truth()))
        found = evidence.of_image(task, labels_ZYX, truth_ZYX)
        images.append(scoring.image_counts(task, part.name, labels_ZYX, truth_ZYX, evidence=found))
        for z in part.sections:
            if (part.volume.name, z) in keep:
                labels_YX = checked.section(number, z - part.sections.start)
                kept.append(keep_section(path, part.volume.name, z, labels_YX))
    return scoring.snapshot(task, iteration, images, None, time.perf_counter() - started), tuple(kept)


def _given(
    folder: Path, wanted: Sequence[Expected], prepared: Prepared
) -> tuple[dict[str, Path], list[str], list[str]]:
    """Return the image files of a folder by name, the other files, and what should not be there."""
    known = {part.file for part in wanted} | {file_name(volume.name) for volume in prepared.volumes("test")}
    given: dict[str, Path] = {}
    unread, faults = [], []
    for path in sorted(folder.iterdir()):
        if is_junk(path.name):
            continue
        if not is_image(path):
            if path.is_dir():
                faults.append(f"{path}: a folder; label maps are read from {folder} itself")
            else:
                unread.append(path.name)
        elif stem(path) not in known:
            near = difflib.get_close_matches(stem(path), known, n=3, cutoff=0.5) or sorted(known)[:3]
            faults.append(f"{path}: not a test image of {prepared.task.name}; these are called {', '.join(near)}, ...")
        elif stem(path) in given:
            faults.append(f"{path}: a second file for {stem(path)}, beside {given[stem(path)].name}; keep one")
        else:
            given[stem(path)] = path
    return given, unread, faults


def _assigned(
    folder: Path, wanted: Sequence[Expected], given: dict[str, Path], faults: list[str]
) -> tuple[list[tuple[Expected, Stored, int]], dict[str, tuple[Stored, tuple[int, ...]]]]:
    """Say which file covers what; open each once, with the shape it must have."""
    opened: dict[str, tuple[Stored, tuple[int, ...]]] = {}
    broken: set[str] = set()

    def stored(name: str, shape: tuple[int, ...]) -> Stored | None:
        if name in given and name not in opened and name not in broken:
            try:
                opened[name] = open_volume(given[name]), shape
            except BadInput as error:
                broken.add(name)
                faults.extend(line if str(given[name]) in line else f"{given[name]}: {line}" for line in error.lines)
        return opened[name][0] if name in opened else None

    parts = []
    for part in wanted:
        whole = file_name(part.volume.name)
        volume = stored(whole, part.volume.image.shape)
        single = stored(part.file, part.shape) if part.file != whole else None
        if part.file != whole and part.file in given and whole in given:
            faults.append(f"{given[part.file]}: section and whole stack ({given[whole].name}) are both given; keep one")
        if volume is not None:
            parts.append((part, volume, part.sections.start))
        elif single is not None:
            parts.append((part, single, 0))
        elif not {part.file, whole} & given.keys():
            faults.append(f"{folder}: no label map for {part.file} ({' x '.join(map(str, part.shape))} ZYX)")
    return parts, opened


def _shape_fault(stored: Stored, shape: tuple[int, ...]) -> str | None:
    if stored.shape == shape:
        if stored.orientation not in (None, "RAS", "LPS", "LPI", "RAI"):
            return f"its header lays x, y, z out as {stored.orientation}, mirrored or turned; write it as the image is"
        return None
    fault = f"shape {stored.shape} (ZYX), the test image has {tuple(shape)}"
    for order in permutations(range(3)):
        if tuple(stored.shape[axis] for axis in order) == shape:
            axes = "".join("ZYX"[axis] for axis in order)
            return f"{fault}; with its axes taken as {axes} it would fit: write it transposed"
    return f"{fault}; predict at the size of the image"


def _value_fault(stored: Stored, task: Task, digest: Any) -> str | None:
    """Return what is wrong with the values of a file, all sections together; else add them to ``digest``."""
    expected_values = f"0..{len(task.classes) - 1} ({', '.join(task.classes)})"
    strange: dict[float, int] = {}
    first = 0
    for z in range(stored.shape[0]):
        try:
            section = label_section(stored, z)
        except BadInput as error:
            return f"{error.lines[0].removeprefix(f'{stored.origin}: ')}; expected one channel of {expected_values}"
        values, counts = np.unique(section, return_counts=True)
        is_known = np.isin(values, np.arange(len(task.classes)))
        if not is_known.all():
            first = first if strange else z
            for value, count in zip(values[~is_known].tolist(), counts[~is_known].tolist(), strict=True):
                strange[float(value)] = strange.get(float(value), 0) + count
        elif not strange:
            digest.update(np.ascontiguousarray(section.astype(np.uint8)).data)
    if not strange:
        return None
    shown = ", ".join(f"{value:g} ({count})" for value, count in sorted(strange.items())[:4])
    more = f" and {len(strange) - 4} further values" if len(strange) > 4 else ""
    notes = f" ({'; '.join(stored.notes)})" if stored.notes else ""
    fault = f"values {shown}{more} from section {first} on{notes}; expected {expected_values}"
    if len(task.classes) == 2 and set(strange) == {255.0}:
        return f"{fault}; a mask of 0 and 255 must be written as 0 and 1"
    advice = label_advice(strange, range(len(task.classes)), stored.dtype)
    return f"{fault}; {advice}" if advice else fault


def summary(result: TrialResult, path: Path) -> str:
    """Return a result in one line."""
    final = result.final
    assert final is not None
    per_class = json.dumps({result.class_names[value]: round(iou, 4) for value, iou in final.class_iou.items()})
    line = f"{result.task}: {result.model.name} seed {result.seed}, score {final.score:.4f}, IoU {per_class}, {path}"
    return "\n".join([line, *absent_classes(result)])


def absent_classes(result: TrialResult) -> list[str]:
    """Return a line per class that no test image holds, whose score says nothing of the model."""
    final = result.final
    if final is None:
        return []
    held: dict[int, int] = {}
    for image in final.images:
        for value, (found, _, missed) in image.classes.items():
            held[value] = held.get(value, 0) + found + missed
    return [
        f"warning: no test image holds {result.class_names[value]}: its {final.class_iou[value]:.4f} says only whether "
        "any of it was predicted"
        for value, count in held.items()
        if not count
    ]

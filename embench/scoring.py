"""From label maps to counts and a score: the same code whether a trial made them or somebody else (protocol 5)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embench import guarded, results
from embench.errors import BadInput
from embench.files import replacing
from embench.metrics import Counts, count, matched_counts
from embench.results import Diagnostics, ImageCounts, SnapshotScore
from embench.store import Volume
from embench.task import Task

SECTIONS_KEPT, SECTIONS_KEPT_OF_VOLUMES = 8, 24
"""Predicted test sections stored beside a result, evenly spread, for the eye; more where volumes are looked through."""

_SECTION = re.compile(r"seed-\d+\.sections/(?P<item>[^/\\\x00]{1,200})-z(?P<index>\d{1,6})\.png")
_MOST_PIXELS = 64 * 2**20

Sections = Iterable[NDArray[np.uint8]]


def section_name(volume: str, depth: int, z: int) -> str:
    """Return the name under which section ``z`` of a volume of ``depth`` sections is scored as an image of its own."""
    return volume if depth == 1 else f"{volume}-z{z:04d}"


def image_counts(
    task: Task, name: str, labels_ZYX: Sections, truth_ZYX: Sections, tuned: dict[int, Counts] | None = None
) -> ImageCounts:
    """Count agreement over what is scored as one: a volume, or one section of a 2D task.

    Parameters
    ----------
    task : Task
    name : str
    labels_ZYX, truth_ZYX : iterable of ndarray of uint8
        Predicted and true label values, section by section, of one shape.
    tuned : dict, optional
        Counts at other thresholds, to be kept beside.
    """
    matched, plain = _counts(task, labels_ZYX, truth_ZYX)
    return ImageCounts(
        name=name,
        classes=_triples(matched),
        plain=_triples(plain) if plain else None,
        tuned=_triples(tuned) if tuned is not None else None,
    )


def snapshot(
    task: Task, iteration: int, images: Sequence[ImageCounts], diagnostics: Diagnostics | None, seconds: float
) -> SnapshotScore:
    """Return the score of a whole test split with everything that it follows from."""
    scoring = task.scoring
    score, per_class = results.score(scoring, [image.classes for image in images])
    plain_scores = [image.plain for image in images if image.plain is not None]
    return SnapshotScore(
        iteration=iteration,
        score=score,
        class_iou=per_class,
        plain_score=results.score(scoring, plain_scores)[0] if plain_scores else None,
        undefined=results.undefined(scoring, task.classes, images),
        images=tuple(images),
        diagnostics=diagnostics,
        seconds=seconds,
    )


def kept_sections(task: Task, volumes: Sequence[Volume]) -> set[tuple[str, int]]:
    """Return volume and index of the test sections whose prediction is stored beside a result."""
    every = [(volume.name, z) for volume in volumes for z in range(volume.image.shape[0])]
    count = SECTIONS_KEPT_OF_VOLUMES if task.scoring.is_volume else SECTIONS_KEPT
    return {every[int(i)] for i in np.linspace(0, len(every) - 1, count).round()}


def keep_section(result: Path, volume: str, z: int, labels_YX: NDArray[np.uint8]) -> str:
    """Store a predicted section beside a result file and return its path relative to the result's folder."""
    from PIL import Image

    name = f"{result.stem}.sections/{volume}-z{z}.png"
    with replacing(result.parent / name) as temporary:
        Image.fromarray(labels_YX).save(temporary, "png")
    return name


def section_place(name: str, result: Path) -> tuple[str, int]:
    """Return volume and index of a section that :func:`keep_section` named.

    Raises
    ------
    BadInput
        Any other name, or one that leads out of the result's folder.
    """
    match = _SECTION.fullmatch(name)
    path = result.parent / name
    if match is None or ".." in Path(name).parts or not path.resolve().is_relative_to(result.parent.resolve()):
        raise BadInput(f"{result}: section {name[:120]!r}: expected seed-N.sections/ITEM-zINDEX.png beside it")
    return match["item"], int(match["index"])


def read_section(path: Path) -> NDArray[np.uint8]:
    """Return the label values (Y, X) of a stored section.

    Raises
    ------
    BadInput
        Not a PNG of 8-bit labels, or too large.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BadInput(f"{path}: not a label map ({type(error).__name__}); run the trial again") from None
    if size > results.MAX_BYTES or not path.is_file():
        raise BadInput(f"{path}: {size} bytes; a label map is a file of at most {results.MAX_BYTES}")
    found: NDArray[np.uint8] = guarded.call(_section, str(path), where=path, size=size)
    return found


def _section(path: str) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.mode not in ("L", "P") or picture.width * picture.height > _MOST_PIXELS:
                raise BadInput(f"{path}: mode {picture.mode}, {picture.size}; expected an 8-bit label map")
            return np.asarray(picture, np.uint8)
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # its parser raises anything on a broken file
        raise BadInput(f"{path}: not a label map ({type(error).__name__}); run the trial again") from None


def _counts(
    task: Task, labels_ZYX: Sections, truth_ZYX: Sections
) -> tuple[dict[int, Counts], dict[int, Counts] | None]:
    """Return counts under the task's rule, and the plain ones beside them where the rule matches instances."""
    scoring = task.scoring
    total = dict.fromkeys(scoring.classes, Counts())
    plain = dict.fromkeys(scoring.classes, Counts())
    for labels_YX, truth_YX in zip(labels_ZYX, truth_ZYX, strict=True):
        ignore = 0 if scoring.ignore_unlabelled else None
        found = count(labels_YX, truth_YX, scoring.classes, ignore=ignore)
        for value in scoring.classes:
            plain[value] += found[value]
            if scoring.match_instances:
                total[value] += matched_counts(labels_YX == value, truth_YX == value)
    return (total, plain) if scoring.match_instances else (plain, None)


def _triples(counts: dict[int, Counts]) -> dict[int, tuple[int, int, int]]:
    return {value: (each.tp, each.fp, each.fn) for value, each in counts.items()}

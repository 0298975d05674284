"""Test sections as pictures: image, truth, prediction and error, from predicted label maps and prepared data."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter

from embench.core import confined
from embench.core.errors import BadInput, TryAgain
from embench.core.files import write_atomic
from embench.core.paths import cache_folder, prepared_path
from embench.data.store import Prepared, Volume
from embench.scoring.predictions import read_section, section_bytes, section_place
from embench.scoring.schema import digest_of
from leaderboard.boards import Cell, Column
from leaderboard.trials import Trial

LARGEST_SIDE = 640
AT_MOST_PER_ITEM = 32
DRAWING = 2
"""Raised when pictures are drawn differently, so that those of an earlier build are drawn again."""
FALSE_POSITIVE, FALSE_NEGATIVE, OTHER_CLASS = (213, 94, 0), (0, 114, 178), (204, 121, 167)
CLASS_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
)
"""Okabe and Ito's palette, told apart by colour-blind readers; label value 1 has the first."""

Labels = NDArray[np.uint8]
MAX_BYTES = 64 * 2**20
"""Of a picture, and of what is noted of all pictures of a column."""
_KNOWN = TypeAdapter(dict[str, dict[str, Any]])


@dataclass
class Section:
    """Pictures of one test section, as paths in the site's folder.

    ``size`` is their width and height in pixels, 1/``step`` of the data's. ``predictions`` maps a row to its
    prediction, error (``None`` without truth) and IoU against the truth.
    """

    item: str
    index: int
    image: str | None = None
    truth: str | None = None
    step: int = 1
    size: tuple[int, int] = (0, 0)
    predictions: dict[str, Prediction] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """One row's picture of a section; ``iou`` is the mean over the task's classes, of this section alone."""

    seed: int
    prediction: str
    error: str | None
    iou: float | None


@dataclass
class Sections:
    """All pictures of a column, and what kept some from being made."""

    sections: list[Section] = field(default_factory=list)
    note: str = ""
    faults: list[str] = field(default_factory=list)
    pixels: dict[str, int] = field(default_factory=dict)
    """Of test items whose data are at hand: of a section where those are scored, else of the volume."""

    @property
    def files(self) -> list[str]:
        """Every picture."""
        found: set[str | None] = set()
        for section in self.sections:
            found |= {section.image, section.truth}
            found |= {file for each in section.predictions.values() for file in (each.prediction, each.error)}
        return sorted(file for file in found if file)


def make(column: Column, cells: dict[str, Cell], out: Path, data: Path | None) -> Sections:
    """Write the pictures of a column's stored sections under ``out`` and return what there is.

    Of each row, those of the seed with the median score. Image and truth come from the prepared file when it is
    there with the hash that the results carry; without it the prediction alone is shown and the note says which
    command prepares the data. What an earlier build drew from the same files is not drawn again.
    """
    made = Sections()
    found: dict[tuple[str, int], Section] = {}
    drawn = _Drawn(out, column)
    with ExitStack() as stack:
        volumes, made.note = _truth(column, data, stack)
        whole = column.fingerprint.scoring["planes"] != "2d"
        made.pixels = {
            name: prod(volume.image.shape if whole else volume.image.shape[1:]) for name, volume in volumes.items()
        }
        for row, cell in cells.items():
            trial = _median_with_sections(cell)
            if trial is None:
                continue
            for name in trial.result.sections:
                try:
                    item, index = section_place(name, trial.path)
                    section = found.get((item, index), Section(item, index))
                    if section.predictions or len([1 for known, _ in found if known == item]) < AT_MOST_PER_ITEM:
                        volume = _with_truth(volumes.get(item), index)
                        _add(section, row, trial, trial.path.parent / name, volume, drawn)
                        found[item, index] = section
                except BadInput as error:
                    made.faults += error.lines
    drawn.keep()
    made.sections = [found[key] for key in sorted(found)]
    return made


class _Drawn:
    """The pictures of one column, in a folder of the site, with what each was drawn from.

    A file in the user's own cache folder maps a picture's name to the key of its sources, the facts found while
    drawing, and the hashes of the files: a picture that is not as it was drawn is drawn again.
    """

    def __init__(self, out: Path, column: Column) -> None:
        self.column, self.out, self.folder = column, out, f"sections/{column.slug}"
        self.below = cache_folder() / "pictures"
        self.path = self.below / f"{digest_of([str(out.resolve()), column.slug])}.json"
        self.known: dict[str, dict[str, Any]] = {}
        self.now: dict[str, dict[str, Any]] = {}
        with suppress(OSError, ValueError, BadInput):  # none, or damaged: everything is drawn again
            self.known = _KNOWN.validate_json(confined.read(self.path, self.below, MAX_BYTES, "a cache"))

    def facts(self, name: str, sources: Sequence[Any], draw: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the facts of a drawing, made now unless it is there from the same sources."""
        key = digest_of([DRAWING, *sources])
        entry = self.known.get(name)
        if not entry or entry.get("key") != key or entry.get("sha256") != self._hashes(entry.get("files", ())):
            facts = draw()
            entry = {"key": key, **facts, "sha256": self._hashes(facts["files"])}
        self.now[name] = entry
        return entry

    def _hashes(self, files: Iterable[str]) -> list[str]:
        """Return the SHA-256 of each file as it is now; empty for one that is not there or no file."""
        found = []
        for file in files:
            try:
                content = confined.read(self.out / file, self.out, MAX_BYTES, "a picture")
                found.append(hashlib.sha256(content).hexdigest())
            except (OSError, BadInput):
                found.append("")
        return found

    def keep(self) -> None:
        """Record what there is now."""
        if self.now and self.now != self.known:
            with suppress(BadInput, TryAgain):  # without a cache all is drawn again the next time
                write_atomic(self.path, json.dumps(self.now, sort_keys=True, indent=0) + "\n")


def colour_of(label: int) -> tuple[int, int, int]:
    """Return the colour of a label value."""
    return CLASS_COLOURS[(label - 1) % len(CLASS_COLOURS)]


def _truth(column: Column, data: Path | None, stack: ExitStack) -> tuple[dict[str, Volume], str]:
    path = prepared_path(column.task, data)
    dataset = column.facts.dataset if column.facts else column.task
    how = f"embench prepare {dataset}"
    if not path.exists():
        return {}, f"Images and truth are not here: prepare them with “{how}” and build the page again."
    prepared = stack.enter_context(Prepared(path))
    if prepared.hash != column.fingerprint.data_hash:
        return {}, (
            f"The prepared data here differ from what was scored (hash {prepared.hash[:12]}, results have "
            f"{column.fingerprint.data_hash[:12]}): prepare them with “{how}” and build the page again."
        )
    return {volume.name: volume for volume in prepared.volumes("test")}, ""


def _median_with_sections(cell: Cell) -> Trial | None:
    finished = sorted((t for t in cell.trials if t.score is not None and t.result.sections), key=lambda t: t.score or 0)
    return finished[(len(finished) - 1) // 2] if finished else None


def _with_truth(volume: Volume | None, index: int) -> Volume | None:
    """Return the volume where it has a true label map at ``index``."""
    return volume if volume and volume.labels is not None and index < volume.image.shape[0] else None


def _add(section: Section, row: str, trial: Trial, path: Path, volume: Volume | None, drawn: _Drawn) -> None:
    """Draw one row's section, with image and truth where the data are there, and note where the pictures are."""
    from leaderboard.trials import slug

    rule = drawn.column.fingerprint.scoring
    data = drawn.column.fingerprint.data_hash if volume else None
    stem = f"{len(section.item)}{re.sub(r'[^A-Za-z0-9_-]', '-', section.item)[:60]}-z{section.index}"
    base, own = f"{drawn.folder}/{stem}", f"{drawn.folder}/{slug(row)}/{stem}"

    def draw() -> dict[str, Any]:
        labels = read_section(path, trial.path.parent)
        truth = volume.section(0, section.index)[1] if volume else None
        if truth is not None and truth.shape != labels.shape:
            where = f"{trial.path}: section {section.item}, {section.index}"
            raise BadInput(f"{where}: {labels.shape}, but the data has {truth.shape}; run the trial again")
        return _draw_prediction(labels, truth, rule, drawn.out, own)

    content = section_bytes(path, trial.path.parent)
    facts = drawn.facts(own, [hashlib.sha256(content).hexdigest(), data, section.index, rule], draw)
    if volume and section.image is None:
        step, out = facts["step"], drawn.out
        shown = drawn.facts(base, [data, section.index], lambda: _draw_image(volume, section.index, step, out, base))
        section.image, section.truth = shown["files"]
    section.step, section.size = facts["step"], tuple(facts["size"])
    prediction, error = [*facts["files"], None][:2]
    section.predictions[row] = Prediction(trial.result.seed, prediction, error, facts["iou"])


def _draw_prediction(
    labels: Labels, truth: Labels | None, rule: dict[str, Any], out: Path, name: str
) -> dict[str, Any]:
    """Write a prediction and, where the truth is known, its errors; return files, step, size and IoU."""
    step = -(-max(labels.shape) // LARGEST_SIDE)
    small = _thin(labels, step)
    files = [f"{name}.png"]
    _save(_overlay(small, _class_colours()), out / files[0], out)
    score = None
    if truth is not None:
        if rule["ignore_unlabelled"]:
            labels = np.where(truth > 0, labels, 0).astype(np.uint8)
        kinds = np.zeros(labels.shape, np.uint8)
        kinds[(labels > 0) & (truth == 0)] = 1
        kinds[(labels == 0) & (truth > 0)] = 2
        kinds[(labels > 0) & (truth > 0) & (labels != truth)] = 3
        files.append(f"{name}-error.png")
        _save(_overlay(_thin(kinds, step), {1: FALSE_POSITIVE, 2: FALSE_NEGATIVE, 3: OTHER_CLASS}), out / files[1], out)
        score = _section_iou(labels, truth, rule["classes"])
    return {"files": files, "step": step, "size": [small.shape[1], small.shape[0]], "iou": score}


def _draw_image(volume: Volume, index: int, step: int, out: Path, name: str) -> dict[str, Any]:
    """Write a raw section and its truth; return their files."""
    image, truth = volume.section(0, index)
    assert truth is not None
    files = [f"{name}.webp", f"{name}-truth.png"]
    buffer = io.BytesIO()
    Image.fromarray(_reduced(image, step)).save(buffer, "WEBP", quality=85, method=4)
    write_atomic(out / files[0], buffer.getvalue(), below=out)
    _save(_overlay(_thin(truth, step), _class_colours()), out / files[1], out)
    return {"files": files}


def _section_iou(labels: Labels, truth: Labels, classes: Sequence[int]) -> float | None:
    """Return the mean IoU over the classes that occur in either; ``None`` where none does."""
    found = []
    for label in classes:
        union = ((labels == label) | (truth == label)).sum()
        if union:
            found.append(((labels == label) & (truth == label)).sum() / union)
    return float(np.mean(found)) if found else None


def _class_colours() -> dict[int, tuple[int, int, int]]:
    return {label: colour_of(label) for label in range(1, 256)}


def _reduced(image: Labels, step: int) -> Labels:
    """Return the image at 1/step of its size, each pixel the mean of its block."""
    height, width = (side // step * step for side in image.shape)
    blocks = image[:height, :width].reshape(height // step, step, width // step, step)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def _thin(labels: Labels, step: int) -> Labels:
    """Return every ``step``-th label, as many as :func:`_reduced` has pixels."""
    height, width = (side // step * step for side in labels.shape)
    return labels[:height:step, :width:step]


def _overlay(labels: Labels, colours: dict[int, tuple[int, int, int]]) -> Image.Image:
    """Return a palette picture, transparent at 0, with solid outlines and half-transparent insides."""
    inner = labels.copy()
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        change = np.diff(labels, axis=axis) != 0
        head, tail = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        head[axis], tail[axis] = (0, 1), (1, 0)
        edge |= np.pad(change, head) | np.pad(change, tail)
    # Palette: 0 clear, 1..127 insides, 129..255 outlines of the same colours; label maps have few classes.
    indices = np.where(inner > 0, (inner.astype(int) - 1) % 127 + 1, 0)
    indices = np.where(edge & (indices > 0), indices + 128, indices).astype(np.uint8)
    picture = Image.fromarray(indices, mode="P")
    palette = [0] * 768
    for label in range(1, 128):
        colour = colours.get(label, (128, 128, 128))
        palette[3 * label : 3 * label + 3] = colour
        palette[3 * (label + 128) : 3 * (label + 128) + 3] = colour
    picture.putpalette(palette)
    picture.info["transparency"] = bytes([0] + [110] * 127 + [0] + [255] * 127)
    return picture


def _save(picture: Image.Image, path: Path, below: Path) -> None:
    buffer = io.BytesIO()
    transparency = picture.info.get("transparency")
    extra = {"transparency": transparency} if transparency is not None else {}
    picture.save(buffer, "PNG", optimize=True, **extra)
    write_atomic(path, buffer.getvalue(), below=below)

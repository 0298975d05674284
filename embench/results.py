"""One JSON file per trial: what ran, on what, and every count from which its scores follow.

The file's last key, ``sha256``, is over all the others: over the record as :attr:`TrialResult.digest` writes it, so
that neither indentation nor line ends nor the way of writing a number matter, and every value does. It shows that a
file is as it was written; it is no signature, as anybody can compute it. Against invented scores stand the counts:
every score is computed from them again when a file is read.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from embench.errors import BadInput
from embench.files import write_atomic
from embench.names import check_name, is_name
from embench.recipe import Recipe
from embench.task import Scoring, Task

SCHEMA: Literal[2] = 2
"""2: with ``sha256``."""
MAX_BYTES = 32 * 2**20
EPSILON = 1e-5
_TOLERANCE = 1e-9
"""Between a stored score and the one computed from its counts: they differ by the order of a sum at most."""


def _checked_name(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"{text[:80]!r} is not a name ([a-z0-9._-], at most 80)")
    return text


def _checked_facts(facts: dict[str, Any]) -> dict[str, Any]:
    waiting: list[Any] = [facts]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list | tuple):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError("NaN and infinity are no facts")
    return facts


def _checked_scoring(facts: dict[str, Any]) -> dict[str, Any]:
    scoring = _SCORING.validate_python(facts)
    known = asdict(scoring)
    if facts.keys() != known.keys():
        raise ValueError(f"expected {', '.join(known)}")
    classes = scoring.classes
    if not classes or len(set(classes)) < len(classes) or not all(0 <= value <= 255 for value in classes):
        raise ValueError(f"scored classes {classes!r:.80}; expected different label values in 0..255")
    return {**known, "classes": list(classes)}


_SCORING = TypeAdapter(Scoring)

Name = Annotated[str, AfterValidator(_checked_name)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]
"""Whole numbers that every reader of JSON holds exactly."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Facts = Annotated[dict[str, Any], AfterValidator(_checked_facts)]
SectionPath = Annotated[str, Field(pattern=r"^seed-[0-9]+\.sections/[^/\\\x00-\x1f]{1,200}-z[0-9]{1,6}\.png$")]
"""Of a predicted section's label map, from the result's folder: below it, whatever the item is called."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelCard(_Record):
    """Who a model is (protocol words: name, revision, parameters, pre-training data, weights hash, licence)."""

    name: Name
    title: str = ""
    family: str = "other"
    parameters: Count = 0
    trained_parameters: Count = 0
    pretraining: str = "none"
    pretraining_data: str = "none"
    weights_hash: Digest | None = None
    licence: str = "unknown"
    citation: str = ""


class ImageCounts(_Record):
    """Counts of one test image or volume.

    ``classes`` maps a label value to (TP, FP, FN) under the task's scoring rule, ``plain`` the same without
    instance matching (only where the rule matches instances), ``tuned`` at the threshold chosen on training
    images (final snapshot only, one class against the rest).
    """

    name: str
    classes: dict[int, tuple[Count, Count, Count]]
    plain: dict[int, tuple[Count, Count, Count]] | None = None
    tuned: dict[int, tuple[Count, Count, Count]] | None = None


class Diagnostics(_Record):
    """Threshold-free figures per class: why a zero is a zero.

    ``average_precision``: over all test pixels; ``None`` where a class has no test pixel. ``threshold``: the one
    with the best IoU on *training* images, ``None`` where those show no pixel of the class; ``tuned_iou``: the IoU
    at it, reduced as the task's score is but never instance-matched (compare it with ``plain_score`` there).
    ``largest_score``: the largest predicted probability of the class on the test images.
    """

    average_precision: dict[int, Fraction | None]
    largest_score: dict[int, Fraction]
    threshold: dict[int, Fraction | None] | None = None
    tuned_iou: dict[int, Fraction | None] | None = None


class SnapshotScore(_Record):
    """Scores of the weights at one iteration.

    ``diagnostics`` is ``None`` where there are no class scores to make them from: label maps made elsewhere.
    """

    iteration: Count
    score: Fraction
    class_iou: dict[int, Fraction]
    plain_score: Fraction | None = None
    undefined: tuple[str, ...] = ()
    images: tuple[ImageCounts, ...]
    diagnostics: Diagnostics | None
    seconds: Seconds


class Fingerprint(_Record):
    """All that must agree before two scores may be compared."""

    task: Name
    data_hash: Digest
    scoring: Annotated[dict[str, Any], AfterValidator(_checked_scoring)]
    classes: tuple[str, ...]
    iterations: Count

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that differ when anything differs."""
        return digest_of(self.model_dump(mode="json"))


class TrialResult(_Record):
    """One trial: a model on a task under a seed.

    ``track`` is ``published`` when model, recipe and budget are the published pairing, ``open`` otherwise.
    ``status`` is ``done``, ``diverged`` (non-finite loss; the snapshots before it are kept) or ``submitted``
    (predictions made elsewhere). ``loss_curve`` holds (iteration, loss, learning rate). ``leakage`` counts images that
    are in two of training, test and pre-training data (:func:`embench.leakage.of_trial`).
    """

    schema_version: Literal[2] = SCHEMA
    model: ModelCard
    task: Name
    seed: Count
    recipe: Facts
    pairing: Name
    track: Literal["published", "open"]
    synthetic: bool
    status: Literal["done", "diverged", "submitted"]
    message: str = ""
    fingerprint: Fingerprint
    iterations_asked: Count
    iterations_done: Count
    snapshots: tuple[SnapshotScore, ...]
    loss_curve: tuple[tuple[Count, Finite, Finite], ...] = ()
    seconds_training: Seconds = 0
    seconds_prediction: Seconds = 0
    peak_memory_bytes: Count = 0
    environment: Facts = {}
    weights: Facts | None = None
    leakage: Facts | None = None
    class_names: tuple[str, ...]
    sections: tuple[SectionPath, ...] = ()

    @property
    def row(self) -> str:
        """The leaderboard row: the model, with its recipe where that is not the model's own."""
        return self.model.name if self.pairing == "default" else f"{self.model.name}+{self.pairing}"

    @property
    def final(self) -> SnapshotScore | None:
        """The last snapshot of a finished trial; ``None`` when it diverged."""
        return None if self.status == "diverged" or not self.snapshots else self.snapshots[-1]

    @property
    def score(self) -> float | None:
        """The score under the protocol, or ``None`` when the trial diverged."""
        return None if self.final is None else self.final.score

    @property
    def digest(self) -> str:
        """SHA-256 over the record as compact JSON, keys in the order of this schema, those that a file lacks left out.

        A later schema with a further optional key gives files without it the same digest.
        """
        return hashlib.sha256(self.model_dump_json(exclude={"sha256"}, exclude_unset=True).encode()).hexdigest()


class _File(TrialResult):
    """What a result file holds."""

    sha256: Digest


@dataclass(frozen=True)
class TrialKey:
    """What makes a trial this one and no other: the file name of its result follows from it."""

    model: str
    task: str
    recipe: Recipe
    fingerprint: Fingerprint
    weights_hash: str | None
    seed: int
    transfer: str | None = None

    @property
    def variant(self) -> str:
        """Digest of everything but the seed."""
        facts = {
            "recipe": asdict(self.recipe),
            "fingerprint": self.fingerprint.model_dump(mode="json"),
            "weights": self.weights_hash,
            "transfer": self.transfer,
        }
        return digest_of(facts)

    def path(self, results: Path) -> Path:
        """Return the result file of this trial under the folder ``results``; raise :class:`BadInput` for no names."""
        for name in (self.task, self.model, self.recipe.name):
            check_name(name)
        return results / self.task / self.model / f"{self.recipe.name}-{self.variant}" / f"seed-{self.seed}.json"


def digest_of(facts: Any) -> str:
    """Return twelve hexadecimal digits of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def fingerprint(task: Task, data_hash: str, iterations: int) -> Fingerprint:
    """Return the fingerprint of scores on ``task`` with the given data and budget."""
    return Fingerprint(
        task=task.name,
        data_hash=data_hash,
        scoring=_json(asdict(task.scoring)),
        classes=task.classes,
        iterations=iterations,
    )


def score(scoring: Scoring, images: Iterable[dict[int, tuple[int, int, int]]]) -> tuple[float, dict[int, float]]:
    """Return the protocol's score and the mean IoU per class from counts (protocol 5).

    2D: IoU per image and class with epsilon 1e-5, mean over both. Volumes: IoU per class without epsilon, mean
    over the task's classes. A class absent from truth and prediction scores 1 (the published code divides 0 by 0).
    """
    epsilon = 0.0 if scoring.is_volume else EPSILON
    counts = list(images)
    per_class = {value: sum([iou(each[value], epsilon) for each in counts]) / len(counts) for value in scoring.classes}
    return sum(per_class.values()) / len(per_class), per_class


def iou(counts: tuple[int, int, int], epsilon: float = 0.0) -> float:
    """Return the IoU of (TP, FP, FN); 1 where the union is empty and ``epsilon`` is 0."""
    overlap, errors, misses = counts
    union = overlap + errors + misses + epsilon
    return (overlap + epsilon) / union if union else 1.0


def undefined(scoring: Scoring, classes: Sequence[str], images: Iterable[ImageCounts]) -> tuple[str, ...]:
    """Name the volumes and classes whose published score is 0/0; ours counts them as 1."""
    if not scoring.is_volume:
        return ()
    return tuple(
        f"{image.name}: {classes[value]}"
        for image in images
        for value, counts in image.classes.items()
        if sum(counts) == 0
    )


def save(result: TrialResult, path: Path) -> None:
    """Write a result atomically as JSON, with its digest.

    Raises
    ------
    ValueError
        A result that :func:`load` would refuse.
    """
    whole = TrialResult.model_validate_json(result.model_dump_json())
    if fault := _contradiction(whole):
        raise ValueError(f"{path}: {fault}")
    stored = _File.model_construct(**vars(whole), sha256=whole.digest)
    write_atomic(path, stored.model_dump_json(indent=1) + "\n")


def load(path: Path) -> TrialResult:
    """Read and check one result file.

    Raises
    ------
    BadInput
        Too large, not JSON, not of this schema, changed since it was written, or with scores that its own counts
        contradict.
    """
    return parse(content_of(path), path)


def content_of(path: Path) -> bytes:
    """Return the bytes of a result file; raise :class:`BadInput` when there are too many or it is no regular file."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe or a device would never end
            raise BadInput(f"{path}: not a file; remove it")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > MAX_BYTES:
        raise BadInput(f"{path}: {about.st_size} bytes; a result has at most {MAX_BYTES}")
    return content


def parse(content: bytes, path: Path) -> TrialResult:
    """Check the content of a result file as :func:`load` does; ``path`` is only named in faults."""
    try:
        stored = _File.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200] or "file"
        raise BadInput(f"{path}: {where}: {_one_line(first['msg'])}; not a result of schema {SCHEMA}") from None
    if stored.digest != stored.sha256:
        raise BadInput(
            f"{path}: quarantined: changed since it was written (its content has SHA-256 {stored.digest}, "
            f"it carries {stored.sha256}); restore the file, or remove it and run the trial again"
        )
    result = TrialResult.model_construct(stored.model_fields_set - {"sha256"}, **vars(stored))
    if fault := _contradiction(result):
        raise BadInput(f"{path}: quarantined: {fault}")
    return result


def load_all(folders: Iterable[Path]) -> tuple[list[TrialResult], list[str]]:
    """Read every result under ``folders``.

    Returns
    -------
    results : list of TrialResult
        In order of path.
    refused : list of str
        One line per file that could not be used, with the reason.
    """
    results, refused = [], []
    for path in result_files(folders):
        try:
            results.append(load(path))
        except BadInput as error:
            refused += error.lines
    return results, refused


def result_files(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the result files under ``folders``, sorted; hidden folders hold unfinished trials and are left out."""
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"{folder}: no such folder; run: embench run --results {folder}")
        found = []
        for parent, folders_here, files in os.walk(folder):
            found += [os.path.join(parent, name) for name in fnmatch.filter(folders_here + files, "seed-*.json")]
            folders_here[:] = [name for name in folders_here if not name.startswith(".")]
        yield from map(Path, sorted(found, key=lambda path: path.split(os.sep)))


def _contradiction(result: TrialResult) -> str | None:
    """Return the first thing that a result says of itself and that does not hold."""
    stamp = result.fingerprint
    if stamp.task != result.task or stamp.classes != result.class_names:
        return f"its fingerprint is of {stamp.task} with classes {', '.join(stamp.classes)}, not of its own task"
    scoring = Scoring(**{**stamp.scoring, "classes": tuple(stamp.scoring["classes"])})
    if max(scoring.classes) >= len(stamp.classes):
        return f"class {max(scoring.classes)} is scored, but there are {len(stamp.classes)} classes"
    iterations = [snapshot.iteration for snapshot in result.snapshots]
    if iterations != sorted(set(iterations)) or iterations[-1:] > [result.iterations_done]:
        return f"snapshots at iterations {iterations!s:.80}, {result.iterations_done} were done"
    if result.status != "diverged" and not (iterations and iterations[-1] == result.iterations_done):
        return f"{result.status}, but without a snapshot at iteration {result.iterations_done}, its last"
    for snapshot in result.snapshots:
        try:
            fault = _snapshot_fault(snapshot, scoring, stamp.classes)
        except (KeyError, ZeroDivisionError):
            fault = "lacks counts of a class or image"
        if fault:
            return f"iteration {snapshot.iteration}: {fault}"
    return None


def _snapshot_fault(snapshot: SnapshotScore, scoring: Scoring, classes: Sequence[str]) -> str | None:
    """Compare every score of a snapshot with what its counts give."""
    images = snapshot.images
    if len({image.name for image in images}) < len(images):
        return "an image occurs twice"
    total, per_class = score(scoring, [image.classes for image in images])
    if abs(total - snapshot.score) > _TOLERANCE:
        return f"score {snapshot.score:.6f}, but its counts give {total:.6f}"
    if not _agree(snapshot.class_iou, per_class):
        return f"IoU per class {_shown(snapshot.class_iou)}, but its counts give {_shown(per_class)}"
    if snapshot.undefined != undefined(scoring, classes, images):
        return "what it names undefined is not what its counts leave so"
    plain = _all_or_none(images, lambda image: image.plain)
    expected = score(scoring, plain)[0] if plain else None
    if not _agree({0: snapshot.plain_score}, {0: expected}):
        return f"plain score {snapshot.plain_score}, but its counts give {expected}"
    tuned = _all_or_none(images, lambda image: image.tuned)
    claimed = snapshot.diagnostics.tuned_iou if snapshot.diagnostics else None
    if (claimed is None) != (tuned is None):
        return "IoU at the chosen threshold and its counts must both be there"
    if claimed is not None and tuned is not None:
        found = tuned_iou(scoring, tuned)
        if not _agree(claimed, found):
            return f"IoU at the chosen threshold {_shown(claimed)}, but its counts give {_shown(found)}"
    return None


ClassCounts = dict[int, tuple[int, int, int]]


def tuned_iou(scoring: Scoring, images: Sequence[ClassCounts]) -> dict[int, float | None]:
    """Return IoU per class at its chosen threshold, reduced as the score is; ``None`` where none was chosen."""
    chosen = tuple(value for value in scoring.classes if value in images[0])
    found = score(replace(scoring, classes=chosen), images)[1] if chosen else {}
    return {value: found.get(value) for value in scoring.classes}


def _all_or_none(
    images: Sequence[ImageCounts], counts: Callable[[ImageCounts], ClassCounts | None]
) -> list[ClassCounts] | None:
    """Return one kind of counts of every image; ``None`` where no image has them."""
    found = [each for image in images if (each := counts(image)) is not None]
    if found and len(found) < len(images):
        raise KeyError
    return found or None


def _agree(stored: Mapping[int, float | None], found: Mapping[int, float | None]) -> bool:
    return stored.keys() == found.keys() and all(
        mine is theirs is None or (mine is not None and theirs is not None and abs(mine - theirs) <= _TOLERANCE)
        for mine, theirs in ((stored[value], found[value]) for value in found)
    )


def _shown(figures: Mapping[int, float | None]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in list(figures.items())[:4])


def _one_line(message: str) -> str:
    return " ".join(message.split())[:300]


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))

"""One JSON file per trial: what ran, on what, and every count from which its scores follow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from embench.errors import BadInput
from embench.files import write_atomic
from embench.names import is_name
from embench.recipe import Recipe
from embench.task import Scoring, Task

SCHEMA: Literal[1] = 1
MAX_BYTES = 32 * 2**20
EPSILON = 1e-5


def _checked_name(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"{text[:80]!r} is not a name ([a-z0-9._-], at most 80)")
    return text


Name = Annotated[str, AfterValidator(_checked_name)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


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
    seconds: float


class Fingerprint(_Record):
    """All that must agree before two scores may be compared."""

    task: Name
    data_hash: Digest
    scoring: dict[str, Any]
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

    schema_version: Literal[1] = 1
    model: ModelCard
    task: Name
    seed: Count
    recipe: dict[str, Any]
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
    seconds_training: float = 0
    seconds_prediction: float = 0
    peak_memory_bytes: Count = 0
    environment: dict[str, Any] = {}
    weights: dict[str, Any] | None = None
    leakage: dict[str, Any] | None = None
    class_names: tuple[str, ...]
    sections: tuple[str, ...] = ()

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
        """Return the result file of this trial under the folder ``results``."""
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
    per_image = [
        {value: iou(counts[value], 0 if scoring.is_volume else EPSILON) for value in scoring.classes}
        for counts in images
    ]
    per_class = {value: sum(each[value] for each in per_image) / len(per_image) for value in scoring.classes}
    return sum(per_class.values()) / len(per_class), per_class


def iou(counts: tuple[int, int, int], epsilon: float = 0.0) -> float:
    """Return the IoU of (TP, FP, FN); 1 where the union is empty and ``epsilon`` is 0."""
    overlap, union = counts[0], sum(counts)
    return (overlap + epsilon) / (union + epsilon) if union + epsilon else 1.0


def save(result: TrialResult, path: Path) -> None:
    """Write a result atomically as JSON."""
    write_atomic(path, result.model_dump_json(indent=1) + "\n")


def load(path: Path) -> TrialResult:
    """Read and check one result file.

    Raises
    ------
    BadInput
        Too large, not JSON, not of this schema, or with scores that its own counts contradict.
    """
    return parse(content_of(path), path)


def content_of(path: Path) -> bytes:
    """Return the bytes of a result file; raise :class:`BadInput` when there are too many."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise BadInput(f"{path}: {size} bytes; a result has at most {MAX_BYTES}")
    return path.read_bytes()


def parse(content: bytes, path: Path) -> TrialResult:
    """Check the content of a result file as :func:`load` does; ``path`` is only named in faults."""
    try:
        result = TrialResult.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise BadInput(f"{path}: {where}: {first['msg']}; not a result of schema {SCHEMA}") from None
    _check_scores(result, path)
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
        for path in sorted(folder.rglob("seed-*.json")):
            if not any(part.startswith(".") for part in path.relative_to(folder).parts):
                yield path


def _check_scores(result: TrialResult, path: Path) -> None:
    scoring = Scoring(**{**result.fingerprint.scoring, "classes": tuple(result.fingerprint.scoring["classes"])})
    for snapshot in result.snapshots:
        try:
            recomputed, _ = score(scoring, [image.classes for image in snapshot.images])
        except (KeyError, ZeroDivisionError):
            raise BadInput(f"{path}: iteration {snapshot.iteration} lacks counts of a class or image") from None
        if abs(recomputed - snapshot.score) > 1e-9:
            raise BadInput(
                f"{path}: score {snapshot.score:.6f} at iteration {snapshot.iteration}, "
                f"but its counts give {recomputed:.6f}"
            )


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))

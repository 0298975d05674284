"""The fields of a result file (one JSON per trial), and their types."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    model_serializer,
)

from embench.core.revision import SCORING_REVISION, TRAINING_REVISION
from embench.core.types import Count, Different, Digest, Facts, Finite, Fraction, Label, Labels, Name, Seconds, Text
from embench.data.task import Scoring, Task

SCHEMA: Literal[2] = 2
"""2: with ``sha256``."""


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
Value = TypeVar("Value")
ByClass = Annotated[dict[int, Value], Field(max_length=256)]
"""Something for every label value."""
ByMetric = Annotated[dict[Name, Value], Field(max_length=100)]
"""Something for every metric."""
EvidenceNumbers = Annotated[tuple[Finite, ...], Field(max_length=100)]
SectionPath = Annotated[str, Field(pattern=r"^seed-[0-9]{1,16}\.sections/[^/\\\x00-\x1f]{1,200}-z[0-9]{1,6}\.png$")]
"""Of a predicted section's label map, from the result's folder: below it, whatever the item is called."""


Submitter = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,38}$")]
"""Who brought a result to a leaderboard: a login of the place where the repository is, in lower case."""
MOST_IMAGES = 20_000
"""Test images of one snapshot."""
MOST_SNAPSHOTS = 2_000
MOST_SECTIONS = 400
"""Predicted sections beside a result."""
MOST_LOSSES = 20_000
"""Points of a loss curve."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelCard(_Record):
    """Who a model is (protocol words: name, revision, parameters, pre-training data, weights hash, licence)."""

    name: Name
    title: Text = ""
    family: Text = "other"
    parameters: Count = 0
    trained_parameters: Count = 0
    pretraining: Text = "none"
    pretraining_data: Text = "none"
    weights_hash: Digest | None = None
    licence: Text = "unknown"
    citation: Text = ""


class ImageCounts(_Record):
    """Counts of one test image or volume.

    ``classes`` maps a label value to (TP, FP, FN) under the task's scoring rule, ``plain`` the same without
    instance matching (only where the rule matches instances), ``tuned`` at the threshold chosen on training
    images (final snapshot only, one class against the rest). ``evidence`` maps a label value and the name of a metric
    to the numbers from which its score follows, ``None`` where it is undefined (final snapshot only; metrics that
    follow from ``classes`` need none).
    """

    name: Label
    classes: ByClass[tuple[Count, Count, Count]]
    plain: ByClass[tuple[Count, Count, Count]] | None = None
    tuned: ByClass[tuple[Count, Count, Count]] | None = None
    evidence: ByClass[ByMetric[EvidenceNumbers | None]] | None = None


class Diagnostics(_Record):
    """Threshold-free figures per class: why a zero is a zero.

    ``average_precision``: over all test pixels; ``None`` where a class has no test pixel. ``threshold``: the one
    with the best IoU on *training* images, ``None`` where those show no pixel of the class; ``tuned_iou``: the IoU
    at it, reduced as the task's score is but never instance-matched (compare it with ``plain_score`` there).
    ``largest_score``: the largest predicted probability of the class on the test images.
    """

    average_precision: ByClass[Fraction | None]
    largest_score: ByClass[Fraction]
    threshold: ByClass[Fraction | None] | None = None
    tuned_iou: ByClass[Fraction | None] | None = None


class SnapshotScore(_Record):
    """Scores of the weights at one iteration.

    ``diagnostics`` is ``None`` where there are no class scores to make them from: label maps made elsewhere.
    ``metrics`` holds the mean over images by metric and label value, ``None`` where it is undefined on every image.
    ``sections`` marks an early snapshot of a part of each test volume, so many sections; ``None``: of the whole.
    """

    iteration: Count
    score: Fraction
    class_iou: ByClass[Fraction]
    plain_score: Fraction | None = None
    undefined: tuple[str, ...] = ()
    images: Annotated[tuple[ImageCounts, ...], Field(max_length=MOST_IMAGES)]
    diagnostics: Diagnostics | None
    seconds: Seconds
    metrics: ByMetric[ByClass[Finite | None]] | None = None
    sections: Count | None = None


class Fingerprint(_Record):
    """All that must agree before two scores may be compared.

    The revisions are those of the harness (:mod:`embench.core.revision`). A result from before there were any has
    none in its file and 0 here; a 0 is in no digest, so that such results keep theirs.
    """

    task: Name
    data_hash: Digest
    scoring: Annotated[dict[str, Any], AfterValidator(_checked_scoring)]
    classes: Labels
    iterations: Count

    scoring_revision: Count = 0
    training_revision: Count = 0

    @model_serializer(mode="wrap")
    def _without_unknown_revisions(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        facts: dict[str, Any] = serialise(self)
        return {name: value for name, value in facts.items() if value or not name.endswith("_revision")}

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that differ when anything differs."""
        return digest_of(self.model_dump(mode="json"))


class TrialResult(_Record):
    """One trial: a model on a task under a seed.

    ``track`` is ``published`` when model, recipe and budget are the published pairing, ``open`` otherwise.
    ``seconds_waiting`` is the part of ``seconds_training`` in which steps waited for their batch (``None``: not noted).
    ``status`` is ``done``, ``diverged`` (non-finite loss; the snapshots before it are kept) or ``submitted``
    (predictions made elsewhere). ``loss_curve`` holds (iteration, loss, learning rate). ``leakage`` counts images that
    are in two of training, test and pre-training data (:func:`embench.data.duplicates.of_trial`). ``trained`` is the
    hash of the final weights, where they were kept (:mod:`embench.models.trained`).
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
    message: Text = ""
    fingerprint: Fingerprint
    iterations_asked: Count
    iterations_done: Count
    snapshots: Annotated[tuple[SnapshotScore, ...], Field(max_length=MOST_SNAPSHOTS)]
    loss_curve: Annotated[tuple[tuple[Count, Finite, Finite], ...], Field(max_length=MOST_LOSSES)] = ()
    seconds_training: Seconds = 0
    seconds_prediction: Seconds = 0
    seconds_waiting: Seconds | None = None
    peak_memory_bytes: Count = 0
    environment: Facts = {}
    weights: Facts | None = None
    leakage: Facts | None = None
    class_names: Labels
    sections: Annotated[tuple[SectionPath, ...], Field(max_length=MOST_SECTIONS), Different] = ()
    trained: Digest | None = None
    submitter: Submitter | None = None

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


class ResultFile(TrialResult):
    """What a result file holds."""

    sha256: Digest


ONE_RESULT = (
    "one prediction is one result, whatever its seed; of a method without randomness give one, with --deterministic: "
    "it is compared over images"
)


def predictions_digest(result: TrialResult) -> str | None:
    """Return the SHA-256 of the label maps that a result is of; ``None`` for a trial of the harness."""
    told = result.environment.get("predictions")
    digest = told.get("sha256") if isinstance(told, dict) else None
    return digest if isinstance(digest, str) else None


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
        scoring_revision=SCORING_REVISION,
        training_revision=TRAINING_REVISION,
    )


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))

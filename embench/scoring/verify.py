"""Whether what a result says of itself holds: every score is computed again from its counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from embench.data.task import Scoring
from embench.scoring.counts import ClassCounts, score, tuned_iou
from embench.scoring.evidence import means
from embench.scoring.metrics import metrics
from embench.scoring.schema import ImageCounts, SnapshotScore, TrialResult

_TOLERANCE = 1e-9
"""Between a stored score and the one computed from its counts, relative to scores above 1: they differ by the order
of a sum at most."""


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


def contradiction(result: TrialResult) -> str | None:
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
    if result.status == "done" and result.iterations_done != result.iterations_asked:
        return f"done, but at {result.iterations_done} of {result.iterations_asked} iterations"
    if result.status != "diverged" and not (iterations and iterations[-1] == result.iterations_done):
        return f"{result.status}, but without a snapshot at iteration {result.iterations_done}, its last"
    truth: dict[str, dict[int, int]] = {}
    truth_of_parts: dict[str, dict[int, int]] = {}
    if sum(len(snapshot.images) for snapshot in result.snapshots) > MOST_COUNTS:
        return f"counts of more than {MOST_COUNTS} images over all snapshots"
    for snapshot in result.snapshots:
        try:
            known = truth if snapshot.sections is None else truth_of_parts
            fault = _snapshot_fault(snapshot, scoring, stamp.classes) or _truth_fault(snapshot, known)
        except (KeyError, ZeroDivisionError):
            fault = "lacks counts of a class or image"
        if fault:
            return f"iteration {snapshot.iteration}: {fault}"
    if (final := result.final) is not None and final.sections is not None:
        return f"its last snapshot is of {final.sections} sections of each volume, not of the whole"
    if (final := result.final) is not None and len(truth) > len(final.images):
        return "its last snapshot lacks images that an earlier one has"
    return None


MOST_COUNTS = 200_000
"""Images over all snapshots of a result."""


def truth_of(image: ImageCounts) -> dict[int, int]:
    """Return the pixels of each class in the truth: TP + FN, whatever was predicted."""
    return {value: tp + fn for value, (tp, _, fn) in image.classes.items()}


def _truth_fault(snapshot: SnapshotScore, known: dict[str, dict[int, int]]) -> str | None:
    """Compare the truth that counts imply with that of earlier snapshots, and with that of the counts beside them."""
    for image in snapshot.images:
        own = truth_of(image)
        if known.setdefault(image.name, own) != own:
            return f"its counts of {image.name!r:.80} imply another truth than those of an earlier snapshot"
        for counts in (image.plain, image.tuned):
            if counts is not None and any(tp + fn != own[value] for value, (tp, _, fn) in counts.items()):
                return f"its counts of {image.name!r:.80} imply two different truths"
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
    return _metrics_fault(snapshot)


def _metrics_fault(snapshot: SnapshotScore) -> str | None:
    """Compare the metrics of a snapshot with what counts and evidence give; what is not known here is left alone."""
    if snapshot.metrics is None:
        return None
    try:
        found = means(snapshot.images)
    except ValueError as error:
        return str(error)
    for name, values in snapshot.metrics.items():
        if name in metrics() and not _agree(values, found.get(name, {})):
            return f"{name} {_shown(values)}, but its evidence gives {_shown(found.get(name, {}))}"
    return None


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
        mine is theirs is None
        or (mine is not None and theirs is not None and abs(mine - theirs) <= _TOLERANCE * max(1, abs(theirs)))
        for mine, theirs in ((stored[value], found[value]) for value in found)
    )


def _shown(figures: Mapping[int, float | None]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in list(figures.items())[:4])

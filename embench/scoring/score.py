"""From label maps to counts and a score: the same code whether a trial made them or somebody else (protocol 5)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.data.store import Volume
from embench.data.task import Task
from embench.scoring import counts, predictions, score, verify
from embench.scoring import counts as counts_module
from embench.scoring import evidence as of_metrics
from embench.scoring.counts import Counts, ScoreHistogram, count, matched_counts
from embench.scoring.metrics import Evidence
from embench.scoring.schema import Diagnostics, ImageCounts, SnapshotScore
from embench.training.inference import BlockPredict, PlaneSum, Predict, each, labels_2d, predict_planes
from embench.training.sampler import TrainingSections

Sections = Iterable[NDArray[np.uint8]]


def section_name(volume: str, depth: int, z: int) -> str:
    """Return the name under which section ``z`` of a volume of ``depth`` sections is scored as an image of its own."""
    return volume if depth == 1 else f"{volume}-z{z:04d}"


def image_counts(
    task: Task,
    name: str,
    labels_ZYX: Sections,
    truth_ZYX: Sections,
    tuned: dict[int, Counts] | None = None,
    evidence: dict[int, dict[str, Evidence | None]] | None = None,
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
    evidence : dict, optional
        Of other metrics, by class and metric, to be kept beside.
    """
    matched, plain = _counts(task, labels_ZYX, truth_ZYX)
    return ImageCounts(
        name=name,
        classes=_triples(matched),
        plain=_triples(plain) if plain else None,
        tuned=_triples(tuned) if tuned is not None else None,
        evidence=evidence,
    )


def snapshot(
    task: Task, iteration: int, images: Sequence[ImageCounts], diagnostics: Diagnostics | None, seconds: float
) -> SnapshotScore:
    """Return the score of a whole test split with everything that it follows from."""
    scoring = task.scoring
    score, per_class = counts_module.score(scoring, [image.classes for image in images])
    plain_scores = [image.plain for image in images if image.plain is not None]
    return SnapshotScore(
        iteration=iteration,
        score=score,
        class_iou=per_class,
        plain_score=counts_module.score(scoring, plain_scores)[0] if plain_scores else None,
        undefined=verify.undefined(scoring, task.classes, images),
        images=tuple(images),
        diagnostics=diagnostics,
        seconds=seconds,
        metrics=of_metrics.means(images) if any(image.evidence for image in images) else None,
    )


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


TRAINING_IMAGES_FOR_THRESHOLD = 4
"""Training sections, evenly spread, on which a trial chooses its diagnostic threshold."""
SIDE_FOR_THRESHOLD = 512
"""They are cut to at most this many pixels a side about their centre: bounded cost on any data."""


def score_split(
    task: Task,
    volumes: Sequence[Volume],
    predict: Predict | BlockPredict,
    iteration: int,
    sections: TrainingSections | None = None,
    result: Path | None = None,
) -> tuple[SnapshotScore, tuple[str, ...]]:
    """Score the present weights on a test split, section by section; a volume is summed over its planes first.

    Parameters
    ----------
    task : Task
    volumes : sequence of Volume
        With labels: what is scored.
    predict : callable
        From a section uint8 (Y, X) to scores float32 (C, Y, X) in 0..1; or what predicts a volume in blocks.
    iteration : int
        Of the weights.
    sections : TrainingSections, optional
        Where to choose the diagnostic threshold, which is then applied too. The other metrics are measured then.
    result : Path, optional
        The result file beside which a few predicted sections are stored, with ``sections`` only.

    Returns
    -------
    snapshot : SnapshotScore
    kept : tuple of str
        The stored sections, relative to the folder of ``result``.
    """
    started = time.perf_counter()
    rule = task.scoring
    chosen = _thresholds(task, sections, predict) if sections else None
    thresholds = {value: threshold for value, threshold in (chosen or {}).items() if threshold is not None}
    pooled = {value: ScoreHistogram() for value in rule.classes}
    largest = dict.fromkeys(rule.classes, 0.0)
    images: list[ImageCounts] = []
    kept: list[str] = []
    keep = predictions.kept_sections(task, volumes) if sections and result else set()
    for volume in volumes:
        for name, first, scores_CZYX, labels_ZYX, truth_ZYX in _predictions(task, volume, predict):
            tuned = dict.fromkeys(thresholds, Counts())
            own = {value: ScoreHistogram() for value in rule.classes}
            for z, truth_YX in enumerate(truth_ZYX):
                scores_CYX = scores_CZYX(z)
                counted = truth_YX > 0 if rule.ignore_unlabelled else np.ones(truth_YX.shape, bool)
                for value in rule.classes:
                    scores_YX = scores_CYX[0 if len(scores_CYX) == 1 else value]
                    largest[value] = max(largest[value], float(scores_YX.max()))
                    own[value].add(scores_YX[counted], truth_YX[counted] == value)
                    if value in tuned:
                        found = (scores_YX > thresholds[value]) & counted
                        tuned[value] += count(found, truth_YX == value, (1,))[1]
                if result and (volume.name, first + z) in keep:
                    kept.append(predictions.keep_section(result, volume.name, first + z, labels_ZYX[z]))
            pooled = {value: pooled[value] + histogram for value, histogram in own.items()}
            evidence = of_metrics.of_image(task, labels_ZYX, truth_ZYX[:], own) if sections else None
            images.append(score.image_counts(task, name, labels_ZYX, truth_ZYX, tuned if chosen else None, evidence))
    tuned_scores = [image.tuned for image in images if image.tuned is not None]
    diagnostics = Diagnostics(
        average_precision={value: histogram.average_precision() for value, histogram in pooled.items()},
        largest_score=largest,
        threshold=chosen,
        tuned_iou=counts.tuned_iou(rule, tuned_scores) if chosen else None,
    )
    snapshot = score.snapshot(task, iteration, images, diagnostics, time.perf_counter() - started)
    return snapshot, tuple(kept)


def part_of(task: Task, volume: Volume, sections: int) -> Volume:
    """Return a fixed part of a test volume, for early snapshots: evenly spaced sections of it, or a block.

    A volume that is predicted along three axes is cut to consecutive sections about its middle, as sections apart from
    each other have no planes across them.
    """
    depth = volume.image.shape[0]
    if depth <= sections:
        return volume
    assert volume.labels is not None
    if len(task.scoring.axes) > 1:
        first = (depth - sections) // 2
        chosen = list(range(first, first + sections))
    else:
        chosen = np.linspace(0, depth - 1, sections).round().astype(int).tolist()
    image, labels = (np.stack([array[z] for z in chosen]) for array in (volume.image, volume.labels))
    return Volume(volume.name, image, labels)


def _predictions(
    task: Task, volume: Volume, predict: Predict | BlockPredict
) -> Iterator[tuple[str, int, Callable[[int], NDArray[np.float32]], NDArray[np.uint8], Any]]:
    """Yield what is scored as one: (name, first section, scores of section z, label volume, truth volume)."""
    if task.scoring.is_volume:
        planes: PlaneSum = predict_planes(predict, volume.image, task.scoring.axes, task.outputs)
        yield volume.name, 0, planes.scores, planes.labels(), volume.labels
        return
    assert not isinstance(predict, BlockPredict)
    depth = volume.image.shape[0]
    assert volume.labels is not None
    for z, scores_CYX in enumerate(each(predict, (volume.image[z] for z in range(depth)))):
        truth_YX = volume.labels[z]
        name = score.section_name(volume.name, depth, z)
        yield name, z, partial(_only_section, scores_CYX), labels_2d(scores_CYX)[None], truth_YX[None]


def _only_section(scores_CYX: NDArray[np.float32], z: int) -> NDArray[np.float32]:
    assert z == 0
    return scores_CYX


def _thresholds(task: Task, sections: TrainingSections, predict: Predict | BlockPredict) -> dict[int, float | None]:
    """Choose per class, one against the rest, the threshold with the best IoU on training images.

    ``None`` for a class that those images do not show.
    """
    histograms = {value: ScoreHistogram() for value in task.scoring.classes}
    for scores_CYX, labels_YX in _on_training(sections, predict):
        counted = labels_YX > 0 if task.scoring.ignore_unlabelled else np.ones(labels_YX.shape, bool)
        for value, histogram in histograms.items():
            scores_YX = scores_CYX[0 if len(scores_CYX) == 1 else value]
            histogram.add(scores_YX[counted], labels_YX[counted] == value)
    return {
        value: None if histogram.average_precision() is None else histogram.best_threshold()[0]
        for value, histogram in histograms.items()
    }


def _on_training(
    sections: TrainingSections, predict: Predict | BlockPredict
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Yield scores and labels of training sections about their centre, or of the sections of blocks of volumes."""
    if isinstance(predict, BlockPredict):
        for volume in sections.volumes[:TRAINING_IMAGES_FOR_THRESHOLD]:
            shape = volume.image.shape
            place = tuple(
                slice(start := max(0, (length - side) // 2), start + side)
                for length, side in zip(shape, predict.block, strict=True)
            )
            assert volume.labels is not None
            scores_CZYX = predict.predict(np.ascontiguousarray(volume.image[place]))
            yield from zip(np.moveaxis(scores_CZYX, 1, 0), volume.labels[place], strict=True)
        return
    chosen = np.unique(np.linspace(0, len(sections) - 1, TRAINING_IMAGES_FOR_THRESHOLD).round().astype(int))
    for position in chosen:
        image_YX, labels_YX = (_centre(array, SIDE_FOR_THRESHOLD) for array in sections[int(position)])
        yield predict(image_YX), labels_YX


def _centre(array_YX: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    starts = [max(0, (length - side) // 2) for length in array_YX.shape]
    return np.ascontiguousarray(array_YX[starts[0] : starts[0] + side, starts[1] : starts[1] + side])

"""The metrics of a task beside its score: evidence of every image, and the scores that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.data import catalog
from embench.data.task import TUBULAR, Measurement, Task
from embench.scoring.counts import ScoreHistogram, touching
from embench.scoring.metrics import Evidence, Masks, Metric, metrics
from embench.scoring.metrics.overlap import OverlapMetric
from embench.scoring.schema import ImageCounts

Means = dict[str, dict[int, float | None]]
"""By metric and label value."""


def measurement_of(task: Task) -> Measurement:
    """Return how a task is measured: as registered today, for a file prepared earlier may not know it."""
    return next((each.measurement for each in catalog.all_tasks() if each.name == task.name), task.measurement)


def applying(task: Task, value: int) -> list[Metric]:
    """Return the metrics that apply to a class of a task and need evidence: all but those of centre lines always do."""
    structures = dict(zip(task.scoring.classes, measurement_of(task).structures, strict=False))
    return [
        metric
        for metric in metrics().values()
        if not isinstance(metric, OverlapMetric) and ("tubular" not in metric.needs or structures.get(value) in TUBULAR)
    ]


def of_image(
    task: Task,
    labels_ZYX: NDArray[np.uint8],
    truth_ZYX: NDArray[np.uint8],
    histograms: Mapping[int, ScoreHistogram] | None = None,
    identities_ZYX: NDArray[Any] | None = None,
) -> dict[int, dict[str, Evidence | None]]:
    """Return the evidence of one image or volume under the task's rule, by class and metric.

    What the rule leaves out of the score (unlabelled voxels, objects that touch no labelled one) is left out here too.

    Parameters
    ----------
    task : Task
    labels_ZYX, truth_ZYX : ndarray of uint8
        Predicted and true label values; one section is measured in the plane.
    histograms : dict, optional
        Of predicted probabilities, by class.
    identities_ZYX : ndarray of unsigned int, optional
        Identities of the true objects; connected components where there are none.
    """
    rule, measurement = task.scoring, measurement_of(task)
    if rule.ignore_unlabelled:
        labels_ZYX = np.where(truth_ZYX > 0, labels_ZYX, np.uint8(0))
    found: dict[int, dict[str, Evidence | None]] = {}
    for value in rule.classes:
        predicted, true = labels_ZYX == value, truth_ZYX == value
        if rule.match_instances:
            predicted = np.stack([touching(*pair) for pair in zip(predicted, true, strict=True)])
        masks = Masks(
            predicted,
            true,
            task.voxel_size or measurement.voxel_size,
            measurement.tolerance,
            measurement.smallest,
            truth_ids=None if identities_ZYX is None else np.where(true, identities_ZYX, 0),
            histogram=(histograms or {}).get(value),
        )
        wanted = (each for each in applying(task, value) if histograms or "scores" not in each.needs)
        found[value] = {metric.name: metric.evidence(masks) for metric in wanted}
    return found


def means(images: Sequence[ImageCounts]) -> Means:
    """Return the mean over images of every metric that their counts and evidence give, by label value.

    Raises
    ------
    ValueError
        Evidence that no prediction can have, or that some images lack.
    """
    found: Means = {
        metric.name: {value: metric.mean([image.classes[value] for image in images]) for value in images[0].classes}
        for metric in _from_counts()
    }
    if all(image.evidence is None for image in images):
        return found
    evidence = [image.evidence or {} for image in images]
    layout = {value: set(each) for value, each in evidence[0].items()}
    if any({value: set(each) for value, each in one.items()} != layout for one in evidence):
        raise ValueError("evidence that other images lack")
    for name, metric in metrics().items():
        if not isinstance(metric, OverlapMetric) and (values := [v for v, names in layout.items() if name in names]):
            found[name] = {value: _mean(metric, [each[value][name] for each in evidence]) for value in values}
    return found


def _mean(metric: Metric, images: Sequence[Evidence | None]) -> float | None:
    for evidence in images:
        if evidence is None:
            continue
        if len(evidence) != len(metric.parts):
            raise ValueError(f"{len(evidence)} numbers of evidence of {metric.name}, which has {len(metric.parts)}")
        try:
            score = metric.score(evidence)
        except (ArithmeticError, ValueError) as error:
            raise ValueError(f"evidence of {metric.name} that gives no score") from error
        if score is not None and not (0 <= score <= (1 if metric.higher_is_better else math.inf)):
            raise ValueError(f"evidence of {metric.name} that gives {score:.6g}")
    return metric.mean(images)


@cache
def _from_counts() -> tuple[Metric, ...]:
    return tuple(metric for metric in metrics().values() if isinstance(metric, OverlapMetric))

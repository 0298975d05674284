"""Panoptic quality."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence, Metric
from embench.scoring.metrics.masks import Masks
from embench.scoring.metrics.overlap import ratio


class PanopticQuality(Metric):
    """Panoptic quality of one class (Kirillov et al. 2019): F1 of objects times the mean IoU of the matched ones."""

    name = "pq_50"
    title = "Panoptic quality at IoU 0.5"
    needs = frozenset({"instances"})
    parts = ("sum of matched IoU", "predicted objects", "true objects")
    description = "Object F1 in which a match counts as much as its IoU."

    def evidence(self, masks: Masks) -> Evidence:
        """Return the sum of the IoU of matched objects, and the number of predicted and of true objects."""
        return float(masks.overlap.matches(10).sum()), *masks.overlap.objects

    def score(self, evidence: Evidence) -> float:
        """Return sum of IoU / (TP + FP / 2 + FN / 2)."""
        quality, predicted, true = evidence
        return ratio(2 * quality, predicted + true, evidence)

"""F1 of objects."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence, Metric
from embench.scoring.metrics.masks import Masks
from embench.scoring.metrics.overlap import ratio


class F1(Metric):
    """F1 of objects, matched at an IoU above 0.5."""

    name = "f1_50"
    title = "Object F1 at IoU 0.5"
    needs = frozenset({"instances"})
    parts = ("matched objects", "predicted objects", "true objects")
    description = "Objects found (IoU above 0.5) as a fraction of the mean number of predicted and true objects."

    def evidence(self, masks: Masks) -> Evidence:
        """Return the number of matched, predicted and true objects."""
        return len(masks.overlap.matches(10)), *masks.overlap.objects

    def score(self, evidence: Evidence) -> float:
        """Return 2 TP / (2 TP + FP + FN)."""
        matched, predicted, true = evidence
        return ratio(2 * matched, predicted + true, evidence)

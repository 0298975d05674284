"""Average precision of objects over IoU thresholds."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence, Metric
from embench.scoring.metrics.masks import Masks
from embench.scoring.metrics.overlap import ratio

_TWENTIETHS = range(10, 20)


class ObjectAP(Metric):
    """Mean over the IoU thresholds 0.50, 0.55, ..., 0.95 of TP / (TP + FP + FN), in objects.

    The average precision of the Data Science Bowl 2018, StarDist and Cellpose, for objects without a confidence.
    """

    name = "ap_50_95"
    title = "Object AP at IoU 0.50 to 0.95"
    needs = frozenset({"instances"})
    parts = (*(f"matched objects at {5 * each / 100:.2f}" for each in _TWENTIETHS), "predicted objects", "true objects")
    description = "Objects found as a fraction of all predicted or true ones, over ever stricter IoU thresholds."

    def evidence(self, masks: Masks) -> Evidence:
        """Return the number of matched objects at each threshold, of predicted and of true objects."""
        return *(len(masks.overlap.matches(each)) for each in _TWENTIETHS), *masks.overlap.objects

    def score(self, evidence: Evidence) -> float:
        """Return the mean of TP / (TP + FP + FN)."""
        *matched, predicted, true = evidence
        scores = [ratio(found, predicted + true - found, evidence) for found in matched]
        return sum(scores) / len(scores)

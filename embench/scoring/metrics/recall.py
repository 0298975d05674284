"""Recall."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence
from embench.scoring.metrics.overlap import OverlapMetric, ratio


class Recall(OverlapMetric):
    """Recall of voxels (sensitivity)."""

    name = "recall"
    title = "Recall"
    description = "Fraction of the true voxels that are found."

    def score(self, evidence: Evidence) -> float:
        """Return TP / (TP + FN)."""
        tp, _, fn = evidence
        return ratio(tp, tp + fn, evidence)

"""Precision."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence
from embench.scoring.metrics.overlap import OverlapMetric, ratio


class Precision(OverlapMetric):
    """Precision of voxels (positive predictive value)."""

    name = "precision"
    title = "Precision"
    description = "Fraction of the predicted voxels that are true."

    def score(self, evidence: Evidence) -> float:
        """Return TP / (TP + FP)."""
        tp, fp, _ = evidence
        return ratio(tp, tp + fp, evidence)

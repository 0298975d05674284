"""Dice."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence
from embench.scoring.metrics.overlap import OverlapMetric, ratio


class Dice(OverlapMetric):
    """Dice coefficient (F1 of voxels)."""

    name = "dice"
    title = "Dice"
    description = "Shared voxels as a fraction of the mean size of prediction and truth."

    def score(self, evidence: Evidence) -> float:
        """Return 2 TP / (2 TP + FP + FN)."""
        tp, fp, fn = evidence
        return ratio(2 * tp, 2 * tp + fp + fn, evidence)

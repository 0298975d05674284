"""Metrics that follow from counts of voxels."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence, Metric
from embench.scoring.metrics.masks import Masks


class OverlapMetric(Metric):
    """A metric that follows from voxels truly found, wrongly found and missed: counts that every result keeps.

    Where neither prediction nor truth has the class agreement is complete (1). Where a quotient is 0/0 because only
    one of them has it, nothing agrees (0).
    """

    parts = ("tp", "fp", "fn")

    def evidence(self, masks: Masks) -> Evidence:
        """Return (TP, FP, FN), in voxels."""
        return masks.counts


def ratio(part: float, whole: float, evidence: Evidence) -> float:
    """Return ``part / whole``; of 0/0, 1 where all the evidence is 0, else 0."""
    if whole:
        return part / whole
    return 0.0 if any(evidence) else 1.0

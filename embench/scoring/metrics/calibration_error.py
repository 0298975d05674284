"""Expected calibration error."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence, Metric
from embench.scoring.metrics.masks import Masks

BINS = 15


class CalibrationError(Metric):
    """Expected calibration error over 15 equal ranges of probability (Guo et al. 2017), one class against the rest."""

    name = "calibration_error"
    title = "Calibration error"
    higher_is_better = False
    needs = frozenset({"scores"})
    parts = (*(f"probability minus truth in range {number}" for number in range(1, BINS + 1)), "voxels")
    description = "How far predicted probabilities are from how often they come true."

    def evidence(self, masks: Masks) -> Evidence | None:
        """Return the sum of probability minus truth in each range, and the voxels that count."""
        histogram = masks.histogram
        return None if histogram is None else (*map(float, histogram.gaps(BINS)), histogram.pixels)

    def score(self, evidence: Evidence) -> float:
        """Return the sum of their sizes by voxel; 0 without any voxel."""
        *gaps, voxels = evidence
        return sum(map(abs, gaps)) / voxels if voxels else 0.0

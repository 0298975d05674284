"""Brier score."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence, Metric
from embench.scoring.metrics.masks import Masks


class Brier(Metric):
    """Mean squared difference of predicted probability and truth, one class against the rest (Brier 1950)."""

    name = "brier"
    title = "Brier score"
    higher_is_better = False
    needs = frozenset({"scores"})
    parts = ("sum of squared differences", "voxels")
    description = "How far predicted probabilities are from the truth, squared: 0.25 is a coin."

    def evidence(self, masks: Masks) -> Evidence | None:
        """Return the sum of squared differences and the voxels that count."""
        histogram = masks.histogram
        return None if histogram is None else (histogram.squared_error(), histogram.pixels)

    def score(self, evidence: Evidence) -> float:
        """Return their quotient; 0 without any voxel."""
        error, voxels = evidence
        return error / voxels if voxels else 0.0

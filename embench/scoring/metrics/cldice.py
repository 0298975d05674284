"""Dice of centre lines."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence, Metric
from embench.scoring.metrics.masks import Masks, counts


class ClDice(Metric):
    """Centre-line Dice (Shit et al. 2021, arXiv 2003.07311), for tubes and sheets."""

    name = "cldice"
    title = "clDice"
    needs = frozenset({"tubular"})
    parts = ("predicted line inside", "predicted line", "true line inside", "true line")
    description = "How much of either centre line lies inside the other mask: gaps cost, width does not."

    def evidence(self, masks: Masks) -> Evidence:
        """Return the voxels of each skeleton inside the other mask, and all of them."""
        first, second = masks.skeletons
        return counts(first, masks.truth)[0], int(first.sum()), counts(second, masks.prediction)[0], int(second.sum())

    def score(self, evidence: Evidence) -> float:
        """Return the harmonic mean of both fractions; 1 without any line, 0 where only one side has one."""
        inside, line, true_inside, true_line = evidence
        if not line or not true_line:
            return 0.0 if line or true_line else 1.0
        precision, recall = inside / line, true_inside / true_line
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

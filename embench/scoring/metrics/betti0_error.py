"""Error of the number of connected components."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence, Metric
from embench.scoring.metrics.masks import Masks


class Betti0Error(Metric):
    """Difference of the 0th Betti numbers: of the connected components of prediction and truth, whatever their size."""

    name = "betti0_error"
    title = "Betti-0 error"
    unit = "components"
    higher_is_better = False
    parts = ("predicted components", "true components")
    description = "Difference between the numbers of connected pieces of prediction and truth."

    def evidence(self, masks: Masks) -> Evidence:
        """Return the number of connected components of prediction and truth."""
        return masks.component_counts

    def score(self, evidence: Evidence) -> float:
        """Return their difference."""
        predicted, true = evidence
        return abs(predicted - true)

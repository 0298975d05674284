"""Metrics that compare one quantity of prediction and truth."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence, Metric


class RelativeError(Metric):
    """How far a quantity of the prediction is from that of the truth, as a fraction of the latter.

    The evidence keeps both, so that its sign can be told. Undefined where the truth has nothing and the prediction
    something.
    """

    higher_is_better = False
    parts = ("predicted", "true")

    def score(self, evidence: Evidence) -> float | None:
        """Return |predicted - true| / true; 0 where both are 0."""
        predicted, true = evidence
        if true:
            return abs(predicted - true) / true
        return None if predicted else 0.0

"""Error of the number of objects."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence
from embench.scoring.metrics.masks import Masks
from embench.scoring.metrics.relative import RelativeError


class CountError(RelativeError):
    """Relative error of the number of objects."""

    name = "count_error"
    title = "Error of object count"
    needs = frozenset({"instances"})
    description = "How far the number of objects is off, as a fraction of the true number."

    def evidence(self, masks: Masks) -> Evidence:
        """Return the number of objects of prediction and truth."""
        return masks.overlap.objects

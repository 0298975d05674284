"""Error of the total area or volume."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence
from embench.scoring.metrics.masks import Masks
from embench.scoring.metrics.relative import RelativeError


class VolumeError(RelativeError):
    """Relative error of the total volume (in 2D: area)."""

    name = "volume_error"
    title = "Error of total volume"
    description = "How far the total volume (in 2D: area) is off, as a fraction of the true one."

    def evidence(self, masks: Masks) -> Evidence:
        """Return the voxels of prediction and truth."""
        tp, fp, fn = masks.counts
        return tp + fp, tp + fn

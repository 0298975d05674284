"""IoU of what lies near the boundary."""

from __future__ import annotations

from embench.scoring.counts import iou
from embench.scoring.metrics.base import Evidence, Metric
from embench.scoring.metrics.masks import Masks


class BoundaryIoU(Metric):
    """IoU of the voxels of either mask that lie within the tolerance of its outline (Cheng et al. 2021)."""

    name = "boundary_iou"
    title = "Boundary IoU"
    needs = frozenset({"voxel size"})
    parts = ("tp", "fp", "fn")
    description = "IoU of the rims of prediction and truth, as wide as the tolerance."

    def evidence(self, masks: Masks) -> Evidence:
        """Return (TP, FP, FN) of the rims, in voxels."""
        return masks.rim_counts

    def score(self, evidence: Evidence) -> float:
        """Return TP / (TP + FP + FN)."""
        return iou(evidence)

"""IoU."""

from __future__ import annotations

from embench.scoring.counts import iou
from embench.scoring.metrics.base import Evidence
from embench.scoring.metrics.overlap import OverlapMetric


class IoU(OverlapMetric):
    """Intersection over union (Jaccard index)."""

    name = "iou"
    title = "IoU"
    description = "Shared voxels as a fraction of all voxels in prediction or truth."

    def score(self, evidence: Evidence) -> float:
        """Return TP / (TP + FP + FN)."""
        return iou(evidence)

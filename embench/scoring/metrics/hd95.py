"""Hausdorff distance, robust."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence, Metric
from embench.scoring.metrics.masks import Masks


class HD95(Metric):
    """95th percentile of the Hausdorff distance: the larger of both directions, by area of surface."""

    name = "hd95"
    title = "Hausdorff distance, 95 %"
    unit = "nm"
    higher_is_better = False
    needs = frozenset({"voxel size"})
    parts = ("distance",)
    additive = False
    ranks = False
    description = "Distance within which 95 % of either surface lies from the other one."

    def evidence(self, masks: Masks) -> Evidence | None:
        """Return the distance; nothing where only one of the masks has a surface."""
        first, second = masks.surfaces
        if masks.disagree_without_surface or bool(len(first.areas)) != bool(len(second.areas)):
            return None
        return (max(first.percentile(0.95), second.percentile(0.95)) if len(first.areas) else 0.0,)

    def score(self, evidence: Evidence) -> float:
        """Return the distance."""
        return evidence[0]

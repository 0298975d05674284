"""Mean distance between surfaces."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence, Metric
from embench.scoring.metrics.masks import Masks


class MeanSurfaceDistance(Metric):
    """Average symmetric surface distance: over both surfaces together, by area."""

    name = "mean_surface_distance"
    title = "Mean surface distance"
    unit = "nm"
    higher_is_better = False
    needs = frozenset({"voxel size"})
    parts = ("distance",)
    additive = False
    ranks = False
    description = "Mean distance from either surface to the other one."

    def evidence(self, masks: Masks) -> Evidence | None:
        """Return the distance; nothing where only one of the masks has a surface."""
        first, second = masks.surfaces
        if masks.disagree_without_surface or bool(len(first.areas)) != bool(len(second.areas)):
            return None
        area = first.area + second.area
        return ((first.moment + second.moment) / area if area else 0.0,)

    def score(self, evidence: Evidence) -> float:
        """Return the distance."""
        return evidence[0]

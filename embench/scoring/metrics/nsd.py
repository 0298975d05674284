"""Normalised surface Dice."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence, Metric
from embench.scoring.metrics.masks import Masks


class NSD(Metric):
    """Normalised surface Dice at a tolerance (Nikolov et al. 2021, doi 10.2196/26151)."""

    name = "nsd"
    title = "Surface Dice"
    needs = frozenset({"voxel size"})
    parts = ("area within tolerance", "area")
    description = "Fraction of both surfaces that lies within the tolerance of the other one."

    def evidence(self, masks: Masks) -> Evidence | None:
        """Return the area of both surfaces within the tolerance of the other, and the area of both."""
        first, second = masks.surfaces
        if masks.disagree_without_surface:
            return None
        within = first.area_within(masks.tolerance) + second.area_within(masks.tolerance)
        return within, first.area + second.area

    def score(self, evidence: Evidence) -> float:
        """Return their quotient; 1 without any surface."""
        within, area = evidence
        return within / area if area else 1.0

"""Error of the surface."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence
from embench.scoring.metrics.masks import Masks
from embench.scoring.metrics.relative import RelativeError


class SurfaceError(RelativeError):
    """Relative error of the surface area (in 2D: of the length of the outline)."""

    name = "surface_error"
    title = "Error of surface"
    needs = frozenset({"voxel size"})
    description = "How far the surface area (in 2D: the outline) is off, as a fraction of the true one."

    def evidence(self, masks: Masks) -> Evidence:
        """Return the surface of prediction and truth."""
        first, second = masks.surfaces
        return first.area, second.area

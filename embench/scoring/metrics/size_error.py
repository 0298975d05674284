"""Error of the mean size of objects."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence, Metric
from embench.scoring.metrics.masks import Masks


class SizeError(Metric):
    """Relative error of the mean volume (in 2D: area) of an object."""

    name = "size_error"
    title = "Error of mean object size"
    higher_is_better = False
    needs = frozenset({"instances"})
    parts = ("predicted voxels", "predicted objects", "true voxels", "true objects")
    description = "How far the mean size of an object is off, as a fraction of the true one."

    def evidence(self, masks: Masks) -> Evidence:
        """Return voxels in objects and number of objects, of prediction and truth."""
        (first, second), objects = masks.overlap.sizes, masks.overlap.objects
        return int(first[1:].sum()), objects[0], int(second[1:].sum()), objects[1]

    def score(self, evidence: Evidence) -> float | None:
        """Return |predicted - true| / true; 0 without any object, undefined where only the prediction has some."""
        voxels, objects, true_voxels, true_objects = evidence
        if not true_objects:
            return None if objects else 0.0
        true = true_voxels / true_objects
        return abs((voxels / objects if objects else 0.0) - true) / true

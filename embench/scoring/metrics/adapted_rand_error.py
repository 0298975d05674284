"""Adapted Rand error."""

from __future__ import annotations

import numpy as np

from embench.scoring.metrics.base import Evidence, Metric
from embench.scoring.metrics.masks import Masks


class AdaptedRandError(Metric):
    """1 - F1 of pairs of voxels in one segment (Arganda-Carreras et al. 2015), over the voxels of true objects.

    What the prediction leaves outside every object is one segment of it there, as in SNEMI3D and scikit-image.
    """

    name = "adapted_rand_error"
    title = "Adapted Rand error"
    higher_is_better = False
    needs = frozenset({"instances"})
    parts = (
        "pairs together in both",
        "pairs together in prediction",
        "pairs together in truth",
        "predicted objects",
        "true objects",
    )
    description = "How often two voxels that belong together are kept apart, or the other way round."

    def evidence(self, masks: Masks) -> Evidence:
        """Return ordered pairs of voxels of true objects: together in both, in prediction, in truth; and objects."""
        table = masks.overlap
        real = table.second > 0
        voxels = table.voxels[real].astype(float)
        if not len(voxels):
            return 0.0, 0.0, 0.0, *table.objects
        rows, columns = (np.bincount(number[real], voxels) for number in (table.first, table.second))
        total = voxels.sum()
        both, predicted, true = (float(np.dot(sizes, sizes) - total) for sizes in (voxels, rows, columns))
        return both, predicted, true, *table.objects

    def score(self, evidence: Evidence) -> float:
        """Return 1 - 2 both / (predicted + true); 1 where only one side has objects, 0 where neither has."""
        both, predicted, true, objects, true_objects = evidence
        if not objects or not true_objects:
            return 1.0 if objects or true_objects else 0.0
        return 1 - 2 * both / (predicted + true) if predicted + true else 0.0

"""Conditional entropy of two partitions of an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embench.scoring.metrics.base import Evidence, Metric


class ConditionalEntropy(Metric):
    """Half of the variation of information (Meila 2007): bits needed to tell one partition where the other is known.

    Over all voxels; what lies outside every object counts as one segment on either side.
    """

    unit = "bits"
    higher_is_better = False
    needs = frozenset({"instances"})
    parts = ("voxel bits", "voxels")

    def score(self, evidence: Evidence) -> float:
        """Return the bits per voxel."""
        bits, voxels = evidence
        return bits / voxels


def conditional_bits(
    number: NDArray[np.int64], sizes: NDArray[np.int64], voxels: NDArray[np.int64]
) -> tuple[float, int]:
    """Return the entropy of the other partition given this one, times the voxels, and the voxels.

    Parameters
    ----------
    number, voxels : ndarray of int, (N,)
        For every pair of segments that overlap: the segment of this partition, and the voxels shared.
    sizes : ndarray of int
        Voxels of each segment of this partition.
    """
    bits = np.dot(voxels, np.log2(voxels / sizes[number]))
    return abs(float(bits)), int(voxels.sum())

"""VI, merge."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence
from embench.scoring.metrics.information import ConditionalEntropy, conditional_bits
from embench.scoring.metrics.masks import Masks


class VIMerge(ConditionalEntropy):
    """H(truth | prediction): how much true objects are merged."""

    name = "vi_merge"
    title = "VI, merge"
    description = "Bits by which predicted objects hold several true ones."

    def evidence(self, masks: Masks) -> Evidence:
        """Return H(truth | prediction) times the voxels, in bits, and the voxels."""
        table = masks.overlap
        return conditional_bits(table.first, table.sizes[0], table.voxels)

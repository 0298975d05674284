"""VI, split."""

from __future__ import annotations

from embench.scoring.metrics.base import Evidence
from embench.scoring.metrics.information import ConditionalEntropy, conditional_bits
from embench.scoring.metrics.masks import Masks


class VISplit(ConditionalEntropy):
    """H(prediction | truth): how much true objects are split."""

    name = "vi_split"
    title = "VI, split"
    description = "Bits by which true objects fall into several predicted ones."

    def evidence(self, masks: Masks) -> Evidence:
        """Return H(prediction | truth) times the voxels, in bits, and the voxels."""
        table = masks.overlap
        return conditional_bits(table.second, table.sizes[1], table.voxels)

"""SwinUNETR for grey images of any size: MONAI's network in two dimensions."""

from __future__ import annotations

from typing import Any

from monai.networks import nets
from torch import Tensor

from baselines.padding import padded

HALVED = 32
"""How much smaller than the image the coarsest map is."""


class SwinUNETR(nets.SwinUNETR):
    """A Swin transformer with shifted windows, convolutions on each of its maps, and a U-Net decoder.

    Parameters
    ----------
    classes : int
        Channels of the logits; 1 for a binary task.
    feature_size : int
        Channels of the finest map; a multiple of 12. The published network has 48.
    **settings
        Further ones of :class:`monai.networks.nets.SwinUNETR`.
    """

    def __init__(self, classes: int, *, feature_size: int = 48, **settings: Any) -> None:
        super().__init__(in_channels=1, out_channels=classes, feature_size=feature_size, spatial_dims=2, **settings)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes, Y, X) of normalised grey images (B, 1, Y, X)."""
        height, width = image.shape[2:]
        return super().forward(padded(image, HALVED))[:, :, :height, :width]

"""UNet for grey images, segmentation_models_pytorch's, with decoder blocks that open as TransUNet's do."""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from baselines.upsampling import convolve_upsampled


class DecoderBlock(nn.Module):
    """The library's block, its parts under the same names."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv1, self.conv2 = block.conv1, block.conv2

    def forward(self, x: Tensor, height: int, width: int, skip_connection: Tensor | None = None) -> Tensor:
        return self.conv2(convolve_upsampled(self.conv1, x, skip_connection, (height, width), mode="nearest"))


class UNet(smp.Unet):
    """The library's network with batch norm and no attention.

    Parameters
    ----------
    encoder : str
        A name of the library's.
    classes : int
        Channels of the logits; 1 for a binary task.
    **settings
        Further ones of :class:`segmentation_models_pytorch.Unet`.
    """

    def __init__(self, encoder: str, classes: int, **settings: Any) -> None:
        super().__init__(encoder, encoder_weights=None, in_channels=1, classes=classes, **settings)
        self.decoder.blocks = nn.ModuleList(map(DecoderBlock, self.decoder.blocks))

"""UNet for grey images, segmentation_models_pytorch's, with decoder blocks that open as TransUNet's do."""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from baselines.upsampling import convolve_upsampled

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue as fractions, as every model of torchvision has them."""


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
    in_channels : int
        Of the images.
    **settings
        Further ones of :class:`segmentation_models_pytorch.Unet`.
    """

    def __init__(self, encoder: str, classes: int, in_channels: int = 1, **settings: Any) -> None:
        super().__init__(encoder, encoder_weights=None, in_channels=in_channels, classes=classes, **settings)
        self.decoder.blocks = nn.ModuleList(map(DecoderBlock, self.decoder.blocks))


class RGBUNet(UNet):
    """The same for an encoder of colours: grey values of 0..1 three times, each normalised as ImageNet's."""

    def __init__(self, encoder: str, classes: int, **settings: Any) -> None:
        super().__init__(encoder, classes, 3, **settings)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return super().forward((image - self.mean) / self.deviation)

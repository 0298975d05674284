"""A plain vision transformer of timm as the encoder of a light UNet for grey images."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (2, 4, 8, 16, 32)
"""Pixels between neighbours of a map, from the finest that the encoder gives to the coarsest."""


def encoder_of(name: str, **settings: Any) -> nn.Module:
    """Return timm's transformer ``name`` for one channel and images of any size, without what follows its blocks.

    Parameters
    ----------
    name : str
        As timm calls it, without the tag of its weights.
    **settings
        Of timm, in place of those that the name stands for.

    Raises
    ------
    TypeError
        For what is no plain vision transformer: one patch embedding, then blocks on tokens of one size.
    """
    fixed: dict[str, Any] = {"pretrained": False, "in_chans": 1, "num_classes": 0, **settings}
    try:
        encoder: Any = timm.create_model(name, **fixed, dynamic_img_size=True)
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise
        encoder = timm.create_model(name, **fixed)  # SAM's takes any size as it is
    if not all(hasattr(encoder, part) for part in ("patch_embed", "blocks", "embed_dim", "forward_intermediates")):
        raise TypeError(f"{type(encoder).__name__} is no plain vision transformer")
    for unused in ("attn_pool", "fc_norm", "neck", "head"):
        if isinstance(getattr(encoder, unused, None), nn.Module):
            setattr(encoder, unused, nn.Identity())
    return encoder


class ViTUNet(nn.Module):
    """Tokens of evenly spread layers, each brought to a resolution of its own, and a decoder that joins them.

    The image is resized so that a patch of the encoder covers the next stride of 8, 16 or 32 pixels: nothing for
    patches of these sizes; to 14/16 for DINOv2's of 14. Position embeddings are interpolated by timm.

    Parameters
    ----------
    encoder : nn.Module
        See :func:`encoder_of`.
    classes : int
        Channels of the logits; 1 for a binary task.
    width : int
        Channels of the decoder at full resolution; twice as many with every halving, up to eight times.
    """

    def __init__(self, encoder: Any, classes: int, width: int = 16) -> None:
        super().__init__()
        self.encoder = encoder
        self.patch: int = encoder.patch_embed.patch_size[0]
        self.stride = next(stride for stride in STRIDES if stride >= max(self.patch, 8))
        strides = STRIDES[: STRIDES.index(self.stride) + 1]
        depth, levels = len(encoder.blocks), len(strides)
        self.layers = [max(round(depth * (level + 1) / levels) - 1, 0) for level in range(levels)]
        self.is_normed = isinstance(getattr(encoder, "norm", None), nn.LayerNorm)
        channels = [width * min(2 ** (level + 1), 8) for level in range(levels)]
        self.stem = _convolution(1, width)
        self.skips = nn.ModuleList(nn.Conv2d(encoder.embed_dim, size, 1) for size in channels)
        sizes = [width, *channels]
        self.joins = nn.ModuleList(
            nn.Sequential(_convolution(here + below, here), _convolution(here, here)) for here, below in pairwise(sizes)
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """From (B, 1, Y, X) to logits (B, classes, Y, X); the sides are multiples of the stride."""
        maps = [self.stem(image)]
        for skip, stride, tokens in zip(self.skips, STRIDES, self.maps(image), strict=False):
            size = [side // stride for side in image.shape[2:]]
            maps.append(_resized(skip(tokens), size))
        x = maps.pop()
        for join in reversed(self.joins):
            beside = maps.pop()
            x = join(torch.cat((_resized(x, beside.shape[2:]), beside), dim=1))
        return self.head(x)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Return the tokens of the chosen layers as maps (B, hidden, Y / stride, X / stride)."""
        size = [side // self.stride * self.patch for side in image.shape[2:]]
        chosen = sorted(set(self.layers))
        found = self.encoder.forward_intermediates(
            _resized(image, size), indices=chosen, intermediates_only=True, norm=self.is_normed
        )
        by_layer = dict(zip(chosen, found, strict=True))
        return [by_layer[layer] for layer in self.layers]


def _resized(x: Tensor, size: Any) -> Tensor:
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )

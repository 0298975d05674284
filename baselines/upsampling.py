"""The convolution that opens a U-Net's decoder block: of a map, interpolated to a skip's size and joined with it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embench.training.precision import format_of, in_format

_FEWEST_CHANNELS = 64
"""Of a map whose products are worth interpolating: with 32 that costs more than the filters save."""

_BAND = 64
"""Rows of a banded matrix that are multiplied at once."""


def convolve_upsampled(
    layers: nn.Sequential, x: Tensor, skip: Tensor | None, size: tuple[int, int], **interpolation: Any
) -> Tensor:
    """Return what `layers` make of `x`, interpolated to `size`, with the channels of `skip` behind its own.

    Interpolation and convolution are both linear, so on a CPU a map of many channels is multiplied by the filters
    first, where it has a quarter of the pixels, then interpolated: the same sums in another order, and no larger map.

    Parameters
    ----------
    layers : nn.Sequential
        The first is a `nn.Conv2d`, 3x3, padding 1, stride 1.
    x : Tensor
        Shape (B, C, Y, X).
    skip : Tensor, optional
        Shape (B, S, *size).
    size : (int, int)
        Of the result in pixels (Y', X').
    **interpolation
        What `F.interpolate` takes besides the map and the size: a separable, linear mode.

    Returns
    -------
    Tensor
        Shape (B, O, *size).
    """
    conv: Any
    conv, *others = layers
    if skip is not None:
        skip = in_format(skip, format_of(x))
    # a network that is traced for other programs is to hold nothing but the library's own operations
    if x.device.type == "cpu" and x.shape[1] >= _FEWEST_CHANNELS and not torch.jit.is_tracing():
        x = _filtered_first(conv, x, skip, size, interpolation)
    else:
        x = F.interpolate(x, size, **interpolation)
        x = conv(x if skip is None else torch.cat((x, skip), dim=1))
    for layer in others:
        x = layer(x)
    return x


def _filtered_first(
    conv: nn.Conv2d, x: Tensor, skip: Tensor | None, size: tuple[int, int], interpolation: dict[str, Any]
) -> Tensor:
    batch, channels, rows, columns = x.shape
    # the gradients of the two parts come in two formats; as a whole they go on in that of the filters
    weight = in_format(conv.weight, format_of(conv.weight))
    of_x, of_skip = weight.split((channels, conv.in_channels - channels), dim=1)
    of_rows, of_columns = (
        _shifted(old, new, interpolation).to(x.dtype) for old, new in zip((rows, columns), size, strict=True)
    )
    # Y, X: pixels of x; V, U: of the result; J, I: the filter's rows and columns; O: outputs
    products = F.linear(x.permute(0, 2, 3, 1), of_x.permute(3, 2, 0, 1).reshape(-1, channels))  # B Y X IJO
    wide = _Banded.apply(products.view(batch * rows, columns * 3, -1), of_columns)  # BY U JO
    wide = wide.view(batch, rows, size[1], 3, -1).permute(0, 1, 3, 2, 4).flatten(1, 2).flatten(2)  # B YJ UO
    result = _Banded.apply(wide, of_rows).view(batch, *size, -1).permute(0, 3, 1, 2)  # B V UO
    if skip is not None:
        return F.conv2d(skip, of_skip, conv.bias, padding=1).add_(result)
    return result if conv.bias is None else result + conv.bias[:, None, None].to(result.dtype)


class _Banded(torch.autograd.Function):
    """Product of a matrix (M, K) and each of the matrices `x` (B, K, N), without the zeros far off its diagonal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(matrix)
        products = []
        for band in matrix.split(_BAND):
            first, last = band.any(dim=0).nonzero()[[0, -1], 0].tolist()
            products.append(band[:, first : last + 1] @ x[:, first : last + 1])
        return products[0] if len(products) == 1 else torch.cat(products, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (matrix,) = ctx.saved_tensors
        return _Banded.apply(gradient, matrix.T), None


def _shifted(old: int, new: int, interpolation: dict[str, Any]) -> Tensor:
    """Matrix (new, old * 3) that gives a line from `old` pixels and three products with each of them.

    The products are those for the pixel after, at and before the place that they count for; beyond the ends of the line
    there are zeros.
    """
    pixels = torch.eye(old, dtype=torch.float64)[None, :, :, None]
    matrix = F.interpolate(pixels, (new, 1), **interpolation)[0, :, :, 0].T
    padded = F.pad(matrix, (0, 0, 1, 1))
    return torch.stack((padded[:-2], matrix, padded[2:]), dim=2).flatten(1)

"""The convolution that opens a U-Net's decoder block: of a map, interpolated to a skip's size and joined with it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embench.precision import format_of, in_format


def convolve_upsampled(
    layers: nn.Sequential, x: Tensor, skip: Tensor | None, size: tuple[int, int], **interpolation: Any
) -> Tensor:
    """Return what `layers` make of `x`, interpolated to `size`, with the channels of `skip` behind its own.

    Interpolation and convolution are both linear, so on a CPU a map of many channels and few pixels is multiplied
    by the filters first, where it has a quarter of the pixels, and then interpolated: the same sums in another order,
    without the larger map.

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
    # The products with the interpolation's matrices cost in proportion to the side of the map.
    if skip is not None and x.device.type == "cpu" and x.shape[1] >= max(x.shape[2:]):
        x = _filtered_first(conv, x, skip, interpolation)
    else:
        x = F.interpolate(x, size, **interpolation)
        x = conv(x if skip is None else torch.cat((x, skip), dim=1))
    for layer in others:
        x = layer(x)
    return x


def _filtered_first(conv: nn.Conv2d, x: Tensor, skip: Tensor, interpolation: dict[str, Any]) -> Tensor:
    batch, channels, *_ = x.shape
    outputs = conv.out_channels
    weight = in_format(conv.weight, format_of(conv.weight))
    of_x, of_skip = weight.split((channels, skip.shape[1]), dim=1)
    base = F.conv2d(skip, of_skip, conv.bias, padding=1)
    of_rows, of_columns = (
        _shifted(old, new, interpolation).to(x.dtype) for old, new in zip(x.shape[2:], skip.shape[2:], strict=True)
    )
    # Y, X: pixels of x; V, U: of the result; J, I: the filter's rows and columns; O: outputs
    products = F.linear(x.permute(0, 2, 3, 1), of_x.permute(3, 2, 0, 1).reshape(-1, channels))  # B Y X IJO
    products = products.view(batch * x.shape[2], -1, 3 * outputs)  # BY XI JO
    wide = torch.matmul(of_columns.transpose(1, 2).flatten(1), products)  # BY U JO
    wide = wide.view(batch, x.shape[2], -1, 3, outputs).permute(0, 3, 1, 2, 4).flatten(1, 2).flatten(2)  # B JY UO
    of_rows = of_rows.flatten(1).expand(batch, -1, -1)  # B V JY
    result = torch.baddbmm(base.permute(0, 2, 3, 1).flatten(2), of_rows, wide)  # B V UO
    return result.view(batch, skip.shape[2], -1, outputs).permute(0, 3, 1, 2)


def _shifted(old: int, new: int, interpolation: dict[str, Any]) -> Tensor:
    """Matrices (new, 3, old) that give a line of `new` pixels from one of `old`, and its neighbours before and after.

    Beyond the ends there are zeros.
    """
    pixels = torch.eye(old, dtype=torch.float64)[None, :, :, None]
    matrix = F.interpolate(pixels, (new, 1), **interpolation)[0, :, :, 0].T
    padded = F.pad(matrix, (0, 0, 1, 1))
    return torch.stack((padded[:-2], matrix, padded[2:]), dim=1)

"""U-Mamba: a residual U-Net whose encoder has Mamba layers (Ma et al. 2024, U-Mamba_Enc)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.padding import padded
from baselines.selective_scan import selective_scan


class Mamba(nn.Module):
    """Mamba's block (Gu & Dao 2023): sequences (B, L, channels) to the same.

    Parameters have the names, shapes and random values of the package ``mamba-ssm``.

    Parameters
    ----------
    channels : int
    states : int
        Of the state-space model of each inner channel.
    kernel : int
        Elements that the causal convolution before it sees.
    widening : int
        Inner channels per channel.
    """

    def __init__(self, channels: int, states: int = 16, kernel: int = 4, widening: int = 2) -> None:
        super().__init__()
        inner, self.rank = widening * channels, math.ceil(channels / 16)
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1)
        self.x_proj = nn.Linear(inner, self.rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, states + 1).float().log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, channels, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():  # steps log-uniform in 0.001..0.1: softplus of the bias
            steps = torch.empty(inner).uniform_(math.log(0.001), math.log(0.1)).exp()
            self.dt_proj.bias.copy_(steps + (-(-steps).expm1()).log())

    def forward(self, tokens: Tensor) -> Tensor:
        x, gate = self.in_proj(tokens).chunk(2, dim=-1)
        x = F.silu(self.conv1d(x.transpose(1, 2))[:, :, : tokens.shape[1]].transpose(1, 2))
        states = self.A_log.shape[1]
        low, enter, leave = self.x_proj(x).split([self.rank, states, states], dim=-1)
        y = selective_scan(x, F.softplus(self.dt_proj(low)), -self.A_log.exp(), enter, leave, self.D)
        return self.out_proj(y * F.silu(gate))


class MambaLayer(nn.Module):
    """Layer norm and Mamba over the pixels of a map, row by row; always in float32, as published."""

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = Mamba(channels, states)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            tokens = x.float().flatten(2).transpose(1, 2)
            return self.mamba(self.norm(tokens)).transpose(1, 2).unflatten(2, x.shape[2:])


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with instance norm and leaky ReLU, the second ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, projects: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.norm1 = nn.InstanceNorm2d(outputs, affine=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm2 = nn.InstanceNorm2d(outputs, affine=True)
        self.conv3 = nn.Conv2d(inputs, outputs, 1, stride) if projects else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.norm1(self.conv1(x)))
        return F.leaky_relu(self.norm2(self.conv2(y)) + self.conv3(x))


def _stage(inputs: int, outputs: int, blocks: int, stride: int = 1) -> nn.Sequential:
    rest = (ResidualBlock(outputs, outputs, projects=False) for _ in range(blocks - 1))
    return nn.Sequential(ResidualBlock(inputs, outputs, stride), *rest)


class Encoder(nn.Module):
    """Image to maps, each of half the size of the one before; a Mamba layer ends every second stage and the last."""

    def __init__(self, features: Sequence[int], states: int) -> None:
        super().__init__()
        depth = len(features)
        self.stem = _stage(1, features[0], 2)
        self.stages = nn.ModuleList(
            _stage(before, width, 2 if n < math.ceil(depth / 2) else 1, stride=min(2, n + 1))
            for n, (before, width) in enumerate(zip((features[0], *features), features, strict=False))
        )
        self.mamba_layers = nn.ModuleList(
            MambaLayer(width, states) if (depth - n) % 2 else nn.Identity() for n, width in enumerate(features)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        x, maps = self.stem(image), []
        for stage, mamba in zip(self.stages, self.mamba_layers, strict=True):
            x = mamba(stage(x))
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """Maps back to the image's resolution; the finest of the encoder's is not joined, as published."""

    def __init__(self, features: Sequence[int]) -> None:
        super().__init__()
        steps = list(pairwise(reversed(features)))
        self.narrow = nn.ModuleList(nn.Conv2d(below, width, 1) for below, width in steps)
        self.stages = nn.ModuleList(
            _stage(width if n == len(steps) else 2 * width, width, 2 if n <= math.ceil(len(features) / 2) else 1)
            for n, (_, width) in enumerate(steps, start=1)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        x, *skips = reversed(maps)
        for narrow, stage, skip in zip(self.narrow, self.stages, [*skips[:-1], None], strict=True):
            x = narrow(F.interpolate(x, scale_factor=2, mode="nearest"))
            x = stage(x if skip is None else torch.cat((x, skip), dim=1))
        return x


class UMamba(nn.Module):
    """U-Mamba_Enc for grey images of any size.

    As its authors' program builds it for 2D images, with two exceptions. Where a map has fewer pixels than channels
    that program lets Mamba run over the channels, which fixes the size of the image; here it always runs over the
    pixels. And the loss is taken at full resolution alone, as for every network here, so there are no heads at coarser
    ones.

    Parameters
    ----------
    classes : int
        Channels of the logits; 1 for a binary task.
    features : sequence of int
        Channels of each stage; each stage after the first halves the resolution.
    states : int
        Of Mamba's state-space models.
    """

    def __init__(
        self, classes: int, *, features: Sequence[int] = (32, 64, 128, 256, 512, 512), states: int = 16
    ) -> None:
        super().__init__()
        self.halved = 2 ** (len(features) - 1)
        self.encoder = Encoder(features, states)
        self.decoder = Decoder(features)
        self.head = nn.Conv2d(features[0], classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes, Y, X) of normalised grey images (B, 1, Y, X)."""
        height, width = image.shape[2:]
        return self.head(self.decoder(self.encoder(padded(image, self.halved))))[:, :, :height, :width]

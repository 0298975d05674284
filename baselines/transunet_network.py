"""TransUNet: a ResNetV2 and Vision Transformer encoder with a U-Net decoder (protocol 4.2).

Parameters carry the names and shapes of the published programs, so their checkpoints load directly.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.upsampling import convolve_upsampled
from embench.core.errors import BadInput
from embench.training.precision import in_format

PATCH = 16
"""Pixels of the image along one side of a token."""


class StandardisedConv2d(nn.Conv2d):
    """Convolution without bias whose filters have mean 0 and variance 1 over each filter (protocol 4.2).

    The variance is the biased one, with 1e-5 added. A single-channel image is convolved with the filters summed
    over their input channels *after* standardisation, which is the same sum as repeating the image to as many
    channels, without the copies.

    Filters and maps are in PyTorch's default memory format: group norm follows, which on a CPU takes up to ten times
    as long in channels last.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel_size, stride, padding=kernel_size // 2, bias=False)

    standardised = False
    default_format = True

    def folded(self) -> StandardisedConv2d:
        """Return a copy whose filters are standardised once for all, to predict with."""
        copy = deepcopy(self)
        copy.weight = nn.Parameter(self.standardised_weight().detach())
        copy.standardised = True
        return copy

    def standardised_weight(self) -> Tensor:
        """Filters of shape (O, I, K, K), standardised in the weight's own dtype."""
        weight = self.weight
        if self.standardised:
            return weight
        # Batch norm over one "image" of O channels is this very formula in a single kernel, forward and backward.
        flat = F.batch_norm(weight.reshape(1, len(weight), -1), None, None, training=True, momentum=0.0, eps=1e-5)
        return flat.view_as(weight)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.standardised_weight()
        if x.shape[1] == 1 < self.in_channels:
            weight = weight.sum(dim=1, keepdim=True)
        return F.conv2d(x, weight, None, self.stride, self.padding)


class Dropout(nn.Dropout):
    """Dropout that on a CPU draws 16 random bits a number, four numbers at a time; the library draws 64 for each."""

    def forward(self, x: Tensor) -> Tensor:
        dropped = round(self.p * 2**16)
        if not self.training or x.device.type != "cpu" or not 0 < dropped < 2**16:
            return super().forward(x)
        drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = drawn.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
        return x * kept.view(torch.uint8).to(x.dtype).mul_(2**16 / (2**16 - dropped))  # bool is converted slowly


class GroupNorm(nn.GroupNorm):
    """Group norm that also takes a single pixel per group, which `nn.GroupNorm` refuses for one 16x16 image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(channels: int) -> GroupNorm:
    """Group norm of 32 groups, eps 1e-6; fewer than 32 channels get one group each."""
    return GroupNorm(min(32, channels), channels, eps=1e-6)


class Bottleneck(nn.Module):
    """Residual unit 1x1, 3x3 (which carries the stride), 1x1, with ReLU after the sum (protocol 4.2)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        middle = outputs // 4
        self.gn1 = group_norm(middle)
        self.conv1 = StandardisedConv2d(inputs, middle, 1)
        self.gn2 = group_norm(middle)
        self.conv2 = StandardisedConv2d(middle, middle, 3, stride)
        self.gn3 = group_norm(outputs)
        self.conv3 = StandardisedConv2d(middle, outputs, 1)
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.downsample = StandardisedConv2d(inputs, outputs, 1, stride)
            self.gn_proj = GroupNorm(outputs, outputs, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.gn_proj(self.downsample(x)) if self.projects else x
        x = self.gn1(self.conv1(x)).relu_()
        x = self.gn2(self.conv2(x)).relu_()
        x = self.gn3(self.conv3(x))
        return x.add_(shortcut).relu_()


def stage(inputs: int, outputs: int, units: int, stride: int) -> nn.Sequential:
    """Stage of the ResNet: `units` bottlenecks, the first of which changes width and resolution."""
    first = Bottleneck(inputs, outputs, stride)
    rest = (Bottleneck(outputs, outputs) for _ in range(units - 1))
    return nn.Sequential(OrderedDict((f"unit{n}", unit) for n, unit in enumerate((first, *rest), start=1)))


class ResNetV2(nn.Module):
    """Convolutional part of the encoder: three stages, no fourth (protocol 4.2)."""

    def __init__(self, width: int, units: tuple[int, int, int]) -> None:
        super().__init__()
        self.root = nn.Sequential(
            OrderedDict(conv=StandardisedConv2d(3, width, 7, stride=2), gn=group_norm(width), relu=nn.ReLU(True))
        )
        self.body = nn.ModuleDict(
            {
                "block1": stage(width, 4 * width, units[0], stride=1),
                "block2": stage(4 * width, 8 * width, units[1], stride=2),
                "block3": stage(8 * width, 16 * width, units[2], stride=2),
            }
        )

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Features (B, 16 width, H/16, W/16) and the skips at 1/8, 1/4 and 1/2 of the image, in this order."""
        half = in_format(self.root(image), torch.channels_last)  # in which a CPU has a vectorised max pool
        quarter = self.body["block1"](F.max_pool2d(half, 3, stride=2).contiguous())
        eighth = self.body["block2"](quarter)
        # The pool has no padding, so its map is one pixel short of a quarter of the image (55 at 224).
        padded_quarter = F.pad(quarter, (0, 1, 0, 1))
        return self.body["block3"](eighth), (eighth, padded_quarter, half)


def resampled(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, C, Y, X) in another size, bicubically interpolated: two products, whose gradient is always the same.

    CUDA has no deterministic gradient of the library's own interpolation.
    """
    of_rows, of_columns = (
        F.interpolate(torch.eye(old, device=grid.device)[None, None], (new, old), mode="bicubic")[0, 0]
        for old, new in zip(grid.shape[2:], size, strict=True)
    )
    with torch.autocast(grid.device.type, enabled=False):
        return of_rows @ grid @ of_columns.T


class Embeddings(nn.Module):
    """Image to tokens: ResNet, 1x1 patch embedding, learned position embedding, dropout (protocol 4.2)."""

    def __init__(self, width: int, units: tuple[int, int, int], hidden: int, grid: int, dropout: float) -> None:
        super().__init__()
        self.grid = grid
        self.hybrid_model = ResNetV2(width, units)
        self.patch_embeddings = nn.Conv2d(16 * width, hidden, 1)
        self.position_embeddings = nn.Parameter(torch.zeros(1, grid * grid, hidden))
        self.dropout = Dropout(dropout)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embedding (1, rows * columns, hidden), bicubically interpolated where the grid differs."""
        if (rows, columns) == (self.grid, self.grid):
            return self.position_embeddings
        grid = self.position_embeddings.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        if grid.is_cuda and torch.are_deterministic_algorithms_enabled():
            grid = resampled(grid, (rows, columns))
        else:
            grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return grid.flatten(2).transpose(1, 2)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        features, skips = self.hybrid_model(image)
        tokens = self.patch_embeddings(features).flatten(2).transpose(1, 2)
        return self.dropout(tokens + self.positions(*features.shape[2:])), skips


def attend(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Scaled dot-product attention of (B, heads, tokens, size) tensors: fused on CUDA and in fp32.

    On a CPU the fused form is the faster one in fp32 (the same for crops of 96 pixels, 36 tokens), and takes three
    times as long in bf16.
    """
    if query.is_cuda or query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(dim=-1)
    return F.dropout(weights, dropout) @ value


class Attention(nn.Module):
    """Multi-head self-attention; one rate drops attention weights and the projected output."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, hidden)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        projections = (self.query, self.key, self.value)
        weight = torch.cat([each.weight for each in projections])
        bias = torch.cat([each.bias for each in projections])
        projected = F.linear(tokens, weight, bias).unflatten(-1, (3, self.heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        mixed = attend(query, key, value, self.dropout.p if self.training else 0.0)
        return self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """GELU perceptron on each token, with dropout after each of its two layers."""

    def __init__(self, hidden: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, mlp)
        self.fc2 = nn.Linear(mlp, hidden)
        self.dropout = Dropout(dropout)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(tokens)))))


class Layer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, hidden: int, mlp: int, heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden, eps=1e-6)
        self.ffn_norm = nn.LayerNorm(hidden, eps=1e-6)
        self.ffn = FeedForward(hidden, mlp, dropout)
        self.attn = Attention(hidden, heads, attention_dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.attention_norm(tokens))
        return tokens + self.ffn(self.ffn_norm(tokens))


class Encoder(nn.Module):
    """Transformer layers and the final norm: what RETINA freezes (protocol 4.2)."""

    def __init__(
        self, hidden: int, mlp: int, layers: int, heads: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(hidden, mlp, heads, dropout, attention_dropout) for _ in range(layers))
        self.encoder_norm = nn.LayerNorm(hidden, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layer:
            tokens = layer(tokens)
        return self.encoder_norm(tokens)


class Transformer(nn.Module):
    """Embeddings and encoder under the names of the published state dict."""

    def __init__(self, embeddings: Embeddings, encoder: Encoder) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        tokens, skips = self.embeddings(image)
        return self.encoder(tokens), skips


def conv_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class DecoderBlock(nn.Module):
    """Doubles the resolution, joins the skip, convolves twice."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = conv_norm_relu(inputs + skip, outputs)
        self.conv2 = conv_norm_relu(outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        rows, columns = (2 * side for side in x.shape[2:])
        x = convolve_upsampled(self.conv1, x, skip, (rows, columns), mode="bilinear", align_corners=True)
        return self.conv2(x)


class Decoder(nn.Module):
    """Tokens and skips to a map at the image's resolution (protocol 4.2)."""

    def __init__(
        self, hidden: int, bridge: int, skips: tuple[int, int, int], channels: tuple[int, int, int, int]
    ) -> None:
        super().__init__()
        self.conv_more = conv_norm_relu(hidden, bridge)
        inputs = (bridge, *channels[:-1])
        self.blocks = nn.ModuleList(map(DecoderBlock, inputs, (*skips, 0), channels))

    def forward(self, tokens: Tensor, skips: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        rows, columns = (side // 2 for side in skips[0].shape[2:])
        x = self.conv_more(tokens.transpose(1, 2).unflatten(2, (rows, columns)).contiguous())
        for block, skip in zip(self.blocks, (*skips, None), strict=True):
            x = block(x, skip)
        return x


class TransUNet(nn.Module):
    """TransUNet for grey images of any size divisible by 16 (protocol 4.2).

    Random parameters follow the published program: MLP weights Xavier-uniform with biases of standard deviation
    1e-6, position embedding zero, everything else as PyTorch initialises it.

    Parameters
    ----------
    classes
        Channels of the logits; 1 for a binary task.
    hidden, mlp, layers, heads
        Token width, width of its perceptron, number of layers and of attention heads. 192 / 768 is the published
        fine-tuning size, 768 / 3072 the one that takes ImageNet weights.
    width, units
        Channels of the ResNet's root and bottlenecks per stage. Group norms have min(32, channels) groups, so a
        network narrower than 32 normalises each of its narrow channels alone.
    decoder_channels, bridge_channels
        Channels of the four decoder blocks and of the convolution before them.
    dropout
        Rate after the embeddings and after both layers of each MLP.
    attention_dropout
        Rate on the attention weights and on the projected attention output: one number, 0 in the published
        configuration, which drops neither.
    image_size
        Side in pixels of the square images whose grid the stored position embedding has.

    Raises
    ------
    ValueError
        If `heads` does not divide `hidden`, `image_size` is not a positive multiple of 16, or 32 does not divide
        the channels of a group norm.
    """

    def __init__(
        self,
        classes: int,
        *,
        hidden: int = 192,
        mlp: int = 768,
        layers: int = 12,
        heads: int = 12,
        width: int = 64,
        units: tuple[int, int, int] = (3, 4, 9),
        decoder_channels: tuple[int, int, int, int] = (256, 128, 64, 16),
        bridge_channels: int = 512,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        image_size: int = 224,
    ) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"TransUNet: {heads} heads do not divide hidden {hidden}; choose a divisor of it")
        if image_size < PATCH or image_size % PATCH:
            raise ValueError(f"TransUNet: image size {image_size}; choose a positive multiple of {PATCH}")
        self.transformer = Transformer(
            Embeddings(width, units, hidden, image_size // PATCH, dropout),
            Encoder(hidden, mlp, layers, heads, dropout, attention_dropout),
        )
        self.decoder = Decoder(hidden, bridge_channels, (8 * width, 4 * width, width), decoder_channels)
        self.segmentation_head = nn.Sequential(nn.Conv2d(decoder_channels[-1], classes, 3, padding=1))

    def encode(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Tokens after the final norm, and the skips.

        Parameters
        ----------
        image
            Normalised grey images (B, 1, H, W), float; H and W divisible by 16.

        Returns
        -------
        tokens
            (B, H/16 * W/16, hidden), row by row.
        skips
            Maps at 1/8, 1/4 and 1/2 of the image's resolution, with 8, 4 and 1 times `width` channels.

        Raises
        ------
        BadInput
            If the image has another shape; the message names it.
        """
        shape = tuple(image.shape)
        if len(shape) != 4 or shape[1] != 1:
            raise BadInput(f"TransUNet: image of shape {shape}; give grey images (B, 1, H, W)")
        if min(shape[2:]) < PATCH or shape[2] % PATCH or shape[3] % PATCH:
            raise BadInput(f"TransUNet: image of {shape[2]}x{shape[3]} pixels; crop or pad to multiples of {PATCH}")
        return self.transformer(image)

    def decode(self, image: Tensor) -> Tensor:
        """Last decoder map (B, decoder_channels[-1], H, W), which the head turns into the output."""
        return self.decoder(*self.encode(image))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of normalised grey images (B, 1, H, W); see `encode` for what is refused."""
        return self.segmentation_head(self.decode(image))


class ReconstructionTransUNet(TransUNet):
    """The network of reconstruction pre-training: the head gives back one grey channel (protocol 4.3).

    Published checkpoints of it also carry a segmentation head of one class that nothing uses (protocol 8); it is
    kept, frozen, so that they load as they are and no optimiser or distributed reducer waits for its gradient.

    Parameters
    ----------
    **settings
        As in `TransUNet`, without `classes`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(1, **settings)
        self.FinalDecoder = nn.Sequential(OrderedDict(conv1=deepcopy(self.segmentation_head[0])))
        self.segmentation_head.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Reconstructed images (B, 1, H, W), in the units of the normalised input."""
        return self.FinalDecoder(self.decode(image))

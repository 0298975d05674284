"""TransUNet as it was published, in plain PyTorch: the reference of the speed measurements.

Nothing here is made fast: filters are standardised one operation at a time, the grey image is repeated to three
channels, attention is a softmax between two products, memory is in PyTorch's default format, arithmetic in fp32. The
parameters have the published names, so a state dict of `baselines.transunet_network.TransUNet` loads and the two can
be held against each other.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Skips = list[Tensor]


class StdConv2d(nn.Conv2d):
    """Convolution whose filters are standardised at every call."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def std_conv(inputs: int, outputs: int, size: int, stride: int = 1) -> StdConv2d:
    """Standardised convolution without bias."""
    return StdConv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Unit(nn.Module):
    """Bottleneck of the ResNetV2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = outputs // 4
        self.gn1 = nn.GroupNorm(32, middle, eps=1e-6)
        self.conv1 = std_conv(inputs, middle, 1)
        self.gn2 = nn.GroupNorm(32, middle, eps=1e-6)
        self.conv2 = std_conv(middle, middle, 3, stride)
        self.gn3 = nn.GroupNorm(32, outputs, eps=1e-6)
        self.conv3 = std_conv(middle, outputs, 1)
        self.relu = nn.ReLU(inplace=True)
        if stride != 1 or inputs != outputs:
            self.downsample = std_conv(inputs, outputs, 1, stride)
            self.gn_proj = nn.GroupNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.gn_proj(self.downsample(x)) if hasattr(self, "downsample") else x
        y = self.relu(self.gn1(self.conv1(x)))
        y = self.relu(self.gn2(self.conv2(y)))
        y = self.gn3(self.conv3(y))
        return self.relu(residual + y)


class ResNetV2(nn.Module):
    """Three stages of 3, 4 and 9 units."""

    def __init__(self, width: int = 64, units: tuple[int, ...] = (3, 4, 9)) -> None:
        super().__init__()
        self.root = nn.Sequential(
            OrderedDict(conv=std_conv(3, width, 7, 2), gn=nn.GroupNorm(32, width, eps=1e-6), relu=nn.ReLU(inplace=True))
        )
        blocks, inputs = OrderedDict(), width
        for number, count in enumerate(units):
            outputs = 4 * width * 2**number
            block: OrderedDict[str, nn.Module] = OrderedDict(unit1=Unit(inputs, outputs, 1 if number == 0 else 2))
            for unit in range(2, count + 1):
                block[f"unit{unit}"] = Unit(outputs, outputs, 1)
            blocks[f"block{number + 1}"] = nn.Sequential(block)
            inputs = outputs
        self.body = nn.Sequential(blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, Skips]:
        side = x.shape[2]
        x = self.root(x)
        skips = [x]
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=0)
        for number, block in enumerate(self.body):
            x = block(x)
            if number == len(self.body) - 1:
                break
            right = side // 4 // 2**number
            if x.shape[2] != right:
                padded = torch.zeros((x.shape[0], x.shape[1], right, right), device=x.device)
                padded[:, :, : x.shape[2], : x.shape[3]] = x
                skips.append(padded)
            else:
                skips.append(x)
        return x, skips[::-1]


class Embeddings(nn.Module):
    """Image to tokens."""

    def __init__(self, hidden: int, side: int) -> None:
        super().__init__()
        self.hybrid_model = ResNetV2()
        self.patch_embeddings = nn.Conv2d(1024, hidden, kernel_size=1)
        self.position_embeddings = nn.Parameter(torch.zeros(1, (side // 16) ** 2, hidden))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> tuple[Tensor, Skips]:
        x, skips = self.hybrid_model(x)
        tokens = self.patch_embeddings(x).flatten(2).transpose(-1, -2)
        return self.dropout(tokens + self.position_embeddings), skips


class Attention(nn.Module):
    """Softmax attention, written out."""

    def __init__(self, hidden: int, heads: int = 12) -> None:
        super().__init__()
        self.heads, self.size = heads, hidden // heads
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))
        self.out = nn.Linear(hidden, hidden)
        self.attn_dropout, self.proj_dropout = nn.Dropout(0.0), nn.Dropout(0.0)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, self.size).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.size)
        weights = self.attn_dropout(torch.softmax(scores, dim=-1))
        mixed = torch.matmul(weights, value).permute(0, 2, 1, 3).contiguous()
        return self.proj_dropout(self.out(mixed.view(*x.shape)))


class Mlp(nn.Module):
    """GELU perceptron."""

    def __init__(self, hidden: int, mlp: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(hidden, mlp), nn.Linear(mlp, hidden)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(x)))))


class Block(nn.Module):
    """Transformer layer."""

    def __init__(self, hidden: int, mlp: int) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(hidden, eps=1e-6), nn.LayerNorm(hidden, eps=1e-6)
        self.ffn, self.attn = Mlp(hidden, mlp), Attention(hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class Encoder(nn.Module):
    """Twelve layers and a final norm."""

    def __init__(self, hidden: int, mlp: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Block(hidden, mlp) for _ in range(12))
        self.encoder_norm = nn.LayerNorm(hidden, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return self.encoder_norm(x)


class Transformer(nn.Module):
    """Embeddings and encoder."""

    def __init__(self, hidden: int, mlp: int, side: int) -> None:
        super().__init__()
        self.embeddings, self.encoder = Embeddings(hidden, side), Encoder(hidden, mlp)

    def forward(self, x: Tensor) -> tuple[Tensor, Skips]:
        tokens, skips = self.embeddings(x)
        return self.encoder(tokens), skips


def conv_bn_relu(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class DecoderBlock(nn.Module):
    """Twice the resolution, the skip, two convolutions."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.UpsamplingBilinear2d(scale_factor=2)
        self.conv1, self.conv2 = conv_bn_relu(inputs + skip, outputs), conv_bn_relu(outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.up(x)
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        return self.conv2(self.conv1(x))


class Decoder(nn.Module):
    """Four blocks."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.conv_more = conv_bn_relu(hidden, 512)
        self.blocks = nn.ModuleList(map(DecoderBlock, (512, 256, 128, 64), (512, 256, 64, 0), (256, 128, 64, 16)))

    def forward(self, tokens: Tensor, skips: Skips) -> Tensor:
        count, patches, hidden = tokens.shape
        side = int(math.sqrt(patches))
        x = self.conv_more(tokens.permute(0, 2, 1).contiguous().view(count, hidden, side, side))
        for block, skip in zip(self.blocks, [*skips, None], strict=True):
            x = block(x, skip)
        return x


class VisionTransformer(nn.Module):
    """The whole network, for square images (B, 1, `side`, `side`)."""

    def __init__(self, classes: int, hidden: int = 192, mlp: int = 768, side: int = 224) -> None:
        super().__init__()
        self.transformer, self.decoder = Transformer(hidden, mlp, side), Decoder(hidden)
        self.segmentation_head = nn.Sequential(nn.Conv2d(16, classes, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            x = x.repeat(1, 3, 1, 1)
        tokens, skips = self.transformer(x)
        return self.segmentation_head(self.decoder(tokens, skips))

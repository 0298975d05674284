"""Masked autoencoding of transformers: of TransUNet's (protocol 4.5), and of plain ones of timm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.transunet import TransUNetModel
from baselines.transunet_network import PATCH, Encoder
from baselines.views import OneView
from baselines.vit import ViTModel, is_maskable, patch_of
from embench.data.task import Scale
from embench.models.base import TorchModel
from embench.models.checkpoints import Weights
from embench.pretraining.method import Augment, Pretraining, Settings
from embench.training.optim import warm_cosine

MASKED = 0.75
"""Fraction of the patches that the encoder does not see."""
DECODER: dict[Scale, dict[str, int]] = {
    "full": {"hidden": 512, "layers": 8, "heads": 16},
    "tiny": {"hidden": 32, "layers": 1, "heads": 4},
}
PART = "transformer.encoder."
"""Beginning of the names of what is pre-trained."""


def patches_of(image: Tensor, patch: int = PATCH) -> Tensor:
    """Return (B, patches, pixels) of images (B, 1, Y, X), patch by patch in rows."""
    return F.unfold(image, patch, stride=patch).transpose(1, 2)


def image_of(patches: Tensor, size: torch.Size, patch: int = PATCH) -> Tensor:
    """Return images (B, 1, Y, X) of a size (Y, X) from their patches."""
    return F.fold(patches.transpose(1, 2), size, patch, stride=patch)


def positions(rows: int, columns: int, hidden: int, device: torch.device) -> Tensor:
    """Return fixed embeddings (rows * columns, hidden): sines and cosines of the row, then of the column."""
    rates = 10000 ** -(torch.arange(hidden // 4, device=device) / (hidden // 4))
    row, column = (torch.outer(torch.arange(n, device=device), rates) for n in (rows, columns))
    of_row, of_column = (torch.cat((angle.sin(), angle.cos()), dim=1) for angle in (row, column))
    grid = of_row[:, None].expand(-1, columns, -1), of_column.expand(rows, -1, -1)
    return torch.cat(grid, dim=2).flatten(0, 1)


class MaskedAutoencoder(nn.Module):
    """A transformer that sees a quarter of the patches, and a small one that predicts the pixels of all.

    Parameters
    ----------
    encoder : Encoder
        What is pre-trained; its tokens have ``inputs`` numbers, a multiple of 4.
    inputs : int
    hidden, layers, heads : int
        Of the decoder.
    """

    patch: int = PATCH
    """Edge of a patch, pixels."""

    def __init__(self, encoder: nn.Module, inputs: int, hidden: int, layers: int, heads: int) -> None:
        super().__init__()
        self.start(encoder, inputs)
        self.widen = nn.Linear(inputs, hidden)
        self.masked = nn.Parameter(torch.randn(hidden) * 0.02)
        self.decoder = Encoder(hidden, 4 * hidden, layers, heads, dropout=0.0, attention_dropout=0.0)
        self.pixels = nn.Linear(hidden, self.patch**2)

    def start(self, encoder: nn.Module, inputs: int) -> None:
        """Take the encoder, and make what makes its tokens."""
        self.embed = nn.Linear(PATCH**2, inputs)
        self.encoder = encoder

    def tokens(self, image: Tensor) -> Tensor:
        """Return the tokens of every patch, (B, patches, inputs), with their place."""
        rows, columns = (side // PATCH for side in image.shape[2:])
        return self.embed(patches_of(image)) + positions(rows, columns, self.embed.out_features, image.device)

    def encoded(self, tokens: Tensor) -> Tensor:
        """Return what the encoder makes of some of them."""
        return self.encoder(tokens)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return predicted patches (B, patches, pixels), and which were hidden (B, patches); drawn by torch."""
        tokens = self.tokens(image)
        rows, columns = (side // self.patch for side in image.shape[2:])
        batch, count = len(image), rows * columns
        seen = max(1, round(count * (1 - MASKED)))
        order = torch.rand(batch, count, device=image.device).argsort(dim=1)
        encoded = self.widen(self.encoded(tokens.gather(1, _rows(order[:, :seen], tokens))))
        filled = torch.cat((encoded, self.masked.to(encoded).expand(batch, count - seen, -1)), dim=1)
        back = order.argsort(dim=1)
        tokens = filled.gather(1, _rows(back, filled)) + positions(rows, columns, filled.shape[2], image.device)
        return self.pixels(self.decoder(tokens)), back >= seen


class MaskedViT(MaskedAutoencoder):
    """The same for a plain transformer of timm, whose own patch embedding and positions make the tokens."""

    encoder: Any

    def start(self, encoder: Any, inputs: int) -> None:
        self.encoder, self.patch = encoder, encoder.patch_embed.patch_size[0]

    def tokens(self, image: Tensor) -> Tensor:
        every = self.encoder._pos_embed(self.encoder.patch_embed(image))
        self._prefix = every[:, : self.encoder.num_prefix_tokens]
        return every[:, self.encoder.num_prefix_tokens :]

    def encoded(self, tokens: Tensor) -> Tensor:
        x = self.encoder.norm_pre(torch.cat((self._prefix, tokens), dim=1))
        x = self.encoder.norm(self.encoder.blocks(x))
        return x[:, self.encoder.num_prefix_tokens :]


def _rows(chosen: Tensor, tokens: Tensor) -> Tensor:
    return chosen[:, :, None].expand(-1, -1, tokens.shape[2])


class MAE(Pretraining):
    """The transformer layers learn to fill in hidden patches; patch embedding and decoder are not written.

    The paper pre-trained "only the transformer layers" and gives no setting. Their tokens are here plain patches of 16
    pixels, as in MAE: through the convolutions, whose fields overlap, hidden patches would be seen. Fraction hidden,
    decoder, loss (squared error of hidden patches, each brought to mean 0 and variance 1), AdamW, learning rate, decay
    and schedule are MAE's own (He et al. 2022); epochs and batch are those of the other pre-trainings here. The layers
    keep their dropout.
    """

    name = "mae"
    title = "Masked autoencoding of the transformer part"
    trains = TransUNetModel
    batch_size = 256
    learning_rate = 1.5e-4
    weight_decay = 0.05
    crop_multiple = PATCH

    def __init__(self, model: TorchModel | None = None, start: Weights | None = None) -> None:
        super().__init__(model, start)
        if isinstance(self.model, ViTModel):
            self.crop_multiple = patch_of(self.model.encoder)

    @classmethod
    def takes(cls, model: TorchModel) -> bool:
        """Whether it is TransUNet or a plain transformer of timm without rotary positions, as ``vit:NAME``."""
        return super().takes(model) or (isinstance(model, ViTModel) and is_maskable(model.encoder))

    def rate(self, step: int, steps: int) -> float:
        return warm_cosine(step, steps)

    def optimiser(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters, learning_rate, betas=(0.9, 0.95), weight_decay=self.weight_decay, fused=True
        )

    def augmentation(self, crop: int) -> Augment:
        return OneView(crop)

    def module(self, settings: Settings, images: int) -> nn.Module:
        network: Any = self.model.at(settings.scale).network(1)
        if isinstance(self.model, ViTModel):
            return MaskedViT(network.encoder, network.encoder.embed_dim, **DECODER[settings.scale])
        inputs = network.transformer.embeddings.patch_embeddings.out_channels
        return MaskedAutoencoder(network.transformer.encoder, inputs, **DECODER[settings.scale])

    def loss(self, module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        (view,) = batch
        predicted, hidden = module(view)
        patches = patches_of(view, self.crop_multiple)
        mean, deviation = _levels(patches)
        error = (predicted.float() - (patches - mean) / deviation).square().mean(dim=2)
        return (error * hidden).sum() / hidden.sum()

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        assert isinstance(module, MaskedAutoencoder)
        if isinstance(module, MaskedViT):
            return {f"encoder.{name}": tensor for name, tensor in module.encoder.state_dict().items()}
        return {PART + name: tensor for name, tensor in module.encoder.state_dict().items()}

    def pictures(self, module: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        (view,) = batch
        predicted, hidden = module(view)
        patches, size, patch = patches_of(view, self.crop_multiple), view.shape[2:], self.crop_multiple
        mean, deviation = _levels(patches)
        filled = torch.where(hidden[:, :, None], predicted * deviation + mean, patches)
        masked = torch.where(hidden[:, :, None], 0.0, patches)
        return {"input": view, "masked": image_of(masked, size, patch), "filled in": image_of(filled, size, patch)}

    def options(self, settings: Settings, images: int) -> dict[str, Any]:
        return {"masked": MASKED, "decoder": DECODER[settings.scale], "optimiser": "adamw"}


def _levels(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every patch, (B, patches, 1)."""
    return patches.mean(dim=2, keepdim=True), (patches.var(dim=2, keepdim=True) + 1e-6).sqrt()

"""SimCLR of the convolutional part of TransUNet's encoder (protocol 4.5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from baselines.transunet import TransUNetModel
from baselines.views import TwoViews
from embench.pretraining.method import Augment, Pretraining, Settings
from embench.training.optim import warm_cosine

TEMPERATURE = 0.1
DIMENSIONS = 128
PART = "transformer.embeddings.hybrid_model."
"""Beginning of the names of what is pre-trained."""


class _Gathered(torch.autograd.Function):
    """The rows of all processes, one process after the other; gradients go back to those that made the rows."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        everyone = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(everyone, mine.contiguous())
        return torch.cat(everyone)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient.chunk(distributed.get_world_size())[distributed.get_rank()]


def nt_xent(views1: Tensor, views2: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return the normalised, temperature-scaled cross-entropy of SimCLR for the images of this process.

    Every view has to find the other view of its image among all other views of the batch, those of all processes. The
    mean over the processes, of value and gradient, is that of the whole batch.

    Parameters
    ----------
    views1, views2 : Tensor
        (B, dimensions), unit vectors; as many in every process.
    temperature : float
    """
    mine = torch.cat((views1, views2)).float()
    together, rank = distributed.is_initialized(), 0
    everyone = _Gathered.apply(mine) if together else mine
    if together:
        rank = distributed.get_rank()
    place = torch.arange(len(mine), device=mine.device)
    own, other = rank * len(mine) + place, rank * len(mine) + place.roll(len(views1))
    with torch.autocast(mine.device.type, enabled=False):
        similarity = (mine @ everyone.T / temperature).scatter(1, own[:, None], -torch.inf)
    return F.cross_entropy(similarity, other)


class Contrast(nn.Module):
    """Convolutions, global average, two-layer head: two views (B, 1, Y, X) to unit vectors (B, dimensions) of each."""

    def __init__(self, convolutions: nn.Module, channels: int, dimensions: int = DIMENSIONS) -> None:
        super().__init__()
        self.convolutions = convolutions
        self.head = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, dimensions))

    def forward(self, view1: Tensor, view2: Tensor) -> tuple[Tensor, Tensor]:
        maps, _ = self.convolutions(torch.cat((view1, view2)))
        first, second = F.normalize(self.head(maps.mean(dim=(2, 3))), dim=1).chunk(2)
        return first, second


class SimCLR(Pretraining):
    """Two views of an image are drawn together, and apart from all others of the batch; the head is not written.

    The paper names the method and no setting. Loss, head, temperature, optimiser (LARS, with neither decay nor
    adaptation of biases and norms), learning rate (0.3 for a batch of 256), decay and schedule are SimCLR's own (Chen
    et al. 2020); views, epochs and batch are those of the other pre-trainings here. The convolutions have group norm,
    so that no view can tell its other by the statistics of a batch.

    With ``accumulate`` a view is told apart from those of its part of the batch alone.
    """

    name = "simclr"
    title = "SimCLR of the convolutional part"
    trains = TransUNetModel
    batch_size = 256
    learning_rate = 0.3
    weight_decay = 1e-6
    crop_multiple = 16

    def rate(self, step: int, steps: int) -> float:
        return warm_cosine(step, steps)

    def optimiser(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        from timm.optim import Lars

        every = list(parameters)
        filters, vectors = [p for p in every if p.ndim > 1], [p for p in every if p.ndim <= 1]
        groups = [{"params": filters, "weight_decay": self.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return Lars(groups, learning_rate, momentum=self.momentum)

    def augmentation(self, crop: int) -> Augment:
        return TwoViews(crop)

    def module(self, settings: Settings, images: int) -> nn.Module:
        network: Any = self.model.at(settings.scale).network(1)
        embeddings = network.transformer.embeddings
        return Contrast(embeddings.hybrid_model, embeddings.patch_embeddings.in_channels)

    def loss(self, module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return nt_xent(*module(*batch))

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        assert isinstance(module, Contrast)
        return {PART + name: tensor for name, tensor in module.convolutions.state_dict().items()}

    def options(self, settings: Settings, images: int) -> dict[str, Any]:
        return {"temperature": TEMPERATURE, "dimensions": DIMENSIONS, "optimiser": "lars"}

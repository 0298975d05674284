"""MoCoV2: contrastive pre-training of the ResNet50 encoder with a queue of keys (protocol 4.4)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from baselines.unet_resnet50 import UNetResNet50
from baselines.views import TwoViews
from embench.pretraining.method import Augment, Pretraining, Settings

QUEUE = {"full": 65536, "tiny": 1024}
MOMENTUM = 0.999
TEMPERATURE = 0.2
DIMENSIONS = 128
GROUP = 32
"""Images that share batch-norm statistics."""


class Projection(nn.Module):
    """Encoder, global average, two-layer head: images (B, 1, Y, X) to unit vectors (B, dimensions)."""

    def __init__(self, encoder: nn.Module, channels: int, dimensions: int = DIMENSIONS) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, dimensions))

    def forward(self, image: Tensor) -> Tensor:
        return F.normalize(self.head(self.encoder(image)[-1].mean(dim=(2, 3))), dim=1)


class MomentumContrast(nn.Module):
    """Query network, its moving average, and a queue of the average's latest outputs.

    The published program shuffles the keys among GPUs, so that batch-norm statistics do not give away which key
    belongs to which query. Here every device cuts its batch into groups of about ``GROUP`` images with statistics of
    their own and shuffles the keys among the groups, which does the same on one device and on several.

    Parameters
    ----------
    query : Projection
    queue : int
        Keys kept; a multiple of the global batch.
    """

    queue: Tensor
    head: Tensor

    def __init__(self, query: Projection, queue: int, dimensions: int = DIMENSIONS) -> None:
        super().__init__()
        self.query = query
        self.key = deepcopy(query).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(dimensions, queue), dim=0))
        self.register_buffer("head", torch.zeros((), dtype=torch.int64))
        self.fresh: list[Tensor] = []  # keys of this step, of every part of the batch

    def forward(self, view1: Tensor, view2: Tensor) -> Tensor:
        """Return logits (B, 1 + queue): similarity of each query to its own key, then to the queue's."""
        groups = max(2, round(len(view1) / GROUP))
        queries = torch.cat([self.query(part) for part in view1.chunk(groups)])
        with torch.no_grad():
            shuffled = torch.randperm(len(view2), device=view2.device)
            keys = torch.cat([self.key(part) for part in view2[shuffled].chunk(groups)])[shuffled.argsort()]
        self.fresh.append(keys)
        positive = (queries * keys).sum(dim=1, keepdim=True)
        return torch.cat((positive, queries @ self.queue), dim=1) / TEMPERATURE

    @torch.no_grad()
    def advance(self) -> None:
        """After the optimiser's step: the key network follows, and the step's keys, of all devices, join the queue."""
        for average, parameter in zip(self.key.parameters(), self.query.parameters(), strict=True):
            average.lerp_(parameter, 1 - MOMENTUM)
        keys = torch.cat(self.fresh)
        self.fresh.clear()
        if distributed.is_initialized():
            everyone = [torch.empty_like(keys) for _ in range(distributed.get_world_size())]
            distributed.all_gather(everyone, keys)
            keys = torch.cat(everyone)
        places = (self.head + torch.arange(len(keys), device=keys.device)) % self.queue.shape[1]
        self.queue[:, places] = keys.T.to(self.queue.dtype)
        self.head.copy_((self.head + len(keys)) % self.queue.shape[1])


class MoCoV2(Pretraining):
    """The query encoder is written, without the projection head and the queue.

    The queue never holds more keys than an epoch has images: in small sets it is the largest multiple of the batch
    that they fill.
    """

    name = "mocov2"
    title = "Momentum contrast, version 2"
    trains = UNetResNet50
    batch_size = 128
    learning_rate = 0.015

    def rate(self, step: int, steps: int) -> float:
        """Factor 0.1 from 60 % of the steps and 0.01 from 80 %: epochs 120 and 160 of the published 200."""
        return 0.1 ** ((5 * step >= 3 * steps) + (5 * step >= 4 * steps))

    def augmentation(self, crop: int) -> Augment:
        return TwoViews(crop)

    def module(self, settings: Settings, images: int) -> nn.Module:
        encoder: Any = self.model.at(settings.scale).network(1).encoder
        return MomentumContrast(Projection(encoder, encoder.out_channels[-1]), queue_size(settings, images))

    def loss(self, module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        logits = module(*batch)
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))

    def stepped(self, module: nn.Module) -> None:
        assert isinstance(module, MomentumContrast)
        module.advance()

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        assert isinstance(module, MomentumContrast)
        return module.query.encoder.state_dict()

    def options(self, settings: Settings, images: int) -> dict[str, Any]:
        return {"queue": queue_size(settings, images), "momentum": MOMENTUM, "temperature": TEMPERATURE}


def queue_size(settings: Settings, images: int) -> int:
    """Return the published queue, or the largest multiple of the batch that ``images`` fill."""
    return min(QUEUE[settings.scale], images) // settings.batch_size * settings.batch_size

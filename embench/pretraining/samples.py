"""Batches of views: a pure function of the settings and the step."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embench.core.seeding import entropy
from embench.data.unlabelled import Tiles
from embench.pretraining.distributed import ALONE, World
from embench.pretraining.method import Pretraining, Settings, other_model
from embench.training.trainer import on_host

_ORDER, _VIEWS, STEP, START, EXAMPLES = range(5)  # one random stream for each purpose


# The images


Stream = list[int]
"""The beginning of every random stream of a run (:func:`embench.core.seeding.entropy`): by method, data and seed."""


def rng(stream: Stream, purpose: int, *place: int) -> np.random.Generator:
    """Return the generator of one purpose at one place (epoch, position) of a run."""
    return np.random.default_rng([*stream, purpose, *place])


def stream_of(method: Pretraining, data: str, seed: int) -> Stream:
    """Return the beginning of every stream of a run; a method's own network need not be named."""
    return entropy("/".join(["pretraining", method.name, data, *filter(None, [other_model(method)])]), seed)


class Samples:
    """Batches by their numbers; several threads may ask at once.

    All that is random in a sample depends on its place alone (epoch, position in it), not on the thread, the process or
    the number of processes that make it.

    Parameters
    ----------
    tiles : Tiles
    method : Pretraining
    settings : Settings
    stream : Stream
    device : torch.device
        To which views are copied without blocking: they are pinned beside a GPU.
    world : World
        Of each batch this process makes its part.
    """

    def __init__(
        self,
        tiles: Tiles,
        method: Pretraining,
        settings: Settings,
        stream: Stream,
        device: torch.device,
        world: World = ALONE,
    ) -> None:
        self.tiles, self.stream, self.device, self.world = tiles, stream, device, world
        self.batch_size, self.steps = settings.batch_size, len(tiles) // settings.batch_size
        self.augment = method.augmentation(settings.crop)
        self._order = lru_cache(2)(lambda epoch: rng(stream, _ORDER, epoch).permutation(len(tiles)))

    def places(self, iteration: int) -> list[tuple[int, int, int]]:
        """Return (epoch, position in it, tile) of this process's part of a batch; images short of one are left out."""
        epoch, step = divmod(iteration, self.steps)
        order, first = self._order(epoch), step * self.batch_size
        positions = range(first + self.world.rank, first + self.batch_size, self.world.size)
        return [(epoch, position, int(order[position])) for position in positions]

    def batch(self, iteration: int) -> tuple[Tensor, ...]:
        """Return the views of a batch, uint8 (B, crop, crop) each."""
        places = self.places(iteration)
        generators = [rng(self.stream, _VIEWS, epoch, position) for epoch, position, _ in places]
        return self.views(self.tiles.read([tile for _, _, tile in places]), generators)

    def views(self, tiles: list[NDArray[np.uint8]], generators: list[np.random.Generator]) -> tuple[Tensor, ...]:
        """Return the views of tiles, each drawn from a generator of its own."""
        views = [self.augment(tile, generator) for tile, generator in zip(tiles, generators, strict=True)]
        return tuple(on_host(np.stack(column), self.device) for column in zip(*views, strict=True))


def seed_generators(stream: Stream, purpose: int, *place: int) -> None:
    """Seed torch's generators, so that no generator's state need be kept."""
    torch.manual_seed(int(rng(stream, purpose, *place).integers(2**63)))

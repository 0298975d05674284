"""Batches of views: a pure function of the settings and the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from embench.core.seeding import entropy
from embench.data.unlabelled import Tiles
from embench.pretraining.distributed import World
from embench.pretraining.method import Pretraining, Settings, other_model

if TYPE_CHECKING:
    pass


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


Key = tuple[int, int, int]


class Samples(Dataset[tuple[Tensor, ...]]):
    """Batches by the keys of their samples: (epoch, position in it, tile).

    All that is random in a sample depends on its place alone, not on the data worker, the process or the number of
    processes that make it. What is made of uint8 tiles by :meth:`__getitem__`, in a data worker, becomes views, on the
    device, by :meth:`views`.
    """

    def __init__(self, tiles: Tiles, method: Pretraining, settings: Settings, stream: Stream) -> None:
        self.tiles, self.crop, self.stream = tiles, settings.crop, stream
        self.augment = method.augmentation(settings.crop)
        self.batched = method.batched(settings.crop) if settings.views == "device" else None

    def __getitem__(self, keys: list[Key]) -> tuple[Tensor, ...]:
        tiles = self.tiles.read([tile for _, _, tile in keys])
        return self.draw(tiles, [rng(self.stream, _VIEWS, epoch, position) for epoch, position, _ in keys])

    def draw(self, tiles: list[NDArray[np.uint8]], generators: list[np.random.Generator]) -> tuple[Tensor, ...]:
        """Return the views of the tiles, each (B, crop, crop), or tiles, draws and seeds to make them from."""
        if self.batched:
            return self.batched.draw(tiles, generators, self.crop)
        views = [self.augment(tile, generator) for tile, generator in zip(tiles, generators, strict=True)]
        return tuple(torch.from_numpy(np.stack(column)) for column in zip(*views, strict=True))

    def views(self, drawn: Sequence[Tensor], device: torch.device) -> tuple[Tensor, ...]:
        """Return the views on the device, uint8 (B, crop, crop) each."""
        if self.batched:
            return self.batched(drawn, device)
        return tuple(view.to(device, non_blocking=True) for view in drawn)


def batch_numbers(images: int, settings: Settings, stream: Stream, start: int, world: World) -> Iterator[list[Key]]:
    """Yield this rank's part of every batch from iteration ``start`` on; images short of a batch are left out."""
    steps = images // settings.batch_size
    order, shuffled = np.empty(0, np.int64), -1
    for iteration in range(start, settings.epochs * steps):
        epoch, step = divmod(iteration, steps)
        if epoch != shuffled:
            order, shuffled = rng(stream, _ORDER, epoch).permutation(images), epoch
        first = step * settings.batch_size
        yield [(epoch, p, int(order[p])) for p in range(first + world.rank, first + settings.batch_size, world.size)]


def seed_generators(stream: Stream, purpose: int, *place: int) -> None:
    """Seed torch's generators, so that no generator's state need be kept."""
    torch.manual_seed(int(rng(stream, purpose, *place).integers(2**63)))

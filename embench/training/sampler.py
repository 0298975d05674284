"""The training split as a list of 2D sections, read lazily, each drawn with a random stream of its own."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.store import Prepared
from embench.data.task import Split
from embench.training.registries import SAMPLERS, name_of

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Augmentation = Callable[[NDArray[np.uint8], NDArray[np.uint8], np.random.Generator], Pair]


class TrainingSections:
    """Every section (Y, X) of a split, along the task's training axes. Several threads may read at once.

    Parameters
    ----------
    prepared : Prepared
    split : {"train", "valid"}
        The test split cannot be opened here.
    cache_bytes : int
        Decoded sections are kept up to this size, the least recently used dropped first.
    """

    def __init__(self, prepared: Prepared, split: Split = "train", cache_bytes: int = 2**30) -> None:
        if split == "test":
            raise ValueError("a model never sees the test split")
        self.volumes = prepared.volumes(split)
        self.index = [
            (number, axis, position)
            for number, volume in enumerate(self.volumes)
            for axis in (prepared.task.training_axes if volume.image.shape[0] > 1 else (0,))
            for position in range(volume.image.shape[axis])
        ]
        self._cache: OrderedDict[int, Pair] = OrderedDict()
        self._room = cache_bytes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> Pair:
        """Return image and labels of one section, uint8."""
        with self._lock:
            if position in self._cache:
                self._cache.move_to_end(position)
                return self._cache[position]
        number, axis, index = self.index[position]
        image, labels = self.volumes[number].section(axis, index)
        assert labels is not None
        with self._lock:
            if position not in self._cache:  # or another thread has just read it too
                self._cache[position] = image, labels
                self._room -= image.nbytes + labels.nbytes
            while self._room < 0 and len(self._cache) > 1:
                _, (old_image, old_labels) = self._cache.popitem(last=False)
                self._room += old_image.nbytes + old_labels.nbytes
        return image, labels

    def batch(
        self,
        number: int,
        size: int,
        entropy: list[int],
        augment: Augmentation,
        epoch_of: Sequence[int] | None = None,
    ) -> Pair:
        """Return the augmented batch of a step.

        Sections come in epochs, each a random order of all of them; the stream of a sample depends on its place in
        the trial alone, so a batch is the same whoever draws it, and nothing needs saving to resume.

        Parameters
        ----------
        number : int
            The step, from 0.
        size : int
        entropy : list of int
            Of the trial.
        augment : callable
            ``(image, labels, rng) -> (image, labels)``.
        epoch_of : sequence of int, optional
            The positions that make an epoch, as a sampler gives them; by default every section once.

        Returns
        -------
        images_BYX, labels_BYX : ndarray of uint8
        """
        positions = range(len(self)) if epoch_of is None else epoch_of
        pairs = [
            self._sample(sample, entropy, augment, positions) for sample in range(number * size, (number + 1) * size)
        ]
        return np.stack([image for image, _ in pairs]), np.stack([labels for _, labels in pairs])

    def _sample(self, sample: int, entropy: list[int], augment: Augmentation, positions: Sequence[int]) -> Pair:
        epoch, place = divmod(sample, len(positions))
        order = np.random.default_rng([*entropy, 0, epoch]).permutation(len(positions))
        rng = np.random.default_rng([*entropy, 1, epoch, place])
        return augment(*self[positions[int(order[place])]], rng)


def positions_of(sampler: Any, sections: TrainingSections) -> Sequence[int]:
    """Return which sections make an epoch by a recipe's sampler.

    Raises
    ------
    BadInput
        None, or positions that do not exist.
    """
    found = (SAMPLERS.find(sampler) if isinstance(sampler, str) else sampler)(sections)
    if isinstance(found, range):
        return found
    positions = [int(position) for position in found]
    name = name_of(sampler)
    if not positions:
        raise BadInput(f"sampler: {name} chooses no section of {len(sections)}")
    if not 0 <= min(positions) <= max(positions) < len(sections):
        raise BadInput(f"sampler: {name} gives positions beyond 0..{len(sections) - 1}")
    return positions


def uniform(sections: TrainingSections) -> Sequence[int]:
    """Return every section once."""
    return range(len(sections))


def foreground(sections: TrainingSections) -> Sequence[int]:
    """Return the sections that show any class besides the background; every label is read once for that."""
    return [position for position in range(len(sections)) if sections[position][1].any()]

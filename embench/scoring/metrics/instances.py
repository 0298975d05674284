"""Objects of two label maps, and how they overlap."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2**20
"""Voxels counted at a time."""
_DENSE = 2**22
"""Pairs of objects up to which every pair has a counter."""


def components(mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the connected components of a mask, numbered from 1; neighbours touch by face, edge or corner."""
    import cc3d
    import fastremap

    # Not as a binary image: that way of version 4.1 gets some small images wrong.
    found = cc3d.connected_components(mask.view(np.uint8), connectivity=8 if mask.ndim == 2 else 26)
    return fastremap.refit(found)  # a byte a voxel where there are few


@dataclass(frozen=True)
class Overlap:
    """Which objects share how many voxels; object 0 is what lies outside every object.

    Parameters
    ----------
    first, second, voxels : ndarray of int64, (N,)
        Each pair of objects that share voxels, and how many: a pair occurs once.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    voxels: NDArray[np.int64]

    @cached_property
    def sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Voxels of the objects of either side, by number; 0 for numbers that no object has."""
        return _sums(self.first, self.voxels), _sums(self.second, self.voxels)

    @property
    def objects(self) -> tuple[int, int]:
        """Number of objects on either side."""
        first, second = self.sizes
        return int(np.count_nonzero(first[1:])), int(np.count_nonzero(second[1:]))

    @cached_property
    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Intersection and union, in voxels, of every two objects that overlap."""
        real = (self.first > 0) & (self.second > 0)
        both = self.voxels[real]
        first, second = self.sizes
        return both, first[self.first[real]] + second[self.second[real]] - both

    def matches(self, twentieths: int) -> NDArray[np.float64]:
        """Return the IoU of all pairs of objects with an IoU above ``twentieths`` / 20, a half or more.

        Above a half no object has two partners, so the pairs are the matches (Kirillov et al. 2019). Compared in whole
        numbers: an IoU of exactly 0.6 is not above 0.6.
        """
        if twentieths < 10:
            raise ValueError("below a half an object may have several partners")
        both, union = self.pairs
        good = 20 * both > twentieths * union
        return both[good] / union[good]

    def without_small(self, voxels: float) -> Overlap:
        """Return the overlap where objects of fewer voxels are no objects."""
        if voxels <= 1:
            return self
        first, second = (
            np.where(sizes[number] < voxels, 0, number)
            for sizes, number in zip(self.sizes, (self.first, self.second), strict=True)
        )
        return _merged(first, second, self.voxels)


def overlap(first: NDArray[Any], second: NDArray[Any]) -> Overlap:
    """Count the voxels that objects of two label maps of one shape share, block by block.

    Parameters
    ----------
    first, second : ndarray of unsigned int
        Object numbers; 0 is outside. Numbers need not be consecutive.
    """
    first, second = first.reshape(-1), second.reshape(-1)
    wide, high = int(first.max()) + 1, int(second.max()) + 1
    if wide * high <= _DENSE:
        table = np.zeros(wide * high, np.int64)
        for start in range(0, first.size, _BLOCK):
            key = second[start : start + _BLOCK].astype(np.int64)
            key *= wide
            key += first[start : start + _BLOCK]
            table += np.bincount(key, minlength=len(table))
        found = np.flatnonzero(table)
        return Overlap(found % wide, found // wide, table[found])
    import fastremap

    keys, counts = [], []
    for start in range(0, first.size, _BLOCK):
        wider = second[start : start + _BLOCK].astype(np.uint64) << np.uint64(32)
        value, count = fastremap.unique(wider | first[start : start + _BLOCK], return_counts=True)
        keys.append(value)
        counts.append(count)
    joined = np.concatenate(keys)
    # Numbers become places in the list of numbers, so that sizes take no more room than there are objects.
    _, one = np.unique(np.append(joined & np.uint64(2**32 - 1), np.uint64(0)), return_inverse=True)
    _, two = np.unique(np.append(joined >> np.uint64(32), np.uint64(0)), return_inverse=True)
    return _merged(one[:-1], two[:-1], np.concatenate(counts).astype(np.int64))


def _merged(first: NDArray[Any], second: NDArray[Any], voxels: NDArray[np.int64]) -> Overlap:
    """Add up what several entries say of one pair."""
    wide = int(first.max()) + 1
    key, place = np.unique(second.astype(np.int64) * wide + first, return_inverse=True)
    return Overlap(key % wide, key // wide, _sums(place, voxels))


def _sums(number: NDArray[Any], voxels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add up voxels by number, exactly."""
    sums = np.zeros(int(number.max()) + 1, np.int64)
    np.add.at(sums, number, voxels)
    return sums

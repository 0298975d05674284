"""A volume in blocks: each is read with a halo around it, and what a model says of it is written without."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]
Region = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Block:
    """A part of a volume.

    Parameters
    ----------
    read : (slice, slice, slice)
        Of the volume (ZYX): the block and its halo, which ends where the volume does.
    inner : (slice, slice, slice)
        Of what was read: the block without its halo.
    write : (slice, slice, slice)
        Of the volume: the block. The blocks of a volume cover every voxel once.
    """

    read: Region
    inner: Region
    write: Region


def blocks(shape: Sequence[int], block: Sequence[int], halo: Sequence[int]) -> Iterator[Block]:
    """Cut a volume into blocks, in the order in which it lies in memory.

    Parameters
    ----------
    shape, block : sequence of int
        (Z, Y, X) voxels of the volume and of a block, which is smaller at the far ends.
    halo : sequence of int
        Voxels read beyond a block, at each end of each axis.
    """
    if len(shape) != 3 or len(block) != 3 or len(halo) != 3 or min(*shape, *block) < 1 or min(halo) < 0:
        raise ValueError(f"expected (Z, Y, X): shape {tuple(shape)}, block {tuple(block)}, halo {tuple(halo)}")
    starts = [range(0, length, step) for length, step in zip(shape, block, strict=True)]
    for corner in product(*starts):
        axes = [
            _along(start, length, step, margin)
            for start, length, step, margin in zip(corner, shape, block, halo, strict=True)
        ]
        read, inner, write = zip(*axes, strict=True)
        yield Block(read, inner, write)


def predict_blocks(
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    volume_ZYX: Any,
    block: Sequence[int],
    halo: Sequence[int],
) -> Iterator[tuple[Block, NDArray[np.float32]]]:
    """Predict a volume block by block; beside one block with its halo and its scores nothing is held.

    Parameters
    ----------
    predict : callable
        From an image (Z, Y, X) uint8 of any size to its scores (C, Z, Y, X) float32.
    volume_ZYX : ndarray or HDF5 or Zarr dataset
        uint8; only the blocks are read.
    block, halo : sequence of int
        As in :func:`blocks`.

    Yields
    ------
    block : Block
    scores_CZYX : ndarray of float32
        Of ``block.write``: the halo is cut off.
    """
    for part in blocks(volume_ZYX.shape, block, halo):
        scores_CZYX = predict(np.ascontiguousarray(volume_ZYX[part.read]))
        yield part, scores_CZYX[(slice(None), *part.inner)]


def _along(start: int, length: int, step: int, margin: int) -> tuple[slice, slice, slice]:
    end = min(start + step, length)
    first = max(start - margin, 0)
    return slice(first, min(end + margin, length)), slice(start - first, end - first), slice(start, end)

"""Surface elements of masks, and how far each lies from another mask's surface.

The surface of a mask is made as by marching cubes: each cell between 2 x 2 (x 2) neighbouring voxels that are not
all alike holds one surface element, whose length (area) follows from which of them lie inside, at the true voxel
size. Its place is the centre of the cell (Nikolov et al. 2021, doi 10.2196/26151).

The border of the image is no surface: nobody knows where an object goes on that is cut by it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.environment import cores

_CELLS = 2**24
"""Cells whose codes are made at a time."""
_SLACK = 1e-6
"""Relative: distances are 32-bit floats, and one that equals the tolerance lies within it."""


@dataclass(frozen=True)
class Surface:
    """The surface elements of a mask.

    Parameters
    ----------
    distances : ndarray of float32, (N,)
        From each element to the nearest one of the other mask, in the unit of the voxel size; infinite where that has
        none.
    areas : ndarray of float32, (N,)
        Of each element: a length in 2D.
    """

    distances: NDArray[np.float32]
    areas: NDArray[np.float32]

    @property
    def area(self) -> float:
        """Of the whole surface."""
        return float(self.areas.sum(dtype=np.float64))

    def area_within(self, tolerance: float) -> float:
        """Return the area of what lies at most ``tolerance`` from the other surface."""
        return float(self.areas[self.distances <= tolerance * (1 + _SLACK)].sum(dtype=np.float64))

    @property
    def moment(self) -> float:
        """Sum of distance times area."""
        return float(np.dot(self.distances.astype(np.float64), self.areas))

    def percentile(self, fraction: float) -> float:
        """Return the least distance within which that fraction of the area lies."""
        order = np.argsort(self.distances)
        reached = np.cumsum(self.areas[order], dtype=np.float64)
        place = int(np.searchsorted(reached, fraction * reached[-1] * (1 - _SLACK)))
        return float(self.distances[order[place]])


def surfaces(first: NDArray[np.bool_], second: NDArray[np.bool_], spacing: Sequence[float]) -> tuple[Surface, Surface]:
    """Return the surfaces of two masks (Y, X) or (Z, Y, X), each with its distances to the other."""
    box = bounding_box(first, second, margin=1)
    if box is None or min(first.shape) < 2:
        nothing = Surface(np.empty(0, np.float32), np.empty(0, np.float32))
        return nothing, nothing
    masks = [np.ascontiguousarray(mask[box]) for mask in (first, second)]
    found = [_elements(mask) for mask in masks]
    table = element_sizes(tuple(spacing))
    shape = tuple(side - 1 for side in masks[0].shape)
    distances = [_distances(here, there, shape, spacing) for (here, _), (there, _) in (found, found[::-1])]
    a, b = (Surface(far, table[codes]) for far, (_, codes) in zip(distances, found, strict=True))
    return a, b


def bounding_box(*masks: NDArray[Any], margin: int = 0) -> tuple[slice, ...] | None:
    """Return the smallest box that holds every voxel of every mask, and a margin inside the image."""
    ranges: list[slice] = []
    shape = masks[0].shape
    for axis in range(len(shape)):
        # one axis at a time, each within the box so far: later axes look at less
        inside = [mask[tuple(ranges)] for mask in masks]
        others = tuple(other for other in range(len(shape)) if other != axis)
        there = np.flatnonzero(np.logical_or.reduce([mask.any(axis=others) for mask in inside]))
        if not len(there):
            return None
        ranges.append(slice(max(int(there[0]) - margin, 0), min(int(there[-1]) + 1 + margin, shape[axis])))
    return tuple(ranges)


def _elements(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the flat index (in the grid of cells) and the code of every cell that holds surface, in order."""
    full = 2 ** (2**mask.ndim) - 1
    per_slab = max(1, _CELLS // max(1, int(np.prod(mask.shape[1:]))))
    cells_of_layer = int(np.prod([side - 1 for side in mask.shape[1:]]))
    places, codes = [], []
    for start in range(0, len(mask) - 1, per_slab):
        code = mask[start : start + per_slab + 1].view(np.uint8)
        for axis, bits in zip(reversed(range(mask.ndim)), (1, 2, 4), strict=False):
            rest = (slice(None),) * axis
            code = (code[(*rest, slice(None, -1))] << np.uint8(bits)) | code[(*rest, slice(1, None))]
        code = code.reshape(-1)
        place = np.flatnonzero((code - np.uint8(1)) < full - 1)  # neither 0 nor full
        places.append(place + start * cells_of_layer)
        codes.append(code[place])
    return np.concatenate(places), np.concatenate(codes)


def _distances(
    here: NDArray[np.int64], there: NDArray[np.int64], shape: Sequence[int], spacing: Sequence[float]
) -> NDArray[np.float32]:
    """Return the distance from each cell of ``here`` to the nearest one of ``there``."""
    import edt

    if not len(here) or not len(there):
        return np.full(len(here), np.inf, np.float32)
    free = np.ones(shape, np.uint8)
    free.reshape(-1)[there] = 0
    far = edt.edt(free, anisotropy=tuple(spacing), parallel=threads(free.size))
    return np.ascontiguousarray(far.reshape(-1)[here])


def rim(mask: NDArray[np.bool_], width: float, spacing: Sequence[float]) -> NDArray[np.bool_]:
    """Return the voxels of a mask within ``width`` of a voxel outside it, and all that share a face with one.

    The image border is no outline.
    """
    import edt

    near = edt.edt(mask, anisotropy=tuple(spacing), parallel=threads(mask.size)) <= width * (1 + _SLACK)
    for axis in range(mask.ndim):
        ahead = (slice(None),) * axis
        low, high = (*ahead, slice(None, -1)), (*ahead, slice(1, None))
        near[low] |= ~mask[high]
        near[high] |= ~mask[low]
    near &= mask
    return near


def threads(size: int) -> int:
    """Return how many threads work on ``size`` voxels: all cores of this process on large volumes."""
    if size < 2**22:
        return 1
    return cores()


@cache
def element_sizes(spacing: tuple[float, ...]) -> NDArray[np.float32]:
    """Return the length (2D) or area (3D) of the surface element of every code.

    The first of the 2 x 2 (x 2) voxels in C order is the highest bit of a code.

    In 3D the midpoints of the edges between inside and outside are joined on each face of the cell; the loops that
    result are spanned from their centre. Where two voxels of a face lie inside diagonally, the fewer of the cell's
    voxels are held apart, so a mask and its complement have the same surface.
    """
    dimensions = len(spacing)
    codes = range(2 ** (2**dimensions))
    if dimensions == 2:
        sizes = [sum(_length(edge, spacing) for edge in _segments(code, _SQUARE)) for code in codes]
        return np.array(sizes, np.float32)
    apart = np.array([sum(_area(loop, spacing) for loop in _loops(code)) for code in codes])
    inside = np.array([code.bit_count() for code in codes])
    joined = apart[::-1]  # of the complement
    return np.where(inside < 4, apart, np.where(inside > 4, joined, (apart + joined) / 2)).astype(np.float32)


_Point = tuple[float, ...]
_SQUARE: tuple[_Point, ...] = ((0, 0), (0, 1), (1, 1), (1, 0))


def _bit(code: int, corner: _Point) -> int:
    place = int("".join(str(int(side)) for side in corner), 2)
    return code >> (2 ** len(corner) - 1 - place) & 1


def _segments(code: int, corners: Sequence[_Point]) -> list[tuple[_Point, _Point]]:
    """Return what separates inside from outside on a face, corners given around it; inside is held apart."""
    middles = [
        tuple((a + b) / 2 for a, b in zip(corner, corners[(k + 1) % 4], strict=True))
        for k, corner in enumerate(corners)
    ]
    crossed = [k for k in range(4) if _bit(code, corners[k]) != _bit(code, corners[(k + 1) % 4])]
    if len(crossed) == 2:
        return [(middles[crossed[0]], middles[crossed[1]])]
    return [(middles[k - 1], middles[k]) for k in range(4) if crossed and _bit(code, corners[k])]


def _loops(code: int) -> list[list[_Point]]:
    """Return the closed lines in which the surface meets the faces of a cell."""
    links: dict[_Point, list[_Point]] = {}
    for axis, side in itertools.product(range(3), (0, 1)):
        face = [(*corner[:axis], side, *corner[axis:]) for corner in _SQUARE]
        for start, end in _segments(code, face):
            links.setdefault(start, []).append(end)
            links.setdefault(end, []).append(start)
    loops = []
    while links:
        loop = [next(iter(links))]
        while ahead := [point for point in links.pop(loop[-1]) if point in links]:
            loop.append(ahead[0])
        loops.append(loop)
    return loops


def _length(segment: tuple[_Point, _Point], spacing: Sequence[float]) -> float:
    start, end = (np.multiply(point, spacing) for point in segment)
    return float(np.linalg.norm(end - start))


def _area(loop: Sequence[_Point], spacing: Sequence[float]) -> float:
    corners = np.multiply(loop, spacing)
    spokes = corners - corners.mean(0)
    return float(np.linalg.norm(np.cross(spokes, np.roll(spokes, -1, 0)), axis=1).sum() / 2)

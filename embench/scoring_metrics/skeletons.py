"""Skeletons: objects thinned to lines.

Layer by layer, voxels are taken away whose absence changes neither the number of objects nor that of holes and
tunnels (simple points), except the ends of lines. Voxels of one parity along every axis are no neighbours of each
other and go at once (Bertrand and Aktouf 1995), so the topology of the mask is kept exactly: no object vanishes, no
ring opens. Thinning by scikit-image was tried first; it erases whole tubes and ellipsoids (docs/metrics.md).
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint32]
_OUTSIDE, _INSIDE, _WAITING = 0, 1, 2
_UNKNOWN, _FIXED, _SIMPLE = 0, 1, 2


def skeleton(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the skeleton of a mask (Y, X) or (Z, Y, X): one voxel wide, of the same topology.

    Objects touch by face, edge or corner; what lies outside them touches by face.
    """
    state = np.pad(mask.view(np.uint8), 1)
    flat = state.reshape(-1)
    around = _neighbourhood(mask.ndim)
    steps = around.offsets @ (np.array(state.strides) // state.itemsize)
    faces = steps[around.is_face]
    waiting = np.flatnonzero(flat)
    while len(waiting):
        flat[waiting] = _INSIDE
        layer = waiting[np.logical_or.reduce([flat[waiting + step] == _OUTSIDE for step in faces])]
        removed = []
        parity = sum((place & 1) << axis for axis, place in enumerate(np.unravel_index(layer, state.shape)))
        for field in range(2**mask.ndim):
            voxels = layer[parity == field]
            code = np.zeros(len(voxels), np.uint32)
            for bit, step in enumerate(steps):
                code |= (flat[voxels + step] != _OUTSIDE).astype(np.uint32) << np.uint32(bit)
            gone = voxels[around.removable(code)]
            flat[gone] = _OUTSIDE
            removed.append(gone)
        # Only next to what has gone can anything have changed.
        gone, found = np.concatenate(removed), []
        for step in steps:
            near = gone + step
            near = near[flat[near] == _INSIDE]
            flat[near] = _WAITING
            found.append(near)
        waiting = np.concatenate(found)
    return state[(slice(1, -1),) * mask.ndim] > 0


class _Neighbourhood:
    """The 8 (26) neighbours of a voxel, and which of their patterns let it go."""

    def __init__(self, dimensions: int) -> None:
        everywhere = np.array(list(itertools.product((-1, 0, 1), repeat=dimensions)))
        self.offsets = everywhere[np.abs(everywhere).sum(1) > 0]
        distance = np.abs(self.offsets).sum(1)
        self.is_face = distance == 1
        apart = np.abs(self.offsets[:, None] - self.offsets[None])
        touching = (apart.max(2) == 1).astype(np.uint32)
        self._touching = _bits(touching)
        # What lies outside is joined by faces, and within the 18-neighbourhood only.
        near = (distance <= 2).astype(np.uint32)
        self._near = _bits(near[None])[0]
        self._sharing_face = _bits((apart.sum(2) == 1) & (near[:, None] & near[None]).astype(bool))
        self._faces = _bits(self.is_face[None])[0]
        self._known = np.zeros(2 ** len(self.offsets), np.uint8)

    def removable(self, code: Codes) -> NDArray[np.bool_]:
        """Whether a voxel with neighbours of these codes is simple and no end of a line."""
        unknown = np.unique(code[self._known[code] == _UNKNOWN])
        if len(unknown):
            self._known[unknown] = np.where(self._is_removable(unknown), _SIMPLE, _FIXED)
        return self._known[code] == _SIMPLE

    def _is_removable(self, code: Codes) -> NDArray[np.bool_]:
        is_end = np.bitwise_count(code) == 1
        is_one = _spread(code, code, self._touching) == code
        outside = ~code & self._near
        faces = outside & self._faces
        is_hole_free = faces & ~_spread(faces, outside, self._sharing_face) == 0
        return (code != 0) & ~is_end & is_one & (faces != 0) & is_hole_free


def _spread(seeds: Codes, room: Codes, links: Codes) -> Codes:
    """Return all that is joined to the lowest of the seeds within the room."""
    reached = seeds & (~seeds + np.uint32(1))
    while True:
        grown = reached.copy()
        for bit, linked in enumerate(links):
            grown |= np.where(reached >> np.uint32(bit) & np.uint32(1), linked, np.uint32(0)) & room
        if (grown == reached).all():
            return reached
        reached = grown


def _bits(rows: NDArray[Any]) -> Codes:
    """Return each row of truth values as a number, the first the lowest bit."""
    weights = np.uint32(1) << np.arange(rows.shape[1], dtype=np.uint32)
    return (rows.astype(np.uint32) * weights).sum(1, dtype=np.uint32)


@cache
def _neighbourhood(dimensions: int) -> _Neighbourhood:
    return _Neighbourhood(dimensions)

"""Skeletons: objects thinned to their centre lines.

Voxels are taken away in order of their distance from the outside, in nm, as long as that changes neither the number of
objects nor that of holes and tunnels (simple points); the ends of lines stay. Voxels of one parity along every axis are
no neighbours of each other and go at once (Bertrand and Aktouf 1995), so the topology of the mask is kept exactly: no
object vanishes, no ring opens. Thinning by scikit-image was tried first: it erases whole tubes and ellipsoids, and
knows no voxel size (docs/metrics.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.scoring.metrics.surfaces import bounding_box, threads

Codes = NDArray[np.uint32]
_OUTSIDE, _INSIDE, _WAITING = 0, 1, 2
_UNKNOWN, _FIXED, _SIMPLE = 0, 1, 2


def skeletons(masks: Sequence[NDArray[np.bool_]], spacing: Sequence[float]) -> list[NDArray[np.bool_]]:
    """Return the skeleton of each mask (Y, X) or (Z, Y, X): one voxel wide, of the same topology.

    Objects touch by face, edge or corner; what lies outside them touches by face. The border of the image is no
    outside: the line of a tube that is cut by it goes on to the border.
    """
    boxes = [bounding_box(mask, margin=1) for mask in masks]
    thin = [np.zeros(mask.shape, bool) for mask in masks]
    inner = [
        (lines[box], *_layers(np.ascontiguousarray(mask[box]), spacing))
        for mask, box, lines in zip(masks, boxes, thin, strict=True)
        if box is not None
    ]
    with ThreadPoolExecutor(max_workers=threads(max(mask.size for mask in masks))) as pool:
        for lines, found in pool.map(lambda each: (each[0], _thinned(*each[1:])), inner):
            lines[:] = found
    return thin


def _layers(mask: NDArray[np.bool_], spacing: Sequence[float]) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Return a mask and the layer of each voxel, counted from the outside, both with one voxel more on every side."""
    import edt

    state = np.pad(mask.view(np.uint8), 1)
    # a mask that fills everything has nothing but the border to be far from
    within = state if mask.all() else np.pad(mask, 1, mode="edge")
    far = edt.edt(within, anisotropy=tuple(spacing), parallel=threads(mask.size))
    far /= np.float32(min(spacing))
    np.ceil(far, out=far)
    return state, np.minimum(far, 2**16 - 1, out=far).astype(np.uint16)


def _thinned(state: NDArray[np.uint8], layers: NDArray[np.uint16]) -> NDArray[np.uint8]:
    flat, layer = state.reshape(-1), layers.reshape(-1)
    around = _neighbourhood(state.ndim)
    steps = around.offsets @ (np.array(state.strides) // state.itemsize)
    waiting = _outline(state)
    flat[waiting] = _WAITING
    while len(waiting):
        level = layer.take(waiting).min()
        is_now = layer.take(waiting) <= level
        now, later = waiting[is_now], [waiting[~is_now]]
        while len(now):
            flat[now] = _INSIDE
            near = _beside(flat, _peel(state, now, around, steps), steps)
            is_now = layer.take(near) <= level
            now = near[is_now]
            later.append(near[~is_now])
        waiting = np.concatenate(later)
    return state[(slice(1, -1),) * state.ndim]


def _outline(state: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the places of the voxels that share a face with the outside."""
    found = np.zeros(state.shape, bool)
    for axis in range(state.ndim):
        ahead = (slice(None),) * axis
        low, high = (*ahead, slice(None, -1)), (*ahead, slice(1, None))
        found[low] |= state[high] == _OUTSIDE
        found[high] |= state[low] == _OUTSIDE
    found &= state != _OUTSIDE
    return np.flatnonzero(found)


def _peel(
    state: NDArray[np.uint8], places: NDArray[np.int64], around: _Neighbourhood, steps: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Take away what may go of the voxels at these places that lie at the outside now; return it."""
    flat = state.reshape(-1)
    layer = places[np.logical_or.reduce([flat.take(places + step) == _OUTSIDE for step in steps[around.is_face]])]
    where = np.unravel_index(layer, state.shape)
    parity = np.sum([(place & 1) << axis for axis, place in enumerate(where)], axis=0)
    removed = []
    for field in range(2**state.ndim):
        voxels = layer[parity == field]
        code = np.zeros(len(voxels), np.uint32)
        for bit, step in enumerate(steps):
            code |= (flat.take(voxels + step) != _OUTSIDE).astype(np.uint32) << np.uint32(bit)
        gone = voxels[around.removable(code)]
        flat[gone] = _OUTSIDE
        removed.append(gone)
    return np.concatenate(removed)


def _beside(flat: NDArray[np.uint8], gone: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the voxels next to what has gone: only there can anything have changed. Each is marked and comes once."""
    found = []
    for step in steps:
        near = gone + step
        near = near[flat.take(near) == _INSIDE]
        flat[near] = _WAITING
        found.append(near)
    return np.concatenate(found)


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
        unknown = np.unique(code[self._known.take(code) == _UNKNOWN])
        if len(unknown):
            self._known[unknown] = np.where(self._is_removable(unknown), _SIMPLE, _FIXED)
        return self._known.take(code) == _SIMPLE

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

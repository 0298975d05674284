"""Objects of a label volume: numbered, split where they only touch, measured in nanometres."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.core.files import replacing
from embench.data.writers.base import Array

Method = Literal["components", "watershed"]
METHODS: tuple[Method, ...] = ("components", "watershed")

_SLAB = 2**24
"""Voxels looked at together."""
_LARGEST = 2**27
"""Voxels of the box around an object, beyond which it is not split."""


def number(
    labels_ZYX: Array,
    objects_ZYX: Any,
    classes: Sequence[str],
    *,
    method: Method = "components",
    probabilities_CZYX: Array | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    smallest: float = 0.0,
    check: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Number the objects of every class but the background, and measure them.

    Voxels of one class that touch by a face, an edge or a corner are one object. Held in memory is a slab of sections,
    for ``watershed`` also the box around one object.

    Parameters
    ----------
    labels_ZYX : array of uint8
        Class numbers, 0 is background; read slab by slab.
    objects_ZYX : array of uint32
        Where object numbers go, from 1 in the order of the objects' first voxels.
    classes : sequence of str
        Names by label value.
    method : {"components", "watershed"}
        ``watershed`` splits an object at its narrow places: by the distance to its surface in nanometres, times the
        probability of its class where given, from maxima that are farther apart than half the greatest such distance.
    probabilities_CZYX : array of float32, optional
    voxel_size : tuple of float, optional
        ZYX nanometres; without it sizes are in voxels.
    smallest : float
        Objects below it, in nm³ (nm² of a single section, or voxels), are left out.
    check : callable
        Called now and then; may raise to stop.

    Returns
    -------
    list of dict
        One an object: ``id``, ``class``, ``name``, ``voxels``, ``volume_nm3`` (``area_nm2`` of a single section; absent
        without a voxel size), ``z``, ``y``, ``x`` of its centre in nanometres (or voxels), ``touches_border``.
    """
    if np.prod(labels_ZYX.shape) == 0:
        raise ValueError(f"labels of shape {labels_ZYX.shape}")
    pairs, count = _first_pass(labels_ZYX, objects_ZYX, len(classes), check)
    if count >= 2**32:
        raise BadInput(f"{count} objects; 32 bits hold {2**32 - 1}: predict a part, or a coarser scale")
    _renumber(objects_ZYX, _merged(pairs, count), check)
    if method == "watershed":
        _split(labels_ZYX, objects_ZYX, probabilities_CZYX, voxel_size or (1.0, 1.0, 1.0), check)
    table = _measured(labels_ZYX, objects_ZYX, classes, voxel_size, check)
    size = "voxels" if voxel_size is None else "area_nm2" if labels_ZYX.shape[0] == 1 else "volume_nm3"
    kept = [row for row in table if row[size] >= smallest]
    if len(kept) < len(table) or any(row["id"] != place for place, row in enumerate(kept, 1)):
        places = np.zeros(max((row["id"] for row in table), default=0) + 1, np.uint32)
        for place, row in enumerate(kept, 1):
            places[row["id"]] = place
            row["id"] = place
        _renumber(objects_ZYX, places, check)
    return kept


def write_table(path: Path, table: Sequence[dict[str, Any]]) -> None:
    """Write the objects as CSV, one a line, with a line of names also when there are none."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        names = list(table[0]) if table else ["id", "class", "name", "voxels", "z", "y", "x", "touches_border"]
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in table)


def _slabs(shape: Sequence[int]) -> Iterator[slice]:
    step = max(1, _SLAB // (shape[1] * shape[2]))
    for z in range(0, shape[0], step):
        yield slice(z, min(z + step, shape[0]))


def _first_pass(labels: Array, objects: Any, classes: int, check: Callable[[], None]) -> tuple[NDArray[np.int64], int]:
    """Number the objects of each slab, and return which of them touch across slabs, and how many there are."""
    from scipy import ndimage

    count = 0
    pairs: list[NDArray[np.int64]] = []
    last: tuple[NDArray[Any], NDArray[Any]] | None = None
    for where in _slabs(labels.shape):
        check()
        slab = np.asarray(labels[(where,)])
        numbered = np.zeros(slab.shape, np.int64)
        for value in range(1, classes):
            found, several = ndimage.label(slab == value, np.ones((3, 3, 3)))
            numbered += np.where(found > 0, found + count, 0)
            count += several
        if last is not None:
            pairs += _touching(*last, slab[0], numbered[0])
        last = slab[-1], numbered[-1]
        objects[where] = numbered.astype(np.uint32)
    return np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int64), count


def _touching(
    above_class: NDArray[Any], above: NDArray[Any], below_class: NDArray[Any], below: NDArray[Any]
) -> Iterator[NDArray[np.int64]]:
    """Yield pairs of numbers of one class that touch between two sections."""
    height, width = above.shape
    for dy, dx in product((-1, 0, 1), repeat=2):
        ours = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
        theirs = slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0))
        alike = (above[ours] > 0) & (above_class[ours] == below_class[theirs])
        yield np.unique(np.stack([above[ours][alike], below[theirs][alike]], 1), axis=0)


def _merged(pairs: NDArray[np.int64], count: int) -> NDArray[np.uint32]:
    """Return the number that replaces each first one: those that touch get the same."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), (count + 1, count + 1))
    _, group = connected_components(graph, directed=False)  # number 0 is alone, and in the first group
    return np.asarray(group, np.uint32)


def _renumber(objects: Any, places: NDArray[np.uint32], check: Callable[[], None]) -> None:
    for where in _slabs(objects.shape):
        check()
        objects[where] = places[np.asarray(objects[where])]


def _split(
    labels: Array,
    objects: Any,
    probabilities: Array | None,
    voxel_size: tuple[float, float, float],
    check: Callable[[], None],
) -> None:
    from scipy import ndimage
    from skimage.segmentation import watershed

    boxes = _boxes(objects)
    following = len(boxes) + 1
    for which, box in enumerate(boxes, 1):
        check()
        # with a margin of what is around it, except where the volume ends: that is no surface of the object's
        inside = tuple(
            slice(max(low - 1, 0), min(high + 1, side)) for low, high, side in zip(*box, objects.shape, strict=True)
        )
        if np.prod([part.stop - part.start for part in inside]) > _LARGEST:
            continue
        crop = np.asarray(objects[inside])
        mask = crop == which
        if mask.all():
            continue
        height = ndimage.distance_transform_edt(mask, voxel_size)
        apart = height.max() / 2
        if probabilities is not None:
            value = int(np.asarray(labels[(inside[0],)])[:, inside[1], inside[2]][mask][0])
            channel = 0 if probabilities.shape[0] == 1 else value
            height *= np.asarray(probabilities[(channel, inside[0])])[:, inside[1], inside[2]]
        size = [2 * int(apart // length) + 1 for length in voxel_size]
        seeds = (height == ndimage.maximum_filter(height, size)) & mask
        markers, several = ndimage.label(seeds, np.ones((3, 3, 3)))
        if several > 1:
            parts = watershed(-height, markers, mask=mask)
            crop[parts > 1] = parts[parts > 1] + (following - 2)
            objects[inside] = crop
            following += several - 1


def _boxes(objects: Any) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the box around each object, first and last corner (beyond it), by number."""
    from scipy import ndimage

    low: dict[int, NDArray[np.int64]] = {}
    high: dict[int, NDArray[np.int64]] = {}
    for where in _slabs(objects.shape):
        slab = np.asarray(objects[where])
        numbers, dense = np.unique(slab, return_inverse=True)
        shift = np.array([where.start, 0, 0])
        for place, box in enumerate(ndimage.find_objects(dense.reshape(slab.shape) + 1)):
            each = int(numbers[place])
            a, b = (np.array([getattr(part, end) for part in box]) + shift for end in ("start", "stop"))
            low[each], high[each] = np.minimum(low.get(each, a), a), np.maximum(high.get(each, b), b)
    return [(low[each], high[each]) for each in sorted(low) if each]


def _measured(
    labels: Array,
    objects: Any,
    classes: Sequence[str],
    voxel_size: tuple[float, float, float] | None,
    check: Callable[[], None],
) -> list[dict[str, Any]]:
    shape = labels.shape
    facts: dict[int, NDArray[np.float64]] = {}
    for where in _slabs(shape):
        check()
        slab, kinds = np.asarray(objects[where]), np.asarray(labels[(where,)])
        numbers, first, dense = np.unique(slab, return_index=True, return_inverse=True)
        dense = dense.ravel()
        places: Any = np.indices(slab.shape, sparse=True)
        sums = [
            np.bincount(dense, np.broadcast_to(axis + shift, slab.shape).ravel())
            for axis, shift in zip(places, (where.start, 0, 0), strict=True)
        ]
        edge = np.zeros(slab.shape, bool)
        edge[:, [0, -1]] = edge[:, :, [0, -1]] = True
        if shape[0] > 1:
            edge[0] |= where.start == 0
            edge[-1] |= where.stop == shape[0]
        counts = np.stack([np.bincount(dense), *sums, np.bincount(dense, edge.ravel())], 1)
        for each, at, found in zip(numbers, first, counts, strict=True):
            if each:
                begin = at + where.start * shape[1] * shape[2]
                known = facts.setdefault(int(each), np.array([begin, kinds.ravel()[at], 0.0, 0, 0, 0, 0]))
                known[2:] += found
    table = []
    size = voxel_size or (1.0, 1.0, 1.0)
    for each, (_, value, voxels, z, y, x, on_edge) in sorted(facts.items(), key=lambda pair: pair[1][0]):
        row: dict[str, Any] = {"id": each, "class": int(value), "name": classes[int(value)], "voxels": int(voxels)}
        if voxel_size is not None and shape[0] == 1:
            row["area_nm2"] = float(voxels * size[1] * size[2])
        elif voxel_size is not None:
            row["volume_nm3"] = float(voxels * np.prod(size))
        centre = {
            name: float((total / voxels + 0.5) * by) for name, total, by in zip("zyx", (z, y, x), size, strict=True)
        }
        table.append({**row, **centre, "touches_border": bool(on_edge)})
    return table

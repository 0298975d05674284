"""NRRD with its voxels attached: X is stored first and turned to ZYX.

Voxels are in the order in which they are stored; how the header turns or mirrors it is told as ``orientation``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.readers.base import (
    DEFLATE,
    NANOMETRES,
    Format,
    Stored,
    VoxelSize,
    check_at_once,
    check_dense,
    find_axes,
    orientation_of,
)

_RATIO = {"raw": 1, "gzip": DEFLATE, "gz": DEFLATE}


def open_nrrd(file: Path, inside: str | None = None) -> Stored:
    """Open an NRRD file of one volume of single values."""
    import nrrd

    del inside
    with file.open("rb") as stream:
        header = nrrd.read_header(stream)
    if any(key.lower().replace(" ", "") == "datafile" for key in header):
        raise BadInput(f"{file}: its voxels are in another file; save it with the header attached")
    sizes = [int(n) for n in header["sizes"]]
    kinds = [str(kind).lower() for kind in header.get("kinds", [])]
    for kind, n in zip(kinds, sizes, strict=False):
        if n > 1 and any(word in kind for word in ("color", "vector", "matrix", "complex", "list")):
            raise BadInput(f"{file}: an axis of kind {kind} ({n}); save it as grey values or label values, (X, Y, Z)")
    axes = find_axes(file, sizes[::-1])
    shape = axes.shape
    dtype = np.dtype(nrrd.reader._determine_datatype(header))
    size = int(np.prod(shape)) * dtype.itemsize
    if ratio := _RATIO.get(str(header.get("encoding", "")).lower()):
        check_dense(file, size, file.stat().st_size, ratio)
    check_at_once(file, size, "a volume in one piece")

    def read(start: int, stop: int) -> NDArray[Any]:
        voxels, _ = nrrd.read(str(file), index_order="C")
        return axes.arranged(voxels[axes.select(start, stop)])

    return Stored(str(file), shape, dtype, read, shape[0], _voxel_size(header), orientation=_orientation(header))


def _voxel_size(header: Any) -> VoxelSize | None:
    units = header.get("space units")
    directions = header.get("space directions")
    if units is None or directions is None or len(directions) != 3 or any(unit not in NANOMETRES for unit in units):
        return None
    lengths = np.linalg.norm(np.asarray(directions, float), axis=1) * [NANOMETRES[unit] for unit in units]
    x, y, z = (float(length) for length in lengths)
    return z, y, x


def _orientation(header: Any) -> str | None:
    directions, space = header.get("space directions"), str(header.get("space", "")).lower()
    if directions is None or len(directions) != 3 or np.shape(directions) != (3, 3):
        return None
    sides = space.split("-")
    signs = [-1 if side in ("left", "posterior", "inferior") else 1 for side in sides[:3]]
    if space in ("lps", "las", "ras"):
        signs = [-1 if side in "lp" else 1 for side in space]
    return orientation_of(np.asarray(directions, float) * (signs if len(signs) == 3 else 1))


FORMAT = Format("NRRD", (".nrrd",), open_nrrd)

"""Readers: an image file of any supported format as a stored volume (Z, Y, X), read a few sections at a time.

A :class:`Stored` volume gives sections exactly as the file holds them. :func:`grey` and :func:`labels` turn one into
the uint8 sections of a prepared file; they refuse what has no exact counterpart there. Nothing is thresholded,
clipped, scaled or resized unless a function is asked to, by name.

Files come from strangers, and their parsers crash: :func:`open_volume` reads in a child process with limits
(:mod:`embench.core.sandbox`).

Formats: PNG, TIFF (one or many pages), NIfTI, NRRD, HDF5, OME-Zarr. NIfTI and NRRD store X first and are turned to ZYX;
flips and orientations in their headers are not applied: voxels are taken as stored.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core import sandbox
from embench.core.errors import BadInput
from embench.data.listing import SUFFIXES
from embench.data.readers.base import Stored, reading, split_inside, stored_size
from embench.data.readers.hdf5 import open_hdf5
from embench.data.readers.medical import open_nifti, open_nrrd
from embench.data.readers.ome_zarr import open_zarr
from embench.data.readers.raster import open_png, open_tiff


def open_volume(path: Path) -> Stored:
    """Open a file as a volume; its header is read, its voxels are not.

    Parameters
    ----------
    path : Path
        One of :data:`SUFFIXES`. Inside HDF5 and Zarr the volume may be named: ``file.h5:volumes/raw``; without a name
        it must be the only one.

    Returns
    -------
    Stored
        (Z, Y, X); a single picture has Z = 1.

    Raises
    ------
    BadInput
        Absent, unreadable, of another format, not two- or three-dimensional, or of absurd declared size.
    """
    file, _ = split_inside(path)
    size = stored_size(file)
    facts = sandbox.call(_header, str(path), where=path, size=size)
    shape, dtype = tuple(facts["shape"]), np.dtype(facts["dtype"])
    section = int(np.prod(shape[1:])) * dtype.itemsize * facts["channels"]

    def read(start: int, stop: int) -> NDArray[Any]:
        needed = size + (stop - start) * section
        return sandbox.call(_voxels, str(path), start, stop, where=facts["origin"], size=needed)

    voxel_size = tuple(facts["voxel_size"]) if facts["voxel_size"] else None
    more = {key: facts[key] for key in ("origin", "together", "is_indexed", "channels")}
    return Stored(shape=shape, dtype=dtype, read=read, voxel_size=voxel_size, **more)


# In the child


_OPENED: OrderedDict[tuple[str, int, int], Stored] = OrderedDict()
_MOST_OPENED = 16


def _header(path: str) -> dict[str, Any]:
    volume = _opened(path)
    return {
        "origin": volume.origin,
        "shape": volume.shape,
        "dtype": volume.dtype.str,
        "together": volume.together,
        "voxel_size": volume.voxel_size,
        "is_indexed": volume.is_indexed,
        "channels": volume.channels,
    }


def _voxels(path: str, start: int, stop: int) -> NDArray[Any]:
    volume = _opened(path)
    with reading(volume.origin):
        return volume.slab(start, stop)


def _opened(path: str) -> Stored:
    """Open a volume here, or take it from those opened last; none is held open."""
    about = os.stat(split_inside(Path(path))[0])
    key = (path, about.st_mtime_ns, about.st_size)
    if key not in _OPENED:
        _OPENED[key] = _open(Path(path))
        while len(_OPENED) > _MOST_OPENED:
            _OPENED.popitem(last=False)
    _OPENED.move_to_end(key)
    return _OPENED[key]


def _open(path: Path) -> Stored:
    """Open a volume in this very process."""
    file, inside = split_inside(path)
    name = file.name.lower()
    with reading(path):
        if name.endswith(".png"):
            return open_png(file)
        if name.endswith((".tif", ".tiff")):
            return open_tiff(file)
        if name.endswith((".nii", ".nii.gz")):
            return open_nifti(file)
        if name.endswith(".nrrd"):
            return open_nrrd(file)
        if name.endswith((".h5", ".hdf5", ".hdf")):
            return open_hdf5(file, inside)
        if name.endswith(".zarr"):
            return open_zarr(file, inside)
    raise BadInput(f"{path}: not a known image format; use one of {', '.join(SUFFIXES)}")

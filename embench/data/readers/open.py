"""Opening a file of any format that is read, in a child process: files come from strangers, and their parsers crash."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core import sandbox
from embench.core.errors import BadInput
from embench.data.readers import hdf5, mrc, nifti, nrrd, ome_zarr, png, tiff
from embench.data.readers.base import Format, Stored, reading, size_on_disk

FORMATS: tuple[Format, ...] = (
    png.FORMAT,
    tiff.FORMAT,
    nifti.FORMAT,
    nrrd.FORMAT,
    mrc.FORMAT,
    hdf5.FORMAT,
    ome_zarr.FORMAT,
)
"""Every format that is read. A new one is a module beside these and an entry here."""

SUFFIXES = tuple(suffix for each in FORMATS for suffix in each.suffixes)
"""What :func:`open_volume` reads, by the end of a file's name (``.zarr`` is a folder)."""

_WITH_INSIDE = "|".join(re.escape(suffix) for each in FORMATS if each.has_inside for suffix in each.suffixes)
_INSIDE = re.compile(rf"(?P<file>.*(?:{_WITH_INSIDE})):(?P<inside>.+)", re.IGNORECASE)


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
        Absent, unreadable, of another format, not two- or three-dimensional, of a meaning that is not known here, or
        too large for the memory.
    """
    file, _ = split_inside(path)
    size = size_on_disk(file)
    facts = sandbox.call(_header, str(path), where=path, size=size)
    shape, dtype = tuple(facts.pop("shape")), np.dtype(facts.pop("dtype"))
    section = int(np.prod(shape[1:])) * dtype.itemsize * facts["channels"]
    origin = facts["origin"]

    def read(start: int, stop: int) -> NDArray[Any]:
        needed = size + (stop - start) * section
        return sandbox.call(_voxels, str(path), start, stop, where=origin, size=needed)

    voxel_size = tuple(facts.pop("voxel_size") or ()) or None
    palette = tuple((r, g, b) for r, g, b in facts.pop("palette") or ()) or None
    return Stored(shape=shape, dtype=dtype, read=read, voxel_size=voxel_size, palette=palette, **facts)


def find_format(name: str) -> Format | None:
    """Return the format of files of this name; ``None`` when it is not read."""
    lower = name.lower()
    return next((each for each in FORMATS if lower.endswith(each.suffixes)), None)


def split_inside(path: Path) -> tuple[Path, str | None]:
    """Split ``file.h5:inside`` into the file and what is named inside it."""
    match = _INSIDE.fullmatch(str(path))
    if path.exists() or match is None:
        return path, None
    return Path(match["file"]), match["inside"]


# In the child


_OPENED: OrderedDict[tuple[str, int, int], Stored] = OrderedDict()
_MOST_OPENED = 16


def _header(path: str) -> dict[str, Any]:
    volume = _opened(path)
    return {
        "shape": volume.shape,
        "dtype": volume.dtype.str,
        **{
            name: getattr(volume, name)
            for name in (
                *("origin", "together", "voxel_size", "channels", "has_alpha", "bits", "palette"),
                *("orientation", "siblings", "notes"),
            )
        },
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
    found = find_format(file.name)
    if found is None:
        raise BadInput(f"{path}: not a known image format; use one of {', '.join(SUFFIXES)}")
    with reading(path):
        return found.open(file, inside)

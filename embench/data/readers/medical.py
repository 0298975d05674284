"""NIfTI and NRRD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.readers.base import (
    NANOMETRES,
    Stored,
    VoxelSize,
    as_zyx,
    check_declared,
    sections_at_once,
    sections_per_slab,
)

_LEAST_VOXEL, _LARGEST_VOXEL = 0.1, 1e5
"""Nanometres: from a tomogram of molecules to a light micrograph."""


def open_nifti(file: Path) -> Stored:
    import nibabel

    image: Any = nibabel.load(file)
    plain = list(image.shape[:3])
    if any(n != 1 for n in image.shape[3:]):
        raise BadInput(f"{file}: shape {image.shape}; expected three axes")
    shape = as_zyx(file, plain[::-1])
    slope, inter = image.dataobj.slope, image.dataobj.inter
    dtype = np.dtype(image.get_data_dtype()) if (slope, inter) == (1.0, 0.0) else np.dtype(np.float64)
    check_declared(file, int(np.prod(shape)) * dtype.itemsize, file.stat().st_size)
    is_compressed = file.name.lower().endswith(".gz")
    tail = (0,) * (len(image.shape) - 3)

    def read(start: int, stop: int) -> NDArray[Any]:
        data: Any = nibabel.load(file).dataobj
        where = (slice(None), slice(None), slice(start, stop), *tail)[: max(2, len(image.shape))]
        return np.asanyarray(data[where]).reshape(shape[2], shape[1], stop - start).transpose(2, 1, 0)

    together = shape[0] if is_compressed else sections_at_once(shape, dtype, sections_per_slab(shape, dtype))
    return Stored(str(file), shape, dtype.newbyteorder("="), read, together, _nifti_voxel_size(image.header))


def _nifti_voxel_size(header: Any) -> VoxelSize | None:
    """Return what the header states with its unit, where it can be an electron micrograph's: many hold nonsense."""
    unit = {"mm": 1e6, "micron": 1e3}.get(header.get_xyzt_units()[0])
    x, y, z = (float(f"{size * (unit or 0):.6g}") for size in [*header.get_zooms(), 1.0, 1.0][:3])
    plausible = all(_LEAST_VOXEL <= size <= _LARGEST_VOXEL for size in (x, y, z))
    return (z, y, x) if plausible else None


def open_nrrd(file: Path) -> Stored:
    import nrrd

    with file.open("rb") as stream:
        header = nrrd.read_header(stream)
    sizes = [int(n) for n in header["sizes"]]
    shape = as_zyx(file, sizes[::-1])
    if "data file" in header or "datafile" in header:
        raise BadInput(f"{file}: its voxels are in another file; save it with the header attached")
    dtype = np.dtype(nrrd.reader._determine_datatype(header))
    check_declared(file, int(np.prod(shape)) * dtype.itemsize, file.stat().st_size)

    def read(start: int, stop: int) -> NDArray[Any]:
        voxels, _ = nrrd.read(str(file), index_order="C")
        return voxels.reshape(shape)[start:stop]

    return Stored(str(file), shape, dtype.newbyteorder("="), read, shape[0], _nrrd_voxel_size(header))


def _nrrd_voxel_size(header: Any) -> VoxelSize | None:
    units = header.get("space units")
    directions = header.get("space directions")
    if units is None or directions is None or len(directions) != 3 or any(unit not in NANOMETRES for unit in units):
        return None
    lengths = np.linalg.norm(np.asarray(directions, float), axis=1) * [NANOMETRES[unit] for unit in units]
    x, y, z = (float(length) for length in lengths)
    return z, y, x

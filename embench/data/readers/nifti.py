"""NIfTI-1 and 2, also compressed: X is stored first and turned to ZYX; scale factors are applied.

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
    per_slab,
    together,
)


def open_nifti(file: Path, inside: str | None = None) -> Stored:
    """Open a NIfTI file of one volume."""
    import nibabel

    del inside
    image: Any = nibabel.load(file)
    if any(n != 1 for n in image.shape[3:]):
        raise BadInput(f"{file}: shape {image.shape}; expected three axes")
    plain = tuple(image.shape[:3])
    shape = find_axes(file, plain[::-1]).shape
    slope, inter = image.dataobj.slope, image.dataobj.inter
    dtype = np.dtype(image.get_data_dtype()) if (slope, inter) == (1.0, 0.0) else np.dtype(np.float64)
    size = int(np.prod(shape)) * np.dtype(image.get_data_dtype()).itemsize
    is_compressed = file.name.lower().endswith(".gz")
    check_dense(file, size, file.stat().st_size, DEFLATE if is_compressed else 1)
    if is_compressed:
        check_at_once(file, int(np.prod(shape)) * dtype.itemsize, "a compressed volume in one piece")
    ndim, tail = len(image.shape), (0,) * (len(image.shape) - 3)
    notes = [] if dtype == image.get_data_dtype() else [f"scaled as its header says: {slope:g} x value + {inter:g}"]

    def read(start: int, stop: int) -> NDArray[Any]:
        data: Any = nibabel.load(file).dataobj
        where = (slice(None), slice(None), slice(start, stop), *tail)[: max(2, ndim)]
        return np.asanyarray(data[where]).reshape(shape[2], shape[1], stop - start).transpose(2, 1, 0)

    return Stored(
        str(file),
        shape,
        dtype,
        read,
        shape[0] if is_compressed else together(shape, dtype, per_slab(shape, dtype)),
        _voxel_size(image.header),
        orientation=orientation_of(np.asarray(image.affine, float)[:3, :3].T) if len(plain) == 3 else None,
        notes=notes,
    )


_LEAST_VOXEL, _LARGEST_VOXEL = 0.1, 1e5
"""Nanometres: from a tomogram of molecules to a light micrograph."""


def _voxel_size(header: Any) -> VoxelSize | None:
    """Return what the header states with its unit, where it can be an electron micrograph's: many hold nonsense."""
    unit = NANOMETRES.get({"micron": "micrometer", "mm": "mm"}.get(header.get_xyzt_units()[0], ""), 0.0)
    x, y, z = (float(f"{size * unit:.6g}") for size in [*header.get_zooms(), 1.0, 1.0][:3])
    plausible = all(_LEAST_VOXEL <= size <= _LARGEST_VOXEL for size in (x, y, z))
    return (z, y, x) if plausible else None


FORMAT = Format("NIfTI", (".nii", ".nii.gz"), open_nifti)

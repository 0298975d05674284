"""MRC2014 (and its older forms), the volume format of electron tomography.

The axes of the header (MAPC, MAPR, MAPS) are turned to ZYX. Mode 0 is signed, as the standard says, unless the header
bears IMOD's stamp for unsigned bytes. Voxel sizes are Angstrom. IMOD shows the first row at the bottom; rows are in the
order in which they are stored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.readers.base import Format, Stored, VoxelSize, check_dense, find_axes, per_slab, together

_IMOD_STAMP, _SIGNED_BYTES = 1146047817, 1
_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_UNREAD = {3: "complex integers", 4: "complex numbers", 101: "4-bit values", 16: "RGB values"}
_ANGSTROM = 0.1


def open_mrc(file: Path, inside: str | None = None) -> Stored:
    """Open an MRC file of one volume, image or stack of images."""
    import mrcfile

    del inside
    header = _header(file)
    mode = int(header.mode)
    if mode not in _MODES:
        raise BadInput(f"{file}: mode {mode}, {_UNREAD.get(mode, 'which is not of the standard')}; save it as bytes")
    if 401 <= int(header.ispg) <= 630:
        raise BadInput(f"{file}: a stack of volumes; save one volume")
    dtype = np.dtype(_MODES[mode])
    stamp, flags = (int(each) for each in np.frombuffer(header.extra2.tobytes()[40:48], _order(header) + "i4"))
    is_unsigned = mode == 0 and stamp == _IMOD_STAMP and not flags & _SIGNED_BYTES
    sizes = (int(header.nz), int(header.ny), int(header.nx))
    named = {1: "x", 2: "y", 3: "z"}
    order = [named.get(int(each)) for each in (header.maps, header.mapr, header.mapc)]
    if sorted(map(str, order)) != ["x", "y", "z"]:
        raise BadInput(f"{file}: axes {[int(n) for n in (header.mapc, header.mapr, header.maps)]}; expected 1, 2, 3")
    axes = find_axes(file, sizes, [str(each) for each in order])
    check_dense(file, int(np.prod(sizes)) * dtype.itemsize, file.stat().st_size)

    def read(start: int, stop: int) -> NDArray[Any]:
        with mrcfile.mmap(file, mode="r") as opened:
            values = np.asarray(opened.data).reshape(sizes)
            found = np.array(axes.arranged(values[axes.select(start, stop)]))
        return found.view(np.uint8) if is_unsigned else found

    return Stored(
        str(file),
        axes.shape,
        np.dtype(np.uint8) if is_unsigned else dtype,
        read,
        together(axes.shape, dtype, per_slab(axes.shape, dtype)),
        _voxel_size(header),
        notes=["MRC: rows as stored; IMOD shows the first at the bottom, most other formats put it at the top"],
    )


def _header(file: Path) -> Any:
    import mrcfile

    with mrcfile.open(file, mode="r", header_only=True) as opened:
        return opened.header.copy()


def _order(header: Any) -> str:
    return "<" if header.mode.dtype.newbyteorder("<") == header.mode.dtype else ">"


def _voxel_size(header: Any) -> VoxelSize | None:
    lengths = [float(header.cella[axis]) for axis in "zyx"]
    counts = [int(header[name]) for name in ("mz", "my", "mx")]
    if min(lengths) <= 0 or min(counts) <= 0:
        return None
    z, y, x = (length / count * _ANGSTROM for length, count in zip(lengths, counts, strict=True))
    return None if z == y == x == _ANGSTROM else (z, y, x)  # 1 Angstrom is the default of writers that know none


FORMAT = Format("MRC", (".mrc", ".rec", ".mrcs", ".map"), open_mrc)

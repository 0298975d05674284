"""OME-Zarr."""

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
    only_one,
    sections_at_once,
    stored_size,
)


def open_zarr(folder: Path, inside: str | None) -> Stored:
    import zarr

    root: Any = zarr.open(str(folder), mode="r")
    scales: list[dict[str, Any]] | None = None
    if inside is None and isinstance(root, zarr.Group):
        attributes: Any = dict(root.attrs)
        scales = attributes.get("ome", attributes).get("multiscales")
        if scales:
            inside = scales[0]["datasets"][0]["path"]
        else:
            members = root.members(max_depth=None)
            inside = only_one(folder, sorted(name for name, each in members if isinstance(each, zarr.Array)))
    array: Any = root[inside] if inside is not None else root
    if not isinstance(array, zarr.Array):
        raise BadInput(f"{folder}: {inside} is a group; name an array inside it")
    lead = len(array.shape) - 3
    if lead > 0 and any(n != 1 for n in array.shape[:lead]):
        raise BadInput(f"{folder}: shape {array.shape}; expected one channel and one time point")
    shape = as_zyx(folder, array.shape[max(0, lead) :])
    dtype = np.dtype(array.dtype)
    _check_codecs(folder, array)
    check_declared(folder, int(np.prod(shape)) * dtype.itemsize, stored_size(folder))

    def read(start: int, stop: int) -> NDArray[Any]:
        where = (0,) * max(0, lead) + ((slice(start, stop),) if lead >= 0 else ())
        return np.asarray(array[where]).reshape(stop - start, *shape[1:])

    chunk = array.chunks[lead] if lead >= 0 else 1
    voxel_size = _zarr_voxel_size(scales[0]) if scales else None
    return Stored(str(folder), shape, dtype, read, sections_at_once(shape, dtype, chunk), voxel_size)


_CODECS = {
    *("bytes", "endian", "transpose", "sharding_indexed", "crc32c", "crc32", "adler32", "fletcher32", "bitround"),
    *("blosc", "gzip", "zlib", "zstd", "lz4", "bz2", "lzma", "shuffle", "delta", "packbits", "quantize"),
    *("fixedscaleoffset", "astype"),
}
"""What may stand between the bytes of a chunk and its voxels; some others (``pickle``) run what they are given."""


def _check_codecs(folder: Path, array: Any) -> None:
    waiting: list[Any] = [array.metadata.to_dict()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [inner for key, inner in value.items() if key not in ("attributes", "fill_value")]
            codec = value.get("id") or ("configuration" in value and value.get("name"))
            if isinstance(codec, str) and codec not in _NO_CODECS:
                name = codec.removeprefix("numcodecs.").lower()
                if name not in _CODECS:
                    raise BadInput(f"{folder}: voxels behind the codec {codec[:80]!r}, which is not used here; refused")
        elif isinstance(value, list | tuple):
            waiting += value
        elif hasattr(value, "to_dict"):
            waiting.append(value.to_dict())
        elif hasattr(value, "get_config"):
            waiting.append(value.get_config())


_NO_CODECS = {"regular", "default", "v2"}
"""Names of what else has a configuration in Zarr's metadata: grids of chunks and ways of naming them."""


def _zarr_voxel_size(scale: dict[str, Any]) -> VoxelSize | None:
    axes = scale.get("axes", [])
    steps = [each["scale"] for each in scale["datasets"][0].get("coordinateTransformations", []) if "scale" in each]
    space = [place for place, axis in enumerate(axes) if isinstance(axis, dict) and axis.get("type") == "space"]
    units = [axes[place].get("unit") for place in space]
    if len(space) != 3 or not steps or any(unit not in NANOMETRES for unit in units):
        return None
    z, y, x = (float(steps[0][place]) * NANOMETRES[unit] for place, unit in zip(space, units, strict=True))
    return z, y, x

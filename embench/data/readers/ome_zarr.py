"""Zarr and OME-Zarr (0.4 and 0.5): the full resolution of an image; named axes are turned to ZYX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.readers.base import NANOMETRES, Format, Stored, VoxelSize, check_at_once, find_axes, together
from embench.data.readers.hdf5 import only


def open_zarr(folder: Path, inside: str | None = None) -> Stored:
    """Open an array of a Zarr folder; of an OME-Zarr image its largest. Chunks that are absent hold the fill value."""
    import zarr

    root: Any = zarr.open(str(folder), mode="r")
    named: Any = root[inside] if inside is not None and isinstance(root, zarr.Group) else root
    scale: dict[str, Any] | None = None
    if isinstance(named, zarr.Group):
        if scale := _scale(named):
            array: Any = named[scale["datasets"][0]["path"]]
        else:
            members = named.members(max_depth=None)
            array = named[only(folder, sorted(name for name, each in members if isinstance(each, zarr.Array)))]
    else:
        array = named
        above, _, level = (inside or "").strip("/").rpartition("/")
        if isinstance(root, zarr.Group) and (found := _scale(root[above] if above else root)):
            same = [each for each in found["datasets"] if each["path"] == level]
            scale = {**found, "datasets": same} if same else None
    if not isinstance(array, zarr.Array):
        raise BadInput(f"{folder}: {inside} is a group; name an array inside it")
    names = _names(array, scale)
    axes = find_axes(folder, array.shape, names)
    dtype = np.dtype(array.dtype)
    _check_codecs(folder, array)
    shape = " x ".join(map(str, array.chunks))
    check_at_once(folder, int(np.prod(array.chunks, dtype=object)) * dtype.itemsize, f"chunks of {shape}")

    def read(start: int, stop: int) -> NDArray[Any]:
        return axes.arranged(np.asarray(array[axes.select(start, stop)]))

    chunk = int(axes.in_zyx(array.chunks)[0])
    voxel_size = voxel_size_of(scale) if scale else None
    return Stored(str(folder), axes.shape, dtype, read, together(axes.shape, dtype, chunk), voxel_size)


def _scale(group: Any) -> dict[str, Any] | None:
    """Return what OME-Zarr says of the first image of a group."""
    attributes: Any = dict(group.attrs)
    scales = attributes.get("ome", attributes).get("multiscales")
    return scales[0] if scales else None


def _axis_names(scale: dict[str, Any]) -> list[str]:
    return [str(each.get("name", "") if isinstance(each, dict) else each).lower() for each in scale.get("axes", [])]


def _names(array: Any, scale: dict[str, Any] | None) -> list[str] | None:
    """Return the names of the axes: of OME-Zarr, Zarr 3, or xarray."""
    said: Any = _axis_names(scale) if scale else None
    said = said or getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if not said or len(said) != len(array.shape) or not {"x", "y"} <= {str(each).lower() for each in said}:
        return None
    return [str(each) for each in said]


_CODECS = {
    *("bytes", "endian", "transpose", "sharding_indexed", "crc32c", "crc32", "adler32", "fletcher32", "bitround"),
    *("blosc", "gzip", "zlib", "zstd", "lz4", "bz2", "lzma", "shuffle", "delta", "packbits", "quantize"),
    *("fixedscaleoffset", "astype"),
}
"""What may stand between the bytes of a chunk and its voxels; some others (``pickle``) run what they are given."""
_NO_CODECS = {"regular", "default", "v2"}
"""Names of what else has a configuration in Zarr's metadata: grids of chunks and ways of naming them."""


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


def voxel_size_of(scale: dict[str, Any]) -> VoxelSize | None:
    """Return ZYX nanometres of the first data set of an entry of ``multiscales``, where it states them with units."""
    steps = [each["scale"] for each in scale["datasets"][0].get("coordinateTransformations", []) if "scale" in each]
    by_name = {}
    for axis, name, step in zip(scale.get("axes", []), _axis_names(scale), steps[0] if steps else [], strict=False):
        unit = axis.get("unit") if isinstance(axis, dict) else None
        if unit in NANOMETRES:
            by_name[name] = float(step) * NANOMETRES[unit]
    if not {"z", "y", "x"} <= by_name.keys():
        return None
    return by_name["z"], by_name["y"], by_name["x"]


FORMAT = Format("OME-Zarr", (".zarr",), open_zarr, is_folder=True, has_inside=True)

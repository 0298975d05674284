"""OME-Zarr 0.4 and 0.5: written block by block, so that a viewer can look at what is there while the rest is made."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embench.core.files import explained
from embench.data.writers.base import Layer, colour

Version = Literal["0.4", "0.5"]
VERSIONS: tuple[Version, ...] = ("0.4", "0.5")

_SMALLEST_SIDE = 512
"""The pyramid ends with the level whose longer side in the plane is at most this."""


def create(path: Path | None, layer: Layer, chunks: tuple[int, ...], version: Version = "0.5") -> Any:
    """Make an OME-Zarr image without voxels and return its full-resolution array.

    Parameters
    ----------
    path : Path or None
        A folder that is not there; ``None``: in memory.
    layer : Layer
    chunks : tuple of int
        Along every axis of the layer; whoever writes whole chunks may do so from several processes.
    version : {"0.4", "0.5"}
        Of OME-NGFF: 0.4 stands on Zarr 2, 0.5 on Zarr 3.

    Returns
    -------
    zarr.Array
        Of the layer's shape and type, all 0.

    Raises
    ------
    TryAgain, BadInput
        When the folder cannot be written.
    """
    import zarr

    store: Any = zarr.storage.MemoryStore() if path is None else str(path)
    try:
        group = zarr.create_group(store, overwrite=True, zarr_format=2 if version == "0.4" else 3)
        array = _array(group, "0", layer.shape, layer.dtype, chunks, version)
    except OSError as error:
        raise explained(error, path or Path()) from None
    _describe(group, layer, [(1, 1, 1)], version)
    return array


def add_pyramid(path: Path, layer: Layer) -> None:
    """Add smaller copies of a written image for viewers, each half as large in the plane, by every second voxel.

    Z is halved too while its voxels are not coarser than those of the plane. May be called again after being killed.
    """
    import zarr

    group: Any = zarr.open_group(str(path), mode="r+")
    version: Version = "0.4" if group.metadata.zarr_format == 2 else "0.5"
    factors = [(1, 1, 1)]
    size = layer.voxel_size or (1.0, 1.0, 1.0)
    source = group["0"]
    while max(source.shape[-2:]) > _SMALLEST_SIDE:
        z, y, x = factors[-1]
        halve_z = source.shape[-3] > 1 and size[0] * z <= 1.5 * size[2] * x
        step = (2 if halve_z else 1, 2, 2)
        lead = source.shape[:-3]
        shape = (*lead, *(-(-side // by) for side, by in zip(source.shape[-3:], step, strict=True)))
        name = str(len(factors))
        target = _array(group, name, shape, layer.dtype, source.chunks, version)
        for start in product(*(range(0, side, chunk) for side, chunk in zip(shape, target.chunks, strict=True))):
            stop = [min(at + chunk, side) for at, chunk, side in zip(start, target.chunks, shape, strict=True)]
            steps = (1,) * len(lead) + step
            fine = tuple(slice(a * by, b * by) for a, b, by in zip(start, stop, steps, strict=True))
            block = source[fine][tuple(slice(None, None, by) for by in steps)]
            if block.any():
                target[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = block
        factors.append((z * step[0], y * 2, x * 2))
        source = target
    _describe(group, layer, factors, version)


def _array(
    group: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], chunks: tuple[int, ...], version: Version
) -> Any:
    import zarr

    if version == "0.4":
        import numcodecs

        more: dict[str, Any] = {"compressors": numcodecs.Blosc("zstd", 3, numcodecs.Blosc.BITSHUFFLE)}
    else:
        codec = zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=dtype.itemsize)
        more = {"compressors": codec, "dimension_names": list("czyx"[-len(shape) :])}
    chunks = tuple(min(chunk, side) for chunk, side in zip(chunks, shape, strict=True))
    keys = {"name": "v2" if version == "0.4" else "default", "separator": "/"}
    return group.create_array(
        name, shape=shape, dtype=dtype, chunks=chunks, fill_value=0, chunk_key_encoding=keys, overwrite=True, **more
    )


def _describe(group: Any, layer: Layer, factors: list[tuple[int, int, int]], version: Version) -> None:
    size = layer.voxel_size or (1.0, 1.0, 1.0)
    unit = {"unit": "nanometer"} if layer.voxel_size else {}
    axes: list[dict[str, str]] = [{"name": name, "type": "space", **unit} for name in "zyx"]
    lead = [1.0] * (len(layer.shape) - 3)
    if lead:
        axes.insert(0, {"name": "c", "type": "channel"})

    def place(factor: tuple[int, int, int]) -> list[dict[str, Any]]:
        # every second voxel is taken, not a mean: voxel 0 of each level lies on voxel 0 of the first
        scale = [*lead, *(float(length * by) for length, by in zip(size, factor, strict=True))]
        return [{"type": "scale", "scale": scale}]

    levels = [{"path": str(n), "coordinateTransformations": place(factor)} for n, factor in enumerate(factors)]
    multiscale: dict[str, Any] = {"name": layer.kind, "axes": axes, "datasets": levels, "type": "nearest"}
    facts: dict[str, Any] = {"multiscales": [multiscale]}
    if layer.kind in ("labels", "instances"):
        facts["image-label"] = _classes(layer) if layer.kind == "labels" else {}
    if layer.channels:
        facts["omero"] = {"channels": [_channel(layer, name) for name in layer.channels]}
    if version == "0.4":
        multiscale["version"] = version
        if "image-label" in facts:
            facts["image-label"]["version"] = version
        group.attrs.update(facts)
    else:
        group.attrs.update({"ome": {"version": version, **facts}})
    group.attrs.update({"embench": {"kind": layer.kind, "classes": layer.classes, "description": layer.description}})


def _classes(layer: Layer) -> dict[str, Any]:
    return {
        "colors": [
            {"label-value": value, "rgba": [*colour(value), 255 if value else 0]} for value in range(len(layer.classes))
        ],
        "properties": [{"label-value": value, "name": name} for value, name in enumerate(layer.classes)],
    }


def _channel(layer: Layer, name: str) -> dict[str, Any]:
    hexadecimal = "".join(f"{part:02X}" for part in colour(layer.classes.index(name)) or (0, 0, 0))
    window = {"start": 0.0, "end": 1.0, "min": 0.0, "max": 1.0}
    return {"label": name, "color": hexadecimal, "active": True, "window": window}

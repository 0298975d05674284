"""What is to be predicted, as grey sections uint8: a file of any readable format, a folder of pictures, an array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core import sandbox
from embench.core.errors import BadInput
from embench.data.convert import grey, scaled, stack
from embench.data.listing import Listing, is_image, natural, stem
from embench.data.readers.base import Stored
from embench.data.readers.open import open_volume

VoxelSize = tuple[float, float, float]
GreyRange = tuple[float, float] | str | None
"""``None``: 8-bit as stored; ``auto``: the least and the greatest value become 0 and 255; or those two values."""

LARGEST_RATIO = 1.5
"""Between the voxel sizes of an image and of the training images, along any axis, before somebody has to decide."""


@dataclass(frozen=True)
class Source:
    """A volume of grey sections.

    Parameters
    ----------
    origin : str
        For messages and cards.
    shape : (int, int, int)
        ZYX.
    slab : callable
        ``slab(start, stop)`` returns sections (Z, Y, X) uint8.
    voxel_size : tuple of float or None
        ZYX nanometres, where known.
    names : tuple of str
        Of the sections, where each is a picture of its own.
    identity : tuple
        What changes when the images do.
    """

    origin: str
    shape: tuple[int, int, int]
    slab: Callable[[int, int], NDArray[np.uint8]]
    voxel_size: VoxelSize | None = None
    names: tuple[str, ...] = ()
    identity: tuple[Any, ...] = ()


def from_array(image: NDArray[np.uint8], voxel_size: VoxelSize | None = None) -> Source:
    """Return an array (Y, X) or (Z, Y, X) uint8 as a source.

    Raises
    ------
    BadInput
        For another type or number of axes, or an empty one.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise BadInput(f"image: {image.dtype} {image.shape}; expected uint8 (Y, X) or (Z, Y, X), none empty")
    volume = image[None] if image.ndim == 2 else image
    depth, height, width = volume.shape
    return Source("array", (depth, height, width), lambda start, stop: volume[start:stop], voxel_size)


def open_source(path: Path, *, wanted: VoxelSize | None, grey_range: GreyRange, voxel_size: VoxelSize | None) -> Source:
    """Open a file, or a folder of pictures of one size, as grey sections.

    Parameters
    ----------
    path : Path
        As :func:`embench.data.readers.open.open_volume` takes it; of an OME-Zarr with several scales, the one nearest
        to ``wanted``.
    wanted : tuple of float or None
        Voxel size of the training images, ZYX nanometres.
    grey_range : tuple, "auto" or None
        How grey values of more than 8 bits become 8-bit.
    voxel_size : tuple of float or None
        Where the file states none, or a wrong one.

    Raises
    ------
    BadInput
        Unreadable, empty, of several sizes, coloured, or not 8-bit without a range.
    """
    if path.is_dir() and not path.name.lower().endswith(".zarr"):
        files = sorted((file for file in Listing(path).files if file.parent == path and is_image(file)), key=natural)
        if not files:
            raise BadInput(f"{path}: no pictures in it; name a folder of images or one file")
        opened = [open_volume(file) for file in files]
        sizes = dict.fromkeys(each.shape[1:] for each in opened)
        if len(sizes) > 1:
            said = ", ".join(f"{height} x {width}" for height, width in sizes)
            raise BadInput(f"{path}: pictures of {len(sizes)} sizes ({said}); predict each with --each, or sort them")
        stored = stack(opened, str(path))
        names, about = tuple(stem(file) for file in files), [file.stat() for file in files]
    else:
        path, own = _nearest_scale(path, wanted)
        stored = open_volume(path)
        voxel_size = voxel_size or own
        names, about = (), [file.stat() for file in (path, *path.parents) if file.exists()][:1]
    low, high = (None, None) if grey_range is None or isinstance(grey_range, str) else grey_range
    sections = grey(stored) if grey_range is None else scaled(stored, low, high)

    def slab(start: int, stop: int) -> NDArray[np.uint8]:
        return np.stack([sections[z] for z in range(start, stop)])

    identity = tuple((each.st_size, each.st_mtime_ns) for each in about)
    return Source(stored.origin, stored.shape, slab, voxel_size or stored.voxel_size, names, identity)


def check_voxel_size(source: Source, wanted: VoxelSize | None, axes: Sequence[int]) -> str:
    """Return in words how far the voxels of a source are from those of the training images; empty where they agree.

    ``axes`` are those that count: Y and X for a task whose sections are images.
    """
    if source.voxel_size is None or wanted is None:
        return ""
    ratios = [source.voxel_size[axis] / wanted[axis] for axis in axes]
    if all(1 / LARGEST_RATIO <= ratio <= LARGEST_RATIO for ratio in ratios):
        return ""
    ours, theirs = (" x ".join(f"{size[axis]:g}" for axis in axes) for size in (source.voxel_size, wanted))
    return f"{source.origin}: voxels of {ours} nm ({'ZYX'[-len(axes) :]}), the model was trained on {theirs} nm"


def resampled(source: Source, wanted: VoxelSize, axes: Sequence[int]) -> Source:
    """Return a source on the grid of the training images: area means where it gets coarser, linear where finer."""
    import cv2

    assert source.voxel_size
    factors = [source.voxel_size[axis] / wanted[axis] if axis in axes else 1.0 for axis in range(3)]
    depth, height, width = (max(1, round(n * factor)) for n, factor in zip(source.shape, factors, strict=True))
    centres = (np.arange(depth) + 0.5) * source.shape[0] / depth
    half = max(source.shape[0] / depth, 1.0) / 2  # of the tent or the box through which a section is seen
    way = cv2.INTER_AREA if factors[1] * factors[2] < 1 else cv2.INTER_LINEAR

    def section(z: int) -> NDArray[np.uint8]:
        low = int(max(np.floor(centres[z] - half), 0))
        high = int(min(np.ceil(centres[z] + half), source.shape[0]))
        places = np.arange(low, high) + 0.5
        if depth >= source.shape[0]:
            weights = np.maximum(1 - np.abs(places - centres[z]), 0)
        else:
            weights = np.minimum(places + 0.5, centres[z] + half) - np.maximum(places - 0.5, centres[z] - half)
        mean = np.tensordot(weights / weights.sum(), source.slab(low, high).astype(np.float32), 1)
        return np.asarray(cv2.resize(mean.astype(np.float32), (width, height), interpolation=way).round(), np.uint8)

    def slab(start: int, stop: int) -> NDArray[np.uint8]:
        return np.stack([section(z) for z in range(start, stop)])

    size = tuple(length / by for length, by in zip(source.voxel_size, factors, strict=True))
    return Source(source.origin, (depth, height, width), slab, size, source.names, source.identity)  # type: ignore[arg-type]


class Nearest:
    """An array on another grid, (..., Z, Y, X), by the nearest voxel; read slab by slab.

    Parameters
    ----------
    array : array
        With axes (..., Z, Y, X).
    shape : (int, int, int)
        ZYX of the grid.
    """

    def __init__(self, array: Any, shape: Sequence[int]) -> None:
        self.array, self.dtype = array, array.dtype
        self.shape = (*array.shape[:-3], *shape)
        self._places = [
            np.minimum((np.arange(n) + 0.5) * own / n, own - 1).astype(int)
            for n, own in zip(shape, array.shape[-3:], strict=True)
        ]

    def __getitem__(self, key: tuple[Any, ...]) -> NDArray[Any]:
        *lead, sections = key
        z, y, x = self._places
        z = z[sections]
        found = np.asarray(self.array[(*lead, slice(int(z[0]), int(z[-1]) + 1))])
        return found[..., (z - z[0])[:, None, None], y[:, None], x]


def _nearest_scale(path: Path, wanted: VoxelSize | None) -> tuple[Path, VoxelSize | None]:
    """Return path and voxel size of the scale of an OME-Zarr whose voxels are nearest to ``wanted``."""
    if wanted is None or not path.name.lower().endswith(".zarr") or not path.is_dir():
        return path, None
    scales = sandbox.call(_scales, str(path), where=path, size=2**20)
    if len(scales) < 2:
        return path, None

    def distance(scale: dict[str, Any]) -> float:
        return float(np.abs(np.log(np.divide(scale["voxel_size"], wanted))).sum())

    nearest = min(scales, key=distance)
    return Path(f"{path}:{nearest['path']}"), tuple(nearest["voxel_size"])


def _scales(path: str) -> list[dict[str, Any]]:
    """Return path and voxel size of each scale of an OME-Zarr that states them in nanometres."""
    import zarr

    from embench.data.readers.ome_zarr import voxel_size_of

    root: Any = zarr.open(path, mode="r")
    attributes: Any = dict(root.attrs)
    multiscales = attributes.get("ome", attributes).get("multiscales") or [{"datasets": []}]
    found = []
    for level in multiscales[0]["datasets"]:
        size = voxel_size_of({**multiscales[0], "datasets": [level]})
        if size is not None:
            found.append({"path": level["path"], "voxel_size": size})
    return found


def opened_files(path: Path) -> list[Path]:
    """Return the files of a folder that are volumes or pictures, each to be predicted by itself; or the file named."""
    if not path.is_dir() or path.name.lower().endswith(".zarr"):
        return [path]
    files = sorted((file for file in Listing(path).files if file.parent == path and is_image(file)), key=natural)
    return files + sorted(folder for folder in path.iterdir() if folder.name.lower().endswith(".zarr"))


__all__ = ["Nearest", "Source", "Stored", "check_voxel_size", "from_array", "open_source", "opened_files", "resampled"]

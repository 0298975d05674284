"""PNG and TIFF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.readers.base import Stored, as_zyx, check_declared, sections_at_once, sections_per_slab


def open_png(file: Path) -> Stored:
    from PIL import Image

    def read(start: int, stop: int) -> NDArray[Any]:
        del start, stop
        with Image.open(file, formats=["PNG"]) as picture:
            return np.asarray(picture)[None]

    with Image.open(file, formats=["PNG"]) as picture:
        width, height = picture.size
        dtype = {"1": np.bool_, "I;16": np.uint16, "I": np.int32, "F": np.float32}.get(picture.mode, np.uint8)
        is_indexed = picture.mode == "P" and not _is_grey_ramp(picture.getpalette() or [])
        channels = len(picture.getbands())
        check_declared(file, width * height * channels * np.dtype(dtype).itemsize, file.stat().st_size)
    return Stored(str(file), (1, height, width), np.dtype(dtype), read, is_indexed=is_indexed, channels=channels)


def _is_grey_ramp(palette: Sequence[int]) -> bool:
    """Whether every place of a palette is the grey of its own number."""
    return all(value == place // 3 for place, value in enumerate(palette))


def open_tiff(file: Path) -> Stored:
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        series = tiff.series[0]
        axes = series.axes.upper()
        written_one_by_one = len(tiff.series)
        kinds = dict.fromkeys((each.shape, each.dtype, each.axes) for each in tiff.series)
        if len(kinds) > 1 or (written_one_by_one > 1 and axes not in ("YX", "YXS")):
            shapes = ", ".join(f"{dtype} {shape}" for shape, dtype, _ in kinds)
            raise BadInput(f"{file}: several volumes or pages of different kinds ({shapes}); save one stack")
        colours = series.shape[-1] if axes.endswith("S") else 1
        plain = series.shape[:-1] if axes.endswith("S") else series.shape
        if "S" in axes[:-1]:
            raise BadInput(f"{file}: colour planes (axes {axes}); save it as grey values or label values")
        plain = tuple(n for n, axis in zip(plain, axes, strict=False) if n > 1 or axis in "YX")
        shape = as_zyx(file, plain if written_one_by_one == 1 else (written_one_by_one, *plain))
        dtype = np.dtype(series.dtype)
        pages = len(series.pages)
        check_declared(file, int(np.prod(series.shape)) * dtype.itemsize, file.stat().st_size)
    full = (*shape, colours) if colours > 1 else shape
    together = sections_at_once(full, dtype, sections_per_slab(full, dtype))

    def read(start: int, stop: int) -> NDArray[Any]:
        with tifffile.TiffFile(file) as tiff:
            series = tiff.series[0]
            if written_one_by_one > 1:
                return np.stack([tiff.series[z].asarray() for z in range(start, stop)])
            if pages == shape[0]:
                key = list(range(start, stop))
                return np.asarray(series.asarray(key=key)).reshape(stop - start, *full[1:])
            if series.dataoffset is None:  # one page that holds a whole volume, compressed
                return np.asarray(series.asarray()).reshape(full)[start:stop]
            mapped = tifffile.memmap(file, mode="r").reshape(full)
            return np.array(mapped[start:stop])

    return Stored(str(file), shape, dtype, read, together, channels=colours)

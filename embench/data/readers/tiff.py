"""TIFF: one page or many, of ImageJ, OME and plain; what the tags say of the samples is applied.

Only this file is read: parts of an OME-TIFF set that lie in other files are sections of those. Pages that are smaller
copies of others (pyramids, thumbnails) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.readers.base import (
    Format,
    Palette,
    Stored,
    check_at_once,
    check_dense,
    find_axes,
    greys_of,
    looked_up,
    per_slab,
    together,
    turned_round,
    upright,
)

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_JPEG = (6, 7, 33003, 33005, 34712, 34892)
"""Compressions whose decoder turns YCbCr into RGB."""
_DENSE = {1: 1, 5: 1500, 8: 1032, 32946: 1032, 32773: 128}
"""By compression (none, LZW, deflate, packbits): the most bytes of pixels that a byte can stand for."""
_FLAGS: dict[str, Any] = {"_multifile": False, "is_mmstack": False, "is_ndtiff": False}
"""For tifffile: no file beside this one is opened, whatever its metadata name."""


def open_tiff(file: Path, inside: str | None = None) -> Stored:
    """Open a TIFF file; refuses channels, pages of several kinds, and samples that are neither grey, label nor RGB."""
    import tifffile

    del inside
    notes: list[str] = []
    with tifffile.TiffFile(file, **_FLAGS) as tiff:
        chosen = _series(file, tiff)
        first = tiff.series[chosen[0]]
        siblings = _siblings(file, tiff)
        keyframe = first.keyframe
        photometric, orientation, bits, palette = _meaning(file, tiff, chosen)
        axes = first.axes.upper()
        channels = first.shape[-1] if axes.endswith("S") else 1
        if "S" in axes[:-1]:
            raise BadInput(f"{file}: colour planes (axes {axes}); save it as grey values or label values")
        plain = first.shape[:-1] if axes.endswith("S") else first.shape
        if any(page is None for page in first.pages):
            raise BadInput(f"{file}: its metadata declare more sections than the file holds; save it as one stack")
        names = axes.removesuffix("S")
        if first.kind == "imagej" and [axis for axis, n in zip(names, plain, strict=True) if n > 1] == ["C", "Y", "X"]:
            names = names.replace("C", "Z")  # as tifffile writes a stack whose axes nobody named
            notes.append("what its header calls channels are taken as sections")
        where = find_axes(file, plain, list(names))
        if len(chosen) > 1 and where.shape[0] != 1:
            raise BadInput(f"{file}: {len(chosen)} volumes; save one stack")
        shape = (len(chosen), *where.shape[1:]) if len(chosen) > 1 else where.shape
        dtype, order = np.dtype(first.dtype), np.dtype(first.dtype).newbyteorder(tiff.byteorder)
        full = (*shape, channels) if channels > 1 else shape
        size = int(np.prod(full)) * dtype.itemsize
        if ratio := _DENSE.get(int(keyframe.compression)):
            check_dense(file, size * bits // (8 * dtype.itemsize), file.stat().st_size, ratio)
        extra = tuple(int(each) for each in keyframe.extrasamples or ())
        # how the sections lie in the file: a series or a page each, in one piece as they are, or packed all together
        is_by_page = len(chosen) == 1 and len(first.pages) == shape[0] and (shape[0] == 1 or where.z == 0)
        is_plain = len(chosen) == 1 and not is_by_page and keyframe.is_memmappable and channels == 1
        offset = first.dataoffset if is_plain else None
    is_packed = len(chosen) == 1 and not is_by_page and offset is None
    if is_packed:
        check_at_once(file, size, "a compressed volume in one piece")
    if photometric in (_WHITE_IS_ZERO, _PALETTE) and (dtype.kind not in "bu" or channels > 1):
        raise BadInput(f"{file}: {dtype} samples of which white is zero or a palette is said; save it as grey values")
    greys = greys_of(palette) if palette else None
    is_ramp = greys is not None and bool((greys == np.arange(len(greys))).all())
    if photometric == _WHITE_IS_ZERO:
        notes.append("turned round, as its PhotometricInterpretation is WhiteIsZero")
    if greys is not None and not is_ramp:
        notes.append("values are the greys of the palette, not the places in it")
    if orientation != 1:
        notes.append(f"turned upright, as the orientation tag {orientation} says")

    def stored(start: int, stop: int) -> NDArray[Any]:
        if offset is not None:
            values: Any = np.memmap(file, order, "r", offset, plain)
            return where.arranged(np.array(values[where.select(start, stop)], dtype))
        with tifffile.TiffFile(file, **_FLAGS) as tiff:
            if len(chosen) > 1:
                return np.stack([tiff.series[n].asarray() for n in chosen[start:stop]])
            series = tiff.series[chosen[0]]
            if is_by_page:
                return np.asarray(series.asarray(key=list(range(start, stop))))
            values = np.asarray(series.asarray())
            if channels > 1:
                return np.stack(
                    [where.arranged(values[..., c].reshape(plain)[where.select(start, stop)]) for c in range(channels)],
                    -1,
                )
            return where.arranged(values.reshape(plain)[where.select(start, stop)])

    def read(start: int, stop: int) -> NDArray[Any]:
        values = stored(start, stop).reshape(stop - start, *full[1:])
        if photometric == _WHITE_IS_ZERO:
            values = turned_round(values, bits)
        elif greys is not None and not is_ramp:
            values = looked_up(values, greys, file)
        return upright(values, orientation)

    return Stored(
        str(file),
        (shape[0], shape[2], shape[1]) if orientation >= 5 else shape,
        np.dtype(np.uint8) if greys is not None and not is_ramp else dtype,
        read,
        shape[0] if is_packed else together(full, dtype, per_slab(full, dtype)),
        channels=channels,
        has_alpha=channels in (2, 4) and extra[-1:] in ((1,), (2,)),
        bits=8 if palette else bits,
        palette=palette if greys is None else None,
        siblings=siblings,
        notes=notes,
    )


def _series(file: Path, tiff: Any) -> list[int]:
    """Return the places of the series that are read: one, or single pictures of one kind."""
    if not tiff.series:
        raise ValueError("no pages")
    chosen = [place for place, each in enumerate(tiff.series) if not each.keyframe.is_reduced] or [0]
    kinds = dict.fromkeys((tiff.series[n].shape, tiff.series[n].dtype, tiff.series[n].axes) for n in chosen)
    if len(kinds) > 1 or (len(chosen) > 1 and tiff.series[chosen[0]].axes not in ("YX", "YXS")):
        shapes = ", ".join(f"{dtype} {shape}" for shape, dtype, _ in kinds)
        raise BadInput(f"{file}: several volumes or pages of different kinds ({shapes}); save one stack")
    return chosen


def _meaning(file: Path, tiff: Any, chosen: Sequence[int]) -> tuple[int, int, int, Palette | None]:
    """Return photometric interpretation, orientation, bits per sample and palette, which all pages must share."""
    import tifffile

    tiff.pages.useframes = False
    read = [tiff.series[n].keyframe for n in chosen]
    pages = [each if isinstance(each, tifffile.TiffPage) else None for each in tiff.pages]
    found: dict[tuple[Any, ...], Any] = {}
    for page in (*read, *(each for each in pages if each is not None and not each.is_reduced)):
        colours = None if page.colormap is None else np.asarray(page.colormap)
        said = (
            int(page.photometric),
            _orientation(page),
            page.bitspersample,
            None if colours is None else colours.tobytes(),
        )
        found.setdefault(said, colours)
    if len(found) > 1:
        raise BadInput(
            f"{file}: pages differ in what their values mean (palette, white or black is zero); save one stack"
        )
    (photometric, orientation, bits, _), colours = next(iter(found.items()))
    if photometric == _YCBCR and int(read[0].compression) in _JPEG:
        photometric = _RGB
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE):
        name = getattr(read[0].photometric, "name", photometric)
        raise BadInput(f"{file}: samples of the kind {name}; save it as grey values or label values")
    if not 1 <= orientation <= 8:
        raise BadInput(f"{file}: orientation tag {orientation}; save it upright, without the tag")
    if not isinstance(bits, int):
        if len(set(bits)) > 1:
            raise BadInput(f"{file}: channels of {bits} bits; save it as grey values")
        bits = bits[0]
    palette = None
    if photometric == _PALETTE:
        if colours is None:
            raise BadInput(f"{file}: a palette is said but absent; save it as grey values or label values")
        # of 16 bits; some writers leave 0..255
        eight = colours >> 8 if int(colours.max()) > 255 else colours
        palette = tuple((int(r), int(g), int(b)) for r, g, b in eight.T)
    return photometric, orientation, int(bits), palette


def _orientation(page: Any) -> int:
    tag = page.tags.get(274)
    return 1 if tag is None else int(tag.value)


def _siblings(file: Path, tiff: Any) -> list[str]:
    """Return the other files that OME metadata name; refuse a file whose own sections cannot be told without them."""
    from xml.etree import ElementTree

    if not tiff.is_ome or not tiff.ome_metadata:
        return []
    root = ElementTree.fromstring(tiff.ome_metadata)
    mine = root.attrib.get("UUID")
    named: dict[str, None] = {}
    for each in root.iter():
        if each.tag.endswith("UUID") and each.text != mine and (name := each.attrib.get("FileName")):
            named[Path(name.replace("\\", "/")).name] = None
        if each.tag.endswith("BinaryOnly"):
            named[Path(each.attrib.get("MetadataFile", "companion.ome").replace("\\", "/")).name] = None
    named.pop(file.name, None)
    if named:
        pixels = [each for each in root.iter() if each.tag.endswith("Pixels")]
        planes = max((int(p.attrib.get("SizeC", 1)) * int(p.attrib.get("SizeT", 1)) for p in pixels), default=0)
        if len(tiff.pages) > 1 and planes != 1:
            raise BadInput(
                f"{file}: one of several files of a set with channels or points in time; save one stack (Z, Y, X)"
            )
    return list(named)


FORMAT = Format("TIFF", (".tif", ".tiff"), open_tiff)

"""PNG: grey, palette and colour pictures of 1 to 16 bits a sample.

Samples are as stored, 0..2**bits - 1 (Pillow scales those of 2 and 4 bits, and drops the low byte of 16-bit colours). A
palette of greys gives its greys; one of colours stays, as places of label values.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.readers.base import (
    DEFLATE,
    Format,
    Palette,
    Stored,
    check_dense,
    greys_of,
    looked_up,
    upright,
)

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By type of colour: grey, RGB, palette, grey and alpha, RGBA."""
_ORIENTATION = 274


def open_png(file: Path, inside: str | None = None) -> Stored:
    """Open a PNG file as one section; refuses transparent pixels and animations."""
    del inside
    width, height, bits, colour, chunks = _chunks(file)
    if b"acTL" in chunks:
        raise BadInput(f"{file}: an animation; save each picture as a file of its own")
    orientation = _orientation(chunks.get(b"eXIf", b""))
    clear = chunks.get(b"tRNS")
    palette = _palette(chunks.get(b"PLTE", b"")) if colour == 3 else None
    if not 1 <= orientation <= 8:
        raise BadInput(f"{file}: orientation tag {orientation}; save it upright, without the tag")
    channels = _CHANNELS[colour]
    check_dense(file, height * width * channels * bits // 8, file.stat().st_size, DEFLATE)
    greys = greys_of(palette) if palette else None
    is_ramp = greys is not None and (greys == np.arange(len(greys))).all()
    dtype = np.dtype(np.uint16 if bits == 16 else np.bool_ if bits == 1 and colour == 0 else np.uint8)
    notes = []
    if greys is not None and not is_ramp:
        notes.append("values are the greys of the palette, not the places in it")
    if orientation != 1:
        notes.append(f"turned upright, as the orientation tag {orientation} says")

    def read(start: int, stop: int) -> NDArray[Any]:
        del start, stop
        values = _samples(file, bits, colour)
        _check_opaque(file, values, clear, colour)
        if greys is not None and not is_ramp:
            values = looked_up(values, greys, file)
        return upright(values[None], orientation)

    turned = (width, height) if orientation >= 5 else (height, width)
    return Stored(
        str(file),
        (1, *turned),
        dtype,
        read,
        channels=channels,
        has_alpha=colour in (4, 6),
        bits=8 if colour == 3 else bits,
        palette=palette if greys is None else None,
        notes=notes,
    )


def _chunks(file: Path) -> tuple[int, int, int, int, dict[bytes, bytes]]:
    """Return width, height, bits per sample, type of colour, and the chunks that say what samples mean."""
    kept: dict[bytes, bytes] = {}
    with file.open("rb") as stream:
        if stream.read(8) != b"\x89PNG\r\n\x1a\n":
            raise ValueError("it does not begin like a PNG file")
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind in _KEPT and kind not in kept and length <= _LONGEST_CHUNK:
                kept[kind] = stream.read(length)
                stream.seek(4, 1)
            else:
                stream.seek(length + 4, 1)
    if len(kept.get(b"IHDR", b"")) < 10:
        raise ValueError("without a header")
    width, height, bits, colour = struct.unpack(">IIBB", kept[b"IHDR"][:10])
    if colour not in _CHANNELS or bits not in (1, 2, 4, 8, 16):
        raise ValueError(f"type of colour {colour}, {bits} bits")
    if not width or not height:
        raise BadInput(f"{file}: {height} x {width} pixels; it is empty")
    return width, height, bits, colour, kept


_KEPT, _LONGEST_CHUNK = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"acTL"), 2**20


def _orientation(exif: bytes) -> int:
    if not exif:
        return 1
    from PIL import Image

    tags = Image.Exif()
    tags.load(exif)
    return int(tags.get(_ORIENTATION, 1) or 1)


def _palette(flat: bytes) -> Palette:
    return tuple(zip(flat[0::3], flat[1::3], flat[2::3], strict=False))


def _samples(file: Path, bits: int, colour: int) -> NDArray[Any]:
    """Return the samples of a picture as stored: (Y, X), or (Y, X, C)."""
    if bits == 16 and colour != 0:
        import imagecodecs

        return np.asarray(imagecodecs.png_decode(file.read_bytes()))
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # what is too large for the memory was refused, as in any format
    with Image.open(file, formats=["PNG"]) as picture:
        values = np.asarray(picture)
    if colour == 0 and bits in (2, 4):
        return values // (255 // (2**bits - 1))
    if colour == 0 and bits == 16:
        return values.astype(np.uint16)
    return values


def _check_opaque(file: Path, values: NDArray[Any], clear: bytes | None, colour: int) -> None:
    """Refuse pixels that the chunk tRNS makes transparent."""
    if not clear:
        return
    if colour == 3:
        opacity = np.full(256, 255, np.uint8)
        opacity[: len(clear)] = np.frombuffer(clear[:256], np.uint8)
        is_clear = opacity[values] < 255
    else:
        key = np.frombuffer(clear[: len(clear) // 2 * 2], ">u2")
        is_clear = (values == key).all(-1) if colour == 2 and len(key) == 3 else values == key[0]
    if count := int(is_clear.sum()):
        raise BadInput(f"{file}: {count} pixels are transparent; save it without transparency")


FORMAT = Format("PNG", (".png",), open_png)

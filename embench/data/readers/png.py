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
from embench.errors import BadInput

_COLOURS, _CHANNELS = (
    {0: "grey", 2: "RGB", 3: "palette", 4: "grey and alpha", 6: "RGBA"},
    {0: 1, 2: 3, 3: 1, 4: 2, 6: 4},
)
_ORIENTATION = 274


def open_png(file: Path, inside: str | None = None) -> Stored:
    """Open a PNG file as one section; refuses transparent pixels and animations."""
    from PIL import Image

    del inside
    Image.MAX_IMAGE_PIXELS = None  # what is too large for the memory is refused below, whatever its format
    width, height, bits, colour = _head(file)
    with Image.open(file, formats=["PNG"]) as picture:
        if (count := getattr(picture, "n_frames", 1)) > 1:
            raise BadInput(f"{file}: an animation of {count} pictures; save each as a file of its own")
        orientation = int(picture.getexif().get(_ORIENTATION, 1) or 1)
        clear = picture.info.get("transparency")
        palette = _palette(picture.getpalette("RGB")) if colour == 3 else None
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


def _head(file: Path) -> tuple[int, int, int, int]:
    """Return width, height, bits per sample and type of colour."""
    with file.open("rb") as stream:
        head = stream.read(33)
    if head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
        raise ValueError("it does not begin like a PNG file")
    width, height, bits, colour = struct.unpack(">IIBB", head[16:26])
    if colour not in _COLOURS or bits not in (1, 2, 4, 8, 16):
        raise ValueError(f"type of colour {colour}, {bits} bits")
    return width, height, bits, colour


def _palette(flat: list[int] | None) -> Palette:
    values = flat or []
    return tuple(zip(values[0::3], values[1::3], values[2::3], strict=False))


def _samples(file: Path, bits: int, colour: int) -> NDArray[Any]:
    """Return the samples of a picture as stored: (Y, X), or (Y, X, C)."""
    if bits == 16 and colour != 0:
        import imagecodecs

        return np.asarray(imagecodecs.png_decode(file.read_bytes()))
    from PIL import Image

    with Image.open(file, formats=["PNG"]) as picture:
        values = np.asarray(picture)
    if colour == 0 and bits in (2, 4):
        return values // (255 // (2**bits - 1))
    if colour == 0 and bits == 16:
        return values.astype(np.uint16)
    return values


def _check_opaque(file: Path, values: NDArray[Any], clear: Any, colour: int) -> None:
    """Refuse pixels that the chunk tRNS makes transparent."""
    if clear is None:
        return
    if colour == 3:
        opacity = np.full(256, 255, np.uint8)
        if isinstance(clear, bytes):
            opacity[: len(clear)] = np.frombuffer(clear, np.uint8)
        else:
            opacity[clear] = 0
        is_clear = opacity[values] < 255
    elif colour == 2:
        is_clear = (values == np.asarray(clear, values.dtype)).all(-1)
    else:
        is_clear = values == clear
    if count := int(is_clear.sum()):
        raise BadInput(f"{file}: {count} pixels are transparent; save it without transparency")


FORMAT = Format("PNG", (".png",), open_png)

"""From what a file stores to uint8 grey values and label values (Z, Y, X)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.readers.base import Computed, Stored
from embench.data.task import Sections

_BLOCK = 2**20
"""Voxels converted at a time: the wider types they take on the way are then no matter of a section's size."""


def stack(volumes: Sequence[Stored], origin: str) -> Stored:
    """Return single pictures of one size and type as the sections of one volume, in the given order."""
    first = volumes[0]
    several = [each for each in volumes if each.shape[0] > 1]
    faults = [f"{each.origin}: {each.shape[0]} sections; expected one picture per file" for each in several]
    faults += [
        f"{each.origin}: {each.dtype} {each.shape[1:]} (YX), but {first.origin} is {first.dtype} {first.shape[1:]}"
        for each in volumes
        if each.shape[0] == 1 and (each.shape, each.dtype) != (first.shape, first.dtype)
    ]
    if faults:
        raise BadInput(faults)
    shape = (len(volumes), *first.shape[1:])
    return Stored(origin, shape, first.dtype, lambda start, _: volumes[start][0][None], voxel_size=first.voxel_size)


def grey(volume: Stored) -> Sections:
    """Return 8-bit grey sections as stored.

    Pictures with several channels are taken when every channel holds the same values.

    Raises
    ------
    BadInput
        At once for another dtype; on reading, for channels that differ.
    """
    _check_grey(volume)
    if volume.dtype != np.uint8:
        raise BadInput(
            f"{volume.origin}: {volume.dtype} grey values; images must be 8-bit, or say how to scale them: "
            "--grey-range auto (each volume's least and greatest value to 0 and 255) or --grey-range LOW,HIGH"
        )
    return Computed(volume.shape, lambda z: single_channel(volume[z], f"{volume.origin}, section {z}"))


def scaled(
    volume: Stored, low: float | None = None, high: float | None = None, notes: list[str] | None = None
) -> Sections:
    """Return grey values scaled so that ``low`` becomes 0 and ``high`` 255, fractions cut off (protocol 3, Guay).

    Parameters
    ----------
    volume : Stored
        Any integer or float type.
    low, high : float, optional
        Grey values; by default the least and the greatest of the volume, found by reading it once.
    notes : list of str, optional
        Told how many voxels were outside ``low..high`` and became 0 or 255.

    Raises
    ------
    BadInput
        NaN or infinite voxels, or a volume of one grey value.
    """
    _check_grey(volume)
    origin, depth = volume.origin, volume.shape[0]
    limits = (low, high) if low is not None and high is not None else None
    failure: BadInput | None = None

    def finite(z: int) -> NDArray[Any]:
        section = single_channel(volume[z], f"{origin}, section {z}")
        check_finite(section, f"{origin}, section {z}")
        return section

    def bounds() -> tuple[float, float]:
        nonlocal limits, failure
        if failure is not None:  # found in the first pass, which is not to be repeated for every section
            raise failure
        if limits is None:
            extremes: list[float] = []
            faults: list[str] = []
            for z in range(depth):
                try:
                    section = finite(z)
                    extremes += [float(section.min()), float(section.max())]
                except BadInput as error:
                    faults += error.lines
            if not faults and min(extremes) == max(extremes):
                faults.append(f"{origin}: all grey values are {extremes[0]:g}; nothing to scale, check the file")
            if faults:
                failure = BadInput(dict.fromkeys(faults))
                raise failure
            limits = min(extremes), max(extremes)
        return limits

    def section(z: int) -> NDArray[np.uint8]:
        least, most = bounds()
        outside = 0

        def scale(block: NDArray[Any]) -> NDArray[Any]:
            nonlocal outside
            values = (block.astype(np.float64) - least) / (most - least) * 255
            outside += int(((values < 0) | (values > 255)).sum())
            return values.clip(0, 255)

        made = _in_blocks(finite(z), scale)
        if outside and notes is not None:
            notes.append(f"{origin}, section {z}: {outside} voxels outside {least:g}..{most:g} became 0 or 255")
        return made

    return Computed(volume.shape, section)


def _check_grey(volume: Stored) -> None:
    if volume.is_indexed:
        raise BadInput(f"{volume.origin}: a picture with a palette of colours; save it as grey values")


def labels(volume: Stored, values: Sequence[int] | None = None) -> Sections:
    """Return label sections: the stored values themselves, or their places in ``values``.

    Parameters
    ----------
    volume : Stored
        Booleans, integers, or floats that hold whole numbers.
    values : sequence of int, optional
        The stored value of each class, in class order.

    Raises
    ------
    BadInput
        On reading: values that are fractional, outside 0..255 or not among ``values``, or coloured pictures.
    """

    def section(z: int) -> NDArray[np.uint8]:
        where = f"{volume.origin}, section {z}"
        found = single_channel(volume[z], where)
        if found.dtype == np.bool_:
            found = found.astype(np.uint8)
        known = np.arange(256) if values is None else np.asarray(values)
        if found.dtype == np.uint8:  # a table is much faster than a search
            table = np.zeros(256, np.uint8)
            strange = np.ones(256, bool)
            for place, value in enumerate(known):
                if 0 <= value <= 255:
                    table[value], strange[value] = place, False
            if strange[found].any():
                raise _strange_labels(found, known, where)
            return table[found]
        order = np.argsort(known)

        def places(block: NDArray[Any]) -> NDArray[Any]:
            at = np.searchsorted(known[order], block).clip(max=len(known) - 1)
            if (known[order][at] != block).any():
                raise _strange_labels(found, known, where)
            return order[at]

        return _in_blocks(found, places)

    return Computed(volume.shape, section)


def _in_blocks(section: NDArray[Any], convert: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[np.uint8]:
    """Return what ``convert`` makes of a section's voxels, as uint8, some voxels at a time."""
    values = section.reshape(-1)
    made = np.empty(values.shape, np.uint8)
    for start in range(0, values.size, _BLOCK):
        made[start : start + _BLOCK] = convert(values[start : start + _BLOCK])
    return made.reshape(section.shape)


def _strange_labels(found: NDArray[Any], known: NDArray[Any], where: str) -> BadInput:
    is_strange = _in_blocks(found, lambda block: ~np.isin(block, known)).view(np.bool_)
    strange, counts = np.unique(found[is_strange], return_counts=True)
    shown = ", ".join(f"{value:g} ({count} voxels)" for value, count in zip(strange[:5], counts[:5], strict=True))
    more = f" and {len(strange) - 5} further values" if len(strange) > 5 else ""
    expected = "0..255" if len(known) == 256 else ", ".join(map(str, known))
    return BadInput(f"{where}: label values {shown}{more}; expected {expected}")


def check_finite(section: NDArray[Any], where: str) -> None:
    """Raise :class:`BadInput` for NaN or infinite values."""
    if section.dtype.kind == "f" and (count := int((~np.isfinite(section)).sum())):
        raise BadInput(f"{where}: {count} voxels are NaN or infinite; mend or crop the image")


def single_channel(section: NDArray[Any], where: str) -> NDArray[Any]:
    """Return (Y, X) from (Y, X), or from (Y, X, C) with equal colour channels and an opaque alpha channel, if any."""
    if section.ndim == 2:
        return section
    channels = section.shape[-1]
    colours = section[..., : 3 if channels == 4 else 1 if channels == 2 else channels]
    full = np.iinfo(section.dtype).max if section.dtype.kind in "iu" else 1
    opaque = channels not in (2, 4) or (section[..., -1] == full).all()
    if not opaque or not (colours == colours[..., :1]).all():
        raise BadInput(f"{where}: a picture of {channels} different channels; save it as grey values or label values")
    return section[..., 0]

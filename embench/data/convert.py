"""Stored volumes as the uint8 sections of a prepared file: grey values and label values.

They are exact, or refused. Nothing is thresholded, clipped, scaled or resized unless a function is asked to, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.readers.base import Computed, Palette, Stored
from embench.data.task import Sections

_BLOCK = 2**20
"""Voxels converted at a time: the wider types they take on the way are then no matter of a section's size."""
_MANY = 20
"""Values from which on a mask looks as if it numbered objects."""


def stack(volumes: Sequence[Stored], origin: str) -> Stored:
    """Return single pictures of one size and type as the sections of one volume, in the given order."""
    first = volumes[0]
    several = [each for each in volumes if each.shape[0] > 1]
    faults = [f"{each.origin}: {each.shape[0]} sections; expected one picture per file" for each in several]
    faults += [
        f"{each.origin}: {each.dtype} {each.shape[1:]} (YX), but {first.origin} is {first.dtype} {first.shape[1:]}"
        for each in volumes
        if each.shape[0] == 1 and (each.shape, each.dtype, each.bits) != (first.shape, first.dtype, first.bits)
    ]
    if faults := faults or palette_faults(volumes):
        raise BadInput(faults)
    shape = (len(volumes), *first.shape[1:])
    return Stored(
        origin,
        shape,
        first.dtype,
        lambda start, _: plain_section(volumes[start], 0)[None],
        voxel_size=first.voxel_size,
        bits=first.bits,
        palette=first.palette,
        notes=tuple(dict.fromkeys(note for each in volumes for note in each.notes)),
    )


def palette_faults(volumes: Iterable[Stored]) -> list[str]:
    """Return a line per file whose palette gives a place another colour than the first palette does.

    Label values that are places in a palette mean the same in all files only if their colours do.
    """
    palettes: list[tuple[Stored, Palette]] = [(each, each.palette) for each in volumes if each.palette is not None]
    faults = []
    for each, palette in palettes[1:]:
        first, known = palettes[0]
        if differing := [place for place, (a, b) in enumerate(zip(known, palette, strict=False)) if a != b]:
            place = differing[0]
            faults.append(
                f"{each.origin}: its palette has {palette[place]} at place {place}, that of {first.origin} "
                f"{known[place]}; save masks with one palette, or as label values"
            )
    return faults


def plain_section(volume: Stored, z: int) -> NDArray[Any]:
    """Return section ``z`` as (Y, X): of several colour channels when they are equal, without an opaque alpha channel.

    Raises
    ------
    BadInput
        Channels that differ, or pixels that are not opaque.
    """
    section, where = volume[z], _where(volume, z)
    if section.ndim == 2:
        return section
    colours = section
    if volume.has_alpha:
        colours, alpha = section[..., :-1], section[..., -1]
        full = 2**volume.bits - 1 if section.dtype.kind in "ui" else 1
        if count := int((alpha != full).sum()):
            raise BadInput(
                f"{where}: a picture of {section.shape[-1]} different channels, the last of which (opacity) "
                f"leaves {count} pixels partly clear; save it as grey values or label values"
            )
    if not (colours == colours[..., :1]).all():
        raise BadInput(
            f"{where}: a picture of {section.shape[-1]} different channels; save it as grey values or label values"
        )
    return colours[..., 0]


def _where(volume: Stored, z: int) -> str:
    return f"{volume.origin}, section {z}"


# Grey values


def grey(volume: Stored) -> Sections:
    """Return 8-bit grey sections as stored.

    Pictures with several channels are taken when every channel holds the same values.

    Raises
    ------
    BadInput
        At once for samples that are not of 8 bits, or places in a palette of colours; on reading, for channels that
        differ.
    """
    check_not_indexed(volume)
    if volume.dtype != np.uint8 or volume.bits != 8:
        what = f"{volume.bits}-bit" if volume.dtype.kind in "bu" and volume.bits != 8 * volume.dtype.itemsize else ""
        raise BadInput(
            f"{volume.origin}: {what or volume.dtype} grey values; images must be 8-bit, or say how to scale them: "
            "--grey-range auto (each volume's least and greatest value to 0 and 255) or --grey-range LOW,HIGH"
        )
    return Computed(volume.shape, lambda z: plain_section(volume, z))


def check_not_indexed(volume: Stored) -> None:
    """Raise :class:`BadInput` for a palette of colours."""
    if volume.is_indexed:
        raise BadInput(f"{volume.origin}: a picture with a palette of colours; save it as grey values")


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
    check_not_indexed(volume)
    origin, depth = volume.origin, volume.shape[0]
    limits = (low, high) if low is not None and high is not None else None
    failure: BadInput | None = None

    def finite(z: int) -> NDArray[Any]:
        section = plain_section(volume, z)
        check_finite(section, _where(volume, z))
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
            notes.append(
                f"{PurePath(origin).name}, section {z}: {outside} voxels outside {least:g}..{most:g} became 0 or 255"
            )
        return made

    return Computed(volume.shape, section)


def check_finite(section: NDArray[Any], where: str) -> None:
    """Raise :class:`BadInput` for NaN or infinite values."""
    if section.dtype.kind == "f" and (count := int((~np.isfinite(section)).sum())):
        raise BadInput(f"{where}: {count} voxels are NaN or infinite; mend or crop the image")


# Label values


def label_section(volume: Stored, z: int) -> NDArray[Any]:
    """Return section ``z`` (Y, X) as the label values that it means, in the type of the file (booleans as 0 and 1).

    Places in a palette of colours are label values where black, if it occurs, is place 0.

    Raises
    ------
    BadInput
        Colours, clear pixels, places in a palette whose black is another place than 0.
    """
    found = plain_section(volume, z)
    if volume.palette is not None and volume.palette[0] != (0, 0, 0):
        black = [place for place, colour in enumerate(volume.palette) if colour == (0, 0, 0)]
        if used := np.intersect1d(found, black).tolist():
            raise BadInput(
                f"{_where(volume, z)}: a palette in which place 0 is {volume.palette[0]} and place {used[0]} is black; "
                "is the place or the colour the label? save it as label values"
            )
    return found.astype(np.uint8) if found.dtype == np.bool_ else found


def labels(volume: Stored, values: Sequence[int] | None = None, threshold: float | None = None) -> Sections:
    """Return label sections: the stored values themselves, or their places in ``values``.

    Parameters
    ----------
    volume : Stored
        Booleans, integers, or floats that hold whole numbers.
    values : sequence of int, optional
        The stored value of each class, in class order.
    threshold : float, optional
        Of two classes: what is above it becomes class 1, everything else class 0.

    Raises
    ------
    BadInput
        On reading: values that are fractional, outside 0..255 or not among ``values``, coloured pictures; with a
        threshold NaN.
    """
    known = np.arange(256) if values is None else np.asarray(values)

    def above(z: int) -> NDArray[np.uint8]:
        found = label_section(volume, z)
        check_finite(found, _where(volume, z))
        return (found > threshold).astype(np.uint8)

    def section(z: int) -> NDArray[np.uint8]:
        found = label_section(volume, z)
        if found.dtype == np.uint8:  # a table is much faster than a search
            table = np.zeros(256, np.uint8)
            strange = np.ones(256, bool)
            for place, value in enumerate(known):
                if 0 <= value <= 255:
                    table[value], strange[value] = place, False
            if strange[found].any():
                raise _strange_labels(found, known, volume, z)
            return table[found]
        order = np.argsort(known)

        def places(block: NDArray[Any]) -> NDArray[Any]:
            at = np.searchsorted(known[order], block).clip(max=len(known) - 1)
            if (known[order][at] != block).any():
                raise _strange_labels(found, known, volume, z)
            return order[at]

        return _in_blocks(found, places)

    return Computed(volume.shape, section if threshold is None else above)


def _in_blocks(section: NDArray[Any], convert: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[np.uint8]:
    """Return what ``convert`` makes of a section's voxels, as uint8, some voxels at a time."""
    values = section.reshape(-1)
    made = np.empty(values.shape, np.uint8)
    for start in range(0, values.size, _BLOCK):
        made[start : start + _BLOCK] = convert(values[start : start + _BLOCK])
    return made.reshape(section.shape)


def _strange_labels(found: NDArray[Any], known: NDArray[Any], volume: Stored, z: int) -> BadInput:
    is_strange = _in_blocks(found, lambda block: ~np.isin(block, known)).view(np.bool_)
    strange, counts = np.unique(found[is_strange], return_counts=True)
    shown = ", ".join(f"{value:g} ({count} voxels)" for value, count in zip(strange[:5], counts[:5], strict=True))
    more = f" and {len(strange) - 5} further values" if len(strange) > 5 else ""
    expected = "0..255" if len(known) == 256 else ", ".join(map(str, known))
    notes = f" ({'; '.join(volume.notes)})" if volume.notes else ""
    return BadInput(f"{_where(volume, z)}: label values {shown}{more}{notes}; expected {expected}")


def label_advice(strange: Iterable[float], known: Sequence[int], dtype: np.dtype[Any]) -> str:
    """Return what to do about values that are no labels, to be appended to what says them; empty when there is no more.

    Parameters
    ----------
    strange : iterable of float
        The values that are not expected.
    known : sequence of int
        Those that are, by class.
    dtype : numpy.dtype
        As stored.
    """
    values = sorted(set(strange))
    if len(known) == 2 and values == [255]:
        return "a mask of 0 and 255: 255 is the second class"
    if any(value != int(value) for value in values if np.isfinite(value)):
        return "probabilities or resampled labels: write the label of each voxel"
    if values and min(values) >= 0 and (len(values) > _MANY or max(values) > 255) and _is_numbering(values):
        return "it looks like a number per object: write the class of every object (1 for all of one kind)"
    if dtype == np.uint8 and len(values) > 4:
        return "antialiased, compressed with loss, or grey values: write the label of each voxel"
    return ""


def _is_numbering(values: Sequence[float]) -> bool:
    """Whether whole numbers follow each other without gaps but do not fill 0..255, or are too large for grey values."""
    return values[-1] > 255 or (values[-1] < 240 and len(values) >= 0.9 * (values[-1] - values[0] + 1))

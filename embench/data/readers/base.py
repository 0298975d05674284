"""What every reader gives: a stored volume, what its voxels mean, and the limits within which foreign files are read.

What a voxel means is never dropped. A reader either applies what its format says of that, or refuses the file:

- byte order, scale factors, bits per sample and a palette of greys: values are those that the format defines;
- white is zero: values are turned round, so that white is the greatest;
- orientation tags: rows and columns are turned as the tag says;
- named axes: (Z, Y, X) whatever their order in the file; axes of length 1 are dropped, channels are refused;
- a palette of colours, an alpha channel, several colour channels: told to whoever asks for grey or label values
  (:mod:`embench.data.convert`).

A reader never leaves the file that it was given.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput

Shape = tuple[int, int, int]
VoxelSize = tuple[float, float, float]
Palette = tuple[tuple[int, int, int], ...]
"""Red, green, blue (0..255) by stored value."""

ANY_SIZE = "EMBENCH_ANY_SIZE"
"""Environment variable that ``--any-size`` sets, for this process and its children: no limits that follow from the
memory."""

_UNCHECKED = 2**28
"""Bytes; up to this a declared size needs no data behind it."""
_SLAB = 2**27
"""Bytes of sections read at a time, where reading them together saves work."""
_SECTION_SHARE = 4
"""What is read at once may take one in so many parts of the memory."""
_VOLUME_MULTIPLE = 64
"""A volume may be so many times as large as the memory."""

NANOMETRES = {
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "micrometer", "micrometre"), 1e3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e6),
    **dict.fromkeys(("angstrom", "Å", "A"), 0.1),
}


@dataclass(frozen=True)
class Format:
    """A file format: what its files are called and how one is opened.

    Parameters
    ----------
    name : str
    suffixes : tuple of str
        Lower case, the most common first.
    open : callable
        ``open(file, inside)`` returns a :class:`Stored`; ``inside`` may name a volume in a file of several.
    is_folder, has_inside : bool
        Whether it is a folder on disk, and whether it may hold several volumes.
    """

    name: str
    suffixes: tuple[str, ...]
    open: Callable[[Path, str | None], Stored]
    is_folder: bool = False
    has_inside: bool = False


class Stored:
    """A volume as its file defines it.

    Parameters
    ----------
    origin : str
        The file, for messages.
    shape : (int, int, int)
        ZYX.
    dtype : numpy.dtype
        Of the values, in the byte order of this machine.
    read : callable
        ``read(start, stop)`` returns sections (Z, Y, X), or (Z, Y, X, C) for colours; opens and closes the file.
    together : int
        Sections that are best read at once: they are kept until the next ones are asked for.
    voxel_size : tuple of float or None
        ZYX nanometres, where the file states them with their unit.
    channels : int
        Of a coloured picture, alpha included; 1 otherwise.
    has_alpha : bool
        Whether the last channel is one of opacity.
    bits : int
        Of a sample: integers are 0..2**bits - 1. By default those of the type.
    palette : tuple of (int, int, int) or None
        Colours of the values, where they are places in a palette of colours: fit for labels, not for grey.
    orientation : str or None
        How the header of a NIfTI or NRRD file lays out x, y and z in the world, as in ``RAS``; voxels are in the order
        in which they are stored, so that an image and its mask must agree in it.
    siblings : tuple of str
        Other files that this one names as parts of the same volume. They are not opened.
    notes : tuple of str
        What the format says of its values that was applied, in words.
    """

    def __init__(
        self,
        origin: str,
        shape: Shape,
        dtype: np.dtype[Any],
        read: Callable[[int, int], NDArray[Any]],
        together: int = 1,
        voxel_size: VoxelSize | None = None,
        *,
        channels: int = 1,
        has_alpha: bool = False,
        bits: int | None = None,
        palette: Palette | None = None,
        orientation: str | None = None,
        siblings: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        depth, height, width = shape
        dtype = np.dtype(dtype).newbyteorder("=")
        if dtype.kind not in "biuf":
            raise BadInput(f"{origin}: voxels of type {dtype}; expected numbers")
        check_size(origin, shape, dtype.itemsize * channels)
        self.origin, self.shape, self.dtype, self.voxel_size = origin, shape, dtype, voxel_size
        self.channels, self.has_alpha, self.palette = channels, has_alpha, palette
        self.bits = bits or (1 if dtype.kind == "b" else 8 * dtype.itemsize)
        self.orientation, self.siblings, self.notes = orientation, tuple(siblings), tuple(notes)
        self._read, self.together = read, max(1, min(together, depth))
        self._start, self._slab = 0, np.empty((0, height, width), dtype)

    @property
    def is_indexed(self) -> bool:
        """Whether values are places in a palette of colours."""
        return self.palette is not None

    def __getitem__(self, z: int) -> NDArray[Any]:
        """Return section ``z``, (Y, X) or (Y, X, C)."""
        if not self._start <= z < self._start + len(self._slab):
            start = z - z % self.together
            with reading(self.origin):
                self._slab = self.slab(start, min(start + self.together, self.shape[0]))
            self._start = start
        section = self._slab[z - self._start]
        if z == self.shape[0] - 1:  # nothing is held after the last section
            self._start, self._slab = 0, self._slab[:0]
        return section

    def slab(self, start: int, stop: int) -> NDArray[Any]:
        """Return sections ``start..stop``, (Z, Y, X) or (Z, Y, X, C)."""
        found = self._read(start, stop)
        if found.dtype.newbyteorder("=") == self.dtype:
            found = found.astype(self.dtype, copy=False)
        if found.shape[:3] != (stop - start, *self.shape[1:]) or found.dtype != self.dtype:
            held, said = f"{found.dtype} {found.shape[1:]}", f"{self.dtype} {self.shape[1:]}"
            raise BadInput(f"{self.origin}: holds {held} where it says {said}; export it again")
        return found

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[z] for z in range(self.shape[0]))


@contextmanager
def reading(origin: object) -> Iterator[None]:
    """Turn whatever a parser raises on a broken file into :class:`BadInput` naming the file."""
    try:
        yield
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # parsers of foreign formats raise anything
        said = next(iter(str(error).splitlines()), "")
        if isinstance(error, OSError) and "unable to lock file" in str(error):
            raise BadInput(
                f"{origin}: open for writing in another program; close it there, then run this again"
            ) from None
        reason = f"{type(error).__name__}: {said}"
        raise BadInput(f"{origin}: cannot be read ({reason}); {_advice(error)}") from error


def _advice(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "give yourself the permission to read it"
    if isinstance(error, ImportError):
        return "install what it needs, or save it without that compression"
    return "it is cut short, damaged, or not of the format that its name says: save or copy it again"


def size_on_disk(file: Path) -> int:
    """Return the bytes of a file, or of all files in a folder (Zarr); refuse what is neither, and links in a folder."""
    if not file.exists():
        raise BadInput(f"{file}: no such file")
    total = 0
    for each in (*file.rglob("*"), file) if file.is_dir() else (file,):
        mode = each.stat().st_mode if each == file else each.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise BadInput(f"{each}: a symbolic link inside {file.name}; refused")
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise BadInput(f"{each}: a pipe or a device; refused")
        total += each.stat().st_size if stat.S_ISREG(mode) else 0
    return total


# Limits


@cache
def memory() -> int:
    """Return the bytes of memory that this process may count on: of the machine, or of its control group."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found = min(found, int(Path(place).read_text()))
        except (OSError, ValueError):
            continue
    return found


def is_any_size() -> bool:
    """Whether ``--any-size`` was given."""
    return bool(os.environ.get(ANY_SIZE))


def check_size(origin: object, shape: Sequence[int], voxel: int) -> None:
    """Raise :class:`BadInput` where a section is too large for the memory, or a volume absurd beside it.

    Parameters
    ----------
    origin : object
    shape : sequence of int
        ZYX.
    voxel : int
        Bytes of one, all channels.
    """
    depth, height, width = (int(n) for n in shape)
    check_at_once(origin, height * width * voxel, f"sections of {height} x {width} voxels")
    total, most = depth * height * width * voxel, _VOLUME_MULTIPLE * memory()
    if total > most and not is_any_size():
        raise BadInput(
            f"{origin}: declares {depth} x {height} x {width} voxels, {_gib(total)}; over {_gib(most)}, "
            f"{_VOLUME_MULTIPLE} times the memory here; --any-size takes it all the same"
        )


def check_at_once(origin: object, size: int, what: str) -> None:
    """Raise :class:`BadInput` where ``size`` bytes have to be in memory at once and are too many for it."""
    if size > memory() // _SECTION_SHARE and not is_any_size():
        raise BadInput(
            f"{origin}: declares {what}, {_gib(size)} at once; over {_gib(memory() // _SECTION_SHARE)}, a quarter of "
            "the memory here; --any-size takes it all the same"
        )


def check_dense(origin: object, declared: int, stored: int, ratio: int = 1) -> None:
    """Raise :class:`BadInput` where a file stores fewer bytes than its voxels can be compressed to.

    Parameters
    ----------
    origin : object
    declared, stored : int
        Bytes: of the voxels, and of the file.
    ratio : int
        What its compression can reach: 1 for none, 1,032 for deflate.
    """
    if declared > _UNCHECKED and declared > ratio * stored:
        raise BadInput(
            f"{origin}: declares {declared} bytes of voxels but stores {stored}, too few to hold them; "
            "cut short or not what it says"
        )


DEFLATE = 1032
"""The most bytes that one byte of deflate stands for."""


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def together(shape: Sequence[int], dtype: np.dtype[Any], wanted: int) -> int:
    """Return how many sections to read at once: ``wanted``, unless they would not fit into a slab."""
    section = int(np.prod(shape[1:])) * dtype.itemsize
    return max(1, min(wanted, 4 * _SLAB // max(1, section)))


def per_slab(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Return how many sections fill a slab."""
    return max(1, _SLAB // (int(np.prod(shape[1:])) * dtype.itemsize))


# Axes


@dataclass(frozen=True)
class Axes:
    """Which axes of an array are z, y and x.

    Parameters
    ----------
    shape : (int, int, int)
        ZYX.
    z, y, x : int or None
        Places in the array; ``None`` for z in a single picture.
    ndim : int
        Of the array; further axes have length 1.
    """

    shape: Shape
    z: int | None
    y: int
    x: int
    ndim: int

    def select(self, start: int, stop: int) -> tuple[slice | int, ...]:
        """Return what selects some sections from the array; :meth:`arranged` puts the outcome in order."""
        where: list[slice | int] = [0] * self.ndim
        where[self.y] = where[self.x] = slice(None)
        if self.z is not None:
            where[self.z] = slice(start, stop)
        return tuple(where)

    def arranged(self, found: NDArray[Any]) -> NDArray[Any]:
        """Return what :meth:`select` selected as (Z, Y, X)."""
        kept = sorted(place for place in (self.z, self.y, self.x) if place is not None)
        order = [kept.index(place) for place in (self.z, self.y, self.x) if place is not None]
        turned = found.transpose(order)
        return turned if self.z is not None else turned[None]

    def in_zyx(self, per_axis: Sequence[float]) -> tuple[float, ...]:
        """Return a fact per axis of the array, such as its chunks, in order of z (1 without one), y, x."""
        return (1 if self.z is None else per_axis[self.z], per_axis[self.y], per_axis[self.x])


def find_axes(origin: object, shape: Sequence[int], names: Sequence[str] | None = None) -> Axes:
    """Find z, y and x among the axes of an array.

    Parameters
    ----------
    origin : object
        For messages.
    shape : sequence of int
        Of the array, as stored.
    names : sequence of str, optional
        A letter or word per axis: x, y, z, c or channel, t or time, ... Without them axes of length 1 are dropped
        until three are left, which are z, y and x.

    Returns
    -------
    Axes

    Raises
    ------
    BadInput
        An empty axis, several channels, more than three axes that are longer than 1.
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) < 2 or min(shape) < 1:
        raise BadInput(f"{origin}: shape {shape}; expected two or three axes, none empty")
    long = [place for place, n in enumerate(shape) if n > 1]
    if names is None:
        kept = list(range(len(shape))) if len(shape) <= 3 else long
        if not 2 <= len(kept) <= 3:
            raise BadInput(
                f"{origin}: shape {shape}; expected two or three axes that are longer than 1: save it as (Z, Y, X)"
            )
        z = kept[0] if len(kept) == 3 else None
        y, x = kept[-2:]
    else:
        letters = [name.strip().lower() for name in names]
        if len(letters) != len(shape) or letters.count("y") != 1 or letters.count("x") != 1 or letters.count("z") > 1:
            raise BadInput(f"{origin}: axes {', '.join(letters)} of shape {shape}; expected x, y and at most one z")
        y, x = letters.index("y"), letters.index("x")
        z = letters.index("z") if "z" in letters else None
        others = [place for place in long if place not in (z, y, x)]
        if (z is None or shape[z] == 1) and len(others) == 1 and letters[others[0]] not in _CHANNELS:
            z, others = others[0], []  # sections that were saved as points in time, or as an axis of no meaning
        if others:
            said = ", ".join(f"{letters[place]} ({shape[place]})" for place in others)
            raise BadInput(
                f"{origin}: axes {said} beside x, y and z; save one channel and one point in time as (Z, Y, X)"
            )
    depth = 1 if z is None else shape[z]
    return Axes((depth, shape[y], shape[x]), z, y, x, len(shape))


_CHANNELS = ("c", "channel", "channels", "s", "sample")


# Meanings that readers share


def turned_round(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return samples of ``bits`` bits, of which 0 is white, so that 0 is black."""
    return ~values if values.dtype.kind == "b" else (2**bits - 1 - values).astype(values.dtype)


def greys_of(palette: Palette) -> NDArray[np.uint8] | None:
    """Return the grey value of every place of a palette; ``None`` when some are colours."""
    colours = np.asarray(palette, np.uint8).reshape(-1, 3)
    return colours[:, 0].copy() if len(colours) and (colours == colours[:, :1]).all() else None


def looked_up(places: NDArray[Any], greys: NDArray[np.uint8], origin: object) -> NDArray[np.uint8]:
    """Return the grey values of places in a palette."""
    if places.size and int(places.max()) >= len(greys):
        raise BadInput(f"{origin}: value {int(places.max())} with a palette of {len(greys)}; save it as grey values")
    return greys[places]


def upright(section: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return (Z, Y, X[, C]) sections turned as the tag Orientation (1..8, TIFF 6.0 and EXIF) says."""
    if orientation >= 5:
        section = section.swapaxes(1, 2)
    # which edges of the picture the first row and the first column of the file are
    if orientation in (3, 4, 7, 8):
        section = section[:, ::-1]
    if orientation in (2, 3, 6, 7):
        section = section[:, :, ::-1]
    return section


def orientation_of(directions: NDArray[Any]) -> str | None:
    """Return where the axes x, y, z of an array point in the world (R/L, A/P, S/I), as in ``RAS``.

    Parameters
    ----------
    directions : ndarray of float
        (3, 3): a row per axis of the array, in right-anterior-superior coordinates.
    """
    if directions.shape != (3, 3) or not np.isfinite(directions).all():
        return None
    main = np.abs(directions).argmax(1)
    if sorted(main) != [0, 1, 2]:
        return None
    return "".join(("RL", "AP", "SI")[axis][int(directions[place, axis] < 0)] for place, axis in enumerate(main))


@dataclass(frozen=True)
class Computed:
    """Sections made by a function of their number.

    Parameters
    ----------
    shape : (int, int, int)
        ZYX.
    section : callable
        ``section(z)`` returns uint8 (Y, X).
    """

    shape: Shape
    section: Callable[[int], NDArray[np.uint8]]

    def __getitem__(self, z: int) -> NDArray[np.uint8]:
        return self.section(z)

"""What a reader gives: a volume whose sections are read when they are asked for, its voxel size, its limits."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput

Shape = tuple[int, int, int]
VoxelSize = tuple[float, float, float]
Convert = Callable[[NDArray[Any]], NDArray[np.uint8]]

_LARGEST_SECTION = 2**31
"""Bytes; a file that declares more is broken or hostile."""
_UNCHECKED = 2**28
"""Bytes; up to this a declared size needs no data behind it."""
_LARGEST_RATIO = 10_000
"""Of declared to stored bytes above that; no real image compresses so well."""
_SLAB = 2**27
"""Bytes of sections read at a time, where reading them together saves work."""
_INSIDE = re.compile(r"(?P<file>.*\.(?:h5|hdf5|hdf|zarr))(?::(?P<inside>.+))?", re.IGNORECASE)


class Stored:
    """A volume as its file holds it.

    Parameters
    ----------
    origin : str
        The file, for messages.
    shape : (int, int, int)
        ZYX.
    dtype : numpy.dtype
        As stored.
    read : callable
        ``read(start, stop)`` returns sections (Z, Y, X), or (Z, Y, X, C) for colours; opens and closes the file.
    together : int
        Sections that are best read at once: they are kept until the next ones are asked for.
    voxel_size : tuple of float or None
        ZYX nanometres, where the file states them with their unit.
    is_indexed : bool
        Whether values are places in a palette of other colours: fit for labels, not for grey.
    channels : int
        Of a coloured picture; 1 otherwise.
    """

    def __init__(
        self,
        origin: str,
        shape: Shape,
        dtype: np.dtype[Any],
        read: Callable[[int, int], NDArray[Any]],
        together: int = 1,
        voxel_size: VoxelSize | None = None,
        is_indexed: bool = False,
        channels: int = 1,
    ) -> None:
        depth, height, width = shape
        if dtype.kind not in "biuf":
            raise BadInput(f"{origin}: voxels of type {dtype}; expected numbers")
        if height * width * dtype.itemsize * channels > _LARGEST_SECTION:
            said = f"{height} x {width} {dtype}" + (f" with {channels} channels" if channels > 1 else "")
            raise BadInput(f"{origin}: declares sections of {said}; over {_LARGEST_SECTION} bytes")
        self.origin, self.shape, self.dtype, self.voxel_size = origin, shape, dtype, voxel_size
        self.is_indexed, self.channels = is_indexed, channels
        self._read, self.together = read, max(1, min(together, depth))
        self._start, self._slab = 0, np.empty((0, height, width), dtype)

    def __getitem__(self, z: int) -> NDArray[Any]:
        """Return section ``z``, (Y, X) or (Y, X, C), as stored."""
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
        """Return sections ``start..stop``, (Z, Y, X) or (Z, Y, X, C), as stored."""
        found = self._read(start, stop)
        if found.shape[:3] != (stop - start, *self.shape[1:]) or found.dtype != self.dtype:
            held, said = f"{found.dtype} {found.shape[1:]}", f"{self.dtype} {self.shape[1:]}"
            raise BadInput(f"{self.origin}: holds {held} where it says {said}; export it again")
        return found

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[z] for z in range(self.shape[0]))


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


@contextmanager
def reading(origin: object) -> Iterator[None]:
    """Turn whatever a parser raises on a broken file into :class:`BadInput` naming the file."""
    try:
        yield
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # parsers of foreign formats raise anything
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise BadInput(f"{origin}: cannot be read ({reason}); fetch or export it again") from error


def stored_size(file: Path) -> int:
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


def split_inside(path: Path) -> tuple[Path, str | None]:
    """Split ``file.h5:inside``."""
    match = _INSIDE.fullmatch(str(path))
    if path.exists() or match is None:
        return path, None
    return Path(match["file"]), match["inside"]


def check_declared(origin: object, declared: int, stored: int) -> None:
    """Raise :class:`BadInput` where a file declares far more bytes of voxels than it can hold."""
    if declared > _UNCHECKED and declared > _LARGEST_RATIO * stored:
        raise BadInput(f"{origin}: declares {declared} bytes of voxels but stores {stored}; broken or hostile, refused")


def sections_at_once(shape: Sequence[int], dtype: np.dtype[Any], wanted: int) -> int:
    """Return how many sections to read at once: ``wanted``, unless they would not fit into a slab."""
    section = int(np.prod(shape[1:])) * dtype.itemsize
    return max(1, min(wanted, 4 * _SLAB // max(1, section)))


def sections_per_slab(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    return max(1, _SLAB // (int(np.prod(shape[1:])) * dtype.itemsize))


def as_zyx(origin: object, shape: Sequence[int]) -> Shape:
    """Return the ZYX shape of a two- or three-dimensional array."""
    if len(shape) not in (2, 3) or 0 in shape:
        raise BadInput(f"{origin}: shape {tuple(shape)}; expected two or three axes, none empty")
    depth, height, width = shape if len(shape) == 3 else (1, *shape)
    return int(depth), int(height), int(width)


NANOMETRES = {"nm": 1.0, "nanometer": 1.0, "nanometre": 1.0, "um": 1e3, "µm": 1e3, "micron": 1e3, "micrometer": 1e3}


def only_one(file: Path, names: list[str]) -> str:
    if len(names) != 1:
        example = names[0] if names else "PATH"
        raise BadInput(f"{file}: expected one volume, found {names or 'none'}; name it: {file.name}:{example}")
    return names[0]

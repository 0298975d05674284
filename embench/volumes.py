"""Readers: an image file of any supported format as a stored volume (Z, Y, X), read a few sections at a time.

A :class:`Stored` volume gives sections exactly as the file holds them. :func:`grey` and :func:`labels` turn one into
the uint8 sections of a prepared file; they refuse what has no exact counterpart there. Nothing is thresholded,
clipped, scaled or resized unless a function is asked to, by name.

Files come from strangers, and their parsers crash: :func:`open_volume` reads in a child process with limits
(:mod:`embench.guarded`).

Formats: PNG, TIFF (one or many pages), NIfTI, NRRD, HDF5, OME-Zarr. NIfTI and NRRD store X first and are turned to ZYX;
flips and orientations in their headers are not applied: voxels are taken as stored.
"""

from __future__ import annotations

import os
import re
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench import guarded
from embench.errors import BadInput
from embench.task import Sections, Split

SUFFIXES = (".png", ".tif", ".tiff", ".nii", ".nii.gz", ".nrrd", ".h5", ".hdf5", ".hdf", ".zarr")
"""What :func:`open_volume` reads, by the end of a file's name (``.zarr`` is a folder)."""

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
_BLOCK = 2**20
"""Voxels converted at a time: the wider types they take on the way are then no matter of a section's size."""
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


def is_image(path: Path) -> bool:
    """Whether :func:`open_volume` reads files of this name."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """Return the name of a file without its (possibly double) suffix."""
    name = path.name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorting key in which ``slice2`` comes before ``slice10``."""
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


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


def open_volume(path: Path) -> Stored:
    """Open a file as a volume; its header is read, its voxels are not.

    Parameters
    ----------
    path : Path
        One of :data:`SUFFIXES`. Inside HDF5 and Zarr the volume may be named: ``file.h5:volumes/raw``; without a name
        it must be the only one.

    Returns
    -------
    Stored
        (Z, Y, X); a single picture has Z = 1.

    Raises
    ------
    BadInput
        Absent, unreadable, of another format, not two- or three-dimensional, or of absurd declared size.
    """
    file, _ = _parts(path)
    size = _size(file)
    facts = guarded.call(_header, str(path), where=path, size=size)
    shape, dtype = tuple(facts["shape"]), np.dtype(facts["dtype"])
    section = int(np.prod(shape[1:])) * dtype.itemsize * facts["channels"]

    def read(start: int, stop: int) -> NDArray[Any]:
        needed = size + (stop - start) * section
        return guarded.call(_voxels, str(path), start, stop, where=facts["origin"], size=needed)

    voxel_size = tuple(facts["voxel_size"]) if facts["voxel_size"] else None
    more = {key: facts[key] for key in ("origin", "together", "is_indexed", "channels")}
    return Stored(shape=shape, dtype=dtype, read=read, voxel_size=voxel_size, **more)


def _size(file: Path) -> int:
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


# In the child


_OPENED: OrderedDict[tuple[str, int, int], Stored] = OrderedDict()
_MOST_OPENED = 16


def _header(path: str) -> dict[str, Any]:
    volume = _opened(path)
    return {
        "origin": volume.origin,
        "shape": volume.shape,
        "dtype": volume.dtype.str,
        "together": volume.together,
        "voxel_size": volume.voxel_size,
        "is_indexed": volume.is_indexed,
        "channels": volume.channels,
    }


def _voxels(path: str, start: int, stop: int) -> NDArray[Any]:
    volume = _opened(path)
    with reading(volume.origin):
        return volume.slab(start, stop)


def _opened(path: str) -> Stored:
    """Open a volume here, or take it from those opened last; none is held open."""
    about = os.stat(_parts(Path(path))[0])
    key = (path, about.st_mtime_ns, about.st_size)
    if key not in _OPENED:
        _OPENED[key] = _open(Path(path))
        while len(_OPENED) > _MOST_OPENED:
            _OPENED.popitem(last=False)
    _OPENED.move_to_end(key)
    return _OPENED[key]


def _open(path: Path) -> Stored:
    """Open a volume in this very process."""
    file, inside = _parts(path)
    name = file.name.lower()
    with reading(path):
        if name.endswith(".png"):
            return _png(file)
        if name.endswith((".tif", ".tiff")):
            return _tiff(file)
        if name.endswith((".nii", ".nii.gz")):
            return _nifti(file)
        if name.endswith(".nrrd"):
            return _nrrd(file)
        if name.endswith((".h5", ".hdf5", ".hdf")):
            return _hdf5(file, inside)
        if name.endswith(".zarr"):
            return _zarr(file, inside)
    raise BadInput(f"{path}: not a known image format; use one of {', '.join(SUFFIXES)}")


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


def _parts(path: Path) -> tuple[Path, str | None]:
    """Split ``file.h5:inside``."""
    match = _INSIDE.fullmatch(str(path))
    if path.exists() or match is None:
        return path, None
    return Path(match["file"]), match["inside"]


def check_declared(origin: object, declared: int, stored: int) -> None:
    """Raise :class:`BadInput` where a file declares far more bytes of voxels than it can hold."""
    if declared > _UNCHECKED and declared > _LARGEST_RATIO * stored:
        raise BadInput(f"{origin}: declares {declared} bytes of voxels but stores {stored}; broken or hostile, refused")


def _together(shape: Sequence[int], dtype: np.dtype[Any], wanted: int) -> int:
    """Return how many sections to read at once: ``wanted``, unless they would not fit into a slab."""
    section = int(np.prod(shape[1:])) * dtype.itemsize
    return max(1, min(wanted, 4 * _SLAB // max(1, section)))


def _per_slab(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    return max(1, _SLAB // (int(np.prod(shape[1:])) * dtype.itemsize))


def _zyx(origin: object, shape: Sequence[int]) -> Shape:
    """Return the ZYX shape of a two- or three-dimensional array."""
    if len(shape) not in (2, 3) or 0 in shape:
        raise BadInput(f"{origin}: shape {tuple(shape)}; expected two or three axes, none empty")
    depth, height, width = shape if len(shape) == 3 else (1, *shape)
    return int(depth), int(height), int(width)


def _png(file: Path) -> Stored:
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


def _tiff(file: Path) -> Stored:
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
        shape = _zyx(file, plain if written_one_by_one == 1 else (written_one_by_one, *plain))
        dtype = np.dtype(series.dtype)
        pages = len(series.pages)
        check_declared(file, int(np.prod(series.shape)) * dtype.itemsize, file.stat().st_size)
    full = (*shape, colours) if colours > 1 else shape
    together = _together(full, dtype, _per_slab(full, dtype))

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


def _nifti(file: Path) -> Stored:
    import nibabel

    image: Any = nibabel.load(file)
    plain = list(image.shape[:3])
    if any(n != 1 for n in image.shape[3:]):
        raise BadInput(f"{file}: shape {image.shape}; expected three axes")
    shape = _zyx(file, plain[::-1])
    slope, inter = image.dataobj.slope, image.dataobj.inter
    dtype = np.dtype(image.get_data_dtype()) if (slope, inter) == (1.0, 0.0) else np.dtype(np.float64)
    check_declared(file, int(np.prod(shape)) * dtype.itemsize, file.stat().st_size)
    is_compressed = file.name.lower().endswith(".gz")
    tail = (0,) * (len(image.shape) - 3)

    def read(start: int, stop: int) -> NDArray[Any]:
        data: Any = nibabel.load(file).dataobj
        where = (slice(None), slice(None), slice(start, stop), *tail)[: max(2, len(image.shape))]
        return np.asanyarray(data[where]).reshape(shape[2], shape[1], stop - start).transpose(2, 1, 0)

    together = shape[0] if is_compressed else _together(shape, dtype, _per_slab(shape, dtype))
    return Stored(str(file), shape, dtype.newbyteorder("="), read, together)


_NANOMETRES = {"nm": 1.0, "nanometer": 1.0, "nanometre": 1.0, "um": 1e3, "µm": 1e3, "micron": 1e3, "micrometer": 1e3}


def _nrrd(file: Path) -> Stored:
    import nrrd

    with file.open("rb") as stream:
        header = nrrd.read_header(stream)
    sizes = [int(n) for n in header["sizes"]]
    shape = _zyx(file, sizes[::-1])
    if "data file" in header or "datafile" in header:
        raise BadInput(f"{file}: its voxels are in another file; save it with the header attached")
    dtype = np.dtype(nrrd.reader._determine_datatype(header))
    check_declared(file, int(np.prod(shape)) * dtype.itemsize, file.stat().st_size)

    def read(start: int, stop: int) -> NDArray[Any]:
        voxels, _ = nrrd.read(str(file), index_order="C")
        return voxels.reshape(shape)[start:stop]

    return Stored(str(file), shape, dtype.newbyteorder("="), read, shape[0], _nrrd_voxel_size(header))


def _nrrd_voxel_size(header: Any) -> VoxelSize | None:
    units = header.get("space units")
    directions = header.get("space directions")
    if units is None or directions is None or len(directions) != 3 or any(unit not in _NANOMETRES for unit in units):
        return None
    lengths = np.linalg.norm(np.asarray(directions, float), axis=1) * [_NANOMETRES[unit] for unit in units]
    x, y, z = (float(length) for length in lengths)
    return z, y, x


def _hdf5(file: Path, inside: str | None) -> Stored:
    import h5py

    with h5py.File(file, "r") as root:
        name = inside or _only(file, list(hdf5_volumes(root, file)))
        dataset = hdf5_dataset(root, name, file)
        shape, dtype = _zyx(f"{file}:{name}", dataset.shape), dataset.dtype
        if dtype.kind not in "biuf":
            raise BadInput(f"{file}:{name}: {dtype}; expected numbers")
        check_declared(f"{file}:{name}", dataset.size * dtype.itemsize, dataset.id.get_storage_size())
        chunk = dataset.chunks[0] if dataset.chunks and dataset.ndim == 3 else 1
        resolution = dataset.attrs.get("resolution")
    voxel_size = None
    if resolution is not None and np.shape(resolution) == (3,):  # CREMI: nanometres, ZYX
        voxel_size = tuple(map(float, resolution))

    def read(start: int, stop: int) -> NDArray[Any]:
        with h5py.File(file, "r") as root:
            data = root[name]
            return data[start:stop] if data.ndim == 3 else data[:][None]

    return Stored(f"{file}:{name}", shape, dtype, read, _together(shape, dtype, chunk), voxel_size)  # type: ignore[arg-type]


def hdf5_volumes(root: Any, file: Path) -> Iterator[str]:
    """Yield the path of every two- or three-dimensional numeric dataset; refuse links to other files."""
    import h5py

    waiting = [("", root)]
    seen = {h5py.h5o.get_info(root.id).addr}
    while waiting:
        path, group = waiting.pop()
        for key in group:
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise BadInput(f"{file}: {path}/{key} is a link to another file ({link.filename}); refused")
            if isinstance(link, h5py.SoftLink):
                continue
            found = group[key]
            address = h5py.h5o.get_info(found.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(found, h5py.Group):
                waiting.append((f"{path}/{key}", found))
            elif isinstance(found, h5py.Dataset) and found.ndim in (2, 3) and found.dtype.kind in "biuf":
                yield f"{path}/{key}"


def hdf5_dataset(root: Any, name: str, file: Path) -> Any:
    """Return a dataset by path; refuse anything whose voxels are not in this very file."""
    import h5py

    group: Any = root
    for part in name.strip("/").split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            raise BadInput(f"{file}: no dataset {name}; it holds {', '.join(hdf5_volumes(root, file)) or 'none'}")
        if isinstance(link, h5py.ExternalLink):
            raise BadInput(f"{file}: {name} is a link to another file ({link.filename}); refused")
        group = group[part]
    if not isinstance(group, h5py.Dataset):
        raise BadInput(f"{file}: {name} is a group; name a dataset: {', '.join(hdf5_volumes(root, file)) or 'none'}")
    if group.external or group.is_virtual:
        raise BadInput(f"{file}: the voxels of {name} are in other files; refused")
    return group


def _only(file: Path, names: list[str]) -> str:
    if len(names) != 1:
        example = names[0] if names else "PATH"
        raise BadInput(f"{file}: expected one volume, found {names or 'none'}; name it: {file.name}:{example}")
    return names[0]


def _zarr(folder: Path, inside: str | None) -> Stored:
    import zarr

    root: Any = zarr.open(str(folder), mode="r")
    scales: list[dict[str, Any]] | None = None
    if inside is None and isinstance(root, zarr.Group):
        attributes: Any = dict(root.attrs)
        scales = attributes.get("ome", attributes).get("multiscales")
        if scales:
            inside = scales[0]["datasets"][0]["path"]
        else:
            members = root.members(max_depth=None)
            inside = _only(folder, sorted(name for name, each in members if isinstance(each, zarr.Array)))
    array: Any = root[inside] if inside is not None else root
    if not isinstance(array, zarr.Array):
        raise BadInput(f"{folder}: {inside} is a group; name an array inside it")
    lead = len(array.shape) - 3
    if lead > 0 and any(n != 1 for n in array.shape[:lead]):
        raise BadInput(f"{folder}: shape {array.shape}; expected one channel and one time point")
    shape = _zyx(folder, array.shape[max(0, lead) :])
    dtype = np.dtype(array.dtype)
    _check_codecs(folder, array)
    check_declared(folder, int(np.prod(shape)) * dtype.itemsize, _size(folder))

    def read(start: int, stop: int) -> NDArray[Any]:
        where = (0,) * max(0, lead) + ((slice(start, stop),) if lead >= 0 else ())
        return np.asarray(array[where]).reshape(stop - start, *shape[1:])

    chunk = array.chunks[lead] if lead >= 0 else 1
    voxel_size = _zarr_voxel_size(scales[0]) if scales else None
    return Stored(str(folder), shape, dtype, read, _together(shape, dtype, chunk), voxel_size)


_CODECS = {
    *("bytes", "endian", "transpose", "sharding_indexed", "crc32c", "crc32", "adler32", "fletcher32", "bitround"),
    *("blosc", "gzip", "zlib", "zstd", "lz4", "bz2", "lzma", "shuffle", "delta", "packbits", "quantize"),
    *("fixedscaleoffset", "astype"),
}
"""What may stand between the bytes of a chunk and its voxels; some others (``pickle``) run what they are given."""


def _check_codecs(folder: Path, array: Any) -> None:
    waiting: list[Any] = [array.metadata.to_dict()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [inner for key, inner in value.items() if key not in ("attributes", "fill_value")]
            codec = value.get("id") or ("configuration" in value and value.get("name"))
            if isinstance(codec, str) and codec not in _NO_CODECS:
                name = codec.removeprefix("numcodecs.").lower()
                if name not in _CODECS:
                    raise BadInput(f"{folder}: voxels behind the codec {codec[:80]!r}, which is not used here; refused")
        elif isinstance(value, list | tuple):
            waiting += value
        elif hasattr(value, "to_dict"):
            waiting.append(value.to_dict())
        elif hasattr(value, "get_config"):
            waiting.append(value.get_config())


_NO_CODECS = {"regular", "default", "v2"}
"""Names of what else has a configuration in Zarr's metadata: grids of chunks and ways of naming them."""


def _zarr_voxel_size(scale: dict[str, Any]) -> VoxelSize | None:
    axes = scale.get("axes", [])
    steps = [each["scale"] for each in scale["datasets"][0].get("coordinateTransformations", []) if "scale" in each]
    space = [place for place, axis in enumerate(axes) if isinstance(axis, dict) and axis.get("type") == "space"]
    units = [axes[place].get("unit") for place in space]
    if len(space) != 3 or not steps or any(unit not in _NANOMETRES for unit in units):
        return None
    z, y, x = (float(steps[0][place]) * _NANOMETRES[unit] for place, unit in zip(space, units, strict=True))
    return z, y, x


@dataclass(frozen=True)
class Listing:
    """The files below a folder, found by the end of their path; links out of the folder are not followed.

    Parameters
    ----------
    root : Path
        A folder. Symbolic links directly inside it are followed (that is how several sources are joined), none below.
    """

    root: Path
    files: tuple[Path, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise BadInput(f"{self.root}: no such folder")
        found: list[Path] = []
        for top in sorted(self.root.iterdir()):
            if _is_junk(top.name):
                continue
            if top.is_file():
                found.append(top)
            for folder, folders, names in os.walk(top):
                folders[:] = sorted(name for name in folders if not _is_junk(name))
                found += [Path(folder) / name for name in sorted(names) if not _is_junk(name)]
        object.__setattr__(self, "files", tuple(found))

    def find(self, *tails: str) -> Path | None:
        """Return the one file whose path ends in the first of ``tails`` that any does; ``None`` without one.

        Raises
        ------
        BadInput
            When several do.
        """
        for tail in tails:
            parts = tuple(tail.split("/"))
            found = [file for file in self.files if self._inner(file)[-len(parts) :] == parts]
            if len(found) > 1:
                raise BadInput(f"{self.root}: several {tail}: {', '.join(map(str, found))}; keep one")
            if found:
                return found[0]
        return None

    def within(self, *tails: str) -> list[Path]:
        """Return the files directly inside the one folder whose path ends in the first of ``tails`` that any does."""
        for tail in tails:
            parts = tuple(tail.split("/"))
            found = [file for file in self.files if self._inner(file)[-len(parts) - 1 : -1] == parts]
            if len(folders := {file.parent for file in found}) > 1:
                raise BadInput(f"{self.root}: several folders {tail}: {', '.join(map(str, sorted(folders)))}; keep one")
            if found:
                return sorted(found, key=natural)
        return []

    def _inner(self, file: Path) -> tuple[str, ...]:
        return (self.root.resolve().name, *file.relative_to(self.root).parts)


def _is_junk(name: str) -> bool:
    """Whether a file manager left it behind."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def pair(images: Iterable[Path], masks: Iterable[Path], key: Callable[[Path], str] = stem) -> list[tuple[Path, Path]]:
    """Pair image and mask files by ``key``, in natural order of the images.

    Raises
    ------
    BadInput
        One line per file without partner, and per key that two files share.
    """
    faults: list[str] = []
    sides: list[dict[str, Path]] = []
    for what, files in (("image", images), ("mask", masks)):
        side: dict[str, Path] = {}
        for file in files:
            if key(file) in side:
                faults.append(f"{file}: a second {what} for {key(file)!r}, beside {side[key(file)].name}; keep one")
            side[key(file)] = file
        sides.append(side)
    ours, theirs = sides
    faults += [f"{ours[name]}: no mask for {name!r}" for name in sorted(ours.keys() - theirs)]
    faults += [f"{theirs[name]}: no image for {name!r}" for name in sorted(theirs.keys() - ours)]
    if faults:
        raise BadInput(faults)
    return [(ours[name], theirs[name]) for name in sorted(ours, key=lambda name: natural(ours[name]))]


def pair_folders(
    listing: Listing,
    folders: Iterable[tuple[Split, Sequence[str], Sequence[str]]],
    key: Callable[[Path], str] = stem,
) -> list[tuple[Split, Path, Path]]:
    """Pair the images and masks of each split.

    Parameters
    ----------
    listing : Listing
    folders : iterable of (split, image folders, mask folders)
        Folders as in :meth:`Listing.within`: alternatives, the first that is there counts.
    key : callable
        What an image and its mask have in common.

    Raises
    ------
    BadInput
        One line per folder without pictures and per file without partner.
    """
    faults: list[str] = []
    pairs: list[tuple[Split, Path, Path]] = []
    for split, *both in folders:
        images, masks = ([file for file in listing.within(*tails) if is_image(file)] for tails in both)
        for files, tails in zip((images, masks), both, strict=True):
            if not files:
                faults.append(f"{listing.root}: no pictures in {tails[0]}")
        if images and masks:
            try:
                pairs += [(split, image, mask) for image, mask in pair(images, masks, key)]
            except BadInput as error:
                faults += error.lines
    if faults:
        raise BadInput(faults)
    return pairs

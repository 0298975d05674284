"""CEM500K: half a million 224 x 224 patches of many tissues, without labels, for pre-training (protocol 2)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core import sandbox
from embench.core.errors import BadInput
from embench.data.duplicates import KNOWN_OVERLAP
from embench.data.listing import Listing
from embench.data.patches import SIDE, padded
from embench.data.readers.base import Computed, reading
from embench.data.task import Dataset, Item, UnlabelledSet

SUFFIXES = (".tif", ".tiff")
_LARGEST_MEMBER = 2**22
"""Bytes; 80 times a patch."""


class PatchFiles:
    """The patches in a folder or a zip archive, in order of name; nothing is unpacked.

    Parameters
    ----------
    source : Path

    Raises
    ------
    BadInput
        Neither a folder nor a zip archive, no .tif or .tiff files in it, or, one line each, archive entries that are
        encrypted, far larger than a patch, or of a name that occurs twice.
    """

    def __init__(self, source: Path) -> None:
        self.source, self.is_zip = source, source.is_file()
        if self.is_zip:
            self.names = self._entries()
        else:
            listing = Listing(source)
            self.names = [str(file.relative_to(source)) for file in listing.files if file.suffix.lower() in SUFFIXES]
        self.names.sort()
        if not self.names:
            raise BadInput(f"{source}: no {' or '.join(SUFFIXES)} files; give the folder or archive of the patches")

    def _entries(self) -> list[str]:
        if not zipfile.is_zipfile(self.source):
            raise BadInput(f"{self.source}: neither a folder nor a zip archive")
        names, faults = [], []
        with reading(self.source):
            members = _archive(self.source).infolist()
        for member in members:
            if not member.filename.lower().endswith(SUFFIXES) or "__MACOSX" in member.filename:
                continue
            if member.flag_bits & 1:
                faults.append(f"{self.source}: entry {member.filename!r} is encrypted; unpack it and give the folder")
            if member.file_size > _LARGEST_MEMBER:
                faults.append(f"{self.source}: entry {member.filename!r} is of {member.file_size} bytes; not a patch")
            names.append(member.filename)
        if len(set(names)) < len(names):
            faults += [f"{self.source}: entry {name!r} occurs twice" for name in set(names) if names.count(name) > 1]
        if faults:
            raise BadInput(faults)
        return names

    def __len__(self) -> int:
        return len(self.names)

    def facts(self, start: int, stop: int) -> Any:
        """Return names, sizes and times (in an archive: check sums) of some files."""
        if self.is_zip:
            members = [_archive(self.source).getinfo(name) for name in self.names[start:stop]]
            return [(member.filename, member.file_size, member.CRC) for member in members]
        stats = [(name, (self.source / name).stat()) for name in self.names[start:stop]]
        return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8] | BadInput]:
        """Yield the patches ``start..stop``, (Y, X), or what is wrong with one."""
        for name in self.names[start:stop]:
            try:
                yield self._read(name)
            except BadInput as error:
                yield error

    def _read(self, name: str) -> NDArray[np.uint8]:
        where = f"{self.source}: entry {name}" if self.is_zip else str(self.source / name)
        with reading(where):
            file = _archive(self.source).read(name) if self.is_zip else str(self.source / name)
        return sandbox.call(_patch, file, where, where=where)


def _patch(file: str | bytes, where: str) -> NDArray[np.uint8]:
    """Read a patch (Y, X) from a file or its content; for :func:`embench.core.sandbox.call`."""
    from PIL import Image

    source: Any = io.BytesIO(file) if isinstance(file, bytes) else file
    with reading(where), Image.open(source, formats=["TIFF"]) as picture:
        mode, (width, height), pages = picture.mode, picture.size, getattr(picture, "n_frames", 1)
        if mode != "L" or pages > 1:
            found = f"{pages} pages" if pages > 1 else f"mode {mode}"
            raise BadInput(f"{where}: {found}; expected one 8-bit grey picture")
        if width > SIDE or height > SIDE:
            raise BadInput(f"{where}: {height} x {width}; expected at most {SIDE} x {SIDE}; cut it with --tiles")
        return np.asarray(picture)


@cache
def _archive(source: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(source)  # once per process: half a million entries take seconds to list


def pack(sources: Sequence[Path], path: Path, spec: UnlabelledSet) -> None:
    """Pack the patches of one folder or zip archive; see :func:`embench.data.packing.pack`."""
    from embench.data import packing

    if len(sources) != 1:
        raise BadInput(f"{spec.name}: give one --source, the folder or zip archive that holds the patches")
    packing.pack(path, spec, PatchFiles(sources[0]), {"source": [sources[0].name]})


def read(source: Path | None, name: str) -> Iterator[Item]:
    """Yield the one volume (N, 224, 224) that :func:`pack` writes faster."""
    assert source is not None
    patches = PatchFiles(source)

    def section(z: int) -> NDArray[np.uint8]:
        (found,) = patches.read(z, z + 1)
        if isinstance(found, BadInput):
            raise found
        return padded(found)

    yield Item("train", "patches", Computed((len(patches), SIDE, SIDE), section), origin=str(source))


DATASET = Dataset(
    name="cem500k",
    tasks=(),
    unlabelled=(
        UnlabelledSet(
            name="cem500k",
            title=f"CEM500K ({KNOWN_OVERLAP['cem500k'].removeprefix('CEM500K ')})",
            dataset="cem500k",
            modality="many",
            citation="""@article{conrad2021cem500k,
  title = {CEM500K, a large-scale heterogeneous unlabeled cellular electron microscopy image dataset for deep learning},
  author = {Conrad, Ryan and Narayan, Kedar},
  journal = {eLife}, volume = {10}, year = {2021}, doi = {10.7554/eLife.65894}
}""",
            homepage="https://www.ebi.ac.uk/empiar/EMPIAR-10592",
        ),
    ),
    read=read,
    pack=pack,
)

"""Which files of a folder are images, in which order, and which mask belongs to which image."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embench.core.errors import BadInput
from embench.data.task import Split

SUFFIXES = (".png", ".tif", ".tiff", ".nii", ".nii.gz", ".nrrd", ".h5", ".hdf5", ".hdf", ".zarr")
"""What :func:`open_volume` reads, by the end of a file's name (``.zarr`` is a folder)."""


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

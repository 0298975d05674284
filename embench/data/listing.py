"""The image files of a folder, and which image belongs to which mask: one rule for whoever takes a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

from embench.core.errors import BadInput
from embench.data.readers.open import SUFFIXES, find_format
from embench.data.task import Split

Pairing = Literal["name", "number"]


def natural(path: Path | str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorting key in which ``slice2`` comes before ``Slice10``: numbers by value, letters whatever their case."""
    parts = re.split(r"(\d+)", str(path).casefold())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts], str(path)


def is_junk(name: str) -> bool:
    """Whether a file manager left it behind, or it is hidden."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def is_image(path: Path) -> bool:
    """Whether :func:`embench.data.readers.open.open_volume` reads files of this name."""
    return not is_junk(path.name) and find_format(path.name) is not None


def stem(path: Path) -> str:
    """Return the name of a file without its (possibly double) suffix."""
    name = path.name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


@dataclass(frozen=True)
class ImageFiles:
    """What a folder holds.

    Parameters
    ----------
    root : Path
    files : tuple of Path
        Those of a format that is read, in natural order.
    unread : tuple of Path
        Other files, but for junk.
    """

    root: Path
    files: tuple[Path, ...]
    unread: tuple[Path, ...]

    @property
    def note(self) -> str | None:
        """A line that says how many files are not read, by the ends of their names; ``None`` without any."""
        if not self.unread:
            return None
        counts: dict[str, int] = {}
        for file in self.unread:
            kind = file.suffix.lower() or "(no suffix)"
            counts[kind] = counts.get(kind, 0) + 1
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        examples = ", ".join(file.name for file in self.unread[:3]) + (", ..." if len(self.unread) > 3 else "")
        total = len(self.files) + len(self.unread)
        return f"{self.root}: {len(self.unread)} of {total} files are not read ({kinds}): {examples}"


def list_images(folder: Path, *, below: bool = False) -> ImageFiles:
    """Return the image files of a folder, and with ``below`` of every folder in it.

    Raises
    ------
    BadInput
        No such folder, a folder that cannot be read, or none that is an image.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    files: list[Path] = []
    unread: list[Path] = []

    def refuse(error: OSError) -> None:
        raise BadInput(f"{error.filename}: cannot be read ({error.strerror}); give yourself the permission") from None

    for parent, folders, names in os.walk(folder, onerror=refuse):
        here = Path(parent)
        images = [name for name in folders if is_image(here / name)]
        files += [here / name for name in images]
        folders[:] = sorted(name for name in folders if not is_junk(name) and name not in images) if below else []
        for name in names:
            if not is_junk(name):
                (files if is_image(here / name) else unread).append(here / name)
    if not files:
        raise BadInput(f"{folder}: no images; expected {', '.join(SUFFIXES)}{_instead(unread)}")
    return ImageFiles(folder, tuple(sorted(files, key=natural)), tuple(sorted(unread, key=natural)))


def _instead(unread: Sequence[Path]) -> str:
    kinds = sorted({file.suffix.lower() for file in unread if file.suffix})
    return f"; it holds {', '.join(kinds[:5])}: convert these" if kinds else ""


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
            if is_junk(top.name):
                continue
            if top.is_file():
                found.append(top)
            for folder, folders, names in os.walk(top):
                folders[:] = sorted(name for name in folders if not is_junk(name))
                found += [Path(folder) / name for name in sorted(names) if not is_junk(name)]
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


def pair(images: Iterable[Path], masks: Iterable[Path], key: Callable[[Path], str] = stem) -> list[tuple[Path, Path]]:
    """Pair image and mask files by ``key``, in natural order of the images.

    Raises
    ------
    BadInput
        One line per file without partner, and per key that two files share.
    """
    return _paired(images, masks, key, key)


def _paired(
    images: Iterable[Path], masks: Iterable[Path], image_key: Callable[[Path], str], mask_key: Callable[[Path], str]
) -> list[tuple[Path, Path]]:
    faults: list[str] = []
    sides: list[dict[str, Path]] = []
    for what, files, key in (("image", images, image_key), ("mask", masks, mask_key)):
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


def pair_as_asked(
    images: Sequence[Path], masks: Sequence[Path], how: str = "name", mask_suffix: str | None = None
) -> list[tuple[Path, Path]]:
    """Pair image and mask files of a user.

    Parameters
    ----------
    images, masks : sequence of Path
        Of one folder each, or both of one folder: then masks are those whose names end in ``mask_suffix``.
    how : {"name", "number"}
        By name, or by the numbers in their names that differ from file to file.
    mask_suffix : str, optional
        What the name of a mask has behind that of its image, as in ``_mask``.

    Raises
    ------
    BadInput
        One line per file without partner; when no name fits another at all, one line that says what would pair them.
    """
    if how not in ("name", "number"):
        raise BadInput(f"--pair {how}: use name or number")
    if mask_suffix is not None:
        if set(images) & set(masks):
            images = [file for file in images if not stem(file).endswith(mask_suffix)]
        masks = [file for file in masks if stem(file).endswith(mask_suffix)]
        if not masks:
            raise BadInput(f"--mask-suffix {mask_suffix}: no mask has a name that ends so")
    if how == "number":
        image_keys, mask_keys = numbers_of(images), numbers_of(masks)
        return _paired(images, masks, lambda file: image_keys[file], lambda file: mask_keys[file])
    cut = len(mask_suffix or "")
    names = {stem(file) for file in images}
    bare = {stem(file)[: len(stem(file)) - cut] for file in masks}
    if images and masks and (names.isdisjoint(bare) or set(images) & set(masks)) and (hint := _hint(images, masks)):
        raise BadInput(hint)
    return _paired(images, masks, stem, lambda file: stem(file)[: len(stem(file)) - cut])


def numbers_of(files: Sequence[Path]) -> dict[Path, str]:
    """Return, by file, the numbers in its name, but for those that all names share.

    Raises
    ------
    BadInput
        A name without a number, or with another count of numbers than the first one's.
    """
    found = {file: [int(each) for each in re.findall(r"\d+", stem(file))] for file in files}
    counts = {file: len(numbers) for file, numbers in found.items()}
    first = next(iter(counts.values()), 0)
    if odd := [
        f"{file}: {n} numbers in its name, {files[0].name} has {first}" for file, n in counts.items() if n != first
    ]:
        raise BadInput([f"{line}; --pair number needs as many in each" for line in odd])
    if files and not first:
        raise BadInput(f"{files[0]}: no number in its name; --pair number needs one")
    columns = [n for n in range(first) if len(files) == 1 or len({numbers[n] for numbers in found.values()}) > 1]
    return {file: "-".join(str(numbers[n]) for n in columns) for file, numbers in found.items()}


def _hint(images: Sequence[Path], masks: Sequence[Path]) -> str | None:
    """Return what would pair files of which no names are equal, when something does."""
    names = {stem(file) for file in images}
    both = set(images) & set(masks)
    suffixes = {stem(mask)[len(name) :] for mask in masks for name in names if stem(mask).startswith(name)} - {""}
    for suffix in sorted(suffixes, key=len):
        rest = {stem(mask)[: -len(suffix)] for mask in masks if stem(mask).endswith(suffix)}
        wanted = {name for name in names if not name.endswith(suffix)} if both else names
        if rest == wanted:
            example = next(mask for mask in masks if stem(mask).endswith(suffix))
            return f"{example}: masks are called NAME{suffix} where images are called NAME; add --mask-suffix {suffix}"
    if both:
        return None
    try:
        image_numbers, mask_numbers = numbers_of(images), numbers_of(masks)
    except BadInput:
        return None
    ours, theirs = list(image_numbers.values()), list(mask_numbers.values())
    if sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours):
        return (
            f"{masks[0]}: no mask is called like an image ({images[0].name}), but their numbers fit; "
            "add --pair number, or give them the names of the images"
        )
    return None


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


def gaps(files: Sequence[Path]) -> list[str]:
    """Return a line per place where numbers are missing in a series of files, in natural order."""
    faults: list[str] = []
    for before, after in pairwise(files):
        ours, theirs = (re.split(r"(\d+)", stem(file)) for file in (before, after))
        if len(ours) != len(theirs) or len(ours) < 3:
            continue
        places = [n for n in range(len(ours)) if ours[n].casefold() != theirs[n].casefold()]
        if len(places) == 1 and places[0] % 2 and int(theirs[places[0]]) - int(ours[places[0]]) > 1:
            first, last = int(ours[places[0]]) + 1, int(theirs[places[0]]) - 1
            missing = str(first) if first == last else f"{first}..{last}"
            faults.append(f"{before.parent}: {missing} is missing between {before.name} and {after.name}")
    return faults

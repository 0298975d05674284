"""Anyone's own images and masks as a task, without code: what they are is said on the command line.

Nothing about the files is guessed or mended: masks hold the values that the classes name, images are 8-bit or scaled as
asked, every image has its mask. The task is stored with the data and is then like any other.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embench.core import paths
from embench.core.errors import BadInput
from embench.core.names import check_name
from embench.data import catalog, store
from embench.data.convert import grey, labels, scaled, stack
from embench.data.listing import SUFFIXES, is_image, natural, pair, stem
from embench.data.readers.base import Computed, Stored
from embench.data.readers.open import open_volume
from embench.data.task import SPLITS, Item, Scoring, Sections, Split, Task

Planes = Literal["2d", "stack", "orthoplane"]
DATASET = "own"
"""What :attr:`embench.data.task.Task.dataset` says of such tasks."""
ITERATIONS = 2500
"""Default budget: that of most published tasks."""
_LARGEST_CROP = 512


@dataclass(frozen=True)
class OwnData:
    """What the user says about the files.

    Parameters
    ----------
    name : str
        Of the task.
    classes : str
        ``value:name`` for each value that masks hold, background first: ``0:background,1:er``.
    images, masks : Path or None
        A folder or one file each. Files are paired by name; one image and one mask need not be.
    source : Path or None
        Instead of both, a folder with ``train``, ``test`` and perhaps ``valid``, each with ``images`` and ``masks``.
    split : str
        ``last-20%``: the last fifth of the files (of the sections, when there is one volume) are the test split. Or
        a .csv file: columns ``name,split``, and for sections of a volume also ``first,last`` (from 0, inclusive).
    scoring : {"2d", "stack", "orthoplane"}
        For the latter two, single pictures are the sections of one volume, in order of their names.
    voxel_size : str or None
        ``z,y,x`` in nanometres.
    grey_range : str or None
        How images that are not 8-bit become so: ``auto`` or ``LOW,HIGH`` (:func:`embench.data.convert.scaled`).
    """

    name: str
    classes: str
    images: Path | None = None
    masks: Path | None = None
    source: Path | None = None
    split: str = "last-20%"
    scoring: str = "2d"
    voxel_size: str | None = None
    grey_range: str | None = None


@dataclass(frozen=True)
class _Pair:
    """An image with its mask; ``split`` where the folders say it."""

    name: str
    image: Stored
    mask: Stored
    split: Split | None = None


@dataclass(frozen=True)
class _Part:
    """Sections ``start..stop`` of a pair that belong to a split."""

    split: Split
    pair: _Pair
    start: int
    stop: int


def prepare(asked: OwnData, folder: Path | None = None, *, force: bool = False) -> tuple[str, Path, bool]:
    """Prepare a task from the user's files.

    Parameters
    ----------
    asked : OwnData
    folder : Path, optional
        Of prepared files.
    force : bool
        Replace what was prepared under this name from other files or settings.

    Returns
    -------
    (str, Path, bool)
        Name, prepared file, and whether it was written now.

    Raises
    ------
    BadInput
        One line per fault of the settings or of the files; nothing is written.
    """
    check_name(asked.name, "--name")
    if catalog.is_registered(asked.name):
        raise BadInput(f"--name {asked.name}: a built-in task or data set is called so; choose another")
    values, names = _classes(asked.classes)
    if asked.scoring not in get_args(Planes):
        raise BadInput(f"--scoring {asked.scoring}: use {', '.join(get_args(Planes))}")
    scoring = Scoring(asked.scoring, classes=tuple(range(1, len(names))))  # type: ignore[arg-type]
    limits = _limits(asked.grey_range)
    pairs = _pairs(asked, scoring)
    parts = _parts(pairs, asked)
    task = Task(
        name=asked.name,
        title=asked.name,
        dataset=DATASET,
        classes=names,
        scoring=scoring,
        iterations=ITERATIONS,
        crop=_crop(pairs, scoring),
        training_axes=scoring.axes,
        voxel_size=_voxel_size(asked.voxel_size) or _stored_voxel_size(pairs),
    )
    card = _card(asked, values)
    path = paths.prepared_path(asked.name, folder)
    if path.exists() and not force:
        with store.Prepared(path) as before:
            if before.spec == task and {key: before.card.get(key) for key in card} == card:
                return asked.name, path, False
        raise BadInput(f"{path}: prepared from other files or settings; add --force to replace it")
    try:
        store.write(path, task, _items(parts, values, asked.grey_range is not None, limits), card)
    except BadInput as error:
        if any(": label values" in line for line in error.lines):
            hint = "--classes names the values as masks hold them, as in 0:background,255:er; nothing is thresholded"
            raise BadInput([*error.lines[:-1], f"{error.lines[-1]}; {hint}"]) from None
        raise
    return asked.name, path, True


def _items(
    parts: Sequence[_Part], values: Sequence[int], is_scaled: bool, limits: tuple[float, float] | None
) -> list[Item]:
    notes: list[str] = []
    faults: list[str] = []
    images: dict[int, Sections] = {}
    for part in parts:
        try:
            if id(part.pair) not in images:
                image = part.pair.image
                images[id(part.pair)] = _scaled(image, limits, notes) if is_scaled else grey(image)
        except BadInput as error:
            faults += error.lines
    if faults:
        raise BadInput(dict.fromkeys(faults))
    items = []
    for part in parts:
        depth, height, width = part.pair.image.shape
        whole = (part.start, part.stop) == (0, depth)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", part.pair.name)
        shape = (part.stop - part.start, height, width)
        items.append(
            Item(
                part.split,
                name if whole else f"{name}-z{part.start:04d}-{part.stop - 1:04d}",
                Computed(shape, partial(_later, images[id(part.pair)], part.start)),
                Computed(shape, partial(_later, labels(part.pair.mask, values), part.start)),
                part.pair.mask.origin,
                notes,
            )
        )
    return items


def _scaled(image: Stored, limits: tuple[float, float] | None, notes: list[str]) -> Sections:
    low, high = limits or (None, None)
    return scaled(image, low, high, notes)


def _later(volume: Sections, start: int, z: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(volume[start + z])


def _classes(text: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the stored value and the name of each class."""
    found = [re.fullmatch(r"\s*(-?\d+)\s*:\s*(\S(?:.*\S)?)\s*", each) for each in text.split(",")]
    if not all(found):
        raise BadInput(f"--classes {text}: write value:name,value:name, background first, as in 0:background,1:er")
    values = tuple(int(each[1]) for each in found if each)
    names = tuple(each[2] for each in found if each)
    if len(names) < 2 or len(names) > 255:
        raise BadInput(
            f"--classes {text}: {len(names)} classes; give the background and at least one more, 255 at most"
        )
    if len(set(values)) < len(values) or len(set(names)) < len(names):
        raise BadInput(f"--classes {text}: a value or a name occurs twice")
    if 0 in values[1:]:
        raise BadInput(f"--classes {text}: the background comes first; is 0 not the background?")
    return values, names


def _numbers(option: str, text: str, count: int, example: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(each) for each in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise BadInput(f"{option} {text}: expected {count} numbers, as in {example}")
    return numbers


def _voxel_size(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    z, y, x = _numbers("--voxel-size", text, 3, "16,8,8 (nanometres, z,y,x)")
    if min(z, y, x) <= 0:
        raise BadInput(f"--voxel-size {text}: must be positive")
    return z, y, x


def _stored_voxel_size(pairs: Sequence[_Pair]) -> tuple[float, float, float] | None:
    """Return what every image file states."""
    sizes = {each.image.voxel_size for each in pairs}
    return sizes.pop() if len(sizes) == 1 else None


def _limits(text: str | None) -> tuple[float, float] | None:
    if text is None or text == "auto":
        return None
    low, high = _numbers("--grey-range", text, 2, "0,4095 (or: auto)")
    if low >= high:
        raise BadInput(f"--grey-range {text}: the first must be less than the second")
    return low, high


def _crop(pairs: Sequence[_Pair], scoring: Scoring) -> int:
    """Return the greatest multiple of 32 that fits into every section, within 32..512."""
    sides = [each.image.shape if scoring.planes == "orthoplane" else each.image.shape[1:] for each in pairs]
    return max(32, min(_LARGEST_CROP, min(map(min, sides)) // 32 * 32))


def _pairs(asked: OwnData, scoring: Scoring) -> list[_Pair]:
    """Open every image with its mask, faults of all of them at once."""
    faults: list[str] = []
    pairs: list[_Pair] = []
    for split, images, masks in _sides(asked):
        try:
            image_files, mask_files = _files(images), _files(masks)
            if len(image_files) == len(mask_files) == 1:
                files = [(image_files[0], mask_files[0])]
            else:
                files = pair(image_files, mask_files)
        except BadInput as error:
            faults += error.lines
            continue
        found = []
        for image_file, mask_file in files:
            try:
                image, mask = open_volume(image_file), open_volume(mask_file)
                if image.shape != mask.shape:
                    shapes = f"shape {mask.shape}, its image {image_file.name} has {image.shape} (ZYX)"
                    raise BadInput(f"{mask_file}: {shapes}")
                found.append(_Pair(stem(image_file), image, mask, split))
            except BadInput as error:
                faults += error.lines
        if scoring.is_volume and len(found) > 1 and all(each.image.shape[0] == 1 for each in found):
            try:
                image = stack([each.image for each in found], str(images))
                mask = stack([each.mask for each in found], str(masks))
                found = [_Pair(images.resolve().name, image, mask, split)]
            except BadInput as error:
                faults += error.lines
        pairs += found
    if faults:
        raise BadInput(dict.fromkeys(faults))
    return pairs


def _sides(asked: OwnData) -> list[tuple[Split | None, Path, Path]]:
    if asked.source is not None:
        if asked.images or asked.masks:
            raise BadInput("give --images and --masks, or --source, not both")
        splits = [split for split in SPLITS if split != "valid" or (asked.source / split).is_dir()]
        return [(split, asked.source / split / "images", asked.source / split / "masks") for split in splits]
    if asked.images is None or asked.masks is None:
        raise BadInput(f"--name {asked.name}: give --images and --masks, or --source with train/ and test/")
    return [(None, asked.images, asked.masks)]


def _files(path: Path) -> list[Path]:
    """Return the image files of a folder in natural order, or the one file."""
    if not path.is_dir() or path.suffix.lower() == ".zarr":
        return [path]
    files = sorted((file for file in path.iterdir() if is_image(file)), key=natural)
    if not files:
        raise BadInput(f"{path}: no images; expected {', '.join(SUFFIXES)}")
    return files


def _parts(pairs: Sequence[_Pair], asked: OwnData) -> list[_Part]:
    if asked.source is not None:
        return [_Part(each.split, each, 0, each.image.shape[0]) for each in pairs if each.split]
    if match := re.fullmatch(r"last-(\d+(?:\.\d+)?)%", asked.split):
        return _last(pairs, float(match[1]) / 100)
    if asked.split.lower().endswith(".csv"):
        return _listed(pairs, Path(asked.split))
    raise BadInput(f"--split {asked.split}: use last-20% or a .csv file with the columns name,split")


def _last(pairs: Sequence[_Pair], share: float) -> list[_Part]:
    count = len(pairs) if len(pairs) > 1 else pairs[0].image.shape[0]
    if not 0 < share < 1 or count < 2:
        raise BadInput(f"--split last-{share:.0%}: cannot split {count} sections; give more images, or a .csv file")
    train = count - min(count - 1, max(1, round(share * count)))
    if len(pairs) > 1:
        return [
            _Part("train" if number < train else "test", each, 0, each.image.shape[0])
            for number, each in enumerate(pairs)
        ]
    return [_Part("train", pairs[0], 0, train), _Part("test", pairs[0], train, count)]


def _listed(pairs: Sequence[_Pair], file: Path) -> list[_Part]:
    """Return the parts that a .csv file names; every file must be in it, no section twice."""
    by_name = {each.name: each for each in pairs} | {Path(each.image.origin).name: each for each in pairs}
    try:
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{file}: cannot be read ({error})") from None
    if not rows or not {"name", "split"} <= rows[0].keys():
        raise BadInput(f"{file}: expected a first line name,split (or name,split,first,last) and one line per file")
    faults: list[str] = []
    parts: list[_Part] = []
    taken: dict[str, NDArray[np.bool_]] = {each.name: np.zeros(each.image.shape[0], bool) for each in pairs}
    for number, row in enumerate(rows, start=2):
        where = f"{file}, line {number}"
        name, split = (row["name"] or "").strip(), (row["split"] or "").strip()
        if name not in by_name:
            faults.append(f"{where}: no image called {name!r}")
            continue
        if split not in SPLITS:
            faults.append(f"{where}: split {split!r}; use {', '.join(SPLITS)}")
            continue
        found = by_name[name]
        depth = found.image.shape[0]
        try:
            first, last = int(row.get("first") or 0), int(row.get("last") or depth - 1)
        except ValueError:
            faults.append(f"{where}: first and last must be whole numbers")
            continue
        if not 0 <= first <= last < depth:
            faults.append(f"{where}: sections {first}..{last}; {name} has 0..{depth - 1}")
            continue
        if taken[found.name][first : last + 1].any():
            faults.append(f"{where}: some sections {first}..{last} of {name} are already in a split")
            continue
        taken[found.name][first : last + 1] = True
        parts.append(_Part(split, found, first, last + 1))
    listed = {part.pair.name for part in parts}
    if not faults:
        faults += [f"{each.image.origin}: not in {file}" for each in pairs if each.name not in listed]
    if faults:
        raise BadInput(faults)
    return parts


def _card(asked: OwnData, values: Sequence[int]) -> dict[str, Any]:
    """Return what the prepared file was made from, so that the same command knows it again."""
    files = {}
    for _, *folders in _sides(asked):
        for file in (each for folder in folders for each in _files(folder)):
            on_disk = Path(re.sub(r"(?i)(\.(?:h5|hdf5|hdf|zarr)):.*", r"\1", str(file)))
            inner = sorted(on_disk.rglob("*")) if on_disk.is_dir() else [on_disk]
            stats = [each.stat() for each in inner if each.is_file()]
            size, changed = sum(each.st_size for each in stats), max((each.st_mtime_ns for each in stats), default=0)
            files[str(file)] = [size, changed]
    split = Path(asked.split).read_text() if asked.split.lower().endswith(".csv") else asked.split
    return {"files": files, "values": list(values), "split": split, "grey_range": asked.grey_range, "verified": None}

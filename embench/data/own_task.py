"""Anyone's own images and masks as a task, without code: what they are is said on the command line.

Nothing about the files is guessed or mended: masks hold the values that the classes name, images are 8-bit or scaled as
asked, every image has its mask. The task is stored with the data and is then like any other.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from embench.core import paths
from embench.core.errors import BadInput
from embench.core.names import check_name
from embench.data import catalog, store
from embench.data.convert import grey, label_advice, labels, palette_faults, scaled, stack
from embench.data.listing import gaps, list_images, pair_as_asked, stem
from embench.data.options import OwnData
from embench.data.readers.base import Computed, Stored
from embench.data.readers.open import find_format, open_volume, split_inside
from embench.data.task import SPLITS, Item, Scoring, Sections, Split, Task

Planes = Literal["2d", "stack", "orthoplane"]
DATASET = "own"
"""What :attr:`embench.data.task.Task.dataset` says of such tasks."""
ITERATIONS = 2500
"""Default budget: that of most published tasks."""
_LARGEST_CROP = 512
_LONGEST_NAME = 100
"""Characters of an item's name once percent-encoded: predicted sections are files of its name, with more around it."""
_VALID = ("valid", "val", "validation")
_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "valid": _VALID, "test": ("test",)}


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


@dataclass
class _Found:
    """What the folders hold: pairs, and what there is to say of the files."""

    pairs: list[_Pair] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


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
    check_name(asked.name, "the name")
    if catalog.is_registered(asked.name):
        raise BadInput(f"{asked.name}: a built-in task or data set is called so; choose another")
    values, names = _classes(asked.classes)
    if asked.scoring not in get_args(Planes):
        raise BadInput(f"--scoring {asked.scoring}: use {', '.join(get_args(Planes))}")
    if asked.threshold is not None and len(names) > 2:
        raise BadInput(f"--threshold {asked.threshold:g}: only with two classes, there are {len(names)}")
    scoring = Scoring(asked.scoring, classes=tuple(range(1, len(names))))  # type: ignore[arg-type]
    limits = _limits(asked.grey_range)
    voxel_size = _voxel_size(asked.voxel_size)
    found = _find(asked, scoring)
    parts = _parts(found.pairs, asked)
    crop, why = _crop(found.pairs, scoring)
    task = Task(
        name=asked.name,
        title=asked.name,
        dataset=DATASET,
        classes=names,
        scoring=scoring,
        iterations=ITERATIONS,
        crop=crop,
        training_axes=scoring.axes,
        voxel_size=voxel_size or _stored_voxel_size(found.pairs),
    )
    made_from = _made_from(asked, values, found.files)
    path = paths.prepared_path(asked.name, folder)
    if path.exists() and not force:
        with store.Prepared(path) as before:
            if before.spec == task and before.card.get("made from") == made_from:
                return asked.name, path, False
        raise BadInput(f"{path}: prepared from other files or settings; add --force to replace it")
    card = {
        "files": len(found.files),
        "values": list(values),
        "split": Path(asked.split).name,
        "grey_range": asked.grey_range,
        **({"threshold": asked.threshold} if asked.threshold is not None else {}),
        "crop": why,
        "budget": f"{ITERATIONS} iterations, that of most published tasks; run --iterations N trains for another",
        "norms": "mean and standard deviation of all training grey values together",
        "verified": None,
        "made from": made_from,
    }
    items, renamed = _items(parts, values, asked, limits)
    notes = [*found.notes, *renamed]
    try:
        store.write(path, task, items, card, notes=notes, allow_duplicates=asked.allow_duplicates)
    except BadInput as error:
        raise _with_hint(error, found.pairs, values) from None
    return asked.name, path, True


def _with_hint(error: BadInput, pairs: Sequence[_Pair], values: Sequence[int]) -> BadInput:
    """Return the faults of a preparation, the last with what to do about label values."""
    told = [line for line in error.lines if ": label values" in line]
    if not told:
        return error
    strange = [float(each) for line in told for each in re.findall(r"(-?[\d.]+(?:e[+-]?\d+)?) \(\d+ voxels\)", line)]
    further = max((int(n) for line in told for n in re.findall(r"and (\d+) further values", line)), default=0)
    advice = label_advice(
        [*strange, *range(int(max(strange, default=0)) + 1, int(max(strange, default=0)) + further)],
        values,
        pairs[0].mask.dtype,
    )
    hint = "--classes names the values as masks hold them, as in 0:background,255:er; nothing is thresholded"
    hint += f" without --threshold VALUE{f'. {advice[0].upper()}{advice[1:]}' if advice else ''}"
    return BadInput([*error.lines[:-1], f"{error.lines[-1]}; {hint}"])


def _items(
    parts: Sequence[_Part], values: Sequence[int], asked: OwnData, limits: tuple[float, float] | None
) -> tuple[list[Item], list[str]]:
    """Return what is to be written, and a note per name that is not that of the file."""
    notes: list[str] = []
    faults: list[str] = []
    images: dict[int, Sections] = {}
    for part in parts:
        try:
            if id(part.pair) not in images:
                image = part.pair.image
                low, high = limits or (None, None)
                is_scaled = asked.grey_range is not None
                images[id(part.pair)] = scaled(image, low, high, notes) if is_scaled else grey(image)
        except BadInput as error:
            faults += error.lines
    if faults:
        raise BadInput(dict.fromkeys(faults))
    items = []
    renamed: dict[str, str] = {}
    for part in parts:
        depth, height, width = part.pair.image.shape
        whole = (part.start, part.stop) == (0, depth)
        name = item_name(part.pair.name)
        if name != part.pair.name:
            renamed[part.pair.name] = name
        shape = (part.stop - part.start, height, width)
        items.append(
            Item(
                part.split,
                name if whole else f"{name}-z{part.start:04d}-{part.stop - 1:04d}",
                Computed(shape, partial(_later, images[id(part.pair)], part.start)),
                Computed(shape, partial(_later, labels(part.pair.mask, values, asked.threshold), part.start)),
                part.pair.mask.origin,
                notes,
            )
        )
    first = next(iter(renamed.items()), None)
    told = f"{len(renamed)} files are called otherwise here, as in {first[1]!r} for {first[0][:60]!r}" if first else ""
    return items, [told] if first else []


def item_name(text: str) -> str:
    """Return how an item of this name is called: the name itself where it may stand in a file's name, else made so.

    Characters that no file name may hold are percent-encoded, so that names stay apart; a name that is too long for
    the files that are called after it is cut, with a digest of the whole at its end.
    """
    text = unicodedata.normalize("NFC", text)
    safe = "".join(c if c.isprintable() and c not in '/\\:*?"<>|%' else quote(c, safe="") for c in text)
    if len(quote(safe, safe="")) <= _LONGEST_NAME and safe == safe.strip():
        return safe
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    while len(quote(safe, safe="")) > _LONGEST_NAME - 9:
        safe = safe[:-1]
    return f"{safe.strip()}-{digest}"


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


def _crop(pairs: Sequence[_Pair], scoring: Scoring) -> tuple[int, str]:
    """Return the greatest multiple of 32 that fits into every section, within 32..512, and why it is that."""
    smallest = min(pairs, key=lambda each: min(_sides_of(each, scoring)))
    sides = _sides_of(smallest, scoring)
    crop = max(32, min(_LARGEST_CROP, min(sides) // 32 * 32))
    size = " x ".join(map(str, sides))
    others = [each for each in pairs if min(_sides_of(each, scoring)) >= crop + 32]
    if crop == _LARGEST_CROP:
        return crop, f"{crop}, the most; every section has as many rows and columns"
    why = f"{crop}, the greatest multiple of 32 that fits into {item_name(smallest.name)} ({size})"
    if others and len(others) < len(pairs):
        larger = min(_LARGEST_CROP, min(min(_sides_of(each, scoring)) for each in others) // 32 * 32)
        why += f"; {len(others)} of the others would allow {larger}"
    return crop, why


def _sides_of(pair: _Pair, scoring: Scoring) -> tuple[int, ...]:
    return pair.image.shape if scoring.planes == "orthoplane" else pair.image.shape[1:]


def _find(asked: OwnData, scoring: Scoring) -> _Found:
    """Open every image with its mask, faults of all of them at once."""
    faults: list[str] = []
    found = _Found()
    for split, images, masks in _sides(asked):
        try:
            files = _pair_files(asked, images, masks, found)
        except BadInput as error:
            faults += error.lines
            continue
        pairs = []
        for image_file, mask_file in files:
            try:
                pairs.append(_opened(image_file, mask_file, split))
            except BadInput as error:
                faults += error.lines
        for side, volumes in ((images, [each.image for each in pairs]), (masks, [each.mask for each in pairs])):
            faults += _parted(side, volumes)
        faults += palette_faults(each.mask for each in pairs)
        if scoring.is_volume and len(pairs) > 1 and all(each.image.shape[0] == 1 for each in pairs):
            found.notes += [f"{line}: they become neighbours here" for line in gaps([image for image, _ in files])]
            try:
                image = stack([each.image for each in pairs], str(images))
                mask = stack([each.mask for each in pairs], str(masks))
                pairs = [_Pair(images.resolve().name, image, mask, split)]
            except BadInput as error:
                faults += error.lines
        found.pairs += pairs
    if faults:
        raise BadInput(dict.fromkeys(faults))
    for what, volumes in (
        ("images", [each.image for each in found.pairs]),
        ("masks", [each.mask for each in found.pairs]),
    ):
        said = Counter(note for volume in volumes for note in dict.fromkeys(volume.notes))
        found.notes += [f"{what}: {note} ({count} of {len(volumes)})" for note, count in said.items()]
    return found


def _pair_files(asked: OwnData, images: Path, masks: Path, found: _Found) -> list[tuple[Path, Path]]:
    """List the files of one split and pair them; what is left out is noted."""
    sides: list[tuple[Path, ...]] = []
    for side in dict.fromkeys((images, masks)):
        if not _is_folder(side):
            sides.append((side,))
            continue
        listed = list_images(side)
        found.notes += [listed.note] if listed.note else []
        sides.append(listed.files)
    image_files, mask_files = sides[0], sides[-1]
    found.files += dict.fromkeys(file for side in sides for file in side)
    if len(image_files) == len(mask_files) == 1 and image_files != mask_files:
        files = [(image_files[0], mask_files[0])]
    else:
        files = pair_as_asked(image_files, mask_files, asked.pair, asked.mask_suffix)
    return files


def _parted(side: Path, volumes: Sequence[Stored]) -> list[str]:
    """Return a line when files name others as parts of the same volume, and not all of them are given."""
    named = dict.fromkeys(name for volume in volumes for name in volume.siblings)
    given = {Path(volume.origin).name for volume in volumes}
    if not (absent := [name for name in named if name not in given]):
        return []
    count = len(given | named.keys())
    if not side.is_dir():
        return [f"{side}: one of {count} files that are one volume; give their folder"]
    return [
        f"{side}: {len(given)} of {count} files that are one volume; {', '.join(absent)} "
        f"{'is' if len(absent) == 1 else 'are'} missing: put them there, or save the sections as plain TIFF"
    ]


def _opened(image_file: Path, mask_file: Path, split: Split | None) -> _Pair:
    image, mask = open_volume(image_file), open_volume(mask_file)
    if image.shape != mask.shape:
        shapes = f"shape {mask.shape}, its image {image_file.name} has {image.shape} (ZYX)"
        raise BadInput(f"{mask_file}: {shapes}")
    if image.orientation and mask.orientation and image.orientation != mask.orientation:
        raise BadInput(
            f"{mask_file}: its header lays x, y, z out as {mask.orientation}, that of {image_file.name} as "
            f"{image.orientation}: one is mirrored or turned against the other; save both with one orientation"
        )
    return _Pair(stem(image_file), image, mask, split)


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder of images; raises :class:`BadInput` when nothing is there."""
    file, _ = split_inside(path)
    if not file.exists():
        raise BadInput(f"{file}: no such file or folder")
    kind = find_format(file.name)
    return file.is_dir() and not (kind is not None and kind.is_folder)


def _sides(asked: OwnData) -> list[tuple[Split | None, Path, Path]]:
    if asked.source is not None:
        if asked.images or asked.masks:
            raise BadInput("give --images and --masks, or --source, not both")
        if not asked.source.is_dir():
            raise BadInput(f"--source {asked.source}: no such folder")
        sides: list[tuple[Split | None, Path, Path]] = []
        faults = []
        for split in SPLITS:
            there = [asked.source / name for name in _FOLDERS[split] if (asked.source / name).is_dir()]
            if len(there) > 1:
                faults.append(f"{asked.source}: {' and '.join(each.name for each in there)} are both there; keep one")
            if not there and split != "valid":
                faults.append(
                    f"{asked.source / split}: no such folder; --source holds train/ and test/, perhaps valid/"
                )
            sides += [(split, each / "images", each / "masks") for each in there]
        known = {name for names in _FOLDERS.values() for name in names}
        others = [each.name for each in asked.source.iterdir() if each.is_dir() and not each.name.startswith(".")]
        if odd := sorted(name for name in others if name not in known and name != "__MACOSX"):
            faults.append(
                f"{asked.source}: folders {', '.join(odd)} are no split; call them train, valid or test, or move them"
            )
        if faults:
            raise BadInput(faults)
        return sides
    if asked.images is None or asked.masks is None:
        what = "--images" if asked.images is None else "--masks"
        other = "" if asked.images is None and asked.masks is None else f"{what} is missing; "
        raise BadInput(f"{asked.name}: {other}give --images and --masks, or --source with train/ and test/")
    return [(None, asked.images, asked.masks)]


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


def _rows(file: Path) -> list[dict[str, str]]:
    """Return the lines of a .csv file by column, separated by commas, semicolons or tabs, as spreadsheets do."""
    try:
        content = file.read_bytes()
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise BadInput(f"{file}: UTF-16; save it as CSV UTF-8")
        text = content.decode("utf-8-sig")
        head = text.partition("\n")[0]
        separator = max(",;\t", key=head.count)
        rows = list(csv.DictReader(text.splitlines(), delimiter=separator, skipinitialspace=True))
    except UnicodeDecodeError:
        raise BadInput(f"{file}: not UTF-8; save it as CSV UTF-8") from None
    except (OSError, csv.Error) as error:
        raise BadInput(f"{file}: cannot be read ({error})") from None
    found = [{str(key).strip().lower(): value for key, value in row.items() if isinstance(value, str)} for row in rows]
    if not found or not {"name", "split"} <= found[0].keys():
        raise BadInput(
            f"{file}: its first line is {head.strip()[:80]!r}; expected name,split (or name,split,first,last) and "
            "then a line per file"
        )
    return found


def _listed(pairs: Sequence[_Pair], file: Path) -> list[_Part]:
    """Return the parts that a .csv file names; every file must be in it, no section twice."""
    by_name = {each.name: each for each in pairs} | {Path(each.image.origin).name: each for each in pairs}
    faults: list[str] = []
    parts: list[_Part] = []
    taken: dict[str, NDArray[np.bool_]] = {each.name: np.zeros(each.image.shape[0], bool) for each in pairs}
    for number, row in enumerate(_rows(file), start=2):
        where = f"{file}, line {number}"
        name, split = row.get("name", "").strip(), row.get("split", "").strip().lower()
        split = "valid" if split in _VALID else split
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


def _made_from(asked: OwnData, values: Sequence[int], files: Sequence[Path]) -> str:
    """Return a digest of what the prepared file was made from, so that the same command knows it again."""
    facts = []
    for file in files:
        on_disk, inside = split_inside(file)
        inner = sorted(on_disk.rglob("*")) if on_disk.is_dir() else [on_disk]
        stats = [each.stat() for each in inner if each.is_file()]
        size, changed = sum(each.st_size for each in stats), max((each.st_mtime_ns for each in stats), default=0)
        facts.append([f"{on_disk.resolve().parent.name}/{on_disk.name}", inside, size, changed])
    split = Path(asked.split).read_bytes().hex() if asked.split.lower().endswith(".csv") else asked.split
    settings = [list(values), split, asked.grey_range, asked.pair, asked.mask_suffix, asked.threshold]
    return hashlib.sha256(json.dumps([facts, settings]).encode()).hexdigest()

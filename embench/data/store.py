"""The prepared format: one HDF5 file per task or unlabelled set, hashed, read lazily.

Layout (format 1)::

    /                       attributes: format, kind, spec (JSON), hash, norms, card (JSON)
    /{split}/{item}/image   uint8  (Z, Y, X)
    /{split}/{item}/labels  uint8  (Z, Y, X), absent from unlabelled sets

The hash is SHA-256 over the spec's facts about the data and over every item's name, shape and voxels, section by
section; chunking and compression do not enter. Every result carries it.

A file that was not written here, or that changed since, may be anybody's: before it is opened it is read once as a
whole in a child process with limits (:mod:`embench.core.sandbox`) and its hash compared. A note in the user's own cache
folder, which does not travel with the file, remembers that by inode, size and times.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embench.core import sandbox
from embench.core.errors import BadInput, TryAgain
from embench.core.files import replacing, write_atomic
from embench.core.names import check_name
from embench.core.paths import cache_folder
from embench.data.task import SPLITS, Item, Sections, Split, Task, UnlabelledSet

if TYPE_CHECKING:
    import h5py


log = logging.getLogger(__name__)

FORMAT = 1
_CHUNK = (1, 256, 256)
_CUBE = (16, 64, 64)


def write(
    path: Path,
    spec: Task | UnlabelledSet,
    items: Iterable[Item],
    card: dict[str, Any] | None = None,
    *,
    notes: Iterable[str] = (),
    allow_duplicates: bool = True,
) -> str:
    """Write a prepared file, streaming section by section, and return its hash.

    Parameters
    ----------
    path : Path
        Replaced atomically; untouched when anything is wrong.
    spec : Task or UnlabelledSet
    items : iterable of Item
        Read once, in order.
    card : dict, optional
        What else is known of the preparation (source files and hashes), stored as JSON with the items' ``notes`` and
        what the splits hold (:mod:`embench.data.summary`).
    notes : iterable of str
        Further ones.
    allow_duplicates : bool
        Without, test sections that are exactly in the training split are a fault.

    Raises
    ------
    BadInput
        Whatever the items' sections raise on being read, images and labels of different shape, label values outside
        the classes, no training or no test images, duplicates: one line per fault, every fault at once.
    """
    import h5py

    check_name(spec.name)
    faults: list[str] = []
    noted: list[str] = []
    splits: dict[str, dict[str, Any]] = {}
    seen: dict[bytes, dict[Split, str]] = {}
    grey_levels = np.zeros(256, np.int64)
    places: list[tuple[Split, str, str, int]] = []
    # not locked by HDF5: the temporary file is locked already
    with replacing(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        for item in _until_fault(items, faults):
            fault = _shape_fault(item)
            if fault:
                faults.append(fault)
                continue
            if f"{item.split}/{item.name}" in file:
                faults.append(f"{item.origin or item.name}: a second image called {item.name!r}; rename one")
                continue
            places.append((item.split, item.name, item.origin, item.image.shape[0]))
            group = file.create_group(f"{item.split}/{item.name}")
            facts = splits.setdefault(item.split, {"volumes": 0, "sections": 0})
            facts["volumes"] += 1
            facts["sections"] += item.image.shape[0]
            for z, section in _copy(group, "image", item.image, spec, faults):
                if section.min() != section.max():  # empty ones agree by nature
                    print_of_section = hashlib.sha256(f"{section.shape}".encode() + section.tobytes()).digest()
                    seen.setdefault(print_of_section, {}).setdefault(item.split, f"{item.name} section {z}")
                if item.split == "train":
                    grey_levels += np.bincount(section.ravel(), minlength=256)
            if item.labels is not None:
                counts = facts.setdefault("labels", [0] * len(getattr(spec, "classes", ())))
                faults += _copy_labels(group, item, spec, faults, counts)
            noted += item.notes
        if faults := faults or _split_faults(spec, {split for split, *_ in places}):
            raise BadInput(dict.fromkeys(faults))
        told: dict[str, Any] = {"splits": splits}
        if all_notes := list(dict.fromkeys([*notes, *noted])):
            told["notes"] = all_notes
        if isinstance(spec, Task):
            from embench.data import patches

            told["leakage"] = patches.between_splits({split: _volumes(file, split) for split in SPLITS}, places)
            twice = [places for places in seen.values() if {"train", "test"} <= places.keys()]
            told["test sections in train"] = len(twice)
            if twice and not allow_duplicates:
                shown = ", ".join(f"{each['test']} = {each['train']}" for each in twice[:3])
                raise BadInput(
                    f"{spec.name}: {len(twice)} test sections are exactly in the training split ({shown}"
                    f"{', ...' if len(twice) > 3 else ''}); take them out of one, or add --allow-duplicates"
                )
        digest = seal(file, spec, grey_levels, {**(card or {}), **told})
    remember(path)
    return digest


def seal(
    file: h5py.File, spec: Task | UnlabelledSet, grey_levels: NDArray[np.int64], card: dict[str, Any] | None = None
) -> str:
    """Give a file whose volumes are written the attributes of a prepared file, and return its hash.

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    spec : Task or UnlabelledSet
    grey_levels : ndarray of int64
        Voxels of the training split by grey value (256): its norms, where none are published.
    card : dict, optional
    """
    file.attrs["format"] = FORMAT
    file.attrs["kind"] = "task" if isinstance(spec, Task) else "unlabelled"
    file.attrs["spec"] = json.dumps(asdict(spec))
    file.attrs["norms"] = getattr(spec, "norms", None) or norms_of(grey_levels)
    file.attrs["card"] = json.dumps(card or {})
    digest = _hash(file, spec)
    file.attrs["hash"] = digest
    return digest


def norms_of(grey_levels: NDArray[np.int64]) -> tuple[float, float]:
    """Return mean and standard deviation of 0..1 grey values from their histogram (256 counts)."""
    values = np.arange(256) / 255
    weights = grey_levels / grey_levels.sum()
    mean = float((weights * values).sum())
    return mean, float(np.sqrt((weights * (values - mean) ** 2).sum()))


@dataclass(frozen=True)
class Volume:
    """One stored item: lazily read arrays.

    ``image`` and ``labels`` are HDF5 datasets of shape (Z, Y, X), uint8; ``labels`` is ``None`` in unlabelled sets.
    """

    name: str
    image: h5py.Dataset
    labels: h5py.Dataset | None

    def section(self, axis: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Return image and labels of the section ``index`` across ``axis``."""
        where = (slice(None),) * axis + (index,)
        return self.image[where], None if self.labels is None else self.labels[where]


class Prepared:
    """An open prepared file.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    spec : Task or UnlabelledSet
        The facts stored with the data.
    hash : str
        Content hash as recorded when it was written (see :meth:`verify`).
    norms : (float, float)
        Mean and standard deviation of 0..1 grey values of the training split, or the published ones.
    card : dict

    Raises
    ------
    BadInput
        When the file is absent or is not a prepared file of this format.
    """

    def __init__(self, path: Path) -> None:
        import h5py

        if not path.exists():
            raise BadInput(f"{path}: not prepared; run: embench prepare {path.stem}")
        _check_once(path)
        try:
            self._file = h5py.File(path, "r")
            facts = _facts(path, self._file)
        except OSError as error:
            raise BadInput(f"{path}: not a prepared file ({type(error).__name__}); prepare it again") from None
        self.path = path
        self.spec, self.hash, self.norms, self.card = facts

    @cached_property
    def task(self) -> Task:
        """The task; raises ``BadInput`` for an unlabelled set, and for a task that is not what its name says."""
        if not isinstance(self.spec, Task):
            raise BadInput(f"{self.path}: an unlabelled set, not a task; use it with: embench pretrain")
        if self.spec.name != self.path.stem:
            raise BadInput(f"{self.path}: holds the task {self.spec.name}; call it {self.spec.name}.h5")
        if fault := _not_as_registered(self.spec, self.norms):
            raise BadInput(f"{self.path}: {fault}; prepare it again with --force, or under a name of its own")
        return self.spec

    def volumes(self, split: Split) -> list[Volume]:
        """Return the items of a split, in stored order of their names."""
        return _volumes(self._file, split)

    def verify(self) -> bool:
        """Whether the voxels still have the recorded hash (reads everything)."""
        return _hash(self._file, self.spec) == self.hash

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Prepared:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _facts(path: Path, file: h5py.File) -> tuple[Task | UnlabelledSet, str, tuple[float, float], dict[str, Any]]:
    """Return spec, hash, norms and card of a prepared file."""
    from pydantic import TypeAdapter  # a fifth of the time of `embench list tasks`, which reads no file

    try:
        attributes = dict(file.attrs)
        if (found := attributes.get("format")) != FORMAT:
            said = f"format {found!r}"[:60]
            raise BadInput(
                f"{path}: not a prepared file of this version ({said}, expected {FORMAT}); "
                f"run: embench prepare {path.stem} --force"
            )
        kind: type[Any] = Task if attributes["kind"] == "task" else UnlabelledSet
        spec: Task | UnlabelledSet = TypeAdapter(kind).validate_json(attributes["spec"])
        digest = str(attributes["hash"])
        mean, deviation = map(float, attributes["norms"])
        card = json.loads(attributes["card"])
        if not isinstance(card, dict) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError
    except (OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise BadInput(f"{path}: not a prepared file ({type(error).__name__}); prepare it again") from None
    for name in (spec.name, *((spec.pretraining,) if isinstance(spec, Task) else ())):
        check_name(name, f"{path}: name")
    if isinstance(spec, Task) and (fault := _task_fault(spec)):
        raise BadInput(f"{path}: {fault}; prepare it again")
    if not (math.isfinite(mean) and math.isfinite(deviation)):
        raise BadInput(f"{path}: norms {mean}, {deviation}; prepare it again")
    return spec, digest, (mean, deviation), card


def _task_fault(task: Task) -> str | None:
    """Return what no task can be."""
    count, scored = len(task.classes), task.scoring.classes
    if not 2 <= count <= 255:
        return f"{count} classes"
    if not scored or len(set(scored)) < len(scored) or not all(0 <= value < count for value in scored):
        return f"scored classes {scored!s:.60} of {count}"
    if task.class_weights is not None and len(task.class_weights) != count:
        return f"{len(task.class_weights)} class weights for {count} classes"
    if min(task.iterations, task.batch_size, task.crop) < 1:
        return "a budget, batch size or crop below 1"
    if not task.training_axes or not set(task.training_axes) <= {0, 1, 2}:
        return f"training axes {task.training_axes!s:.60}"
    return None


_DESCRIPTIONS = {"title", "modality", "licence", "citation", "homepage", "budgets"}
"""Fields of a task by which nothing is trained or scored."""


def _not_as_registered(task: Task, norms: tuple[float, float]) -> str | None:
    """Return in what a stored task differs from the registered one of its name; ``None`` also where there is none."""
    from embench.data import catalog

    if not catalog.is_registered(task.name):
        return None
    own, known = asdict(task), asdict(catalog.find_task(task.name))
    for name in own.keys() - _DESCRIPTIONS:
        if json.dumps(own[name]) != json.dumps(known[name]):
            return f"its {name} is {own[name]!s:.80}, the registered {task.name} has {known[name]!s:.80}"
    if task.norms and norms != tuple(task.norms):
        return f"its norms are {norms}, the registered {task.name} has {task.norms}"
    return None


# Files that were made elsewhere


def remember(path: Path) -> None:
    """Note that a prepared file was written or checked here."""
    global _CHECKED
    _CHECKED = _CHECKED | {(str(path), *_state(path))}
    with contextlib.suppress(OSError, BadInput, TryAgain):  # without a folder the check is of this process only
        write_atomic(_mark(path), json.dumps(_state(path)))


_CHECKED: frozenset[tuple[Any, ...]] = frozenset()


def _state(path: Path) -> tuple[int, ...]:
    """Return what no change of a file leaves as it was, and no copy of it has."""
    about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _mark(path: Path) -> Path:
    place = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return cache_folder() / "checked" / f"{place}.json"


def _check_once(path: Path) -> None:
    """Read a prepared file as a whole in a child, unless that was done before."""
    if not path.is_file():
        raise BadInput(f"{path}: not a file; remove it")
    if (str(path), *_state(path)) in _CHECKED:
        return
    if not is_known(path):
        length = path.stat().st_size
        if length > _LARGE:
            log.info("%s: not written here or changed since; reading it once to check it", path)
        sandbox.call(_audit, str(path), where=path, size=_DENSITY * length)
    remember(path)


def is_known(path: Path) -> bool:
    """Whether a prepared file was written or checked here and has not changed since."""
    try:
        return _mark(path).read_text() == json.dumps(_state(path))
    except (OSError, UnicodeDecodeError):
        return False


_LARGE = 2**28
_DENSITY = 8
"""Bytes of voxels to a byte of a prepared file, for how long reading it may take."""


def _audit(name: str) -> None:
    """Read all of a prepared file and raise :class:`BadInput` for whatever is not as it should be."""
    import h5py

    from embench.data.readers.base import reading

    path = Path(name)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise BadInput(f"{path}: not a prepared file ({type(error).__name__}); prepare it again") from None
    with reading(path), file:
        spec, digest, _, _ = _facts(path, file)
        for split in SPLITS:
            _audit_split(path, file, split, spec)
        if _hash(file, spec) != digest:
            raise BadInput(f"{path}: the voxels do not have the recorded hash; prepare it again with --force")


def _audit_split(path: Path, file: h5py.File, split: Split, spec: Task | UnlabelledSet) -> None:
    import h5py

    from embench.data.readers.base import DEFLATE, check_dense
    from embench.data.readers.hdf5 import hdf5_dataset

    group = file.get(split, getlink=True)
    if group is None:
        return
    if not isinstance(group, h5py.HardLink) or not isinstance(file[split], h5py.Group):
        raise BadInput(f"{path}: {split} is no group; prepare it again")
    kinds = {"image", "labels"} if isinstance(spec, Task) else {"image"}
    for item in file[split]:
        where = f"{path}: {split}/{item!s:.80}"
        if not isinstance(file[split].get(item, getlink=True), h5py.HardLink) or not _ITEM.fullmatch(item):
            raise BadInput(f"{where!r}: a name that is not one, or a link; prepare it again")
        if not isinstance(file[split][item], h5py.Group) or set(file[split][item]) != kinds:
            raise BadInput(f"{where}: expected {' and '.join(sorted(kinds))}; prepare it again")
        found = [hdf5_dataset(file, f"{split}/{item}/{kind}", path) for kind in sorted(kinds)]
        for dataset in found:
            if dataset.dtype != np.uint8 or dataset.ndim != 3 or 0 in dataset.shape:
                raise BadInput(f"{where}: {dataset.dtype} {dataset.shape}; expected uint8 (Z, Y, X); prepare it again")
            if dataset.shape != found[0].shape:
                raise BadInput(f"{where}: image is {found[0].shape}, labels are {dataset.shape}; prepare it again")
            check_dense(where, dataset.size, dataset.id.get_storage_size(), DEFLATE)
        if isinstance(spec, Task):
            labels, count = found[-1], len(spec.classes)
            step = labels.chunks[0] if labels.chunks else 1
            for z in range(0, labels.shape[0], step):
                if (most := int(labels[z : z + step].max())) >= count:
                    raise BadInput(f"{where}: label value {most} with {count} classes; prepare it again")


_ITEM = re.compile(r"[^/\\\x00-\x1f]{1,400}")


def _volumes(file: h5py.File, split: Split) -> list[Volume]:
    group = file.get(split, {})
    return [Volume(name, group[name]["image"], group[name].get("labels")) for name in sorted(group)]


def _shape_fault(item: Item) -> str | None:
    where = item.origin or item.name
    shape = tuple(item.image.shape)
    if len(shape) != 3 or 0 in shape:
        return f"{where}: image of shape {shape}; expected a non-empty ZYX volume"
    if item.labels is not None and tuple(item.labels.shape) != shape:
        return f"{where}: image is {shape}, labels are {tuple(item.labels.shape)} (ZYX); they must agree"
    return None


def _split_faults(spec: Task | UnlabelledSet, splits: set[Split]) -> list[str]:
    needed: tuple[Split, ...] = ("train", "test") if isinstance(spec, Task) else ("train",)
    missing = [split for split in needed if split not in splits]
    return [f"{spec.name}: no {split} images; check the source and the split" for split in missing]


def _until_fault(items: Iterable[Item], faults: list[str]) -> Iterator[Item]:
    """Yield the items; what stops the reader becomes a fault beside those already found."""
    try:
        yield from items
    except BadInput as error:
        faults += error.lines


def _copy(
    group: h5py.Group, name: str, volume: Sections, spec: Task | UnlabelledSet, faults: list[str]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Copy ``volume`` into a compressed dataset slab by slab, giving each section as it passes.

    A section that cannot be read is one more fault, so that all are known at the end.
    """
    depth = volume.shape[0]
    isotropic = isinstance(spec, Task) and (len(spec.training_axes) > 1 or len(spec.scoring.axes) > 1)
    chunk = tuple(min(a, b) for a, b in zip(_CUBE if isotropic else _CHUNK, volume.shape, strict=True))
    target = group.create_dataset(name, volume.shape, np.uint8, chunks=chunk, compression="gzip", compression_opts=1)
    for start in range(0, depth, chunk[0]):
        slab = [_section(volume, z, faults) for z in range(start, min(start + chunk[0], depth))]
        for offset, section in enumerate(slab):
            if section.dtype != np.uint8 or section.shape != tuple(volume.shape[1:]):
                found = f"{section.dtype} {section.shape}"
                raise TypeError(f"{name} of {group.name}: {found}, a reader must give uint8 {volume.shape[1:]}")
            yield start + offset, section
        target[start : start + len(slab)] = np.stack(slab)


def _section(volume: Sections, z: int, faults: list[str]) -> NDArray[np.uint8]:
    try:
        return np.asarray(volume[z])
    except BadInput as error:
        faults += error.lines
        return np.zeros(volume.shape[1:], np.uint8)


def _copy_labels(
    group: h5py.Group, item: Item, spec: Task | UnlabelledSet, faults: list[str], counts: list[int]
) -> list[str]:
    """Copy the labels of an item and add its voxels to ``counts`` by class; return what is wrong with them."""
    assert item.labels is not None
    assert isinstance(spec, Task)
    strange: dict[int, int] = {}
    for z, section in _copy(group, "labels", item.labels, spec, faults):
        if section.max() >= len(spec.classes):
            for value in np.unique(section[section >= len(spec.classes)]):
                strange.setdefault(int(value), z)
            continue
        for value, count in enumerate(np.bincount(section.ravel(), minlength=len(counts)).tolist()):
            counts[value] += count
    if not strange:
        return []
    found = ", ".join(f"{value} (first in section {z})" for value, z in sorted(strange.items()))
    where = item.origin or item.name
    return [f"{where}: label values {found} outside the classes 0..{len(spec.classes) - 1} of {spec.name}"]


def _hash(file: h5py.File, spec: Task | UnlabelledSet) -> str:
    digest = hashlib.sha256()
    facts: dict[str, Any] = {"format": FORMAT, "name": spec.name, "voxel_size": spec.voxel_size}
    if isinstance(spec, Task):
        facts["classes"] = spec.classes
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for split in SPLITS:
        group = file.get(split, {})
        for name in sorted(group):
            for kind in sorted(group[name]):
                voxels = group[name][kind]
                digest.update(f"{split}/{name}/{kind}{voxels.shape}".encode())
                step = voxels.chunks[0] if voxels.chunks else max(1, 2**24 // int(np.prod(voxels.shape[1:])))
                for z in range(0, voxels.shape[0], step):
                    digest.update(np.ascontiguousarray(voxels[z : z + step]).data)
    return digest.hexdigest()

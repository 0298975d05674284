"""Images without labels: registered sets, folders of image files, and the tiles that pre-training is fed with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core import paths
from embench.core.errors import BadInput
from embench.core.names import is_name, unknown
from embench.data import catalog, store
from embench.data.convert import grey
from embench.data.listing import list_images
from embench.data.patches import spans
from embench.data.readers.open import open_volume
from embench.data.store import Prepared
from embench.data.task import Item, UnlabelledSet


class Tiles:
    """The images of an unlabelled set, cut into squares without overlap along every section.

    A remainder at the end of an axis is a tile of its own when it has at least half of the side; a section shorter
    than the side is taken whole. Tiles are read when asked for.

    Parameters
    ----------
    data : Prepared
        An unlabelled set.
    side : int
        Pixels.

    Raises
    ------
    BadInput
        When ``data`` is a task: its test images must not be learned from.
    """

    def __init__(self, data: Prepared, side: int) -> None:
        if not isinstance(data.spec, UnlabelledSet):
            known = ", ".join(spec.name for spec in catalog.all_unlabelled())
            raise BadInput(f"{data.spec.name}: a task, not an unlabelled set; choose {known}, or a folder of images")
        self.path = data.path
        volumes = data.volumes("train")
        rows = []
        for number, volume in enumerate(volumes):
            depth, height, width = volume.image.shape
            grid = [(y, x, h, w) for y, h in spans(height, side) for x, w in spans(width, side)]
            rows.append(np.array([(number, z, *tile) for z in range(depth) for tile in grid], np.int32))
        self.index = np.concatenate(rows)
        self._opened: tuple[int, Prepared, list[Any]] = (os.getpid(), data, volumes)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        """Return one tile, uint8 (Y, X), at most side x side."""
        process, _, volumes = self._opened
        if process != os.getpid():  # a data worker reads through a file handle of its own
            data = Prepared(self.path)
            volumes = data.volumes("train")
            self._opened = os.getpid(), data, volumes
        item, z, y, x, height, width = self.index[number]
        return volumes[item].image[z, y : y + height, x : x + width]

    def read(self, numbers: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return several tiles, read from the file in the order in which they lie there."""
        found = {number: self[number] for number in sorted(numbers)}
        return [found[number] for number in numbers]


def open_unlabelled(data: str, folder: Path | None = None) -> Prepared:
    """Open an unlabelled set by name (generated data are made on first use), or pack a folder of images and open that.

    Parameters
    ----------
    data : str
        Name of an unlabelled set, or a folder of 8-bit grey images in any format of
        :data:`embench.data.readers.open.SUFFIXES`; several sections in a file are a volume (Z, Y, X).
    folder : Path, optional
        Of prepared files.

    Raises
    ------
    BadInput
        Unknown name; an empty folder; or one line per image that is not 8-bit grey.
    """
    if Path(data).is_dir() and not (is_name(data) and _is_registered(data)):
        return Prepared(_pack(Path(data), folder))
    if not is_name(data) or not (_is_registered(data) or paths.prepared_path(data, folder).exists()):
        error = unknown("unlabelled set", data, [spec.name for spec in catalog.all_unlabelled()])
        raise BadInput(f"{error} (or give a folder of images)")
    return catalog.open_prepared(data, folder)


def _is_registered(name: str) -> bool:
    return any(spec.name == name for spec in catalog.all_unlabelled())


def _pack(source: Path, folder: Path | None) -> Path:
    """Pack the images of ``source`` into a prepared file named like it, unless they already are."""
    name = "".join(c if is_name(f"a{c}") else "-" for c in source.resolve().name.lower()).strip("-._")[:80]
    if not is_name(name) or _is_registered(name) or name in [task.name for task in catalog.all_tasks()]:
        raise BadInput(f"{source}: the name {name!r} is taken or empty; rename the folder")
    listed = list_images(source, below=True)
    files = listed.files
    path = paths.prepared_path(name, folder)
    card = {"files": {str(f.relative_to(source)): [f.stat().st_size, f.stat().st_mtime_ns] for f in files}}
    if path.exists():
        with Prepared(path) as before:
            if before.card.get("files") == card["files"]:
                return path
            if not isinstance(before.spec, UnlabelledSet) or before.spec.dataset != "folder":
                raise BadInput(f"{path}: another prepared set of this name; rename the folder {source}")
    faults: list[str] = []
    for file in files:
        try:
            volume = open_volume(file)
            if volume.dtype != np.uint8 or volume.bits != 8 or volume.channels > 1 or volume.is_indexed:
                found = "a palette" if volume.is_indexed else f"{volume.channels} channel(s)"
                remedy = "convert it to 8-bit grey, stretching the same range in every image"
                faults.append(f"{file}: {volume.bits} bits, {volume.dtype}, with {found}; {remedy}")
        except BadInput as error:
            faults += error.lines
    if faults:
        raise BadInput(faults)
    items = (
        Item("train", str(file.relative_to(source)).replace(os.sep, ":"), grey(open_volume(file)), origin=str(file))
        for file in files
    )
    spec = UnlabelledSet(name=name, title=source.resolve().name, dataset="folder")
    store.write(path, spec, items, card, notes=[listed.note] if listed.note else [])
    return path

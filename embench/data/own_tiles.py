"""Cutting any folder of images into an unlabelled set as CEM500K was cut (protocol 2: C).

Every section becomes tiles of 224 x 224 pixels without overlap; a remainder is kept when it has at least 112 pixels,
and an image shorter than 224 is taken whole. (CEM500K keeps such smaller tiles as they are; here they are padded at
their ends by reflection, because the set is one array.) Within each source, tiles whose 64-bit difference hash is less
than 12 bits from that of a tile already kept are left out. A source is a folder directly inside the given one, with
everything below it, or a file directly inside it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core import environment, parallel, paths
from embench.core.console import showing
from embench.core.errors import BadInput
from embench.core.files import replacing
from embench.core.names import check_name
from embench.data import catalog, packing, store
from embench.data.convert import grey
from embench.data.listing import list_images
from embench.data.patches import NEAR, SIDE, fingerprint, patches
from embench.data.readers.open import open_volume
from embench.data.task import UnlabelledSet

log = logging.getLogger(__name__)

DATASET = "own"
"""What :attr:`embench.data.task.UnlabelledSet.dataset` says of such sets."""

_TILE = np.dtype([("file", "<i4"), ("z", "<i4"), ("y", "<i4"), ("x", "<i4"), ("dhash", "<u8")])


class Tiles:
    """Chosen tiles of some files, in order of file and place.

    Parameters
    ----------
    root : Path
    names : sequence of str
        Files below it.
    chosen : ndarray
        Of file number, z, y, x.
    """

    def __init__(self, root: Path, names: Sequence[str], chosen: NDArray[np.void]) -> None:
        self.root, self.names, self.chosen = root, names, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def facts(self, start: int, stop: int) -> Any:
        """Return places of some tiles, and names, sizes and times of their files."""
        rows = self.chosen[start:stop]
        places = [[int(row[name]) for name in ("file", "z", "y", "x")] for row in rows]
        return [places, [_file_facts(self.root, self.names[number]) for number in np.unique(rows["file"])]]

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8] | BadInput]:
        """Yield the tiles ``start..stop``, (Y, X); each section is read once."""
        opened: tuple[int, Any] | None = None
        held: tuple[int, int, NDArray[np.uint8]] | None = None
        for row in self.chosen[start:stop]:
            number, z, y, x = (int(row[name]) for name in ("file", "z", "y", "x"))
            try:
                if opened is None or opened[0] != number:
                    opened = number, grey(open_volume(self.root / self.names[number]))
                if held is None or held[:2] != (number, z):
                    held = number, z, opened[1][z]
            except BadInput as error:
                yield error
                continue
            yield np.ascontiguousarray(held[2][y : y + SIDE, x : x + SIDE])


def prepare(
    name: str, source: Path, folder: Path | None = None, *, force: bool = False, jobs: int | None = None
) -> tuple[str, Path, bool]:
    """Cut the images of a folder into an unlabelled set called ``name``; a cut-short run goes on where it stopped.

    Parameters
    ----------
    name : str
    source : Path
        A folder of 8-bit grey images of any size, in any format of :data:`embench.data.readers.open.SUFFIXES`.
    folder : Path, optional
        Of prepared files.
    force : bool
        Cut again what is there.
    jobs : int, optional
        Worker processes; by default one per core. The file does not depend on it.

    Returns
    -------
    (str, Path, bool)
        Name, prepared file, and whether it was written now.

    Raises
    ------
    BadInput
        A name that is taken, no images, or one line per file that is not 8-bit grey or cannot be read.
    """
    check_name(name, "the name")
    if catalog.is_registered(name):
        raise BadInput(f"{name}: taken by a registered data set; choose another")
    path = paths.prepared_path(name, folder)
    listed = list_images(source, below=True)
    root = source.resolve()
    names = [str(file.relative_to(source)) for file in listed.files]
    made_from = hashlib.sha256(
        json.dumps([root.name, [_file_facts(root, each) for each in names]]).encode()
    ).hexdigest()
    if path.exists() and not force:
        with store.Prepared(path) as before:
            if not isinstance(before.spec, UnlabelledSet):
                raise BadInput(f"{path}: holds a task of this name; choose another name")
            if before.card.get("made from") == made_from:
                return name, path, False
        raise BadInput(f"{path}: prepared from other files or settings; add --force to replace it")
    survey = path.with_name(f".{path.name}.survey")
    found = _surveyed(root, names, survey, jobs or environment.cores(), f"hashing tiles for {name}")
    chosen = _distinct(found, [each.split("/")[0] for each in names])
    log.info("%s: %d of %d tiles are kept, the others are near duplicates", name, len(chosen), len(found))
    card = {
        "source": [root.name],
        "files": len(names),
        "tiles": len(found),
        "left out as near duplicates": len(found) - len(chosen),
        "made from": made_from,
        **({"notes": [listed.note]} if listed.note else {}),
    }
    spec = UnlabelledSet(name=name, title=root.name, dataset=DATASET)
    packing.pack(path, spec, Tiles(root, names, chosen), card, jobs=jobs)
    for file in survey.iterdir():
        file.unlink()
    survey.rmdir()
    return name, path, True


def _file_facts(root: Path, name: str) -> list[Any]:
    stat = (root / name).stat()
    return [name, stat.st_size, stat.st_mtime_ns]


def _surveyed(root: Path, names: Sequence[str], work: Path, jobs: int, title: str) -> NDArray[np.void]:
    """Return every tile of every file with its hash; what is known from a run that was cut short is not read again."""
    work.mkdir(parents=True, exist_ok=True)
    results: list[NDArray[np.void]] = []
    faults: list[str] = []
    with showing(title, len(names)) as progress:
        for number, found in enumerate(parallel.spawned(partial(_survey, root, work), names, jobs)):
            if isinstance(found, BadInput):
                faults += found.lines
            else:
                found["file"] = number
                results.append(found)
            progress(1)
    if faults:
        raise BadInput(faults)
    return np.concatenate(results)


def _survey(root: Path, work: Path, name: str) -> NDArray[np.void] | BadInput:
    """Return the tiles of one file and keep them in ``work``."""
    facts = repr((_file_facts(root, name), SIDE)).encode()
    kept = work / f"{hashlib.sha256(facts).hexdigest()[:32]}.npy"
    if kept.exists():
        return np.load(kept, allow_pickle=False)
    try:
        volume = grey(open_volume(root / name))
        rows = [
            (0, z, y, x, fingerprint(patch_YX)["dhash"])
            for z in range(volume.shape[0])
            for y, x, patch_YX in patches(volume[z])
        ]
    except BadInput as error:
        return error
    found = np.array(rows, _TILE)
    with replacing(kept) as temporary, temporary.open("wb") as file:
        np.save(file, found)
    return found


def _distinct(tiles: NDArray[np.void], sources: Sequence[str]) -> NDArray[np.void]:
    """Return the tiles without those that are near one that comes before, source by source."""
    members: defaultdict[str, list[int]] = defaultdict(list)
    for number, source in enumerate(sources):
        members[source].append(number)
    kept: list[int] = []
    for numbers in members.values():
        waiting = np.flatnonzero(np.isin(tiles["file"], numbers))
        while len(waiting):
            kept.append(int(waiting[0]))
            apart = np.bitwise_count(tiles["dhash"][waiting] ^ tiles["dhash"][waiting[0]])
            waiting = waiting[apart >= NEAR]
    return tiles[np.sort(kept)]

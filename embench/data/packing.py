"""Packing very many images into one unlabelled set: streaming, in several processes, resumable.

The prepared file holds one volume (N, 224, 224), uint8, uncompressed and contiguous: any patch is read with one seek,
which is what pre-training does all day. While it is made, its layout is on disk in full and every worker writes the
patches of its blocks straight into their places; HDF5 itself is closed. Beside it stands what is known of each
finished block. So a killed run loses the blocks under way and nothing else, and the file appears under its name when
it is whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embench.core import environment, locks, parallel
from embench.core.console import showing
from embench.core.errors import BadInput
from embench.core.files import preallocate
from embench.data import duplicates, store
from embench.data.patches import PRINT, SIDE, fingerprint, padded
from embench.data.task import UnlabelledSet

log = logging.getLogger(__name__)

BLOCK = 256
"""Patches that are packed, and lost by a kill, at a time."""

_RECORD = np.dtype([("facts", "S16"), ("padded", "<i8"), ("grey_levels", "<i8", 256)])
"""What is kept of a finished block; ``facts`` is empty while it is not finished."""


class Patches(Protocol):
    """What is packed; travels to worker processes."""

    def __len__(self) -> int: ...

    def facts(self, start: int, stop: int) -> Any:
        """Return whatever changes when the patches ``start..stop`` change (names, sizes, times): JSON-able."""

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8] | BadInput]:
        """Yield the patches ``start..stop``, uint8 (Y, X) of at most 224 x 224, or what is wrong with one."""


def pack(
    path: Path,
    spec: UnlabelledSet,
    patches: Patches,
    card: dict[str, Any],
    *,
    jobs: int | None = None,
) -> str:
    """Write a prepared file of patches and return its hash.

    Parameters
    ----------
    path : Path
        Appears when it is complete; what is under way stands beside it in a hidden folder.
    spec : UnlabelledSet
    patches : Patches
        Smaller ones are padded at their ends by reflection.
    card : dict
        Stored with the number of padded patches.
    jobs : int, optional
        Worker processes; by default one per core. The file does not depend on it.

    Raises
    ------
    BadInput
        One line per patch that cannot be taken, after all were tried (what could be is kept for the next attempt);
        too little space.
    TryAgain
        Another process is packing this file, or a worker was killed.
    """
    if not len(patches):
        raise BadInput(f"{spec.name}: no images to pack")
    work = path.with_name(f".{path.name}.packing")
    work.mkdir(parents=True, exist_ok=True)
    with locks.claimed(work / "lock"):
        job = _Job.begin(work, patches)
        job.run(jobs or environment.cores(), f"packing {spec.name}")
        digest = job.finish(path, spec, card)
    shutil.rmtree(work)
    return digest


class _Job:
    """A file under way: the volume in its final place, prints and block records beside it."""

    def __init__(self, work: Path, patches: Patches, offset: int, block: int) -> None:
        self.work, self.patches, self.offset, self.block = work, patches, offset, block

    @classmethod
    def begin(cls, work: Path, patches: Patches) -> _Job:
        """Continue what is in ``work`` when it has as many patches, else lay out a new file."""
        count, about = len(patches), work / "job.json"
        expected = {"count": count, "block": BLOCK, "format": store.FORMAT, "print": PRINT.itemsize}
        if about.exists():
            facts = json.loads(about.read_text())
            if facts == {**expected, "offset": facts["offset"]}:
                return cls(work, patches, facts["offset"], BLOCK)
            log.info("the images are not as many as before: packing starts again")
            about.unlink()
        for old in (work / "patches.h5", work / "prints", work / "blocks"):
            old.unlink(missing_ok=True)
        needed, free = count * (SIDE * SIDE + PRINT.itemsize), shutil.disk_usage(work).free
        if needed > free:
            raise BadInput(f"{work.parent}: {count} patches need {needed / 1e9:.1f} GB, {free / 1e9:.1f} are free")
        offset = _lay_out(work / "patches.h5", count)
        _laid_out(work / "prints", count * PRINT.itemsize)
        _laid_out(work / "blocks", -(-count // BLOCK) * _RECORD.itemsize)
        about.write_text(json.dumps({**expected, "offset": offset}))
        return cls(work, patches, offset, BLOCK)

    @property
    def blocks(self) -> Any:
        return np.memmap(self.work / "blocks", _RECORD, "r+")

    def run(self, jobs: int, title: str) -> None:
        records, count = self.blocks, len(self.patches)
        waiting = [b for b, record in enumerate(records) if record["facts"] != self.facts(b)]
        done = count - sum(self.bounds(b)[1] - self.bounds(b)[0] for b in waiting)
        if done:
            log.info("%d of %d patches are already packed", done, count)
        faults: dict[int, list[str]] = {}
        with showing(title, count, done) as progress:
            for block, record, found in parallel.spawned(self.pack_block, waiting, jobs):
                if found:
                    faults[block] = found
                else:
                    records[block] = record
                    records.flush()
                progress(self.bounds(block)[1] - self.bounds(block)[0])
        if faults:
            raise BadInput([line for block in sorted(faults) for line in faults[block]])

    def bounds(self, block: int) -> tuple[int, int]:
        return block * self.block, min((block + 1) * self.block, len(self.patches))

    def facts(self, block: int) -> bytes:
        """Return a digest of what the block is made from: without null bytes, which the record would lose."""
        told = json.dumps(self.patches.facts(*self.bounds(block)))
        return hashlib.sha256(told.encode()).hexdigest()[:16].encode()

    def pack_block(self, block: int) -> tuple[int, Any, list[str]]:
        """Write the patches of a block into their places; return its record, and what is wrong with any."""
        start, stop = self.bounds(block)
        record = np.zeros((), _RECORD)
        prints = np.zeros(stop - start, PRINT)
        pixels = np.zeros((stop - start, SIDE, SIDE), np.uint8)
        faults: list[str] = []
        facts = self.facts(block)
        for number, patch_YX in enumerate(self.patches.read(start, stop)):
            if isinstance(patch_YX, BadInput):
                faults += patch_YX.lines
                continue
            record["padded"] += patch_YX.shape != (SIDE, SIDE)
            pixels[number] = padded(patch_YX)
            prints[number] = fingerprint(pixels[number])
        if faults:
            return block, record, faults
        record["facts"], record["grey_levels"] = facts, np.bincount(pixels.ravel(), minlength=256)
        shape = (len(self.patches), SIDE, SIDE)
        for name, dtype, whole, offset, values in (
            ("patches.h5", np.dtype(np.uint8), shape, self.offset, pixels),
            ("prints", PRINT, shape[:1], 0, prints),
        ):
            target = np.memmap(self.work / name, dtype, "r+", offset, whole)
            target[start:stop] = values
            target.flush()
        return block, record, []

    def finish(self, path: Path, spec: UnlabelledSet, card: dict[str, Any]) -> str:
        """Give the file its attributes and its name."""
        import h5py

        records = self.blocks
        log.info("%s: hashing %d patches", spec.name, len(self.patches))
        told = {**card, "patches": len(self.patches), "padded by reflection": int(records["padded"].sum())}
        with h5py.File(self.work / "patches.h5", "r+") as file:
            digest = store.seal(file, spec, records["grey_levels"].sum(0), told)
        prints = np.array(np.memmap(self.work / "prints", PRINT, "r"))
        with (self.work / "patches.h5").open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(self.work / "patches.h5", path)
        store.remember(path)
        duplicates.save_prints(path, digest, prints)
        return digest


def _laid_out(path: Path, size: int) -> None:
    """Give a file all of its blocks, zeros: one that is mapped and has no room left kills the process that writes."""
    with path.open("w+b") as file:
        preallocate(file.fileno(), size)


def _lay_out(file: Path, count: int) -> int:
    """Write an HDF5 file with room for ``count`` patches and return where in it they begin."""
    import h5py

    with h5py.File(file, "w") as root:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.CONTIGUOUS)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        group = root.create_group("train/patches")
        space = h5py.h5s.create_simple((count, SIDE, SIDE))
        dataset = h5py.h5d.create(group.id, b"image", h5py.h5t.STD_U8LE, space, properties)
        root.flush()
        offset = int(dataset.get_offset())
    with file.open("r+b") as opened:
        preallocate(opened.fileno(), offset + count * SIDE * SIDE)
    return offset

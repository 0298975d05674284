"""Whether random reads of a set as large as CEM500K keep up with eight GPUs of 2,500 images/s each.

    python benchmarks/reads.py                      # 500,000 tiles of 224 x 224: 25 GB, sparse
    python benchmarks/reads.py --images 1500000     # CEM1.5M
    python benchmarks/reads.py --written 20000      # so many of the tiles really written, and only these are read

The file has the layout of the packed set (`embench/data/packing.py`): one volume, uncompressed and contiguous, of which
no byte but the header is written. So what is measured is the way of a read through HDF5, through the file system and
into an array, without the disk: 20,000 tiles/s are 1 GB/s, which one NVMe drive gives and a network file system may
not. With `--written` tiles come from the disk at first, and from the system's memory after that.

Readers are processes, as one is for each GPU; every one reads batches of 256 random tiles in the order in which they
lie. Two ways: `hdf5` is one call of h5py for each tile, as in pre-training; `map` is the file mapped into memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from embench.core.environment import cores

SIDE, BATCH = 224, 256
NEEDED = 8 * 2500.0
"""Tiles a second that eight GPUs take."""


def sparse(path: Path, images: int, written: int) -> None:
    """Make the file: its whole length, of which a part is written."""
    with h5py.File(path, "w") as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_layout(h5py.h5d.CONTIGUOUS)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((images, SIDE, SIDE))
        h5py.h5d.create(file.id, b"image", h5py.h5t.NATIVE_UINT8, space, layout)
        rng = np.random.default_rng(0)
        for first in range(0, written, BATCH):
            count = min(BATCH, written - first)
            file["image"][first : first + count] = rng.integers(0, 256, (count, SIDE, SIDE), np.uint8)


def by_hdf5(path: Path) -> Callable[[int], Any]:
    """Return what reads a tile by one call of h5py."""
    return h5py.File(path, "r")["image"].__getitem__


def by_map(path: Path) -> Callable[[int], Any]:
    """Return what copies a tile out of the file mapped into memory."""
    with h5py.File(path, "r") as file:
        offset, shape = file["image"].id.get_offset(), file["image"].shape
    mapped = np.memmap(path, np.uint8, "r", offset, shape)
    return lambda number: np.array(mapped[number])


WAYS: dict[str, Callable[[Path], Callable[[int], Any]]] = {"hdf5": by_hdf5, "map": by_map}


def _read(way: str, path: Path, images: int, seed: int, seconds: float, start: Any) -> tuple[int, float, float]:
    read, rng = WAYS[way](path), np.random.default_rng(seed)
    out = np.empty((BATCH, SIDE, SIDE), np.uint8)
    start.wait()
    began, processor, made = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        for place, number in enumerate(np.sort(rng.integers(images, size=BATCH)).tolist()):
            out[place] = read(number)
        made += BATCH
    return made, time.perf_counter() - began, time.process_time() - processor


def measure(way: str, path: Path, images: int, readers: int, seconds: float) -> tuple[float, float]:
    """Return tiles a second of all readers together, and of a core."""
    with multiprocessing.Manager() as manager, multiprocessing.get_context("spawn").Pool(readers) as pool:
        start = manager.Barrier(readers)
        waiting = [pool.apply_async(_read, (way, path, images, seed, seconds, start)) for seed in range(readers)]
        found = [each.get() for each in waiting]
    return sum(made / clock for made, clock, _ in found), sum(made for made, _, _ in found) / sum(p for *_, p in found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500_000)
    parser.add_argument("--written", type=int, default=0)
    parser.add_argument("--readers", type=int, nargs="+", default=sorted({1, cores()}))
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--folder", type=Path, help="where the file is made (default: the system's temporary folder)")
    parser.add_argument("--way", nargs="+", default=list(WAYS), choices=WAYS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "set.h5"
        sparse(path, options.images, options.written)
        size, held = path.stat().st_size, path.stat().st_blocks * 512
        print(f"{options.images} tiles, {size / 1e9:.1f} GB ({held / 1e9:.1f} on disk), {cores()} cores")
        for way in options.way:
            for readers in options.readers:
                together, core = measure(way, path, options.written or options.images, readers, options.seconds)
                print(
                    f"{way}, {readers} processes: {together:.0f} tiles/s ({together * SIDE * SIDE / 1e9:.2f} GB/s), "
                    f"{core:.0f} a core, so {NEEDED / core:.2f} cores read for eight GPUs",
                    flush=True,
                )


if __name__ == "__main__":
    main()

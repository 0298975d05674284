"""How many images a second a core makes ready for pre-training, and how many threads a GPU of 2,500 images/s needs.

    python benchmarks/corruption.py
    python benchmarks/corruption.py --workers 1 2 4 8 --images-per-second 2500

Tiles of 224 pixels from a packed file (random reads), and the views of each method: RETINA's corruption, MoCoV2's and
SimCLR's two views, MAE's one. First one thread alone, by the processor's time; then as pre-training has them made
(`embench/training/feeding.py`), in batches of 256 by so many threads, by the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pretraining import Patches

from baselines.views import OneView, TwoViews
from embench.core.environment import cores
from embench.data import packing
from embench.data.store import Prepared
from embench.data.task import UnlabelledSet
from embench.data.unlabelled import Tiles
from embench.training.feeding import Feed
from retina.corruption import Corruption

SIDE, BATCH = 224, 256
METHODS: dict[str, Callable[[int], Callable[..., object]]] = {
    "corruption (RETINA)": Corruption,
    "two views (MoCoV2, SimCLR)": TwoViews,
    "one view (MAE)": OneView,
}


def reader(tiles: Tiles, augment: Callable[..., object] | None) -> Callable[[int], list[object]]:
    """Return what makes the batch of a number: random tiles, and their views where an augmentation is given."""

    def make(number: int) -> list[object]:
        rng = np.random.default_rng(number)
        found = tiles.read(rng.integers(len(tiles), size=BATCH).tolist())
        return [augment(tile, np.random.default_rng([number, n])) if augment else tile for n, tile in enumerate(found)]

    return make


def alone(make: Callable[[int], object], seconds: float) -> float:
    """Return images per second of the processor's time, one thread."""
    make(0)
    started, made = time.process_time(), 0
    while time.process_time() - started < seconds:
        made += 1
        make(made)
    return made * BATCH / (time.process_time() - started)


def fed(make: Callable[[int], object], workers: int, seconds: float) -> float:
    """Return images per second of the clock, by so many threads."""
    with Feed(make, 0, 2**31, workers) as feed:
        next(feed)
        started, made = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            next(feed)
            made += 1
        return made * BATCH / (time.perf_counter() - started)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, 2, cores()}))
    parser.add_argument("--images-per-second", type=float, default=2500.0, help="that a GPU takes")
    parser.add_argument("--images", type=int, default=2048, help="in the packed stand-in")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    options = parser.parse_args(arguments)
    print(f"{cores()} cores here; a GPU takes {options.images_per_second:g} images/s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stand-in.h5"
        spec = UnlabelledSet(name="stand-in", title="Smooth noise", dataset="stand-in", synthetic=True)
        packing.pack(path, spec, Patches(options.images), {})
        with Prepared(path) as data:
            tiles = Tiles(data, SIDE)
            reading = alone(reader(tiles, None), options.seconds)
            print(f"reading alone: {reading:.0f} images/s a core, {options.images_per_second / reading:.2f} cores")
            for name, augmentation in METHODS.items():
                make = reader(tiles, augmentation(SIDE))
                one = alone(make, options.seconds)
                together = ", ".join(f"{n}: {fed(make, n, options.seconds):.0f}" for n in options.workers)
                print(
                    f"{name}: {one:.0f} images/s a core, so {options.images_per_second / one:.1f} cores feed a GPU; "
                    f"images/s by threads: {together}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

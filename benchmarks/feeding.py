"""Whether a device ever waits for the batches of a trial: the network is replaced by a sleep of the device's step time.

    python benchmarks/feeding.py                         # steps of 12 and of 60 ms, 4 threads that make batches
    python benchmarks/feeding.py --step 5 --workers 8

A section of each published task's size, the crop and batch of its recipe, its augmentation. The threads make batches as
a trial has them made (`embench/training/feeding.py`), out of sections that are decoded already; `--decode` has each one
read from the prepared file again, as where a training set does not fit the trial's cache. What a core can make follows
from the processor's time of one thread; what a device waits for is measured.

12 ms is what TransUNet's step takes on an H100 by its 74 GFLOP an image, at a quarter of the peak; 60 ms is a card five
times slower. Both are estimates, no measurements.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from augmentation import section

from embench.core.environment import cores
from embench.data import store
from embench.data.catalog import SUITES, find_task
from embench.data.task import Item, Task
from embench.training.feeding import Feed
from embench.training.recipe import RECIPES, Recipe
from embench.training.sampler import TrainingSections
from embench.training.trainer import batches

SIDES = {"cremi": 1250, "guay": 800, "kasthuri": 1500, "perez": 1024, "urocell": 256}
"""Pixels a side of a training section, by data set; of `kasthuri` and `perez` about, since no source says it."""
SECTIONS = 4


@dataclass(frozen=True)
class Found:
    """What one task and recipe took: seconds of a core for a batch, and shares of the time in which steps waited."""

    batch: float
    waited: tuple[float, ...]


def measure(task: Task, recipe: Recipe, steps: Sequence[float], workers: int, least: float, decode: bool) -> Found:
    """Make batches on one core for a while, then feed steps of each length for ``least`` seconds."""
    side = SIDES[task.dataset]
    pictures = [section(side, seed) for seed in range(SECTIONS)]
    image, labels = (np.stack([pair[number] for pair in pictures]) for number in (0, 1))
    items = [Item("train", "a", image, labels), Item("test", "b", image[:1], labels[:1])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{task.name}.h5"
        store.write(path, task, items)
        with store.Prepared(path) as data:
            make = batches(
                TrainingSections(data, cache_bytes=0 if decode else 2**30), task, recipe, [0], torch.device("cpu")
            )
            make(0)
            started, made = time.process_time(), 0
            while made < 3 or time.process_time() - started < least / 2:
                made += 1
                make(made)
            batch = (time.process_time() - started) / made
            return Found(batch, tuple(waiting(make, step, workers, max(10, round(least / step))) for step in steps))


def waiting(make, step: float, workers: int, steps: int) -> float:  # type: ignore[no-untyped-def]
    """Return the share of the time in which the device waits, the first batches left out."""
    with Feed(make, 0, steps + 5, workers) as feed:
        for _ in range(5):
            next(feed)
            time.sleep(step)
        started, before = time.perf_counter(), feed.waited
        for _ in feed:
            time.sleep(step)
        return (feed.waited - before) / (time.perf_counter() - started)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=float, nargs="+", default=[12.0, 60.0], metavar="MS", help="of the device")
    parser.add_argument("--workers", type=int, default=4, help="threads that make batches")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--task", nargs="+", default=list(SUITES["published"]), choices=SUITES["published"])
    parser.add_argument("--decode", action="store_true", help="read every section from the file again")
    options = parser.parse_args(arguments)
    steps = [each / 1000 for each in options.step]
    told = ", ".join(f"{each:g} ms" for each in options.step)
    print(f"{cores()} cores here, {options.workers} threads; waiting for data in steps of {told} (goal under 5 %)")
    seen: dict[tuple[object, ...], Found] = {}
    for name in options.task:
        task = find_task(name)
        for published in RECIPES.values():
            recipe = published.for_task(task)
            kind = (task.dataset, recipe.crop, recipe.batch_size, task.crop_nonempty, task.noise_and_blur)
            if kind not in seen:
                seen[kind] = measure(task, recipe, steps, options.workers, options.seconds, options.decode)
            found, side = seen[kind], SIDES[task.dataset]
            per_step = ", ".join(
                f"{step * 1000:g} ms: {waited:.1%}, {found.batch / step:.2f} cores"
                for step, waited in zip(steps, found.waited, strict=True)
            )
            print(
                f"{name}, {recipe.name}: {recipe.batch_size} crops of {recipe.crop} from {side} x {side}: "
                f"{found.batch * 1000:.1f} ms of a core a batch; {per_step}",
                flush=True,
            )


if __name__ == "__main__":
    main()

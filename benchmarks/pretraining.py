"""How fast reconstruction pre-training is: TransUNet of hidden size 192, 224 x 224, loader and corruption included.

    python benchmarks/pretraining.py                        # one GPU, 200 steps of 256 images
    python benchmarks/pretraining.py --reference            # and the published way, on the same device in the same run
    python benchmarks/pretraining.py --data cem500k         # on the packed set itself, not on a stand-in for it
    torchrun --nproc-per-node=8 benchmarks/pretraining.py --batch-size 2048

This is `embench pretrain` itself, run for some steps: packed HDF5, batches made ahead by threads, uint8 to the device,
forward, backward, optimiser. The clock runs from the first loss read after the warm-up to the last one, and
a loss is known only when the device has finished its step. Without a GPU a few small steps are made on the CPU, to see
that it runs.

The reference is the published program in plain form: fp32 unless cuDNN decides otherwise, eager, every image augmented
and normalised by itself in data workers (processes).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from embench.core import environment
from embench.data import packing
from embench.data.catalog import open_prepared
from embench.data.store import Prepared
from embench.data.task import UnlabelledSet
from embench.data.unlabelled import Tiles
from embench.pretraining.distributed import World, joined_world
from embench.pretraining.loop import Progress, pretrain
from embench.pretraining.method import CEM500K_NORMS
from embench.training.feeding import workers_for
from retina.corruption import Corruption
from retina.pretraining import Reconstruction

SIDE = 224
FLOP = 74.1e9
"""Of one image of 224 x 224, forward and backward: 2 for each multiply-add of convolutions and matrix products."""
PEAKS = {
    "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "GH200": 989, "B200": 2250,
    "A100": 312, "A40": 150, "A10": 125, "L40S": 362, "L40": 181, "L4": 121, "V100": 125,
}  # fmt: skip
"""Dense TFLOP/s of 16-bit tensor cores by a part of the device's name, from the makers' data sheets."""


@dataclass(frozen=True)
class Speed:
    """What was measured; ``waiting`` is the fraction of the time in which the loop waited for data."""

    images_per_second: float
    seconds: float
    steps: int
    waiting: float
    peak_memory: float

    def lines(self, title: str, peak: float | None) -> str:
        """Return it to be read; ``peak`` in TFLOP/s of all devices together."""
        used = self.images_per_second * FLOP / 1e12
        share = (
            "peak of this device not known (give --peak-tflops)" if peak is None else f"{used / peak:.1%} of {peak:g}"
        )
        return (
            f"{title}: {self.images_per_second:.1f} images/s over {self.steps} steps in {self.seconds:.1f} s\n"
            f"  model FLOP utilisation: {used:.2f} TFLOP/s, {share}\n"
            f"  peak memory: {self.peak_memory / 2**30:.2f} GiB\n"
            f"  waiting for data: {self.waiting:.1%} of the time"
        )


class Done(Exception):
    """Enough steps have been timed."""


class Meter:
    """Takes the time from the first loss read after the warm-up to the first one ``steps`` later."""

    def __init__(self, warm_up: int, steps: int) -> None:
        self.warm_up, self.steps = warm_up, steps
        self.began: tuple[float, int, float] | None = None

    def __call__(self, at: Progress) -> None:
        now = time.perf_counter(), at.iteration, at.waited
        if self.began is None:
            if at.iteration >= self.warm_up:
                self.began = now
        elif at.iteration - self.began[1] >= self.steps:
            self.seconds, self.made, self.waited = (end - start for end, start in zip(now, self.began, strict=True))
            raise Done

    def speed(self, batch_size: int, device: torch.device) -> Speed:
        """Return the figures."""
        per_second = self.made * batch_size / self.seconds
        return Speed(per_second, self.seconds, int(self.made), self.waited / self.seconds, peak_memory(device))


def peak_memory(device: torch.device) -> float:
    """Return the most bytes in use so far: on a GPU, by tensors; on the CPU, by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Patches:
    """A stand-in for CEM500K: smooth noise, every patch another one."""

    def __init__(self, count: int) -> None:
        import cv2

        noise = np.random.default_rng(0).normal(size=(8, 2 * SIDE, 2 * SIDE))
        smooth = np.stack([cv2.GaussianBlur(plane, (0, 0), 3) for plane in noise])
        self.planes = np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def facts(self, start: int, stop: int) -> Any:
        return [start, stop]

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        for number in range(start, stop):
            y, x = np.random.default_rng(number).integers(SIDE, size=2)
            yield self.planes[number % 8, y : y + SIDE, x : x + SIDE]


def ours(data: Prepared, options: argparse.Namespace, device: str, world: World) -> Speed:
    """Time `embench pretrain retina`."""
    method, meter = Reconstruction(), Meter(options.warm_up, options.steps)
    settings = method.settings(
        batch_size=options.batch_size,
        epochs=10**6,
        precision=options.precision,
        accumulate=options.accumulate,
        compile=options.compile,
    )
    with tempfile.TemporaryDirectory() as scratch, contextlib.suppress(Done):
        pretrain(
            method,
            data,
            settings,
            Path(options.scratch or scratch) / "speed.safetensors",
            device=device,
            threads=options.threads,
            workers=options.workers,
            save_every_seconds=10**9,
            keep_every=10**9,
            force=True,
            world=world,
            report=meter,
        )
    return meter.speed(options.batch_size, torch.device(device))


class Singles(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Image by image, augmented and normalised, as published."""

    def __init__(self, path: Path, length: int) -> None:
        self.path, self.length, self.corruption = path, length, Corruption(SIDE)

    def __len__(self) -> int:
        return self.length

    @cached_property
    def tiles(self) -> Tiles:
        """Opened in the process that reads."""
        return Tiles(Prepared(self.path), SIDE)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        mean, deviation = CEM500K_NORMS
        views = self.corruption(self.tiles[number], np.random.default_rng())
        corrupted, clean = (torch.from_numpy(view)[None].float().div_(255).sub_(mean).div_(deviation) for view in views)
        return corrupted, clean


def reference(data: Prepared, options: argparse.Namespace, device: torch.device) -> Speed:
    """Time the published way."""
    from plain_transunet import VisionTransformer

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    torch.set_num_threads(options.threads)
    network = VisionTransformer(1).to(device).train()
    optimiser = torch.optim.SGD(network.parameters(), 0.003, momentum=0.9, weight_decay=1e-4, foreach=False)
    loader = DataLoader(
        Singles(data.path, len(Tiles(data, SIDE))),
        options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        pin_memory=device.type == "cuda",
    )
    meter, waited, iteration = Meter(options.warm_up, options.steps), 0.0, 0
    try:
        while True:
            waiting = time.perf_counter()
            for corrupted, clean in loader:
                waited += time.perf_counter() - waiting
                loss = F.mse_loss(network(corrupted.to(device)), clean.to(device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                loss.item()
                iteration += 1
                meter(Progress(iteration, 10**6, 0.0, waited))
                waiting = time.perf_counter()
    except Done:
        return meter.speed(options.batch_size, device)


def peak(options: argparse.Namespace, device: torch.device, world: World) -> float | None:
    """Return the TFLOP/s of all devices together, where known."""
    one = options.peak_tflops
    if one is None and device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        one = next((value for part, value in PEAKS.items() if part in name), None)
    return None if one is None else one * world.size


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=256 if gpu else 2, help="of all devices together")
    parser.add_argument("--steps", type=int, default=200 if gpu else 3)
    parser.add_argument("--warm-up", type=int, default=40 if gpu else 1, help="steps")
    parser.add_argument("--images", type=int, default=16384 if gpu else 64, help="of the stand-in set")
    parser.add_argument("--data", help="a prepared unlabelled set instead of the stand-in")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16" if gpu else "fp32")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--workers", type=int, default=workers_for("cuda" if gpu else "cpu", environment.cores()))
    parser.add_argument("--threads", type=int, default=environment.cores())
    parser.add_argument("--peak-tflops", type=float, help="of one device")
    parser.add_argument("--reference", action="store_true", help="time the published way too")
    parser.add_argument(
        "--scratch", type=Path, help="folder for the stand-in set, which stays; several processes need it"
    )
    options = parser.parse_args(arguments)

    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if gpu else "cpu"
    if gpu:
        torch.cuda.set_device(device)
    with joined_world(device) as world, tempfile.TemporaryDirectory() as scratch:
        folder = options.scratch or Path(scratch)
        if world.size > 1 and not (options.data or options.scratch):
            parser.error("several processes: give --data, or a --scratch folder that they share")
        if not options.data:
            spec = UnlabelledSet(name="stand-in", title="Smooth noise", dataset="stand-in", synthetic=True)
            path = folder / "stand-in.h5"
            if world.rank == 0:
                packing.pack(path, spec, Patches(options.images), {})
            world.wait()
        with open_prepared(options.data) if options.data else Prepared(path) as data:
            what = torch.cuda.get_device_name(device) if gpu else "no GPU here: a few small steps on the CPU"
            told = f"{what}; {world.size} x torch {torch.__version__}, batch {options.batch_size}, {options.precision}"
            told += f", {options.workers} workers, {options.threads} threads"
            if world.rank == 0:
                print(told + (", compiled" if options.compile else ""), flush=True)
            found = ours(data, options, device, world)
            if world.rank == 0:
                print(found.lines("ours", peak(options, torch.device(device), world)), flush=True)
            if options.reference and world.size == 1:
                published = reference(data, options, torch.device(device))
                print(published.lines("published way", peak(options, torch.device(device), world)))
                print(f"ratio: {found.images_per_second / published.images_per_second:.2f}")


if __name__ == "__main__":
    main()

"""How time and peak memory grow with what is given: a table (CSV) and a picture of both.

    python benchmarks/growth.py section --out benchmarks/growth    # sections of 256 to 8192 pixels a side
    python benchmarks/growth.py volume --sizes 16 64 256
    python benchmarks/growth.py results                            # 180 to 12,000 results on the leaderboard

Every size is measured in a process of its own; memory is that of the whole process, libraries included, and time the
processor's, of one thread. Sections are predicted by TransUNet at scale tiny with the published windows, which leaves
what the harness itself holds in plain sight; a larger network adds its parameters and the activations of four windows,
whatever the section.
"""

from __future__ import annotations

import argparse
import atexit
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Growth:
    """What grows.

    Parameters
    ----------
    axis : str
        What the size is.
    sizes : tuple of int
    prepare : callable
        From a size to what is timed.
    """

    axis: str
    sizes: tuple[int, ...]
    prepare: Callable[[int], Callable[[], Any]]


def section(side: int) -> Callable[[], Any]:
    """Prepare the prediction of a section by sliding windows."""
    import torch

    from baselines.transunet import size
    from baselines.transunet_network import TransUNet
    from embench.core.runtime import freed_memory_kept
    from embench.training.inference import predict_section
    from embench.training.precision import deployed
    from embench.training.recipe import SlidingWindow

    torch.set_num_threads(1)
    network = deployed(TransUNet(1, **size("tiny")))
    image = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    device = torch.device("cpu")

    def predicted() -> Any:
        with freed_memory_kept(device):
            return predict_section(
                network, image, inference=SlidingWindow(224), norms=(0.5, 0.1), device=device, volume=False
            )

    return predicted


def volume(depth: int) -> Callable[[], Any]:
    """Prepare sum over three axes and 3D IoU of the predictions of a volume 512 x 512 across: its grey values."""
    from embench.scoring.counts import count
    from embench.training.inference import predict_volume

    grey = np.random.default_rng(0).integers(0, 256, (depth, 512, 512), dtype=np.uint8)
    truth = (grey > 100).view(np.uint8)

    def scored() -> float:
        labels = predict_volume(lambda image: image[None] / np.float32(255), grey, (0, 1, 2), 1)
        return count(labels, truth, (1,))[1].iou()

    return scored


def results(models: int) -> Callable[[], Any]:
    """Prepare a leaderboard of so many models x 10 tasks x 6 seeds, built whole."""
    folder = Path(tempfile.mkdtemp(prefix="embench-growth-"))
    atexit.register(shutil.rmtree, folder)
    make = [sys.executable, str(Path(__file__).with_name("board.py")), "make", str(folder)]
    subprocess.run([*make, "--models", str(models)], check=True, stdout=subprocess.DEVNULL)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one process, whose time and memory are what is measured
    from leaderboard.cli import build

    return lambda: build([folder / "results"], folder / "site", folder / "data")


GROWTHS = {
    "section": Growth("pixels a side", (256, 512, 1024, 2048, 4096, 8192), section),
    "volume": Growth("sections", (16, 32, 64, 128, 256), volume),
    "results": Growth("models of 60 results", (3, 6, 12, 25, 50, 100, 200), results),
}


def one(name: str, size: int) -> None:
    """Measure one size in this process and print it."""
    run = GROWTHS[name].prepare(size)
    began = time.process_time()
    run()
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"size": size, "seconds": seconds, "peak_bytes": peak}))


def picture(growth: Growth, rows: list[dict[str, float]], path: Path) -> None:
    """Draw time and memory against size, all axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    sizes = [row["size"] for row in rows]
    for ax, key, scale, title in zip(
        axes, ("seconds", "peak_bytes"), (1.0, 2.0**20), ("processor time, s", "peak memory, MiB"), strict=True
    ):
        ax.plot(sizes, [row[key] / scale for row in rows], marker="o", color="#2a6f97")
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
        ax.set(xlabel=growth.axis, ylabel=title)
        ax.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the table and the picture after every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(GROWTHS))
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("growth"), help="folder of WHAT.csv and WHAT.png")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        return one(options.what, options.one)
    growth = GROWTHS[options.what]
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, float]] = []
    for size in options.sizes or growth.sizes:
        command = [sys.executable, __file__, options.what, "--one", str(size)]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        print(f"{size}: {rows[-1]['seconds']:.2f} s, {rows[-1]['peak_bytes'] / 2**20:.0f} MiB", flush=True)
        with (options.out / f"{options.what}.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, ["size", "seconds", "peak_bytes"])
            table.writeheader()
            table.writerows(rows)
        picture(growth, rows, options.out / f"{options.what}.png")


if __name__ == "__main__":
    main()

"""Does ``embench plan`` foresee what trials take? Forecast and trials of one seed, alternating in one run.

    python benchmarks/plan.py --task mini-perez-mito --models transunet,unet-resnet50 --repeats 3

Every repeat measures the forecast and then runs the trials in this process, one after the other, on one thread. What a
trial took is the training and prediction time that its result records, with the time to build the network. Prints per
model the median of measured / foreseen and its spread, and the same of the sum over models.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from embench.core.paths import data_folder
from embench.runs import estimate, trial
from embench.runs.options import RunRequest
from embench.runs.request import choices, trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mini-perez-mito")
    parser.add_argument("--models", default="transunet,retina,unet-resnet50,unet-resnet50-mocov2")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--crop", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--snapshots", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    ratios: dict[str, list[float]] = {}
    for repeat in range(asked.repeats):
        with tempfile.TemporaryDirectory() as folder:
            request = RunRequest(
                models=asked.models.split(","),
                tasks=[asked.task],
                seeds=1,
                first_seed=repeat,
                iterations=asked.iterations,
                crop=asked.crop,
                batch_size=asked.batch_size,
                snapshots=asked.snapshots,
                device="cpu",
                results=Path(folder),
            )
            planned = trials(request)  # makes generated data and checkpoints, so that this is in neither time
            lines = estimate.forecast(choices(request, data_folder()), data_folder(), "cpu", 1, 1, 1)
            total = 0.0
            for spec, line in zip(planned, lines, strict=True):
                started = time.perf_counter()
                trial.run(spec)
                took = time.perf_counter() - started
                total += took
                ratios.setdefault(line.model, []).append(took / line.seconds)
                said = f"foreseen {line.seconds:.1f} s, measured {took:.1f} s"
                print(f"repeat {repeat}: {line.model}: {said}", flush=True)
            ratios.setdefault("all", []).append(total / sum(line.seconds for line in lines))
    for model, found in ratios.items():
        print(f"{model}: measured / foreseen {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main()

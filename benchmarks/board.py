"""How long the leaderboard takes: 200 models x 10 tasks x 6 seeds, whole, and again from the results parsed then.

    python benchmarks/board.py make /tmp/board            # 12,000 result files, once (0.7 GB)
    python benchmarks/board.py time /tmp/board            # seconds and peak memory of two builds

The results are made up, but true to the schema: counts on as many test images as the benchmarks have (protocol 1),
five snapshots, a loss curve of 500 points, and scores that follow from the counts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from embench.data.catalog import find_task
from embench.data.task import Task
from embench.scoring.results import save
from embench.scoring.schema import ModelCard, SnapshotScore, TrialResult
from embench.training.recipe import find_recipe

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from calibration import simulate

IMAGES = {
    "cremi": 1,
    "guay": 1,
    "kasthuri": 75,
    "perez-lyso": 20,
    "perez-mito": 20,
    "perez-nuclei": 20,
    "perez-nucleoli": 20,
    "urocell": 1,
    "lucchi": 165,
    "all-mito": 100,
}
"""Test images or volumes by task; where the publication gives none, about as many as it shows."""
SNAPSHOTS = 5
FAMILIES = ("convolutional", "transformer", "hybrid")


def result(k: int, task: Task, seed: int, models: int) -> TrialResult:
    """Return a made-up trial of model ``k``: its quality rises with ``k``, with spread over seeds and images."""
    generator = np.random.default_rng([k, seed, *task.name.encode()])
    name = f"model-{k:03d}"
    recipe = find_recipe("unet" if k % 2 else "retina").for_task(task)
    quality = 0.3 + 0.5 * k / models + 0.02 * generator.standard_normal()
    card = ModelCard(
        name=name,
        title=f"Model {k}",
        family=FAMILIES[k % len(FAMILIES)],
        parameters=1_000_000 + 10_000 * k,
        trained_parameters=1_000_000,
        pretraining="self-supervised" if k % 4 else "none",
        weights_hash=hashlib.sha256(name.encode()).hexdigest() if k % 4 else None,
        licence="MIT",
    )
    return simulate.result(
        name,
        task,
        seed,
        [
            _snapshot(task, task.iterations * step // SNAPSHOTS, quality * (1 - 0.5**step), generator)
            for step in range(1, SNAPSHOTS + 1)
        ],
        model=card,
        recipe=recipe.facts(),
        loss_curve=tuple(
            (int(i), float(np.exp(-i / task.iterations)), 0.003)
            for i in np.linspace(1, task.iterations, min(500, task.iterations)).round()
        ),
        seconds_training=float(3600 + 10 * k),
        seconds_prediction=60.0,
        peak_memory_bytes=2**31,
        environment={"device": "cuda", "threads": 8, "commit": "0123456789ab", "python": "3.11.7"},
    )


def _snapshot(task: Task, iteration: int, quality: float, generator: np.random.Generator) -> SnapshotScore:
    levels = (quality + 0.05 * generator.standard_normal((IMAGES[task.name], len(task.classes)))).clip(0, 1)
    return simulate.snapshot(task, iteration, {label: levels[:, label] for label in task.scoring.classes})


def make(folder: Path, models: int, seeds: int) -> None:
    """Write every result."""
    for k in range(models):
        for name in IMAGES:
            task = find_task(name)
            for seed in range(seeds):
                made = result(k, task, seed, models)
                save(made, folder / "results" / made.task / made.model.name / "made-up" / f"seed-{seed}.json")
    files = list(folder.rglob("*.json"))
    print(f"{len(files)} results, {sum(path.stat().st_size for path in files) / 2**20:.0f} MiB in {folder}")


def measure(folder: Path) -> None:
    """Build the site without a cache, and again from the results parsed then; print seconds and peak memory.

    Seconds by the clock, and of processor time of all processes: where others load the machine, the second says more.
    Memory is that of all processes together, what they share counted once.
    """
    site, data = folder / "site", folder / "data"
    for gone in (site, data):
        shutil.rmtree(gone, ignore_errors=True)
    for what in ("whole", "again"):
        command = [sys.executable, "-m", "embench", "leaderboard", "build"]
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--results", str(folder / "results"), "--out", str(site)],
            env={**os.environ, "EMBENCH_DATA": str(data)},
            stdout=subprocess.DEVNULL,
        )
        memory, looking = 0, 0.0
        while not (waited := os.wait4(process.pid, os.WNOHANG))[0]:
            time.sleep(max(0.2, 30 * looking))  # a look takes tens of milliseconds from the build
            looked = time.perf_counter()
            memory = max(memory, _memory(process.pid))
            looking = time.perf_counter() - looked
        _, status, usage = waited
        seconds = time.perf_counter() - started
        facts = {
            "build": what,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "load": os.getloadavg()[0],
            "peak_mib": round(memory / 2**20),
            "exit": os.waitstatus_to_exitcode(status),
        }
        print(json.dumps(facts), flush=True)


def _memory(process: int) -> int:
    """Return the bytes of a process and its descendants (Linux)."""
    try:
        facts = Path(f"/proc/{process}/smaps_rollup").read_text()
        children = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:  # ended meanwhile
        return 0
    own = next((int(line.split()[1]) * 2**10 for line in facts.splitlines() if line.startswith("Pss:")), 0)
    return own + sum(map(_memory, map(int, children.split())))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["make", "time"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=6)
    asked = parser.parse_args()
    if asked.verb == "make":
        make(asked.folder, asked.models, asked.seeds)
    else:
        measure(asked.folder)

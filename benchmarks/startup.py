"""How long the command line takes to answer, against a program that imports its libraries first.

    python benchmarks/startup.py

The reference imports at its start what the verbs import when they are called (torch, MONAI, timm, albumentations,
segmentation-models-pytorch, pandas, matplotlib, ...), and then runs the same command. Every command is a new process;
they take turns. That both print the same is checked.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

import numpy as np

GOALS = {("--help",): 0.2, ("list", "tasks"): 0.5}
EAGER = """
import h5py, matplotlib.pyplot, monai.inferers, monai.networks.nets, nibabel, pandas, scipy.ndimage, scipy.stats
import tifffile, albumentations, seaborn, segmentation_models_pytorch, timm, torch, torchvision, zarr
import embench.runs.trial, embench.pretraining.loop, leaderboard.cli, baselines.transunet, retina.adapter
"""
COMMAND = """
import sys
from embench.cli import main
sys.argv[0] = "embench"
main()
"""


def timed(command: list[str]) -> tuple[float, float, str]:
    """Run a command; return seconds by the clock, seconds of the processor, and what it printed."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "120"}) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, printed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11)
    runs = parser.parse_args().runs
    for arguments, goal in GOALS.items():
        programs = {
            "interpreter alone": "",
            "imports first": f"{EAGER}\n{COMMAND}",
            "embench": COMMAND,
        }
        found: dict[str, list[tuple[float, float, str]]] = {name: [] for name in programs}
        for _ in range(runs):
            for name, program in programs.items():
                found[name].append(timed([sys.executable, "-c", program, *arguments]))
        print(f"embench {' '.join(arguments)} (goal: {goal:g} s), {runs} runs of each in turn, seconds:")
        for name, each in found.items():
            clock, processor = np.array([(wall, used) for wall, used, _ in each]).T
            print(
                f"  {name:<18} {clock.min():.3f} at least, median {np.median(clock):.3f}, most {clock.max():.3f}; "
                f"of the processor {processor.min():.3f} at least"
            )
        ratios = np.divide(*([wall for wall, _, _ in found[name]] for name in ("imports first", "embench")))
        same = len({text for name in ("imports first", "embench") for _, _, text in found[name]}) == 1
        print(
            f"  ratio {np.median(ratios):.1f}x (10 to 90 %: {np.quantile(ratios, 0.1):.1f} to "
            f"{np.quantile(ratios, 0.9):.1f}); {'both print the same' if same else 'THEY PRINT DIFFERENT THINGS'}"
        )

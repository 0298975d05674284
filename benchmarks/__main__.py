"""Runs every benchmark in its short form, one after the other, and writes what each says with the machine it ran on.

    pip install -e '.[bench]'
    python -m benchmarks                              # all of them; benchmarks.md
    python -m benchmarks feeding reads --out speed.md

Each has a process of its own and at most five minutes; what one of them ends in is told and the next goes on. The long
forms, and what each is measured against, are in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
LIMIT = 300.0
"""Seconds that one may take."""

SHORT: dict[str, list[list[str]]] = {
    "startup": [["--runs", "3"]],
    "augmentation": [["--pairs", "9"]],
    "feeding": [["--seconds", "1"]],
    "corruption": [["--seconds", "2", "--images", "1024"]],
    "reads": [["--seconds", "2"]],
    "instances": [["--pairs", "3"]],
    "orthoplane": [["--pairs", "3"]],
    "training_step": [["--pairs", "3"]],
    "inference": [["--pairs", "3"]],
    "pretraining": [[]],
    "plan": [["--repeats", "1"]],
    "growth": [["section", "--sizes", "256", "512", "1024", "--out", "{folder}/growth"]],
    "board": [["make", "{folder}/board", "--models", "20"], ["time", "{folder}/board"]],
}
"""The arguments of each; several where it is called several times."""


def run(name: str, folder: str) -> tuple[list[str], float, str]:
    """Return the lines that a benchmark prints, the seconds it took, and how it failed (empty: it did not)."""
    started, lines, fault = time.monotonic(), [], ""
    for arguments in SHORT[name]:
        command = [sys.executable, str(HERE / f"{name}.py"), *(each.format(folder=folder) for each in arguments)]
        left = LIMIT - (time.monotonic() - started)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, left), cwd=HERE.parent)
        except subprocess.TimeoutExpired as error:
            told = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
            lines += told.splitlines()
            fault = f"not done within {LIMIT:.0f} s"
            break
        lines += done.stdout.splitlines()
        if done.returncode:
            fault = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            break
    return [line for line in lines if line.strip()], time.monotonic() - started, fault


def machine() -> list[str]:
    """Say what this machine is."""
    import torch

    from embench.core.environment import commit, cores

    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        told = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = told[0].partition(":")[2].strip() if told else model
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return [
        f"- processor: {model}, {cores()} cores, {torch.backends.cpu.get_cpu_capability()}",
        f"- GPU: {', '.join(gpus) or 'none'}",
        f"- Python {platform.python_version()}, torch {torch.__version__}, embench {commit()}",
        f"- load before: {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and write the table; return 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(SHORT)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.md"))
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in SHORT]:
        parser.error(f"no benchmark called {', '.join(unknown)}: choose some of {', '.join(SHORT)}")
    page = ["# Benchmarks, short forms", "", *filter(None, machine()), "", "| benchmark | what it says | seconds |"]
    page.append("| --- | --- | --- |")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or SHORT:
            print(f"{name} ...", flush=True)
            lines, seconds, fault = run(name, folder)
            failed |= bool(fault)
            told = [*lines, *([f"**failed: {fault}**"] if fault else [])]
            print("".join(f"  {line}\n" for line in told), end="", flush=True)
            cell = "<br>".join(line.replace("|", "\\|") for line in told)
            page.append(f"| {name} | {cell} | {seconds:.0f} |")
            options.out.write_text("\n".join(page) + "\n", encoding="utf-8")
    print(f"written: {options.out}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

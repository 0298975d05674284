"""Run the same trials again and again, each time in a process of its own, and compare every byte.

``python -m tools.repeat --runs 10`` runs the small trial and the small pre-training, with one thread, each
time in another fork; with ``--models unet-resnet50,retina --threads 2`` these models on a small task, each time from a
new interpreter.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from embench.scoring import results
from tests.toy import comparable, make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models")
    parser.add_argument("--iterations", type=int, default=6)
    asked = parser.parse_args()
    found = in_forks(asked.runs) if asked.models is None else in_new_processes(asked)
    for row, kinds in found.items():
        print(f"{row}: {max(kinds.values())} of {asked.runs} runs gave the same bytes")
    sys.exit(0 if found and all(len(kinds) == 1 for kinds in found.values()) else 1)


def in_forks(runs: int) -> dict[str, Counter[str]]:
    """Return how often each outcome came of the small jobs: all that they leave, and their last states."""
    from tools.jobs import JOBS, fresh, outcome, place

    found: dict[str, Counter[str]] = {job.name: Counter() for job in JOBS}
    with place() as folder:
        for job in JOBS:
            for _ in range(runs):
                attempt = job.attempt(fresh(folder / "run"))
                if attempt.status:
                    raise SystemExit(f"{job.name}: exit status {attempt.status}\n{attempt.said}")
                found[job.name][str(sorted(outcome(folder / "run").parts.items()))] += 1
    return found


def in_new_processes(asked: argparse.Namespace) -> dict[str, Counter[str]]:
    """Return how often each outcome came of the models' trials: results and stored sections."""
    options = f"--model {asked.models} --task toy --seeds 1 --evaluations 2 --device cpu --jobs 1"
    found: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="embench-repeat-") as name:
        data = make(Path(name) / "data")
        for number in range(asked.runs):
            folder = Path(name) / str(number)
            places = ["--data-dir", str(data), "--results", str(folder)]
            amounts = ["--threads", str(asked.threads), "--iterations", str(asked.iterations)]
            command = [sys.executable, "-m", "embench", "run", *options.split(), *amounts, *places]
            subprocess.run(command, check=True, capture_output=True)
            for path in sorted(folder.rglob("seed-*.json")):
                sections = b"".join(each.read_bytes() for each in sorted(path.with_suffix(".sections").iterdir()))
                result = results.load(path)
                assert result.environment["deterministic"] is True
                found.setdefault(result.row, Counter())[comparable(result) + sections.hex()] += 1
    return found


if __name__ == "__main__":
    main()

"""Run the same trials again and again, each time in a new process, and compare every byte.

``python -m tests.reliability.repeat --runs 10 --threads 2`` runs the published models on a small task.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from embench import results
from tests.toy import comparable, make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", default="unet-resnet50,retina")
    parser.add_argument("--iterations", type=int, default=6)
    asked = parser.parse_args()
    options = f"--model {asked.models} --task toy --seeds 1 --snapshots 2 --device cpu --jobs 1"
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
    for row, kinds in found.items():
        print(f"{row}: {max(kinds.values())} of {asked.runs} runs gave the same bytes ({asked.threads} threads)")
    sys.exit(0 if found and all(len(kinds) == 1 for kinds in found.values()) else 1)


if __name__ == "__main__":
    main()

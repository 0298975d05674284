"""Stop runs from outside: SIGTERM and SIGUSR1 to the process, also while threads make its batches.

``python -m tools.stop --rounds 20`` does each so often, at random moments; the process has to end with 75
within 20 s unless it was done, and the same command then goes on to the same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tools.jobs import JOBS, PRETRAINING, Job, Outcome, fresh, outcome, place
from tools.kill import reference

LIMIT = {"SIGTERM": 20.0, "SIGUSR1": 20.0}
"""Seconds within which the process has to end."""
WITH_WORKERS = replace(PRETRAINING, options=PRETRAINING.options.replace("--workers 0", "--workers 2"))


@dataclass
class Tally:
    """What was done and what was found."""

    stopped: Counter[str] = field(default_factory=Counter)
    longest: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def after(seconds: float, what: str, hit: dict[str, float]) -> Callable[[int], None]:
    """Return what stops a process after so many seconds."""

    def meanwhile(process: int) -> None:
        time.sleep(seconds)
        os.kill(process, signal.Signals[what])
        hit["at"] = time.monotonic()

    return meanwhile


def stop(job: Job, what: str, seconds: float, folder: Path, expected: Outcome, tally: Tally) -> None:
    """Stop the job once and let it go on."""
    hit: dict[str, float] = {}
    attempt = job.attempt(fresh(folder), meanwhile=after(seconds, what, hit))
    took = time.monotonic() - hit["at"] if hit else 0.0
    where = f"{job.name}, {what} after {seconds:.2f} s"
    if attempt.status == 75:
        tally.stopped[what] += 1
        tally.longest[what] = max(tally.longest.get(what, 0.0), took)
    elif attempt.status < 0 and not outcome(folder).differences(expected):
        pass  # all is done and the process was on its way out: the signal ends it as it ends any other
    elif attempt.status or "Traceback" in attempt.said:
        tally.wrong.append(f"{where}: exit status {attempt.status}\n{attempt.said}")
    if took > LIMIT[what]:
        tally.wrong.append(f"{where}: ended after {took:.0f} s")
    if attempt.status:
        attempt = job.attempt(folder)
    if attempt.status:
        tally.wrong.append(f"{where}: tried again: exit status {attempt.status}\n{attempt.said}")
    elif differing := outcome(folder).differences(expected):
        tally.wrong.append(f"{where}: differs in {', '.join(differing)}")


def run(rounds: int, seed: int, tell: Callable[[str], None] = print) -> Tally:
    """Stop each job in each way until it was hit ``rounds`` times before its end."""
    rng = random.Random(seed)
    tally = Tally()
    with place() as folder:
        for job in (*JOBS, WITH_WORKERS):
            expected, _, seconds = reference(job, folder / "reference")
            for what in LIMIT:
                wanted = tally.stopped[what] + rounds
                while tally.stopped[what] < wanted and len(tally.wrong) < 5:
                    stop(job, what, rng.uniform(0.1, seconds), folder / "run", expected, tally)
                tell(f"{job.name}: {what}, {rounds} times; wrong: {len(tally.wrong)}")
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    tally = run(asked.rounds, asked.seed, lambda line: print(line, flush=True))
    for line in tally.wrong:
        print(line, file=sys.stderr)
    for what, count in tally.stopped.items():
        print(f"{what}: {count} times, ended with 75 within {tally.longest[what]:.1f} s")
    print(f"wrong: {len(tally.wrong)}")
    sys.exit(1 if tally.wrong else 0)


if __name__ == "__main__":
    main()

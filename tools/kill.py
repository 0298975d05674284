"""Kill a trial and a pre-training where it hurts, let them go on, and compare every byte with runs left alone.

``python -m tools.kill --kills 300`` kills by SIGKILL a third of the times at an operation on a file (open,
write begun, half done, and done, fsync, rename, ...; evenly spaced among all there are), a third at a random moment,
and a third at a random moment of an attempt that itself resumes a killed one. ``--every`` kills at every operation.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tools.jobs import JOBS, Act, Attempt, Job, Outcome, fresh, outcome, place, torn
from tools.operations import Operation

INTERVALS = (0.0, 0.05, 1000.0)
"""Seconds between two training states: one after every step, one after some, none but where a stage ends."""


@dataclass(frozen=True)
class Kill:
    """When a process is killed: ahead of or within an operation, or so many seconds after it started."""

    operation: int = 0
    half: bool = False
    seconds: float = 0.0

    def act(self) -> Act | None:
        return self._act if self.operation else None

    def _act(self, operation: Operation) -> None:
        if operation.number == self.operation:
            if self.half:
                operation.begin()
            os.kill(os.getpid(), signal.SIGKILL)

    def meanwhile(self, process: int) -> None:
        if not self.operation:
            time.sleep(self.seconds)
            os.kill(process, signal.SIGKILL)


@dataclass
class Tally:
    """What was done and what was found."""

    kills: Counter[str] = field(default_factory=Counter)
    histories: int = 0
    most_steps: int = 0
    most_seconds: float = 0.0
    lost: list[str] = field(default_factory=list)


def reference(job: Job, folder: Path) -> tuple[Outcome, list[tuple[str, str]], float]:
    """Run the job undisturbed; return what it left, its operations (kind, name) and how long it took."""
    listing = folder.parent / "operations"

    def note(operation: Operation) -> None:
        with listing.open("a") as file:
            file.write(f"{operation.kind} {operation.path.name}\n")

    runs = [job.attempt(fresh(folder), act=act) for act in (None, note)]
    for run in runs:
        if run.status:
            raise SystemExit(f"{job.name}, undisturbed: exit status {run.status}\n{run.said}")
    kinds = [tuple(line.split(maxsplit=1)) for line in listing.read_text().splitlines()]
    listing.unlink()
    return outcome(folder), kinds, runs[0].seconds  # type: ignore[return-value]


def history(job: Job, folder: Path, kills: list[tuple[str, Kill]], save_every: float, tally: Tally) -> Outcome | None:
    """Run the job, killed as often as told, to its end; return what it left, or ``None`` where it did not end well."""
    where = f"{job.name}, killed {', '.join(f'{kind} {kill}' for kind, kill in kills)}"
    fresh(folder)
    seen: list[Attempt] = []
    for kind, kill in kills:
        seen.append(job.attempt(folder, save_every=save_every, act=kill.act(), meanwhile=kill.meanwhile))
        tally.kills[kind] += seen[-1].killed
        tally.lost += [f"{where}: {fault}" for fault in torn(folder)]
    seen.append(job.attempt(folder, save_every=save_every))
    if seen[-1].status:
        tally.lost.append(f"{where}: exit status {seen[-1].status}\n{seen[-1].said}")
        return None
    tally.histories += 1
    tally.lost += [f"{where}: {fault}" for fault in too_much(seen, save_every, tally)]
    return outcome(folder)


def too_much(attempts: list[Attempt], save_every: float, tally: Tally) -> Iterator[str]:
    """Yield what was done again beyond one interval and the step in which it ended."""
    spent: dict[int, float] = {}
    for attempt in attempts:
        if attempt.steps:
            again = [seconds for iteration, seconds in spent.items() if iteration >= attempt.steps[0].iteration]
            tally.most_steps = max(tally.most_steps, len(again))
            tally.most_seconds = max(tally.most_seconds, sum(again))
            if len(again) > 1 and sum(again[:-1]) > save_every:
                yield f"{len(again)} steps of {sum(again):.2f} s were done again, with a state every {save_every} s"
        spent |= {step.iteration: step.seconds for step in attempt.steps}


def kills_at_operations(kinds: list[tuple[str, str]], number: int | None) -> list[Kill]:
    """Return ``number`` kills evenly spaced over all operations (``None``: at each), writes also half done."""
    every = [
        Kill(operation=place, half=half)
        for place, (kind, _) in enumerate(kinds, start=1)
        for half in ((False, True) if kind == "write" else (False,))
    ]
    if number is None or number >= len(every):
        return every
    return [every[int(place)] for place in np.linspace(0, len(every) - 1, number).round()]


def run(kills: int, every: bool, seed: int, tell: Callable[[str], None] = print) -> Tally:
    """Kill each job half of the times."""
    rng = random.Random(seed)

    def at_random(within: float) -> Kill:
        return Kill(seconds=rng.uniform(0, within))

    tally = Tally()
    with place() as folder:
        for job in JOBS:
            expected, kinds, seconds = reference(job, folder / "reference")
            found = Counter(kind for kind, _ in kinds)
            told = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
            tell(f"{job.name}: {len(kinds)} operations on files ({told}); {len(expected.parts)} things compared")
            share = kills // len(JOBS)
            at_operations = kills_at_operations(kinds, None if every else share // 3)
            plan = [[("at an operation", kill)] for kill in at_operations]
            for number in range((share // 3 + 1) // 2):
                first = rng.choice(kills_at_operations(kinds, None)) if number % 2 else at_random(seconds)
                then = Kill(operation=rng.randint(1, len(kinds))) if number % 3 == 0 else at_random(seconds)
                plan.append([("before and during a resume", first), ("before and during a resume", then)])
            before, wanted = tally.kills.total(), share + (len(at_operations) if every else 0)
            while plan or tally.kills.total() - before < wanted:  # a moment may come when all is done
                told_kills = plan.pop(0) if plan else [("at a random moment", at_random(seconds))]
                found_here = history(job, folder / "run", told_kills, rng.choice(INTERVALS), tally)
                if found_here is not None and (differing := found_here.differences(expected)):
                    tally.lost.append(f"{job.name}, killed {told_kills}: differs in {', '.join(differing)}")
                if tally.histories % 25 == 0:
                    tell(f"{job.name}: killed {tally.kills.total() - before} times, lost: {len(tally.lost)}")
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--every", action="store_true", help="at every operation, besides the others")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    began = time.monotonic()
    tally = run(asked.kills, asked.every, asked.seed, lambda line: print(line, flush=True))
    for line in tally.lost:
        print(line, file=sys.stderr)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.kills.items()))
    print(f"killed {tally.kills.total()} times ({told}) in {tally.histories} runs and {time.monotonic() - began:.0f} s")
    print(f"redone at most: {tally.most_steps} steps, {tally.most_seconds:.2f} s; lost: {len(tally.lost)}")
    sys.exit(1 if tally.lost else 0)


if __name__ == "__main__":
    main()

"""Let each operation on a file fail, once or from then on for ever, in a trial and a pre-training.

``python -m tools.faults`` fails every operation once and every operation for ever, with a full disk, a
read-only file system and a refused permission in turn (``--every``: each with each), and lets the kernel refuse every
file beyond some sizes. After each it looks that what was there before is there and whole, that the message names the
file, that the exit status is 75 where trying again can help and else 2, and that the same command, tried again, ends
with the bytes of a run that met no fault.
"""

from __future__ import annotations

import argparse
import errno
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools.jobs import JOBS, Act, Attempt, Job, Outcome, fresh, outcome, place, torn
from tools.kill import reference
from tools.operations import Operation

STATUS = {errno.ENOSPC: 75, errno.EROFS: 2, errno.EACCES: 2, errno.EFBIG: 75}
SIZES = (0, 200, 1000, 2000, 5000, 9000, 20_000)
"""Bytes beyond which a file cannot grow, for the faults that the kernel makes."""


@dataclass(frozen=True)
class Fault:
    """What fails: an operation by its number, or any write beyond a size."""

    code: int
    operation: int = 0
    for_ever: bool = False
    size: int | None = None

    def __str__(self) -> str:
        if self.size is not None:
            return f"no file beyond {self.size} bytes"
        return f"operation {self.operation} {'and all later ones' if self.for_ever else 'once'}: {self.name}"

    @property
    def name(self) -> str:
        return errno.errorcode[self.code]

    def act(self, there: Path) -> Act:
        """Return what fails in the process, having written down in ``there`` which files there were."""

        def act(operation: Operation) -> None:
            if self.size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))
                return
            if operation.number == self.operation:
                there.write_text("\n".join(map(str, finished(there.parent))))
            removes = operation.kind in ("unlink", "rmdir") and self.code == errno.ENOSPC  # which a full disk allows
            fails = operation.number == self.operation or (self.for_ever and operation.number > self.operation)
            if fails and not removes:
                raise operation.error(self.code)

        return act


@dataclass
class Tally:
    """What was done and what was found."""

    faults: Counter[str] = field(default_factory=Counter)
    endings: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def finished(folder: Path) -> list[Path]:
    """Return the files that have their final names."""
    return [path for path in sorted((folder / "work").rglob("*")) if path.is_file() and path.suffix != ".part"]


def try_(job: Job, folder: Path, fault: Fault, expected: Outcome, tally: Tally) -> None:
    """Run the job with the fault and again without it; note what is not as it should be."""
    fresh(folder)
    there = folder / "there"
    attempt = job.attempt(folder, act=fault.act(there))
    tally.faults[fault.name] += 1
    tally.endings[attempt.status] += 1
    found = list(faults_of(attempt, fault, folder))
    if attempt.status:
        before = there.read_text().split("\n") if there.exists() else []
        found += [f"{path} is gone" for path in before if path and not Path(path).exists()]
        again = job.attempt(folder)
        if again.status:
            found.append(f"tried again: exit status {again.status}\n{again.said}")
    if not found and (differing := outcome(folder).differences(expected)):
        found.append(f"differs in {', '.join(differing)}")
    for each in found:
        tally.wrong.append(f"{job.name}, {fault}: {each}")
        print(tally.wrong[-1], file=sys.stderr, flush=True)


def faults_of(attempt: Attempt, fault: Fault, folder: Path) -> Iterator[str]:
    """Yield what is wrong with the way in which an attempt ended."""
    if attempt.status not in (0, STATUS[fault.code]):
        yield f"exit status {attempt.status}\n{attempt.said}"
    elif attempt.status and f"{folder}/" not in attempt.said.splitlines()[-1]:
        yield f"no file is named\n{attempt.said}"
    elif "Traceback" in attempt.said:
        yield f"a traceback\n{attempt.said}"
    yield from torn(folder)


def all_faults(operations: int, every: bool) -> list[Fault]:
    """Return every operation failing once and for ever, and the kernel's refusals."""
    codes = (errno.ENOSPC, errno.EROFS, errno.EACCES)
    found = [Fault(errno.EFBIG, size=size) for size in SIZES]
    for operation in range(1, operations + 1):
        for for_ever in (False, True):
            chosen = codes if every else (codes[(operation + for_ever) % len(codes)],)
            found += [Fault(code, operation, for_ever) for code in chosen]
    return found


def run(every: bool, number: int | None, names: list[str], tell: Callable[[str], None] = print) -> Tally:
    """Try the faults, or ``number`` of them evenly spaced, on the jobs of these names."""
    tally = Tally()
    jobs = [job for job in JOBS if job.name in names]
    with place() as folder:
        for job in jobs:
            expected, kinds, _ = reference(job, folder / "reference")
            faults = all_faults(len(kinds), every)
            step = max(1, len(faults) * len(jobs) // number) if number else 1
            for place_, fault in enumerate(faults[::step], start=1):
                try_(job, folder / "run", fault, expected, tally)
                if place_ % 25 == 0:
                    tell(f"{job.name}: {place_} of {len(faults[::step])} faults, wrong: {len(tally.wrong)}")
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", action="store_true", help="each operation with each of the three errors")
    parser.add_argument("--number", type=int, help="only about so many, evenly spaced")
    parser.add_argument("--job", action="append", choices=[job.name for job in JOBS], help="default: all")
    asked = parser.parse_args()
    began = time.monotonic()
    names = asked.job or [job.name for job in JOBS]
    tally = run(asked.every, asked.number, names, lambda line: print(line, flush=True))
    told = ", ".join(f"{count} {name}" for name, count in sorted(tally.faults.items()))
    ended = ", ".join(f"{count} with {status}" for status, count in sorted(tally.endings.items()))
    print(f"{tally.faults.total()} faults ({told}) in {time.monotonic() - began:.0f} s; ended: {ended}")
    print(f"wrong: {len(tally.wrong)}")
    sys.exit(1 if tally.wrong else 0)


if __name__ == "__main__":
    main()

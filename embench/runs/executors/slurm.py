"""Through Slurm: one array of jobs that goes on without the command line, and resumes after pre-emption.

Slurm itself says what is queued or running: an array is called ``embench-ID``, and the file ``.slurm/ID.json`` in the
results folder, written before it is submitted, lists the trials of each of its jobs. So the same command given again
finds its jobs and submits none twice.
"""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from embench.core import confined
from embench.core.errors import BadInput, Interrupted, TryAgain
from embench.core.files import remove, write_atomic
from embench.core.names import unknown
from embench.runs import worker
from embench.runs.executors.display import display
from embench.runs.executors.follow import follow
from embench.runs.plan import TrialSpec, is_done
from embench.runs.worker import Failure, Outcome
from embench.scoring.schema import digest_of

log = logging.getLogger(__name__)

FOLDER = ".slurm"
_NAME = "embench-"
_ASK_EVERY = 30.0
"""Seconds between two questions to Slurm while waiting; it serves others too."""
_SILENT = 20
"""Questions without an answer after which waiting ends."""
_SIGNAL_AHEAD = 90
"""Seconds before its time limit at which a job is told to save and to go back to the queue."""

_TEXT = (
    *("account", "comment", "constraint", "dependency", "exclude", "exclusive", "gres", "mail_type", "mail_user"),
    *("mem", "mem_per_cpu", "mem_per_gpu", "nodelist", "partition", "qos", "setup", "wckey"),
)
_NUMBERS = ("cpus_per_gpu", "cpus_per_task", "gpus_per_node", "gpus_per_task", "max_submit")
OPTIONS = ("time", *_NUMBERS, *_TEXT)
"""What ``--slurm`` takes: parameters of submitit, which are those of sbatch, and ``max_submit``."""

_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def parse(given: Sequence[str]) -> dict[str, Any]:
    """Return the options in texts like ``partition=gpu,time=4:00:00``.

    A part without ``=`` belongs to the value before it, as in ``nodelist=a,b``. ``time`` becomes minutes.

    Raises
    ------
    BadInput
        An unknown option (with near ones), or a value that is none.
    """
    pairs: list[list[str]] = []
    for part in [part for text in given for part in text.split(",")]:
        if "=" in part:
            pairs.append(part.split("=", 1))
        elif pairs:
            pairs[-1][1] += f",{part}"
        else:
            raise BadInput(f"--slurm {part!r}: expected option=value, as in partition=gpu,time=4:00:00")
    found: dict[str, Any] = {}
    for key, value in pairs:
        name = key.strip().replace("-", "_")
        if name not in OPTIONS:
            raise unknown("--slurm option", key, OPTIONS)
        if name in found:
            raise BadInput(f"--slurm {name}: given twice")
        found[name] = _value(name, value.strip())
    return found


def _value(name: str, text: str) -> Any:
    if not text or not text.isprintable():
        raise BadInput(f"--slurm {name}={text!r}: not a value")
    if name == "time":
        return minutes(text)
    if name in _NUMBERS:
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            raise BadInput(f"--slurm {name}={text}: expected a whole number of at least 1")
        return int(text)
    return text


def minutes(text: str) -> int:
    """Return the minutes, rounded up, of a time as sbatch takes it: ``M``, ``M:S``, ``H:M:S``, ``D-H[:M[:S]]``."""
    match = _TIME.fullmatch(text) if text.isascii() else None
    if match is None:
        raise BadInput(f"--slurm time={text}: expected minutes, hours:minutes:seconds or days-hours:minutes:seconds")
    days, *parts = (int(part) if part else None for part in match.groups())
    hours, mins, seconds = parts if days is not None or parts[2] is not None else (0, *parts[:2])
    total = (((days or 0) * 24 + (hours or 0)) * 60 + (mins or 0)) * 60 + (seconds or 0)
    if total == 0:
        raise BadInput(f"--slurm time={text}: no time at all")
    return -(-total // 60)


@dataclass(frozen=True)
class Job:
    """One of our jobs in Slurm: an element of the array ``submission``."""

    number: str
    submission: str
    element: int
    state: str
    reason: str

    def __str__(self) -> str:
        return self.state.lower() + (f" ({self.reason})" if self.reason != "None" else "")


def queue() -> list[Job]:
    """Return our jobs that Slurm has queued or running.

    Raises
    ------
    TryAgain
        When Slurm does not answer.
    """
    shown = _slurm("squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i|%j|%K|%T|%r")
    return [job for line in shown.splitlines() if (job := _job(line)) is not None]


def _job(line: str) -> Job | None:
    number, name, element, state, reason = line.strip().split("|", 4)
    if not name.startswith(_NAME):
        return None
    return Job(number, name.removeprefix(_NAME), int(element) if element.isdigit() else 0, state, reason)


_SHARES: TypeAdapter[tuple[tuple[TrialSpec, ...], ...]] = TypeAdapter(tuple[tuple[TrialSpec, ...], ...])


def shared_out(trials: Sequence[TrialSpec], jobs: int) -> tuple[tuple[TrialSpec, ...], ...]:
    """Return the trials of each of at most ``jobs`` jobs, as even as can be and in order."""
    jobs = min(jobs, len(trials))
    return tuple(tuple(trials[first::jobs]) for first in range(jobs))


def record(shares: tuple[tuple[TrialSpec, ...], ...]) -> Path:
    """Write which trials each job of an array gets, and return the file; its name is the submission's."""
    facts = [[str(trial.path) for trial in share] for share in shares]
    path = shares[0][0].results_folder / FOLDER / f"{digest_of(facts)}.json"
    write_atomic(path, _SHARES.dump_json(shares), below=shares[0][0].results_folder)
    return path


MAX_BYTES = 256 * 2**20


def _recorded(path: Path) -> bytes:
    return confined.read(path, path.parent.parent, MAX_BYTES, "a record of jobs")


def jobs_of(results: Path) -> dict[Path, Job]:
    """Return the job that Slurm has for each trial of a results folder, by result file."""
    shares: dict[str, tuple[tuple[TrialSpec, ...], ...]] = {}
    found = {}
    for job in queue():
        path = results.absolute() / FOLDER / f"{job.submission}.json"
        if not re.fullmatch(r"[0-9a-f]+", job.submission):
            continue
        if job.submission not in shares:
            try:
                shares[job.submission] = _SHARES.validate_json(_recorded(path))
            except FileNotFoundError:
                continue  # of another results folder
            except (BadInput, ValidationError) as error:
                told = error if isinstance(error, BadInput) else f"{path}: not a record of jobs"
                log.warning("%s; its jobs are not known", told)
                shares[job.submission] = ()
        if job.element < len(shares[job.submission]):
            found.update({trial.path: job for trial in shares[job.submission][job.element]})
    return found


@dataclass(frozen=True)
class Slurm:
    """A Slurm cluster; trials and results lie in folders that all its nodes see.

    Parameters
    ----------
    options : dict
        As :func:`parse` returns them.
    jobs : int, optional
        Jobs that run at a time; by default as many as Slurm lets.
    """

    options: dict[str, Any] = field(default_factory=dict)
    jobs: int | None = None

    def __post_init__(self) -> None:
        if find_spec("submitit") is None:
            raise BadInput("--executor slurm: no submitit; run: pip install submitit (the extra slurm of embench-em)")
        if shutil.which("sbatch") is None:
            raise BadInput("--executor slurm: no sbatch here; run this where jobs are submitted from")

    def device(self, asked: str) -> str:
        """Return ``cuda`` when a job is to have a GPU, ``cpu`` otherwise."""
        if asked not in ("auto", "cpu", "cuda"):
            raise BadInput(f"--device {asked}: use auto, cpu or cuda")
        gpu = any(name.startswith("gpus") for name in self.options) or "gpu" in self.options.get("gres", "")
        if asked == "cpu" and gpu:
            raise BadInput("--device cpu: but --slurm asks for a GPU; leave out one of them")
        return "cuda" if gpu or asked == "cuda" else "cpu"

    def run(self, trials: Sequence[TrialSpec]) -> list[Outcome]:
        """Submit what is not yet queued, wait until Slurm has none of the trials, and return how each ended."""
        if not trials:
            return []
        trials = [trial.elsewhere() for trial in trials]
        self.submit(trials)
        try:
            with display(trials) as shown:
                outcomes = follow(trials, _Asking(trials[0].results_folder), shown)
        except (Interrupted, KeyboardInterrupt):
            log.info("the jobs go on without this command; give it again to watch, or see: embench status")
            raise
        return [_lost(trial) if outcome is None else outcome for trial, outcome in zip(trials, outcomes, strict=True)]

    def submit(self, trials: Sequence[TrialSpec]) -> int:
        """Submit the trials for which Slurm has no job, as one array, and return how many jobs that made.

        Raises
        ------
        BadInput
            With what sbatch said, when it refuses.
        TryAgain
            When Slurm does not answer.
        """
        trials = [trial.elsewhere() for trial in trials]
        known = jobs_of(trials[0].results_folder) if trials else {}
        new = [trial for trial in trials if trial.path not in known and not is_done(trial)]
        if len(new) < len(trials):
            log.info("%d of %d trials are with Slurm already", len(trials) - len(new), len(trials))
        if not new:
            return 0
        for trial in new:
            remove(worker.failure_path(trial), trial.results_folder)
        limit = min(self.options.get("max_submit", len(new)), _array_limit())
        while True:
            shares = shared_out(new, limit)
            try:
                number = self._submit(shares)
            except _OverLimit as error:
                if limit == 1:
                    raise BadInput(f"sbatch: {error}") from None
                limit = max(1, min(limit, len(new)) // 2)
                continue
            log.info("%d trials in %d jobs of Slurm: array %s", len(new), len(shares), number)
            return len(shares)

    def _submit(self, shares: tuple[tuple[TrialSpec, ...], ...]) -> str:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        path = record(shares)
        engine = submitit.SlurmExecutor(
            # The job's own shell becomes our process, so that Slurm's signals reach it (srun would kill it at SIGTERM).
            path.parent,
            max_num_timeout=10**6,
            python=f"exec {shlex.quote(sys.executable)}",
        )
        parameters = self.parameters(path.stem, len(shares), shares[0][0])
        engine.update_parameters(**parameters)
        work = Work(str(path), 60 * parameters["time"], hashlib.sha256(_recorded(path)).hexdigest())
        try:
            return engine.map_array(work, range(len(shares)))[0].job_id.split("_")[0]
        except (FailedJobError, FailedSubmissionError) as error:
            said = " ".join(
                line.removeprefix("sbatch: error: ") for line in str(error).splitlines() if "sbatch:" in line
            )
            if re.search(r"limit|array specification", said, re.IGNORECASE):
                raise _OverLimit(said) from None
            raise BadInput(f"sbatch: {said or error}") from None

    def parameters(self, submission: str, elements: int, trial: TrialSpec) -> dict[str, Any]:
        """Return what submitit is given for an array of ``elements`` jobs like that of ``trial``."""
        given = {name: value for name, value in self.options.items() if name not in ("max_submit", "setup")}
        given.setdefault("time", 60)
        given.setdefault("cpus_per_task", trial.threads)
        if trial.device == "cuda" and self.device("auto") == "cpu":
            given["gpus_per_node"] = 1
        ahead = min(_SIGNAL_AHEAD, given["time"] * 60 // 4)
        setup = [self.options["setup"]] if "setup" in self.options else []
        return given | {
            "job_name": f"{_NAME}{submission}",
            "array_parallelism": self.jobs or elements,
            "use_srun": False,
            "stderr_to_stdout": True,
            "setup": [*setup, "export SUBMITIT_PREEMPT_SIGNAL=USR1"],
            "additional_parameters": {"signal": f"B:USR1@{ahead}", "requeue": True},
        }


class _Asking:
    """Which trials Slurm has, asked now and then; a controller that restarts meanwhile is waited for."""

    def __init__(self, results: Path) -> None:
        self.results, self.asked, self.silent = results, float("-inf"), 0
        self.there: frozenset[Path] = frozenset()

    def __call__(self) -> frozenset[Path]:
        if time.monotonic() - self.asked > _ASK_EVERY:
            try:
                self.there, self.silent = frozenset(jobs_of(self.results)), 0
            except TryAgain:
                self.silent += 1
                if self.silent == _SILENT or not self.there:
                    raise
            self.asked = time.monotonic()
        return self.there


class _OverLimit(Exception):
    """More jobs than the cluster lets this user submit."""


def _lost(trial: TrialSpec) -> Outcome:
    from embench.core import locks

    if locks.holder(trial.claim_path, trial.results_folder):
        return None
    logs = trial.results_folder / FOLDER
    return Failure(kind="try-again", message=f"its Slurm job ended without a result; its log is in {logs}", host="")


def _array_limit() -> int:
    """Return how many elements an array may have here."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _slurm("scontrol", "show", "config"), re.MULTILINE)
    return max(1, int(match[1])) if match else 1


def _slurm(*command: str, seconds: float = 120) -> str:
    """Return what a command of Slurm prints; ``TryAgain`` when it says nothing in that time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TryAgain(f"{command[0]}: {error}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"{command[0]}: failed"]  # the last line is what it died of
        raise TryAgain(f"{said[-1]}; is Slurm up?")
    return done.stdout


def partitions(seconds: float) -> list[str]:
    """Return the partitions that Slurm names in that time (raises ``TryAgain``), for ``embench doctor``."""
    return _slurm("sinfo", "--noheader", "--format=%R", seconds=seconds).split()


class Work:
    """What a job of an array does: its share of the trials, one after the other.

    Parameters
    ----------
    path : str
        The submission's record.
    seconds : float
        The job's time limit. One that is reached without a single step forward is too short.
    sha256 : str
        Of the record: whoever can write there must not choose what runs here.

    ``checkpoint`` makes submitit put a job back that is told to stop before its first trial begins.
    """

    sha256 = ""  # of jobs that wait since an earlier version

    def __init__(self, path: str, seconds: float, sha256: str = "") -> None:
        self.path, self.seconds, self.sha256 = path, seconds, sha256

    def __call__(self, element: int) -> None:
        """Run the trials of job ``element``; when told to stop, save and go back to the queue."""
        from embench.core import signals

        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
        content = _recorded(Path(self.path))
        if self.sha256 and hashlib.sha256(content).hexdigest() != self.sha256:
            raise BadInput(f"{self.path}: not what was submitted; it names code that would be run: submit again")
        trials = _SHARES.validate_json(content)[element]
        began, moved = time.monotonic(), False

        def report(trial: TrialSpec, stage: str, iteration: int, loss: float) -> None:
            nonlocal moved
            moved = moved or stage == "training"
            shown.update(trial, stage, iteration, loss)

        try:
            with signals.deferred(grace=_SIGNAL_AHEAD * 2 / 3) as stop, display(trials) as shown:
                for trial in trials:
                    if not is_done(trial):
                        stop.check()
                        outcome = worker.attempt(trial, lambda *news, of=trial: report(of, *news), worker.HANDOVER)
                        shown.finished(trial, outcome)
                        moved = True
        except Interrupted as error:
            if not moved and time.monotonic() - began > self.seconds - 2 * _SIGNAL_AHEAD:
                told = "--slurm time: too short, a job ended without one more iteration; give it more"
                worker.fail(trial, BadInput(told))
            else:
                _put_back()
            raise SystemExit(signals.exit_status(error.number)) from None

    def checkpoint(self, element: int) -> Any:
        """Return what submitit queues again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, element)


def _put_back() -> None:
    """Queue this job again, unless Slurm does so itself (pre-emption) or it was cancelled."""
    number = os.environ["SLURM_JOB_ID"]
    if "JobState=RUNNING" in _slurm("scontrol", "show", "job", number).split():
        _slurm("scontrol", "requeue", number)

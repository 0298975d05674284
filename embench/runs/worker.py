"""How far running trials are and why others failed: small JSON files beside the training states.

They are for people and for ``embench status``; no result depends on them.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from embench.core import confined, signals
from embench.core.errors import BadInput, TryAgain
from embench.core.files import remove, write_atomic
from embench.core.types import Count, Finite
from embench.runs.plan import TrialSpec, is_done
from embench.scoring import results
from embench.scoring.schema import TrialResult

log = logging.getLogger(__name__)

MAX_BYTES = 2**20
EVERY = 10.0
"""Seconds at least between two progress files of a trial."""
HANDOVER = 120.0
"""Seconds in which the process of a lost job or node ends, when its trial has been given to another one already."""


class _Note(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Note = TypeVar("Note", bound=_Note)


class Progress(_Note):
    """Where a trial is.

    ``first`` is the iteration at which this attempt began or resumed, ``seconds`` what it took since then.
    """

    stage: str
    iteration: Count
    first: Count
    seconds: Finite
    loss: Finite | None
    host: str
    process: Count

    def seconds_left(self, iterations: int) -> float | None:
        """Return the time to the budget of ``iterations`` at the pace so far; ``None`` before the second iteration."""
        done = self.iteration - self.first
        return None if done < 1 else self.seconds / done * max(0, iterations - self.iteration)


class Failure(_Note):
    """Why a trial ended without a result.

    ``kind``: ``bad-input`` (what was given cannot be used), ``try-again`` (the same may succeed later) or ``error``
    (a fault in the model or in embench; ``trace`` says where). The note goes when the trial is tried again.
    """

    kind: Literal["bad-input", "try-again", "error"]
    message: str
    host: str
    trace: str = ""


Outcome = TrialResult | Failure | None
"""How a trial ended; ``None``: another process has it."""


def progress_path(trial: TrialSpec) -> Path:
    """Return the file that says where a running trial is."""
    return trial.state_path.with_suffix(".progress.json")


def failure_path(trial: TrialSpec) -> Path:
    """Return the file that says why a trial failed."""
    return trial.state_path.with_suffix(".failed.json")


def progress(trial: TrialSpec) -> Progress | None:
    """Return where a trial was when it last said so."""
    return _read(progress_path(trial), trial, Progress)


def failure(trial: TrialSpec) -> Failure | None:
    """Return why a trial failed when it was last tried."""
    return _read(failure_path(trial), trial, Failure)


def is_untidy(trial: TrialSpec) -> bool:
    """Whether anything is left of running a trial."""
    left = (trial.state_path, trial.claim_path, progress_path(trial))
    return any(confined.status(path, trial.results_folder) is not None for path in left)


def settled(trial: TrialSpec) -> Outcome:
    """Return how a trial ended, from what is on disk; ``None`` where it has not."""
    return results.load(trial.path, trial.results_folder) if is_done(trial) else failure(trial)


def attempt(
    trial: TrialSpec, report: Callable[[str, int, float], None] = lambda *_: None, patience: float = 0.0
) -> Outcome:
    """Run a trial and keep its books; what goes wrong in it becomes a :class:`Failure` and stops no other trial.

    Parameters
    ----------
    trial : TrialSpec
    report : callable
        Called with what is going on, the iteration and the loss.
    patience : float
        Seconds to wait for another process that has the trial to end, before it is left to that process.
    """
    beat = _Heartbeat(trial)

    def both(stage: str, iteration: int, loss: float) -> None:
        beat(stage, iteration, loss)
        report(stage, iteration, loss)

    remove(failure_path(trial), trial.results_folder)
    try:
        result = _run_once_free(trial, both, patience)
    except Exception as error:
        return fail(trial, error)
    finally:
        beat.last()
    if result is not None:
        remove(progress_path(trial), trial.results_folder)
    return result


def _run_once_free(trial: TrialSpec, report: Callable[[str, int, float], None], patience: float) -> TrialResult | None:
    from embench.runs.trial import run

    end = time.monotonic() + patience
    with signals.deferred() as stop:
        while (result := run(trial, report)) is None and time.monotonic() < end:
            time.sleep(1)
            stop.check()
    return result


def fail(trial: TrialSpec, error: Exception) -> Failure:
    """Note, beside its training state, that a trial failed and why."""
    kind: Literal["bad-input", "try-again", "error"] = "error"
    if isinstance(error, BadInput):
        kind = "bad-input"
    elif isinstance(error, TryAgain):
        kind = "try-again"
    found = Failure(
        kind=kind,
        message=str(error) if kind != "error" else f"{type(error).__name__}: {error}",
        host=socket.gethostname(),
        trace="".join(traceback.format_exception(error))[-20_000:] if kind == "error" else "",
    )
    _write(failure_path(trial), trial, found)
    return found


class _Heartbeat:
    """Writes the progress file, at once when the stage changes and every ten seconds otherwise."""

    def __init__(self, trial: TrialSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self.trial, self.clock = trial, clock
        self.stage, self.first, self.started, self.written = "", 0, 0.0, 0.0
        self.unwritten: Progress | None = None

    def __call__(self, stage: str, iteration: int, loss: float) -> None:
        now = self.clock()
        if not self.stage:
            self.first, self.started = iteration, now
        self.unwritten = Progress(
            stage=stage,
            iteration=iteration,
            first=self.first,
            seconds=now - self.started,
            loss=loss if math.isfinite(loss) else None,
            host=socket.gethostname(),
            process=os.getpid(),
        )
        if stage != self.stage or now - self.written >= EVERY:
            self.stage, self.written = stage, now
            self.last()

    def last(self) -> None:
        """Write the last news, where they are not written yet."""
        if self.unwritten:
            _write(progress_path(self.trial), self.trial, self.unwritten)
            self.unwritten = None


def _write(path: Path, trial: TrialSpec, note: _Note) -> None:
    try:
        write_atomic(path, note.model_dump_json(indent=1) + "\n", below=trial.results_folder)
    except (BadInput, TryAgain) as error:
        # A note that cannot be written (a full disk) is no reason to stop a trial: its own files will tell.
        log.warning("%s", error)


def _read(path: Path, trial: TrialSpec, kind: type[Note]) -> Note | None:
    try:
        return kind.model_validate_json(confined.read(path, trial.results_folder, MAX_BYTES, "a note"))
    except (FileNotFoundError, ValidationError):
        return None
    except BadInput as error:
        log.warning("%s", error)
        return None

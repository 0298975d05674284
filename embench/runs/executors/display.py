"""Where progress goes: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from embench.core.console import duration, terminal
from embench.runs.plan import TrialSpec
from embench.runs.worker import Failure, Outcome

log = logging.getLogger(__name__)

_LOG_EVERY = 30.0


class Display(Protocol):
    """Where progress goes."""

    def update(self, trial: TrialSpec, stage: str, iteration: int, loss: float) -> None:
        """Take news of a running trial."""

    def finished(self, trial: TrialSpec, outcome: Outcome) -> None:
        """Take a finished trial."""


@contextmanager
def display(trials: Sequence[TrialSpec]) -> Iterator[Display]:
    """Show a progress bar on a terminal, plain log lines elsewhere."""
    if sys.stderr.isatty():
        with _Bars(trials) as bars:
            yield bars
    else:
        yield _Lines(trials)


class _Lines:
    """Plain log lines: each trial as it ends, and now and then where the running ones are."""

    def __init__(self, trials: Sequence[TrialSpec], clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self.clock = len(trials), 0, clock
        self.started = clock()
        self.last: dict[str, float] = {}

    def update(self, trial: TrialSpec, stage: str, iteration: int, loss: float) -> None:
        if self.clock() - self.last.get(trial.label, 0) < _LOG_EVERY:
            return
        self.last[trial.label] = self.clock()
        figure = "" if math.isnan(loss) else f", loss {loss:.4f}"
        log.info("%s: %s, iteration %d of %d%s", trial.label, stage, iteration, trial.iterations, figure)

    def finished(self, trial: TrialSpec, outcome: Outcome) -> None:
        self.done += 1
        left = (self.clock() - self.started) / self.done * (self.total - self.done)
        log.info(
            "%d of %d over: %s, %s (about %s left)",
            self.done,
            self.total,
            trial.label,
            in_words(outcome),
            duration(left),
        )


class _Bars:
    """A bar for all trials and one for each that is running."""

    def __init__(self, trials: Sequence[TrialSpec]) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self.progress = Progress(*columns, console=terminal(stderr=True))
        self.all = self.progress.add_task("trials", total=sum(trial.iterations for trial in trials), note="")
        self.count, self.done = len(trials), 0
        self.running: dict[str, Any] = {}
        self.reached: dict[str, int] = {}

    def __enter__(self) -> _Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, trial: TrialSpec, stage: str, iteration: int, loss: float) -> None:
        if trial.label not in self.running:
            self.running[trial.label] = self.progress.add_task(trial.label, total=trial.iterations, note="")
        note = stage if math.isnan(loss) else f"loss {loss:.4f}"
        self.progress.update(self.running[trial.label], completed=iteration, note=note)
        self._advance(trial, iteration)

    def finished(self, trial: TrialSpec, outcome: Outcome) -> None:
        self.done += 1
        if bar := self.running.pop(trial.label, None):
            self.progress.remove_task(bar)
        self._advance(trial, trial.iterations)
        self.progress.console.print(f"{trial.label}: {in_words(outcome)}", highlight=False)

    def _advance(self, trial: TrialSpec, iteration: int) -> None:
        step = iteration - self.reached.get(trial.label, 0)
        self.reached[trial.label] = iteration
        self.progress.update(self.all, advance=step, note=f"{self.done} of {self.count} trials done")


def in_words(outcome: Outcome) -> str:
    """Return how a trial ended, in a few words."""
    if outcome is None:
        return "held by another process"
    if isinstance(outcome, Failure):
        return f"failed ({outcome.message})"
    return f"IoU {outcome.score:.4f}" if outcome.score is not None else f"{outcome.status} ({outcome.message})"

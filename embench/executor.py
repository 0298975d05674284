"""Running trials on this machine: one per GPU, or on the CPU one per worker process."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from queue import Empty
from typing import Any, Protocol

from embench import provenance
from embench.errors import TryAgain
from embench.results import TrialResult
from embench.trial import TrialSpec, run

log = logging.getLogger(__name__)

Event = tuple[int, str, int, float]
"""Number of the trial, what is going on, iteration, loss."""

_LOG_EVERY = 30.0


class Display(Protocol):
    """Where progress goes."""

    def update(self, trial: TrialSpec, stage: str, iteration: int, loss: float) -> None:
        """Take news of a running trial."""

    def finished(self, trial: TrialSpec, result: TrialResult | None) -> None:
        """Take a finished trial."""


def local(trials: Sequence[TrialSpec], *, jobs: int | None = None) -> list[TrialResult | None]:
    """Run every trial and return the results in the order given; ``None`` where another process has the trial.

    Parameters
    ----------
    trials : sequence of TrialSpec
    jobs : int, optional
        Worker processes; by default one per GPU, or cores over threads per trial. Results do not depend on it.

    Raises
    ------
    TryAgain
        When a worker was killed; what is finished is on disk, and the same command goes on from there.
    """
    if not trials:
        return []
    devices = _devices(trials[0].device)
    if jobs is None:
        jobs = len(devices) if devices[0] != "cpu" else max(1, provenance.cores() // trials[0].threads)
    jobs = min(jobs, len(trials))
    with display(trials) as shown:
        if jobs <= 1:
            return [_inline(replace(trial, device=devices[0]), shown) for trial in trials]
        return _pool(trials, jobs, devices, shown)


def _inline(trial: TrialSpec, shown: Display) -> TrialResult | None:
    result = run(trial, lambda *news: shown.update(trial, *news))
    shown.finished(trial, result)
    return result


def _pool(trials: Sequence[TrialSpec], jobs: int, devices: Sequence[str], shown: Display) -> list[TrialResult | None]:
    context = multiprocessing.get_context("spawn")
    events: Any = context.Queue()
    slots: Any = context.Queue()
    for number in range(jobs):
        slots.put(devices[number % len(devices)])
    results: dict[int, TrialResult | None] = {}
    with (
        _one_thread_each(trials[0].threads),
        ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(events, slots)) as pool,
    ):
        futures: dict[Future[TrialResult | None], int] = {
            pool.submit(_work, number, trial): number for number, trial in enumerate(trials)
        }
        try:
            while len(results) < len(trials):
                _drain(events, trials, shown)
                for future in [future for future in futures if future.done()]:
                    number = futures.pop(future)
                    results[number] = future.result()
                    shown.finished(trials[number], results[number])
        except BrokenProcessPool:
            raise TryAgain(
                f"a worker process was killed (out of memory?) with {len(results)} of {len(trials)} trials done; "
                "run the same command again to go on, with a smaller --jobs if memory was short"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [results[number] for number in range(len(trials))]


def _drain(events: Any, trials: Sequence[TrialSpec], shown: Display) -> None:
    """Pass on what has come in, waiting a moment for the first."""
    try:
        number, stage, iteration, loss = events.get(timeout=0.2)
        while True:
            shown.update(trials[number], stage, iteration, loss)
            number, stage, iteration, loss = events.get_nowait()
    except Empty:
        return


_events: Any = None
_device: str = "cpu"


def _start_worker(events: Any, slots: Any) -> None:
    global _events, _device
    _events, _device = events, slots.get()


def _work(number: int, trial: TrialSpec) -> TrialResult | None:
    def report(stage: str, iteration: int, loss: float) -> None:
        _events.put((number, stage, iteration, loss))

    return run(replace(trial, device=_device), report)


def _devices(name: str) -> list[str]:
    if name != "cuda":
        return ["cpu"]
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


@contextmanager
def _one_thread_each(threads: int) -> Iterator[None]:
    """Let the workers' numerical libraries start with ``threads`` threads; they read this when they load."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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

    def finished(self, trial: TrialSpec, result: TrialResult | None) -> None:
        self.done += 1
        left = (self.clock() - self.started) / self.done * (self.total - self.done)
        log.info(
            "%d of %d done: %s, %s (about %s left)", self.done, self.total, trial.label, outcome(result), duration(left)
        )


class _Bars:
    """A bar for all trials and one for each that is running."""

    def __init__(self, trials: Sequence[TrialSpec]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
        )
        self.progress = Progress(*columns, console=Console(stderr=True))
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

    def finished(self, trial: TrialSpec, result: TrialResult | None) -> None:
        self.done += 1
        if bar := self.running.pop(trial.label, None):
            self.progress.remove_task(bar)
        self._advance(trial, trial.iterations)
        self.progress.console.print(f"{trial.label}: {outcome(result)}", highlight=False)

    def _advance(self, trial: TrialSpec, iteration: int) -> None:
        step = iteration - self.reached.get(trial.label, 0)
        self.reached[trial.label] = iteration
        self.progress.update(self.all, advance=step, note=f"{self.done} of {self.count} trials done")


def outcome(result: TrialResult | None) -> str:
    """Return how a trial ended, in a few words."""
    if result is None:
        return "held by another process"
    return f"IoU {result.score:.4f}" if result.score is not None else f"{result.status} ({result.message})"


def duration(seconds: float) -> str:
    """Return a time for people: ``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

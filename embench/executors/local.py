"""On this machine: one trial per GPU, or on the CPU one per worker process."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import Empty
from typing import Any

from embench import provenance
from embench.errors import TryAgain
from embench.executors.display import Display, display
from embench.ledger import Outcome, attempt
from embench.plan import TrialSpec

Event = tuple[int, str, int, float]
"""Number of the trial, what is going on, iteration, loss."""


@dataclass(frozen=True)
class Local:
    """Every GPU of the machine, or its cores.

    Parameters
    ----------
    jobs : int, optional
        Worker processes; by default one per GPU, or cores over threads per trial. Results do not depend on it.
    """

    jobs: int | None = None

    def device(self, asked: str) -> str:
        """Return ``cpu`` or ``cuda``, which has to be here."""
        from embench.experiment import find_device

        return find_device(asked)

    def run(self, trials: Sequence[TrialSpec]) -> list[Outcome]:
        """Run every trial and return how each ended, in the order given.

        Raises
        ------
        TryAgain
            When a worker was killed; what is finished is on disk, and the same command goes on from there.
        """
        if not trials:
            return []
        devices = _devices(trials[0].device)
        jobs = self.jobs
        if jobs is None:
            jobs = len(devices) if devices[0] != "cpu" else max(1, provenance.cores() // trials[0].threads)
        jobs = min(jobs, len(trials))
        with display(trials) as shown:
            if jobs <= 1:
                return [_inline(replace(trial, device=devices[0]), shown) for trial in trials]
            return _pool(trials, jobs, devices, shown)


def _inline(trial: TrialSpec, shown: Display) -> Outcome:
    outcome = attempt(trial, lambda *news: shown.update(trial, *news))
    shown.finished(trial, outcome)
    return outcome


def _pool(trials: Sequence[TrialSpec], jobs: int, devices: Sequence[str], shown: Display) -> list[Outcome]:
    context = multiprocessing.get_context("spawn")
    events: Any = context.Queue()
    slots: Any = context.Queue()
    for number in range(jobs):
        slots.put(devices[number % len(devices)])
    outcomes: dict[int, Outcome] = {}
    with (
        _one_thread_each(trials[0].threads),
        ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(events, slots)) as pool,
    ):
        futures: dict[Future[Outcome], int] = {
            pool.submit(_work, number, trial): number for number, trial in enumerate(trials)
        }
        try:
            while len(outcomes) < len(trials):
                _drain(events, trials, shown)
                for future in [future for future in futures if future.done()]:
                    number = futures.pop(future)
                    outcomes[number] = future.result()
                    shown.finished(trials[number], outcomes[number])
        except BrokenProcessPool:
            raise TryAgain(
                f"a worker process was killed (out of memory?) with {len(outcomes)} of {len(trials)} trials done; "
                "run the same command again to go on, with a smaller --jobs if memory was short"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [outcomes[number] for number in range(len(trials))]


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


def _work(number: int, trial: TrialSpec) -> Outcome:
    def report(stage: str, iteration: int, loss: float) -> None:
        _events.put((number, stage, iteration, loss))

    return attempt(replace(trial, device=_device), report)


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

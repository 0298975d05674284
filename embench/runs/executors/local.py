"""On this machine: one trial per GPU, or on the CPU one per worker process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import Empty
from typing import Any

from embench.core import environment, signals
from embench.core.errors import Interrupted, TryAgain
from embench.runs.executors.display import Display, display
from embench.runs.plan import TrialSpec
from embench.runs.worker import Outcome, attempt
from embench.training.feeding import workers_for

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
        from embench.core.runtime import find_device

        return find_device(asked)

    def at_a_time(self, device: str, threads: int) -> int:
        """Return how many trials run at the same time."""
        if self.jobs is not None:
            return self.jobs
        return max(1, environment.cores() // threads) if device == "cpu" else len(_devices(device))

    def run(self, trials: Sequence[TrialSpec]) -> list[Outcome]:
        """Run every trial and return how each ended, in the order given.

        Raises
        ------
        TryAgain
            When a worker was killed; what is finished is on disk, and the same command goes on from there.
        Interrupted
            When this process was asked to stop, after every running trial is saved.
        """
        if not trials:
            return []
        devices = _devices(trials[0].device)
        jobs = min(self.at_a_time(trials[0].device, trials[0].threads), len(trials))
        with display(trials) as shown:
            if jobs <= 1:
                with signals.deferred() as stop:
                    return [_inline(replace(trial, device=devices[0]), shown, stop) for trial in trials]
            return _pool(trials, jobs, devices, shown)


def _inline(trial: TrialSpec, shown: Display, stop: signals.Interrupt) -> Outcome:
    stop.check()
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
        signals.deferred(grace=signals.GRACE + 3) as stop,  # the workers first
        _one_thread_each(trials[0].threads),
        ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(events, slots)) as pool,
    ):
        with signals.ignored():  # which the workers inherit: Ctrl-C reaches them as well, but this process decides
            futures: dict[Future[Outcome], int] = {
                pool.submit(_work, number, _fed(trial, jobs)): number for number, trial in enumerate(trials)
            }
        try:
            while len(outcomes) < len(trials):
                if stop.asked:
                    for worker in multiprocessing.active_children():
                        worker.terminate()
                    stop.check()
                _drain(events, trials, shown)
                for future in [future for future in futures if future.done()]:
                    number = futures.pop(future)
                    outcomes[number] = future.result()
                    shown.finished(trials[number], outcomes[number])
        except BrokenProcessPool:
            stop.check()
            raise TryAgain(
                f"a worker process was killed (out of memory?) with {len(outcomes)} of {len(trials)} trials done; "
                "run the same command again to go on, with a smaller --jobs if memory was short"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [outcomes[number] for number in range(len(trials))]


def _fed(trial: TrialSpec, jobs: int) -> TrialSpec:
    """Return a trial with its part of the cores for the threads that make its batches."""
    if trial.workers is not None:
        return trial
    return replace(trial, workers=workers_for(trial.device, environment.cores(), jobs))


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
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)  # the trial is saved; nobody is there to be told


def _work(number: int, trial: TrialSpec) -> Outcome:
    def report(stage: str, iteration: int, loss: float) -> None:
        _events.put((number, stage, iteration, loss))

    try:
        with signals.deferred() as stop:
            outcome = attempt(replace(trial, device=_device), report)
            stop.check()
            return outcome
    except Interrupted as error:
        os._exit(signals.exit_status(error.number))  # not back to the pool, which would have it wait for more


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

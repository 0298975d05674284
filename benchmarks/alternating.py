"""Two ways of doing the same, timed in turn, so that whatever slows one slows the other."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """Seconds of the reference over seconds of ours, pair by pair."""

    reference: tuple[float, ...]
    ours: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the pairs' ratios."""
        return float(np.median(np.divide(self.reference, self.ours)))

    def line(self, what: str, agreement: str, goal: float) -> str:
        """Return what was found, to be read."""
        low, high = np.quantile(np.divide(self.reference, self.ours), (0.1, 0.9))
        return (
            f"{what}: {self.median:.2f}x (goal {goal:g}x; 10 to 90 % of {len(self.ours)} pairs: {low:.2f} to "
            f"{high:.2f}); median reference {np.median(self.reference):.4g} s, ours {np.median(self.ours):.4g} s; "
            f"{agreement}"
        )


def alternate(
    reference: Callable[[], Any],
    ours: Callable[[], Any],
    pairs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Ratio:
    """Time both in turn, after calling each once.

    Parameters
    ----------
    reference, ours : callable
    pairs : int
    clock : callable
        `time.process_time` for what runs on one core: it does not count the time in which other programs had it.
    """
    return _in_turn(_timed(reference, clock), _timed(ours, clock), pairs)


Prepared = Callable[[], AbstractContextManager[Callable[[], Any]]]
"""Makes ready what is called; has to be picklable."""


def alternate_apart(
    reference: Prepared, ours: Prepared, pairs: int, clock: Callable[[], float] = time.perf_counter
) -> Ratio:
    """Time both in turn, each in a process of its own: settings of the process are then part of what is compared."""
    with ExitStack() as processes:
        calls = [processes.enter_context(_apart(prepare, clock)) for prepare in (reference, ours)]
        return _in_turn(*calls, pairs)


def _in_turn(reference: Callable[[], float], ours: Callable[[], float], pairs: int) -> Ratio:
    for call in (reference, ours):
        call()
    taken = [(reference(), ours()) for _ in range(pairs)]
    return Ratio(*zip(*taken, strict=True))


def _timed(call: Callable[[], Any], clock: Callable[[], float]) -> Callable[[], float]:
    def timed() -> float:
        started = clock()
        call()
        return clock() - started

    return timed


@contextmanager
def _apart(prepare: Prepared, clock: Callable[[], float]) -> Iterator[Callable[[], float]]:
    """Start a process that prepares a call; what is yielded has it called there and returns the seconds."""
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe()
    process = spawning.Process(target=_answer, args=(prepare, clock, there), daemon=True)
    process.start()
    there.close()

    def seconds() -> float:
        here.send(None)
        return here.recv()  # EOFError where the process has ended

    try:
        yield seconds
    finally:
        here.close()
        process.join()


def _answer(prepare: Prepared, clock: Callable[[], float], asked: Connection) -> None:
    with prepare() as call:
        timed = _timed(call, clock)
        while True:
            try:
                asked.recv()
            except EOFError:
                return
            asked.send(timed())

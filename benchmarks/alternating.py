"""Two ways of doing the same, timed in turn in one process, so that whatever slows one slows the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
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
    seconds: tuple[list[float], list[float]] = [], []
    for call in (reference, ours):
        call()
    for _ in range(pairs):
        for call, taken in zip((reference, ours), seconds, strict=True):
            started = clock()
            call()
            taken.append(clock() - started)
    return Ratio(tuple(seconds[0]), tuple(seconds[1]))

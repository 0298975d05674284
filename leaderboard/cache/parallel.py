"""The same work on many things, by as many processes as there are processors."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from embench.core.environment import cores

Thing = TypeVar("Thing")
Made = TypeVar("Made")

FEWEST = 64
"""Things from which on processes are started."""
MOST = 4
"""Processes: each holds a copy of what it writes to."""

_work: tuple[Callable[[Any], Any], Sequence[Any]]
"""What a fork works on. Here it would keep all of it until the end of the program, which then takes half a second."""


def each(function: Callable[[Thing], Made], things: Sequence[Thing], fewest: int | None = None) -> Iterator[Made]:
    """Yield ``function(thing)`` of each thing, in order.

    The processes are forks: they see everything that this one has made so far, and send back what they return.

    Parameters
    ----------
    function : callable
        Not pickled; what it changes is not seen here.
    things : sequence
    fewest : int, optional
        With fewer things, or a single processor, all is done in this process.

    Raises
    ------
    Exception
        As ``function`` does, and BrokenProcessPool when a process is killed.
    """
    count = min(cores(), MOST)
    if len(things) < (FEWEST if fewest is None else fewest) or count < 2:
        yield from map(function, things)
        return
    chunk = max(1, len(things) // 1000)
    gc.freeze()  # a collection in a fork would copy everything that it looks through
    try:
        with ProcessPoolExecutor(count, multiprocessing.get_context("fork"), _begin, (function, things)) as pool:
            yield from pool.map(_one, range(len(things)), chunksize=chunk)
    finally:
        gc.unfreeze()


def _begin(function: Callable[[Any], Any], things: Sequence[Any]) -> None:
    global _work
    _work = function, things


def _one(place: int) -> Any:
    function, things = _work
    return function(things[place])

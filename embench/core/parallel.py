"""The same work on many things, by several processes: ``function(thing)`` of each thing, in order."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from embench.core import signals
from embench.core.environment import cores
from embench.core.errors import TryAgain

Thing = TypeVar("Thing")
Made = TypeVar("Made")

FEWEST = 64
"""Things from which on :func:`forked` starts processes."""
MOST = 4
"""Forks: each holds a copy of what it writes to."""

_function: Callable[[Any], Any]
"""What a process does. Here it would keep what it holds until the end of the program."""


def spawned(function: Callable[[Thing], Made], things: Sequence[Thing], jobs: int) -> Iterator[Made]:
    """Share out things among ``jobs`` new processes; with one job or thing all is done in this one.

    The function goes to each process once, by pickle, as every thing does.

    Raises
    ------
    Exception
        As ``function`` does.
    TryAgain
        A process was killed.
    """
    yield from _shared_out(function, things, jobs, "spawn")


def forked(function: Callable[[Thing], Made], things: Sequence[Thing], fewest: int = FEWEST) -> Iterator[Made]:
    """Share out things among forks, which see all that this process has made and send back what they return.

    Neither function nor things are pickled; what the function changes is not seen here. With fewer than ``fewest``
    things, with a single core, or on a system without forks, all is done in this process. Raises as :func:`spawned`.
    """
    can = len(things) >= fewest and "fork" in multiprocessing.get_all_start_methods()
    jobs = min(cores(), MOST) if can else 1
    gc.freeze()  # a collection in a fork would copy everything that it looks through
    try:
        yield from _shared_out(lambda place: function(things[place]), range(len(things)), jobs, "fork")
    finally:
        gc.unfreeze()


def _shared_out(function: Callable[[Thing], Made], things: Sequence[Thing], jobs: int, method: str) -> Iterator[Made]:
    jobs = min(jobs, len(things))
    if jobs <= 1:
        yield from map(function, things)
        return
    chunk = max(1, min(64, len(things) // (16 * jobs)))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context(method), _begin, (function,)) as pool:
        try:
            yield from pool.map(_one, things, chunksize=chunk)
        except BrokenProcessPool:
            raise TryAgain(
                "a worker process was killed (out of memory?); run the same command again to go on"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    signals.end_with_parent()


def _one(thing: Any) -> Any:
    return _function(thing)

"""Batches made ahead of the step that takes them, so that a device never waits for its data.

A batch is a pure function of its number: whoever makes it, and when, it has the same bytes. So threads make the next
ones while the device computes. Threads, not processes: OpenCV, NumPy's generators and HDF5 do most of the work outside
Python's lock, all threads share the sections that are decoded already, and no helper can be killed alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Batch = TypeVar("Batch")

AHEAD = 2
"""Batches that wait for the step, besides one that each thread is making."""
MOST_WORKERS = 8
"""Threads that feed one device, unless more are asked for: beyond these, Python's lock is what they wait for."""


def workers_for(device: str, cores: int, trainings: int = 1) -> int:
    """Return how many threads make batches for a training by default.

    None for a training on the processor: there they would take its cores from the step.

    Parameters
    ----------
    device : str
        As torch names it.
    cores : int
        Of this process and of the other ``trainings`` that run beside it.
    trainings : int
        How many share the cores, this one included.
    """
    if not device.startswith("cuda"):
        return 0
    return max(1, min(MOST_WORKERS, cores // max(1, trainings)))


class Feed(Generic[Batch]):
    """The batches from one number to another, in order, at most a few of them made and not yet taken.

    Parameters
    ----------
    make : callable
        Makes the batch of a number, from 0. Called by several threads at once where there are ``workers``.
    first, end : int
        The numbers: from ``first`` to below ``end``.
    workers : int
        Threads that make batches ahead; 0: each is made when it is asked for, by whoever asks.

    Attributes
    ----------
    waited : float
        Seconds that those who asked have waited for a batch so far.
    """

    def __init__(self, make: Callable[[int], Batch], first: int, end: int, workers: int = 0) -> None:
        self._make, self._next, self._end = make, first, end
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="feed") if workers else None
        self._ahead: deque[Future[Batch]] = deque()
        self._most = workers + AHEAD
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the next batch; what went wrong in making it is raised here."""
        started = time.perf_counter()
        try:
            return self._made() if self._threads is None else self._taken(self._threads)
        finally:
            self.waited += time.perf_counter() - started

    def _made(self) -> Batch:
        if self._next >= self._end:
            raise StopIteration
        batch = self._make(self._next)
        self._next += 1
        return batch

    def _taken(self, threads: ThreadPoolExecutor) -> Batch:
        while self._next < self._end and len(self._ahead) < self._most:
            self._ahead.append(threads.submit(self._make, self._next))
            self._next += 1
        if not self._ahead:
            raise StopIteration
        batch = self._ahead.popleft().result()
        if self._next < self._end:
            self._ahead.append(threads.submit(self._make, self._next))
            self._next += 1
        return batch

    def close(self) -> None:
        """Return when no thread makes a batch any more: the file that they read from may then be closed."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def __enter__(self) -> Feed[Batch]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""The one loop of fine-tuning and pre-training: batches ahead, losses read now and then, states saved, asked to stop.

What a step does is its caller's: the loop hands it the next batch and gets a loss back that nobody has read. Reading
one makes the host wait for a GPU, so the losses of several steps are read together.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor

from embench.core.errors import Diverged, Interrupted
from embench.core.signals import Interrupt
from embench.training.feeding import Feed

READ_EVERY = 20
"""Steps after which losses are read from a GPU. On the processor every loss is there at once, and is read."""


class Together(Protocol):
    """The processes that share every batch."""

    @property
    def size(self) -> int: ...

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the processes."""

    def agreed(self, yes: bool) -> bool:
        """Whether any of the processes says yes."""

    def wait(self) -> None:
        """Return when every process is here."""


class Loop:
    """Steps from one iteration on, resumable after each at which losses were read.

    Parameters
    ----------
    step : callable
        Takes the step of a batch and returns its loss, one number on ``device`` that nothing has read.
    make : callable
        Makes the batch of an iteration (from 0): a pure function, which several threads may call at once.
    iteration, iterations : int
        Steps taken so far, and the whole budget.
    tell : callable
        Called with the losses of the last steps, as floats, when they have been read.
    save : callable
        Writes the state. Called only when every loss so far has been read and was finite.
    stop : Interrupt
    device : torch.device
    workers : int
        Threads that make batches ahead.
    save_every : float
        Seconds between two states.
    before : (float, float)
        What :attr:`seconds` and :attr:`waited` were when the state was written from which this goes on.
    together : Together, optional
        Processes that share every batch; they read losses, save and stop at the same steps.

    Attributes
    ----------
    iteration : int
    seconds : float
        In which steps were taken, those in which they waited for data included.
    """

    def __init__(
        self,
        step: Callable[[Any], Tensor],
        make: Callable[[int], Any],
        *,
        iteration: int,
        iterations: int,
        tell: Callable[[Sequence[float]], None],
        save: Callable[[], None],
        stop: Interrupt,
        device: torch.device,
        workers: int = 0,
        save_every: float = 60.0,
        before: tuple[float, float] = (0.0, 0.0),
        together: Together | None = None,
    ) -> None:
        self.iteration, self.iterations = iteration, iterations
        self.seconds, self._waited = before
        self._step, self._tell, self._save, self._stop, self._together = step, tell, save, stop, together
        self._feed = Feed(make, iteration, iterations, workers)
        self._read_every = READ_EVERY if device.type == "cuda" else 1
        self._pending: list[Tensor] = []
        self._started = time.perf_counter()
        self._save_every, self._saved = save_every, time.monotonic()

    @property
    def waited(self) -> float:
        """Seconds in which steps waited for data."""
        return self._waited + self._feed.waited

    def run(self, end: int) -> None:
        """Go on to iteration ``end``.

        Raises
        ------
        Diverged
            At the first loss that is not finite. :attr:`iteration` is then that of the last step before it.
        Interrupted
            The process was asked to stop; the state is saved.
        """
        alone = self._together is None or self._together.size == 1
        self._started = time.perf_counter()
        while self.iteration < end:
            self._pending.append(self._step(next(self._feed)))
            self.iteration += 1
            if self.iteration < end and self.iteration % self._read_every and not (alone and self._stop.asked):
                continue
            self._read()
            self._save_if_due()
            self._started = time.perf_counter()

    def save(self) -> None:
        """Write the state now."""
        self._save()
        self._saved = time.monotonic()

    def _read(self) -> None:
        values = torch.stack(self._pending)
        losses = (values if self._together is None else self._together.mean(values)).tolist()
        before = self.iteration - len(losses)
        self._pending.clear()
        self.seconds += time.perf_counter() - self._started
        for number, loss in enumerate(losses):
            if not math.isfinite(loss):
                self.iteration = before + number
                self._tell(losses[:number])
                raise Diverged(self.iteration + 1)
        self._tell(losses)

    def _save_if_due(self) -> None:
        asked = self._stop.asked is not None
        if self._together is not None:
            asked = self._together.agreed(asked)
        asked = asked and self.iteration < self.iterations
        if asked or (self.iteration < self.iterations and time.monotonic() - self._saved > self._save_every):
            self.save()
        if asked:
            if self._together is not None:
                self._together.wait()
            raise Interrupted(self._stop.asked or signal.SIGTERM)  # any of the processes may be the one that was asked

    def close(self) -> None:
        """Return when no thread makes a batch any more."""
        self._feed.close()

    def __enter__(self) -> Loop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

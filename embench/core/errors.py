"""The ways a command may end early that are not bugs of ours."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable


class BadInput(Exception):
    """Something the user gave cannot be used; the command line prints it and exits with 2.

    Parameters
    ----------
    message : str or iterable of str
        One line per fault: the file or argument, what was found, what to do. What a file put into it stays one line:
        characters that a terminal would obey are shown escaped, and what is very long is cut in its middle.
    """

    def __init__(self, message: str | Iterable[str]) -> None:
        lines = [_shown(line) for line in ([message] if isinstance(message, str) else message)]
        super().__init__("\n".join(lines))
        self.lines = lines


_LONGEST = 2000


def _shown(line: str) -> str:
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= _LONGEST else f"{line[:1400]} ... {line[-500:]}"


class TryAgain(Exception):
    """The same command may succeed later (a full disk, a killed worker); exits with 75."""


class Interrupted(BaseException):
    """The process was asked to stop, and what was under way is saved; no ``except Exception`` may swallow it.

    Parameters
    ----------
    number : signal.Signals
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}; run the same command again to go on")
        self.number = number


class Diverged(Exception):
    """Training met a non-finite loss, or its weights predict one.

    Parameters
    ----------
    iteration : int
        The optimiser step, counted from 1, at which it was found.
    """

    def __init__(self, iteration: int) -> None:
        super().__init__(f"not finite at iteration {iteration}")
        self.iteration = iteration


class TrialsFailed(Exception):
    """Trials ended by a fault in a model or in embench; exits with 1."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was short: Python's, torch's, or that of CUDA and its libraries."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and re.search(r"out of memory|can't allocate memory|STATUS_ALLOC_FAILED", str(error)) is not None
    )

"""Tables and progress, for people and for other programs; and the streams that all of it goes through.

Text comes from files too: names, messages, notes. So everything that is printed passes one place
(:func:`take_over_streams`), where what a terminal would obey is shown escaped; and a stream that cannot be written ends
the command with one line.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from embench.core.errors import TryAgain

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)

LOG_EVERY = 30.0
"""Seconds between log lines where there is no terminal."""
Progress = Callable[[int], None]
"""Called with the items done since the last call."""


def printable(text: str) -> str:
    """Return text in which whatever a terminal would obey is shown escaped; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


class _Plain(io.TextIOBase):
    """A text stream through which text alone goes: no command to a terminal, no fault without words."""

    def __init__(self, raw: TextIO, name: str) -> None:
        self.raw, self.title = raw, name

    def write(self, text: str) -> int:
        self._do(lambda: self.raw.write(printable(text)))
        return len(text)

    def flush(self) -> None:
        self._do(self.raw.flush)

    def _do(self, act: Callable[[], object]) -> None:
        try:
            act()
        except (OSError, ValueError) as error:  # ValueError: closed
            told = getattr(error, "strerror", None) or str(error)
            with suppress(OSError, ValueError):  # what is left in its buffer must not fail again at the very end
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.raw.fileno())
                os.close(null)
            raise TryAgain(f"{self.title}: cannot be written ({told}); run the same command again") from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return self.raw.isatty()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.raw.encoding


def take_over_streams() -> None:
    """Let all that this process prints go through one place; streams that were closed lead nowhere."""
    for descriptor in range(3):  # else the next file or pipe would have its number
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, title in (("stdout", "standard output"), ("stderr", "standard error")):
        stream = getattr(sys, name)
        if isinstance(stream, _Plain):
            continue
        if stream is None:
            stream = open(os.devnull, "w")  # noqa: SIM115
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, cast(TextIO, _Plain(stream, title)))


def flush_streams() -> None:
    """Write what is printed and not yet written; raise :class:`TryAgain` where that fails."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def terminal(*, stderr: bool = False, **options: Any) -> Console:
    """Return a console for what commands a terminal on purpose: tables and bars, of text that was made printable."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=cast(TextIO, getattr(stream, "raw", stream)), markup=False, highlight=False, emoji=False, **options
    )


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: ruled on a terminal, tab-separated elsewhere."""
    if not sys.stdout.isatty():
        for row in (header, *rows):
            print("\t".join(row))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(*header)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    terminal().print(table)


@contextmanager
def showing(title: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Show a bar with an estimate on a terminal, log lines with one elsewhere."""
    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        words = TextColumn("{task.description}", markup=False)
        columns = (words, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, console=terminal(stderr=True)) as bars:
            bar = bars.add_task(printable(title), total=total, completed=done)
            yield lambda more: bars.advance(bar, more)
        return
    started = told = time.monotonic()
    reached = done

    def line(more: int) -> None:
        nonlocal reached, told
        reached += more
        now = time.monotonic()
        if now - told >= LOG_EVERY or reached == total:
            told = now
            rate = (reached - done) / max(now - started, 1e-9)
            left = (total - reached) / rate
            log.info("%s: %d of %d, %.0f per second, about %.0f min left", title, reached, total, rate, left / 60)

    yield line


def duration(seconds: float) -> str:
    """Return a time for people: ``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

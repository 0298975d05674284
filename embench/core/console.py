"""Tables and progress, for people and for other programs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

log = logging.getLogger(__name__)

LOG_EVERY = 30.0
"""Seconds between log lines where there is no terminal."""
Progress = Callable[[int], None]
"""Called with the items done since the last call."""


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: ruled on a terminal, tab-separated elsewhere."""
    if not sys.stdout.isatty():
        for row in (header, *rows):
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


@contextmanager
def showing(title: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Show a bar with an estimate on a terminal, log lines with one elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, console=Console(stderr=True)) as bars:
            bar = bars.add_task(title, total=total, completed=done)
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

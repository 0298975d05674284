"""A small database of what was computed from files, by the files' marks."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)
Mark = tuple[int, ...]


class Database:
    """An SQLite file that spares work and nothing else.

    Where it cannot be used (a full disk, another build at the same moment), a line says so and it holds nothing.
    """

    TABLES: tuple[str, ...]

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self.path.unlink()  # not a database any more
                self._open()
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._database is not None:
            self._database.close()

    def all(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return every row that a query finds."""
        if self._database is None:
            return []
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            self._give_up(error)
            return []

    def change(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute a statement for every row, all or nothing."""
        if self._database is None:
            return
        try:
            with self._database:
                self._database.executemany(statement, rows)
        except sqlite3.Error as error:
            self._give_up(error)

    def _open(self) -> None:
        self._database = sqlite3.connect(self.path)
        # After a power cut it may be broken; it is then made anew.
        self._database.execute("PRAGMA synchronous = OFF")
        for table in self.TABLES:
            self._database.execute(table)

    def _give_up(self, error: Exception) -> None:
        log.info("%s: %s; what it would spare is done anew", self.path, error)
        if self._database is not None:
            self._database.close()
        self._database = None


def mark(path: Path) -> Mark:
    """Return what no change of a file leaves as it was, its time of change last; nothing where there is no file."""
    try:
        facts = path.stat()
    except OSError:
        return ()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def digest_of_program(libraries: str, sources: Iterable[Path]) -> bytes:
    """Return the digest of library versions and of source files, in order of their paths."""
    found = hashlib.sha256(libraries.encode())
    for source in sorted(sources):
        found.update(source.read_bytes())
    return found.digest()

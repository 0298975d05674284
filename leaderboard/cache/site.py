"""What an earlier build of a site made, so that the next one makes only what depends on something else now.

A site is made of parts. A part has a name, a key over everything it is made from, and the files that it wrote. Figures
that take long are held as arrays under the digest of what they were computed from. Everything is under the digest of
the program too: another version of it is never answered from here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import embench
from embench.core.paths import data_folder
from leaderboard.cache import parallel
from leaderboard.cache.database import Database, digest_of_program, mark

Arrays = dict[str, NDArray[Any]]


class Made(Database):
    """Parts of one site's folder, and figures, in an SQLite file beside the prepared data.

    Where it cannot be used, everything is made anew.
    """

    TABLES = (
        "CREATE TABLE IF NOT EXISTS parts (name TEXT PRIMARY KEY, key TEXT, files TEXT, facts TEXT)",
        "CREATE TABLE IF NOT EXISTS arrays (key TEXT PRIMARY KEY, content BLOB)",
    )

    def __init__(self, out: Path) -> None:
        self.out = out
        name = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
        super().__init__(data_folder() / ".leaderboard" / f"site-{name}.sqlite")
        self._used: set[str] = set()
        self._before: dict[str, list[int]] = {}

    def facts(self, name: str, key: str) -> Any:
        """Return what was noted of a part under this key, whose files are as it left them; else ``None``."""
        for before, files, facts in self.all("SELECT key, files, facts FROM parts WHERE name = ?", (name,)):
            if before == key and self._as_left(json.loads(files)):
                return json.loads(facts)
        return None

    def is_whole(self) -> bool:
        """Whether every file of every part is as it was left."""
        return self._as_left(self.files().items())

    def files(self) -> dict[str, list[int]]:
        """Return the files of all parts, with the marks that they had."""
        return {file: was for (files,) in self.all("SELECT files FROM parts") for file, was in json.loads(files)}

    def note(self, name: str, key: str, files: Iterable[str], facts: Any = True) -> None:
        """Remember a part: the digest of what it was made from, its files in the folder, and facts about it."""
        marks = json.dumps([[file, mark(self.out / file)] for file in files])
        self.change("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", [(name, key, marks, json.dumps(facts))])

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget all parts but these and the figures not asked for; remove the files that no part has any more."""
        gone = set(self.all("SELECT name FROM parts")) - {(name,) for name in names}
        self.change("DELETE FROM parts WHERE name = ?", gone)
        unused = set(self.all("SELECT key FROM arrays")) - {(key,) for key in self._used}
        self.change("DELETE FROM arrays WHERE key = ?", unused)
        now = self.files()
        for file, was in self._before.items():
            if file not in now and self._as_left([(file, was)]):  # what somebody else put there stays
                (self.out / file).unlink()

    def arrays(self, of: Sequence[Any], compute: Callable[[int], Arrays], fewest: int | None = None) -> list[Arrays]:
        """Return ``compute(k)`` for every ``of[k]``, from here where it was computed from the same before.

        Parameters
        ----------
        of : sequence
            Of arrays, JSON-able values, or lists of these.
        compute : callable
        fewest : int, optional
            As in :func:`leaderboard.cache.parallel.each`.
        """
        keys = [digest(each) for each in of]
        self._used.update(keys)
        known = {key: _unpacked(content) for key in keys for (content,) in self.all(_ONE, (key,))}
        missing = [k for k, key in enumerate(keys) if key not in known]
        for k, found in zip(missing, parallel.each(compute, missing, fewest), strict=True):
            known[keys[k]] = found
            self.change("INSERT OR REPLACE INTO arrays VALUES (?, ?)", [(keys[k], _packed(found))])
        return [known[key] for key in keys]

    def __enter__(self) -> Self:
        super().__enter__()
        self._before = self.files()
        return self

    def _as_left(self, files: Iterable[tuple[str, list[int]]]) -> bool:
        return all(list(mark(self.out / file)) == was for file, was in files)


_ONE = "SELECT content FROM arrays WHERE key = ?"


def digest(of: Any) -> str:
    """Return the digest of JSON-able values and arrays, and of the program."""
    found = hashlib.sha256(_program())
    found.update(json.dumps(of, sort_keys=True, default=_told).encode())
    return found.hexdigest()


def _told(of: Any) -> Any:
    """Return what tells a value apart that JSON has no way to write."""
    if isinstance(of, np.ndarray):
        return {"array": [str(of.dtype), of.shape, hashlib.sha256(np.ascontiguousarray(of).data).hexdigest()]}
    return str(of)


def _packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    head = json.dumps([[name, each.dtype.str, each.shape] for name, each in arrays.items()])
    return b"".join([head.encode(), b"\n", *(each.tobytes() for each in arrays.values())])


def _unpacked(content: bytes) -> Arrays:
    head, _, body = content.partition(b"\n")
    found, start = {}, 0
    for name, kind, shape in json.loads(head):
        found[name] = np.frombuffer(body, kind, prod(shape), start).reshape(shape)
        start += found[name].nbytes
    return found


@cache
def _program() -> bytes:
    """Return the digest of everything that decides what is made of given results."""
    libraries = " ".join(version(name) for name in ("numpy", "scipy", "pandas", "jinja2", "pillow"))
    own = Path(__file__).parents[1]
    sources = [*Path(embench.__file__).parent.glob("**/*.py"), *own.glob("**/*.py"), *own.glob("site/templates/*")]
    return digest_of_program(libraries, sources)

"""What the board keeps of a result file, and a memory of the files that were read before.

Checking a file's counts takes longer than everything the board does with it. What is kept of a file is stored under
the digest of its bytes and of the code that checked them: another content or another program is never answered
from the memory, and a file moved or copied is.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pydantic
from pydantic import BaseModel

import embench
from embench.results import EPSILON, SnapshotScore, TrialResult, content_of, iou, parse
from embench.store import data_folder

log = logging.getLogger(__name__)

_BATCH = 1000
"""Files after which new entries are committed."""


@dataclass(frozen=True)
class Kept:
    """A result without what no page shows.

    Parameters
    ----------
    result : TrialResult
        With at most the last snapshot, that without its counts, and without the loss curve.
    curve : tuple of (int, float)
        Iteration and score of every snapshot.
    images : tuple of str
        Names of the test images or volumes of the last snapshot.
    image_scores : tuple of float
        Score on each of them.
    """

    result: TrialResult
    curve: tuple[tuple[int, float], ...]
    images: tuple[str, ...]
    image_scores: tuple[float, ...]


def keep(result: TrialResult) -> Kept:
    """Return what the board keeps of a result."""
    return _joined(*_parts(result), {})


class Memory:
    """Results read before, in one SQLite file per set of folders, beside the prepared data.

    It holds what was read the last time and nothing else. Where it cannot be used (a full disk, another build at
    the same moment), files are read anew, and a line says so.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        name = hashlib.sha256("\n".join(str(folder.resolve()) for folder in folders).encode()).hexdigest()[:16]
        self.path = data_folder() / ".leaderboard" / f"{name}.sqlite"
        self._shared: dict[str, _Shared] = {}
        self._used: set[bytes] = set()
        self._waiting: list[tuple[bytes, str, str]] = []
        self._database: sqlite3.Connection | None = None

    def read(self, path: Path) -> Kept:
        """Return what the board keeps of a result file, from the memory where it holds these very bytes.

        Raises
        ------
        BadInput, OSError
            As :func:`embench.results.load`; what cannot be used is not remembered.
        """
        content = content_of(path)
        key = hashlib.sha256(_code() + content).digest()
        parts = self._find(key)
        if parts is None:
            parts = _parts(parse(content, path))
            self._waiting.append((key, *parts))
            if len(self._waiting) >= _BATCH:
                self._write()
        self._used.add(key)
        return _joined(*parts, self._shared)

    def __enter__(self) -> Memory:
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
        self._write(forget=kind is None)
        if self._database is not None:
            self._database.close()

    def _open(self) -> None:
        self._database = sqlite3.connect(self.path)
        self._database.execute("CREATE TABLE IF NOT EXISTS kept (key BLOB PRIMARY KEY, shared TEXT, own TEXT)")

    def _find(self, key: bytes) -> tuple[str, str] | None:
        if self._database is None:
            return None
        try:
            found: tuple[str, str] | None = self._database.execute(
                "SELECT shared, own FROM kept WHERE key = ?", (key,)
            ).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        return found

    def _write(self, forget: bool = False) -> None:
        if self._database is None:
            return
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", self._waiting)
                if forget:
                    stored = {key for (key,) in self._database.execute("SELECT key FROM kept")}
                    gone = [(key,) for key in stored - self._used]
                    self._database.executemany("DELETE FROM kept WHERE key = ?", gone)
        except sqlite3.Error as error:
            self._give_up(error)
        self._waiting.clear()

    def _give_up(self, error: Exception) -> None:
        log.info("%s: %s; results are read anew", self.path, error)
        if self._database is not None:
            self._database.close()
        self._database = None


# ---- the parts


class _Own(BaseModel):
    """What differs between the trials of a row on a task."""

    seed: int
    status: Literal["done", "diverged", "submitted"]
    message: str
    iterations_done: int
    seconds_training: float
    seconds_prediction: float
    peak_memory_bytes: int
    sections: tuple[str, ...]
    final: SnapshotScore | None
    curve: tuple[tuple[int, float], ...]
    image_scores: tuple[float, ...]


class _Shared(BaseModel):
    """The rest, which is held once for all of them."""

    result: TrialResult
    images: tuple[str, ...]


_COMMON = TrialResult.model_fields.keys() & _Own.model_fields.keys()
_BLANK: dict[str, Any] = {
    "seed": 0,
    "status": "done",
    "message": "",
    "iterations_done": 0,
    "seconds_training": 0.0,
    "seconds_prediction": 0.0,
    "peak_memory_bytes": 0,
    "sections": (),
    "snapshots": (),
    "loss_curve": (),
}


def _parts(result: TrialResult) -> tuple[str, str]:
    """Return the JSON of what is shared with other trials and of what is not."""
    final = result.final
    images = () if final is None else final.images
    scoring = result.fingerprint.scoring
    epsilon, labels = EPSILON if scoring["planes"] == "2d" else 0, scoring["classes"]
    own = _Own(
        **{name: getattr(result, name) for name in _COMMON},
        final=None if final is None else final.model_copy(update={"images": ()}),
        curve=tuple((snapshot.iteration, snapshot.score) for snapshot in result.snapshots),
        image_scores=tuple(
            sum(iou(image.classes[label], epsilon) for label in labels) / len(labels) for image in images
        ),
    )
    shared = _Shared(result=result.model_copy(update=_BLANK), images=tuple(image.name for image in images))
    return shared.model_dump_json(), own.model_dump_json()


def _joined(shared_text: str, own_text: str, known: dict[str, _Shared]) -> Kept:
    shared = known.get(shared_text)
    if shared is None:
        shared = known[shared_text] = _Shared.model_validate_json(shared_text)
    own = _Own.model_validate_json(own_text)
    facts = {name: getattr(own, name) for name in _COMMON} | {"snapshots": () if own.final is None else (own.final,)}
    return Kept(shared.result.model_copy(update=facts), own.curve, shared.images, own.image_scores)


@cache
def _code() -> bytes:
    """Return the digest of everything that decides what is kept of given bytes."""
    sources: Sequence[Path] = sorted(Path(embench.__file__).parent.glob("*.py"))
    digest = hashlib.sha256(pydantic.VERSION.encode())
    for source in [*sources, Path(__file__)]:
        digest.update(source.read_bytes())
    return digest.digest()

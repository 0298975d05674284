"""What the board keeps of a result file, and a memory of the files that were read before.

Checking a file's counts takes longer than everything the board does with it. What is kept of a file is stored under
the digest of its bytes and of the code that checked them: another content or another program is never answered
from the memory, and a file moved or copied is.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import BaseModel, TypeAdapter

import embench
from embench.core.errors import BadInput
from embench.core.paths import data_folder
from embench.scoring.counts import EPSILON, iou
from embench.scoring.results import content_of, parse
from embench.scoring.schema import SnapshotScore, TrialResult
from leaderboard.cache import parallel
from leaderboard.cache.database import Database, Mark, digest_of_program, mark

_BATCH = 1000
"""Files after which new entries are committed."""
_UNSETTLED = 2 * 10**9
"""Nanoseconds after a change in which another could have the same time: coarse file systems count in seconds."""


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
    digest : str
        Of everything in the file.
    """

    result: TrialResult
    curve: tuple[tuple[int, float], ...]
    images: tuple[str, ...]
    image_scores: tuple[float, ...]
    digest: str


def keep(result: TrialResult) -> Kept:
    """Return what the board keeps of a result."""
    shared, own, image_scores = _parts(result)
    return _joined(_Shared.model_validate_json(shared), _Own.model_validate_json(own), image_scores, result.digest)


class Memory(Database):
    """Results read before, in one file per set of folders, beside the prepared data.

    It holds what was read the last time and nothing else. A file whose inode, size and times are those of the last
    time is not opened: no content can change without its time of change (``ctime``), unless that lies so near to the
    reading that the clock could not tell them apart; then the file is read again.
    """

    TABLES = (
        "CREATE TABLE IF NOT EXISTS parts (key BLOB PRIMARY KEY, shared TEXT, own TEXT, image_scores BLOB)",
        "CREATE TABLE IF NOT EXISTS seen (path TEXT PRIMARY KEY, mark TEXT, key BLOB)",
    )

    def __init__(self, folders: Iterable[Path]) -> None:
        name = hashlib.sha256("\n".join(str(folder.resolve()) for folder in folders).encode()).hexdigest()[:16]
        super().__init__(data_folder() / ".leaderboard" / f"{name}.sqlite")

    def read(self, paths: Sequence[Path]) -> list[Kept | list[str]]:
        """Return what the board keeps of each result file, or the lines that say why the file cannot be used.

        As :func:`embench.scoring.results.load` reads them; what cannot be used is not remembered.
        """
        code = _code()
        seen: dict[str, tuple[str, bytes]] = {
            path: (mark, key) for path, mark, key in self.all("SELECT path, mark, key FROM seen")
        }
        known: dict[bytes, _Parts] = {
            key: parts for key, *parts in self.all("SELECT key, shared, own, image_scores FROM parts")
        }
        before = set(known)
        marks = [" ".join(map(str, _settled(path))) for path in paths]
        keys: list[bytes] = []
        for path, now in zip(paths, marks, strict=True):
            was, key = seen.get(str(path), ("", b""))
            keys.append(key if now and now == was and key in known else b"")
        unknown = [k for k, key in enumerate(keys) if not key]
        new: list[tuple[bytes, str, str, bytes]] = []
        faults: dict[int, list[str]] = {}
        for k, (key, parts, lines) in zip(
            unknown, parallel.each(lambda k: _read(paths[k], code, known), unknown), strict=True
        ):
            keys[k], faults[k] = key, lines
            if parts is not None:
                known[key] = parts
                new.append((key, *parts))
            if len(new) >= _BATCH:
                self.change("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", new)
                new.clear()
        self.change("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", new)
        self.change("DELETE FROM parts WHERE key = ?", ((key,) for key in before.difference(keys)))
        now_seen = {str(path): (now, key) for path, now, key in zip(paths, marks, keys, strict=True) if now and key}
        self.change("DELETE FROM seen WHERE path = ?", ((path,) for path in seen.keys() - now_seen.keys()))
        changed = ((path, *facts) for path, facts in now_seen.items() if seen.get(path) != facts)
        self.change("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", changed)

        usable = [key for key in keys if key]
        shared = {text: _Shared.model_validate_json(text) for text in {known[key][0] for key in usable}}
        own = iter(_OWN_LIST.validate_json(f"[{','.join(known[key][1] for key in usable)}]"))
        return [
            _joined(shared[known[key][0]], next(own), known[key][2], key.hex()) if key else faults[k]
            for k, key in enumerate(keys)
        ]


def _settled(path: Path) -> Mark:
    """Return the mark of a file, and nothing too where another change could still leave it as it is."""
    found = mark(path)
    return found if found and time.time_ns() - found[-1] >= _UNSETTLED else ()


def _read(path: Path, code: bytes, known: Mapping[bytes, _Parts]) -> tuple[bytes, _Parts | None, list[str]]:
    """Return a file's key, what is kept of it where that is new, and why it cannot be used: then there is no key."""
    try:
        content = content_of(path)
        key = hashlib.sha256(code + content).digest()
        return key, None if key in known else _parts(parse(content, path)), []
    except BadInput as error:
        return b"", None, list(error.lines)


# ---- the parts

_Parts = tuple[str, str, bytes]
"""What is shared with other trials and what is not, as JSON, and the score on each image, as 64-bit floats."""


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


class _Shared(BaseModel):
    """The rest, which is held once for all of them."""

    result: TrialResult
    images: tuple[str, ...]


_OWN_LIST = TypeAdapter(list[_Own])
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


def _parts(result: TrialResult) -> _Parts:
    final = result.final
    images = () if final is None else final.images
    scoring = result.fingerprint.scoring
    epsilon, labels = EPSILON if scoring["planes"] == "2d" else 0, scoring["classes"]
    own = _Own(
        **{name: getattr(result, name) for name in _COMMON},
        final=None if final is None else final.model_copy(update={"images": ()}),
        curve=tuple((snapshot.iteration, snapshot.score) for snapshot in result.snapshots),
    )
    image_scores = [sum(iou(image.classes[label], epsilon) for label in labels) / len(labels) for image in images]
    shared = _Shared(result=result.model_copy(update=_BLANK), images=tuple(image.name for image in images))
    return shared.model_dump_json(), own.model_dump_json(), array("d", image_scores).tobytes()


def _joined(shared: _Shared, own: _Own, image_scores: bytes, digest: str) -> Kept:
    facts = {name: getattr(own, name) for name in _COMMON} | {"snapshots": () if own.final is None else (own.final,)}
    return Kept(
        shared.result.model_copy(update=facts), own.curve, shared.images, tuple(array("d", image_scores)), digest
    )


@cache
def _code() -> bytes:
    """Return the digest of everything that decides what is kept of given bytes."""
    return digest_of_program(pydantic.VERSION, [*Path(embench.__file__).parent.glob("**/*.py"), Path(__file__)])

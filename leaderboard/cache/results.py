"""What the board needs of a result file, and a cache of the files that were read before.

A result file is checked against its own counts whenever it is read, which takes longer than everything the board does
with it. So what the board needs of a file is stored beside the prepared data, and is served again while the file is
unchanged on disk and the program is the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pydantic
from pydantic import TypeAdapter

import embench
from embench.core import parallel
from embench.core.errors import BadInput
from embench.core.files import write_atomic
from embench.core.paths import data_folder
from embench.scoring.counts import EPSILON, iou
from embench.scoring.results import load
from embench.scoring.schema import TrialResult

log = logging.getLogger(__name__)
_CLOCK = 2 * 10**9
"""Nanoseconds after a change in which another change could have the same time: coarse file systems count in seconds."""


@dataclass(frozen=True)
class ResultSummary:
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
    curve: tuple[tuple[int, float], ...] = ()
    images: tuple[str, ...] = ()
    image_scores: tuple[float, ...] = ()


_SUMMARY = TypeAdapter(ResultSummary)


def summarise(result: TrialResult) -> ResultSummary:
    """Return what the board needs of a result."""
    final = result.final
    images = () if final is None else final.images
    scoring = result.fingerprint.scoring
    epsilon, labels = EPSILON if scoring["planes"] == "2d" else 0, scoring["classes"]
    last = () if final is None else (final.model_copy(update={"images": ()}),)
    return ResultSummary(
        result.model_copy(update={"snapshots": last, "loss_curve": ()}),
        tuple((snapshot.iteration, snapshot.score) for snapshot in result.snapshots),
        tuple(image.name for image in images),
        tuple(sum(iou(image.classes[label], epsilon) for label in labels) / len(labels) for image in images),
    )


class ResultCache:
    """Summaries of the results read the last time, in one file per set of folders.

    Its first line is the digest of the program, each other one a result file: where it is, its mark, a tab, and its
    summary, as JSON. A file whose inode, size and times are those of the last time is not opened: no content can change
    without its time of change (``ctime``), unless that lies so near to the reading that the clock could not tell them
    apart; then the file is read again. A cache that is broken, unwritable or of another program costs time and nothing
    else.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        name = hashlib.sha256("\n".join(str(folder.resolve()) for folder in folders).encode()).hexdigest()[:16]
        self.path = data_folder() / ".leaderboard" / f"{name}.jsonl"

    def read(self, paths: Sequence[Path]) -> list[ResultSummary | list[str]]:
        """Return the summary of each result file, or the lines that say why the file cannot be used.

        Files are read as :func:`embench.scoring.results.load` reads them; one that cannot be used is not cached.
        """
        stored = self._stored()
        keys = [_key(path) for path in paths]
        texts = [stored.get(key) for key in keys]
        del stored
        missing = [k for k, text in enumerate(texts) if text is None]
        faults: dict[int, list[str]] = {}
        for k, (text, lines) in zip(missing, parallel.forked(lambda k: _read(paths[k]), missing), strict=True):
            texts[k], faults[k] = text, lines
        if missing:
            self._store(b"\t".join((key, text)) for key, text in zip(keys, texts, strict=True) if key and text)
        found: list[ResultSummary | list[str]] = []
        for k, text in enumerate(texts):
            found.append(faults[k] if text is None else _SUMMARY.validate_json(text))
            texts[k] = None
        return found

    def _stored(self) -> dict[bytes, bytes]:
        try:
            program, *lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        except OSError as error:
            log.info("%s: %s; all results are read anew", self.path, error)
            return {}
        return (
            {key: text for key, _, text in (line.partition(b"\t") for line in lines)} if program == _program() else {}
        )

    def _store(self, lines: Iterable[bytes]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, b"\n".join([_program(), *lines]), durable=False)
        except (OSError, BadInput) as error:
            log.info("%s: %s; the next build reads all results anew", self.path, error)


def _read(path: Path) -> tuple[bytes | None, list[str]]:
    """Return the summary as JSON, or ``None`` and why the file cannot be used."""
    try:
        return _SUMMARY.dump_json(summarise(load(path))), []
    except BadInput as error:
        return None, list(error.lines)


def _key(path: Path) -> bytes:
    """Return where a file is and what no change of it leaves as it was; nothing where another change still could."""
    try:
        facts = path.stat()
    except OSError:
        return b""
    if time.time_ns() - facts.st_ctime_ns < _CLOCK:
        return b""
    mark = [facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
    return json.dumps([str(path), *mark]).encode()


@cache
def _program() -> bytes:
    """Return the digest of everything that decides what a summary of given bytes is."""
    found = hashlib.sha256(pydantic.VERSION.encode())
    for source in sorted([*Path(embench.__file__).parent.glob("**/*.py"), Path(__file__)]):
        found.update(source.read_bytes())
    return found.hexdigest().encode()

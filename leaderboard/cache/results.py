"""What the board needs of a result file, and a cache of the files that were read before.

A result file is checked against its own counts whenever it is read, which takes longer than everything the board does
with it. So what the board needs of a file is stored in the user's own cache folder, and is served again for a file with
the same bytes while the program is the same. Every file is read and hashed each time: a cache is a hint.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pydantic
from pydantic import TypeAdapter

import embench
from embench.core import confined, parallel
from embench.core.errors import BadInput, TryAgain
from embench.core.files import write_atomic
from embench.core.paths import cache_folder
from embench.scoring import test_sets
from embench.scoring.counts import EPSILON, iou
from embench.scoring.results import content_of, parse
from embench.scoring.schema import TrialResult

log = logging.getLogger(__name__)


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
    truth : str
        Digest of the test set that its counts imply (:mod:`embench.scoring.test_sets`); empty for a trial without any.
    """

    result: TrialResult
    curve: tuple[tuple[int, float], ...] = ()
    images: tuple[str, ...] = ()
    image_scores: tuple[float, ...] = ()
    truth: str = ""


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
        "" if (truth := test_sets.truth_of(result)) is None else test_sets.digest(truth),
    )


class ResultCache:
    """Summaries of the results read the last time, in one file per set of folders.

    Its first line is the digest of the program, each other one a result file: the SHA-256 of its bytes, that of its
    summary, and the summary as JSON, between tabs. A cache that is broken, unwritable or of another program costs time
    and nothing else.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        name = hashlib.sha256("\n".join(str(folder.resolve()) for folder in folders).encode()).hexdigest()[:16]
        self.folder = cache_folder() / "results"
        self.path = self.folder / f"{name}.jsonl"

    def read(self, places: Sequence[tuple[Path, Path]]) -> list[ResultSummary | list[str]]:
        """Return the summary of each result file, or the lines that say why the file cannot be used.

        Parameters
        ----------
        places : sequence of (Path, Path)
            A file, and the folder from which on no link leads to it.

        Files are read as :func:`embench.scoring.results.load` reads them; one that cannot be used is not cached.
        """
        stored = self._stored()
        texts: list[bytes] = []
        lines: dict[bytes, bytes] = {}
        faults: dict[int, list[str]] = {}
        for number, (key, text, told) in enumerate(parallel.forked(lambda place: _read(*place, stored), places)):
            text = stored[key] if text is None and key else text or b""
            texts.append(text)
            if key:
                lines[key] = text
            else:
                faults[number] = told
        if lines.keys() != stored.keys():
            self._store(b"\t".join((key, _sha256(text), text)) for key, text in lines.items())
        found: list[ResultSummary | list[str]] = []
        for number, text in enumerate(texts):
            found.append(faults[number] if number in faults else _SUMMARY.validate_json(text))
            texts[number] = b""
        return found

    def _stored(self) -> dict[bytes, bytes]:
        try:
            program, *lines = confined.read(self.path, self.folder, MAX_BYTES, "a cache").split(b"\n")
        except FileNotFoundError:
            return {}
        except (OSError, BadInput) as error:
            log.info("%s: %s; all results are read anew", self.path, error)
            return {}
        entries = (line.split(b"\t", 2) for line in lines) if program == _program() else ()
        return {entry[0]: entry[2] for entry in entries if len(entry) == 3 and _sha256(entry[2]) == entry[1]}

    def _store(self, lines: Iterable[bytes]) -> None:
        try:
            write_atomic(self.path, b"\n".join([_program(), *lines]), durable=False)
        except (OSError, BadInput, TryAgain) as error:
            log.info("%s: %s; the next build reads all results anew", self.path, error)


MAX_BYTES = 2**31


def _read(path: Path, below: Path, stored: Mapping[bytes, bytes]) -> tuple[bytes, bytes | None, list[str]]:
    """Return the digest of a file, its summary as JSON where that is not stored, and why it cannot be used.

    The digest is empty for a file that cannot.
    """
    try:
        content = content_of(path, below)
        key = _sha256(content)
        return key, None if key in stored else _SUMMARY.dump_json(summarise(parse(content, path))), []
    except BadInput as error:
        return b"", None, list(error.lines)


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


@cache
def _program() -> bytes:
    """Return the digest of everything that decides what a summary of given bytes is."""
    found = hashlib.sha256(pydantic.VERSION.encode())
    for source in sorted([*Path(embench.__file__).parent.glob("**/*.py"), Path(__file__)]):
        found.update(source.read_bytes())
    return found.hexdigest().encode()

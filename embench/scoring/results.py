"""One JSON file per trial: what ran, on what, and every count from which its scores follow.

The file's last key, ``sha256``, is over all the others: over the record as :attr:`TrialResult.digest` writes it, so
that neither indentation nor line ends nor the way of writing a number matter, and every value does. It shows that a
file is as it was written; it is no signature, as anybody can compute it. Against invented scores stand the counts:
every score is computed from them again when a file is read.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from embench.core.errors import BadInput
from embench.core.files import write_atomic
from embench.scoring.schema import SCHEMA, ResultFile, TrialResult
from embench.scoring.verify import contradiction

MAX_BYTES = 32 * 2**20


def save(result: TrialResult, path: Path) -> None:
    """Write a result atomically as JSON, with its digest.

    Raises
    ------
    ValueError
        A result that :func:`load` would refuse.
    """
    whole = TrialResult.model_validate_json(result.model_dump_json())
    if fault := contradiction(whole):
        raise ValueError(f"{path}: {fault}")
    stored = ResultFile.model_construct(**vars(whole), sha256=whole.digest)
    write_atomic(path, stored.model_dump_json(indent=1) + "\n")


def load(path: Path) -> TrialResult:
    """Read and check one result file.

    Raises
    ------
    BadInput
        Too large, not JSON, not of this schema, changed since it was written, or with scores that its own counts
        contradict.
    """
    return parse(content_of(path), path)


def content_of(path: Path) -> bytes:
    """Return the bytes of a result file; raise :class:`BadInput` when there are too many or it is no regular file."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe or a device would never end
            raise BadInput(f"{path}: not a file; remove it")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > MAX_BYTES:
        raise BadInput(f"{path}: {about.st_size} bytes; a result has at most {MAX_BYTES}")
    return content


def parse(content: bytes, path: Path) -> TrialResult:
    """Check the content of a result file as :func:`load` does; ``path`` is only named in faults."""
    try:
        stored = ResultFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200] or "file"
        raise BadInput(f"{path}: {where}: {_one_line(first['msg'])}; not a result of schema {SCHEMA}") from None
    if stored.digest != stored.sha256:
        raise BadInput(
            f"{path}: quarantined: changed since it was written (its content has SHA-256 {stored.digest}, "
            f"it carries {stored.sha256}); restore the file, or remove it and run the trial again"
        )
    result = TrialResult.model_construct(stored.model_fields_set - {"sha256"}, **vars(stored))
    if fault := contradiction(result):
        raise BadInput(f"{path}: quarantined: {fault}")
    return result


def load_all(folders: Iterable[Path]) -> tuple[list[TrialResult], list[str]]:
    """Read every result under ``folders``.

    Returns
    -------
    results : list of TrialResult
        In order of path.
    refused : list of str
        One line per file that could not be used, with the reason.
    """
    results, refused = [], []
    for path in result_files(folders):
        try:
            results.append(load(path))
        except BadInput as error:
            refused += error.lines
    return results, refused


def result_files(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the result files under ``folders``, sorted; hidden folders hold unfinished trials and are left out."""
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"{folder}: no such folder; run: embench run --results {folder}")
        found = []
        for parent, folders_here, files in os.walk(folder):
            found += [os.path.join(parent, name) for name in fnmatch.filter(folders_here + files, "seed-*.json")]
            folders_here[:] = [name for name in folders_here if not name.startswith(".")]
        yield from map(Path, sorted(found, key=lambda path: path.split(os.sep)))


def _one_line(message: str) -> str:
    return " ".join(message.split())[:300]

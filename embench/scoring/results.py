"""One JSON file per trial: what ran, on what, and every count from which its scores follow.

The file's last key, ``sha256``, is over all the others: over the record as :attr:`TrialResult.digest` writes it, so
that neither indentation nor line ends nor the way of writing a number matter, and every value does. It shows that a
file is as it was written; it is no signature, as anybody can compute it. Against invented scores stand the counts:
every score is computed from them again when a file is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from embench.core import confined
from embench.core.confined import Found
from embench.core.errors import BadInput
from embench.core.files import write_atomic
from embench.core.names import check_name
from embench.scoring.schema import SCHEMA, Fingerprint, ResultFile, TrialResult, digest_of
from embench.scoring.verify import contradiction

MAX_BYTES = 32 * 2**20
RECIPE = {"name": "submitted"}
"""Stands in a result for a recipe: how the predictions were made is not known here."""


def save(result: TrialResult, path: Path, below: Path | None = None) -> None:
    """Write a result atomically as JSON, with its digest, below a folder of results (:mod:`embench.core.confined`).

    Raises
    ------
    ValueError
        A result that :func:`load` would refuse.
    """
    whole = TrialResult.model_validate_json(result.model_dump_json())
    if fault := contradiction(whole):
        raise ValueError(f"{path}: {fault}")
    write_atomic(path, content_for(whole), below=below)


def content_for(result: TrialResult) -> bytes:
    """Return the bytes of a result's file: all that was set, and the digest over that."""
    stored = ResultFile.model_construct(result.model_fields_set | {"sha256"}, **vars(result), sha256=result.digest)
    return (stored.model_dump_json(indent=1, exclude_unset=True) + "\n").encode()


def load(path: Path, below: Path | None = None) -> TrialResult:
    """Read and check one result file, from on ``below`` without following a link.

    Raises
    ------
    BadInput
        Too large, not JSON, not of this schema, changed since it was written, or with scores that its own counts
        contradict.
    """
    return parse(content_of(path, below), path)


def content_of(path: Path, below: Path | None = None) -> bytes:
    """Return the bytes of a result file; raise :class:`BadInput` when there are too many or it is no regular file."""
    try:
        return confined.read(path, below or path.parent, MAX_BYTES, "a result")
    except FileNotFoundError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


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
        One line per file or folder that could not be used, with the reason.
    """
    results: list[TrialResult] = []
    refused: list[str] = []
    for folder in folders:
        found = result_files(folder)
        refused += found.faults
        for path in found.files:
            try:
                results.append(load(path, folder))
            except BadInput as error:
                refused += error.lines
    return results, refused


def result_files(folder: Path) -> Found:
    """Return the result files under a folder, sorted, and what could not be looked at.

    Hidden folders hold unfinished trials and are left out.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; run: embench run --results {folder}")
    return confined.walk(folder, "seed-*.json")


def result_path(folder: Path, name: str, fingerprint: Fingerprint, seed: int) -> Path:
    """Return where the result of submitted predictions stands, beside those of trials (:class:`TrialKey`)."""
    digest = digest_of({"recipe": RECIPE, "fingerprint": fingerprint.model_dump(mode="json")})
    return folder / check_name(fingerprint.task) / check_name(name) / f"submitted-{digest}" / f"seed-{seed}.json"


def _one_line(message: str) -> str:
    return " ".join(message.split())[:300]

"""What a pull request to a repository of results may do: add result files, and nothing else.

The request is read as objects of git. Its tree is never checked out, so nothing in it can be a link, a hook, an
attribute or a program here; what it adds is copied into a new folder once names, kinds and sizes are known, and checked
there as any submission is (:mod:`embench.scoring.submit`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from embench.core.errors import BadInput
from embench.core.files import explained
from embench.core.git import git
from embench.scoring import submit
from embench.scoring.results import MAX_BYTES
from embench.scoring.submit import Submitted

MOST_FILES = 20_000
"""Of one request."""
MOST_TOTAL = 2**30
"""Bytes of all of them."""
_MOST_LINES = 40
_NAME = r"[a-z0-9][a-z0-9._~-]{0,160}"
_RESULT = re.compile(rf"{_NAME}/{_NAME}/{_NAME}/seed-[0-9]{{1,16}}\.json")
_SECTION = re.compile(
    rf"{_NAME}/{_NAME}/{_NAME}/seed-[0-9]{{1,16}}\.sections/[^/\\\x00-\x1f]{{1,200}}-z[0-9]{{1,6}}\.png"
)
_STATUS = {"M": "changed", "D": "deleted", "T": "made another kind of file", "U": "unmerged"}


@dataclass(frozen=True)
class _Change:
    """One line of a raw diff: the new mode and object, how it came about, and the path."""

    mode: str
    blob: str
    status: str
    path: str


def review(
    repository: Path, base: str, head: str, folder: Path, out: Path, submitter: str | None = None
) -> list[Submitted]:
    """Check what a request adds to a folder of results, and copy that, and that alone, into a new folder.

    Parameters
    ----------
    repository : Path
        A clone that has both commits; ``base`` is checked out in it.
    base, head : str
        The commit that the request is to be merged into, and the request's own.
    folder : Path
        Of results, in the clone.
    out : Path
        A folder that is empty or not there.
    submitter : str, optional
        Who makes the request: every result must name them as its owner.

    Returns
    -------
    list of Submitted
        The results that the request adds, in order of place.

    Raises
    ------
    BadInput
        Anything that the request changes, deletes or adds beside result files and their sections; whatever
        :func:`embench.submit.check` finds in these; a section of no result; nothing added at all.
    TryAgain
        The new folder cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}: not empty; give a new folder")
    prefix = _prefix(repository, folder)
    start, end = _commit(repository, base), _commit(repository, head)
    merged = git(repository, ["merge-base", start, end])
    if merged.returncode:
        raise BadInput(f"{head}: shares no history with {base}; make the request from a clone of this repository")
    changes = _changes(repository, merged.stdout.decode().strip(), end)
    if not changes:
        raise BadInput(f"{head}: adds nothing to {base}")
    _refuse(line for change in changes for line in _faults(change, prefix))
    _copy(repository, changes, prefix, out)
    checked = submit.check([out], folder)
    _refuse(_others(checked, submitter))
    _refuse(_left_over(checked, out, [change.path.removeprefix(prefix) for change in changes]))
    return checked


def _prefix(repository: Path, folder: Path) -> str:
    """Return how paths in the folder of results begin in git: ``results/``."""
    done = git(repository, ["rev-parse", "--show-toplevel"])
    top = Path(done.stdout.decode(errors="surrogateescape").rstrip("\n"))
    if done.returncode or not folder.resolve().is_relative_to(top):
        raise BadInput(f"{folder}: not in a git checkout; give the results folder of a clone of the leaderboard")
    inside = folder.resolve().relative_to(top).as_posix()
    return "" if inside == "." else f"{inside}/"


def _commit(repository: Path, name: str) -> str:
    done = git(repository, ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"])
    if done.returncode:
        raise BadInput(f"{name}: no such commit in {repository}; fetch it first")
    return done.stdout.decode().strip()


def _changes(repository: Path, start: str, end: str) -> list[_Change]:
    """Return every path in which two commits differ; a moved file is one that was deleted and one that was added."""
    asked = [
        "diff-tree",
        "-r",
        "-z",
        "--raw",
        "--no-abbrev",
        "--no-renames",
        "--no-ext-diff",
        "--ignore-submodules=none",
    ]
    done = git(repository, [*asked, start, end])
    if done.returncode:
        raise BadInput(f"{repository}: git diff-tree: {done.stderr.decode(errors='replace').strip()}")
    parts = done.stdout.decode(errors="surrogateescape").split("\0")
    found = []
    for about, path in zip(parts[0:-1:2], parts[1:-1:2], strict=True):
        _, mode, _, blob, status = about.removeprefix(":").split(" ")
        found.append(_Change(mode, blob, status[:1], path))
    return found


def _faults(change: _Change, prefix: str) -> Iterator[str]:
    """Yield what a request may not do to a path."""
    where = change.path
    if change.status != "A":
        yield f"{where}: {_STATUS.get(change.status, 'not added')}; a request adds result files and leaves all others"
        return
    inside = where.removeprefix(prefix) if where.startswith(prefix) else ""
    if not (_RESULT.fullmatch(inside) or _SECTION.fullmatch(inside)):
        yield f"{where}: not a result; a request adds {prefix}TASK/MODEL/RECIPE/seed-N.json and its sections alone"
    elif change.mode != "100644":
        kind = {"120000": "a link", "160000": "a submodule", "100755": "a program"}.get(change.mode, "no plain file")
        yield f"{where}: {kind}; add it as a plain file"


def _copy(repository: Path, changes: Sequence[_Change], prefix: str, out: Path) -> None:
    """Write the added files below ``out``, after their sizes are known."""
    if len(changes) > MOST_FILES:
        raise BadInput(f"{len(changes)} files; a request adds at most {MOST_FILES}: make several")
    asked = "".join(f"{change.blob}\n" for change in changes).encode()
    listed = git(repository, ["cat-file", "--batch-check=%(objecttype) %(objectsize)"], asked).stdout.decode()
    sizes = [int(line.removeprefix("blob ")) if line.startswith("blob ") else -1 for line in listed.splitlines()]
    _refuse(
        f"{change.path}: {size} bytes; a result or a section has at most {MAX_BYTES}"
        for change, size in zip(changes, sizes, strict=True)
        if not 0 <= size <= MAX_BYTES
    )
    if sum(sizes) > MOST_TOTAL:
        raise BadInput(f"{sum(sizes)} bytes in all; a request adds at most {MOST_TOTAL}: make several")
    content = memoryview(git(repository, ["cat-file", "--batch=%(objectname)"], asked).stdout)
    for change, size in zip(changes, sizes, strict=True):
        start = len(change.blob) + 1  # of the line that names it; another line end follows
        place = out / change.path.removeprefix(prefix)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as file:
                file.write(content[start : start + size])
        except FileExistsError:
            raise BadInput(f"{change.path}: another file of this name, in other letters, is added too") from None
        except OSError as error:
            raise explained(error, place) from None
        content = content[start + size + 1 :]


def _left_over(checked: Sequence[Submitted], out: Path, added: Sequence[str]) -> Iterator[str]:
    """Yield the results that lie in a wrong place, and the sections that no result names."""
    named = {each.source.relative_to(out).parent / name for each in checked for name in each.result.sections}
    for each in checked:
        if (place := each.source.relative_to(out)) != each.place:
            yield f"{place}: not where it belongs; move it to {each.place}"
    for path in added:
        if _SECTION.fullmatch(path) and Path(path) not in named:
            yield f"{path}: no result names this section; leave it out"


def _others(checked: Sequence[Submitted], submitter: str | None) -> Iterator[str]:
    """Yield the results that somebody else than the submitter owns."""
    for each in checked:
        owner = each.result.submitter
        if submitter is not None and owner != submitter.lower():
            named = f"names {owner} as" if owner else "names no"
            yield f"{each.place}: {named} submitter; bring it with: embench submit --submitter {submitter}"


def _refuse(faults: Iterator[str]) -> None:
    found = list(faults)
    if len(found) > _MOST_LINES:
        found = [*found[:_MOST_LINES], f"and {len(found) - _MOST_LINES} further ones"]
    if found:
        raise BadInput(found)

"""Verbs on results: score, submit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embench.core.errors import BadInput
from embench.data import catalog

if TYPE_CHECKING:
    pass


def score(
    task: str, predictions: Path, name: str | None, seed: int, only_check: bool, results: Path, data: Path | None
) -> None:
    """Check predictions made elsewhere and, unless only that was asked for, score them."""
    from embench.core.files import check_writable
    from embench.scoring import external

    if name is None and not only_check:
        raise BadInput("--name: say which model made the predictions (or give --check to check the files alone)")
    with catalog.open_prepared(task, data) as prepared:
        if name is None or only_check:
            checked = external.check(prepared, predictions)
            print(f"{task}: {checked.files} files cover {len(checked.parts)} test images; all values are labels")
            if checked.unread:
                print(f"not read: {', '.join(checked.unread)}")
            return
        check_writable(results)
        print(external.summary(*external.score(prepared, predictions, name, seed, results)))
    print(f"results: {results}    next: embench leaderboard --results {results} --out site")


def submit(given: Sequence[Path], results: Path, only_check: bool) -> None:
    """Check results for a leaderboard and, unless only that was asked for, copy them in; print what to commit."""
    from embench.scoring import submit

    if only_check:
        print(f"{len(submit.check(given, results))} results may stand in {results}")
        return
    placed = submit.submit(given, results)
    for each in placed:
        print(f"{each.source} -> {results / each.place}")
    print(f"{len(placed)} results in {results}; commit them, and open a pull request:")
    print(submit.advice(placed, results))


def review(head: str, base: str, results: Path, out: Path) -> None:
    """Check what a pull request adds to a folder of results; print what it is."""
    from embench.scoring import pull_request

    checked = pull_request.review(results, base, head, results, out)
    for each in checked:
        print(f"{each.place}: {each.result.row} on {each.result.task}, seed {each.result.seed}")
    print(f"{head} adds {len(checked)} results to {results} and changes nothing else; they are in {out}")


def register_test_sets(tasks: Sequence[str], results: Path, data: Path | None) -> None:
    """Note the test sets of prepared tasks in the registry of a folder of results."""
    from embench.scoring.register import register

    for name in tasks:
        with catalog.open_prepared(name, data) as prepared:
            print(f"{name}: {prepared.hash[:12]} in {register(prepared, results)}")

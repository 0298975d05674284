"""What the commands ``compare`` and ``leaderboard`` do, as plain functions."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embench.core.console import print_table
from embench.core.errors import BadInput
from embench.core.files import check_writable, write_atomic
from embench.scoring.results import load
from leaderboard import boards
from leaderboard import trials as trials_module
from leaderboard.site import build as site


def build(results: Sequence[Path], out: Path, data: Path | None = None) -> Path:
    """Build the static site from result files.

    Parameters
    ----------
    results : sequence of Path
        Folders of result files.
    out : Path
        The site's folder.
    data : Path, optional
        Folder of prepared files (default: the user's), for the raw test sections.

    Returns
    -------
    Path
        The front page.

    Raises
    ------
    BadInput
        An unwritable ``out``, or no result files; and, after the board of the usable ones is built, result files
        and section pictures that could not be used.
    """
    with _uncollected():
        return _build(results, out, data)


def _build(results: Sequence[Path], out: Path, data: Path | None) -> Path:
    if odd := [folder for folder in results if out.resolve() == folder.resolve()]:
        raise BadInput(f"--out {out}: the folder of results {odd[0]}; give another folder for the site")
    trials, refused = trials_module.read(results)
    if not trials:
        raise BadInput(refused or [f"{', '.join(map(str, results))}: no result files; run: embench run --results DIR"])
    check_writable(out)
    faults = site.build(trials, refused, out, data)
    page = out / "index.html"
    if refused or faults:
        raise BadInput([*refused, *faults, f"{page}: built without the files above; remove or repair them"])
    return page


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no cycles meanwhile: among so many small objects that all stay, that takes as long as making them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def comparable(first: Path, second: Path) -> tuple[list[str], list[str]]:
    """Return why two results may not be compared, and in what else they differ, one line per fact.

    Returns
    -------
    obstacles : list of str
        Empty when their scores may be compared.
    circumstances : list of str
        What a reader of the comparison should know: rows, seeds, recipes, weights, environments.

    Raises
    ------
    BadInput
        A file is absent or not a result.
    """
    trials = []
    for path in (first, second):
        if not path.is_file():
            raise BadInput(f"{path}: no such file; give a result file")
        trials.append(trials_module.trial_of(load(path), path))
    one, two = trials
    lines = trials_module.differences(one.result.fingerprint, two.result.fingerprint)
    if {one.kind, two.kind} != {"synthetic"} and "synthetic" in {one.kind, two.kind}:
        lines.append("data: synthetic against real")
    lines += [f"{trial.path}: diverged, it has no score" for trial in trials if trial.score is None]
    if not lines and one.row == two.row and one.result.seed == two.result.seed:
        _, same = trials_module.distinct(trials)
        lines += same
    return lines, trials_module.circumstances(one, two)


def power(results: Sequence[Path], tasks: Sequence[str], seeds: int) -> None:
    """Print what so many seeds can tell apart on each task, and how many settle it, from the spread of earlier results.

    Of each task the results of its own budget (else those of another, said so), for the two rows of the largest and
    the smallest spread, each at its upper limit, in the family of all pairs of its rows.

    Raises
    ------
    BadInput
        Fewer than two seeds; or, after printing, result files that could not be used.
    """
    from leaderboard.stats.means import ROPE
    from leaderboard.stats.power import CONFIDENCE, POWER, detectable, in_words, seeds_to_settle, upper_spread

    if seeds < 2:
        raise BadInput(f"--seeds {seeds}: give at least 2; one run says nothing of its spread")
    trials, refused = trials_module.read([folder for folder in results if folder.is_dir()])
    cells = boards.cells_of(trials)
    rows = []
    for task in tasks:
        columns = [column for column in boards.columns_of(trials) if column.task == task]
        own = [each for each in columns if each.facts and each.facts.iterations == each.fingerprint.iterations]
        found: dict[str, tuple[float, int]] = {}
        column = max(own or columns, key=lambda each: sum(key == each.key for _, key in cells), default=None)
        for (row, key), cell in cells.items():
            if column is not None and key == column.key and len(cell.counted) > 1:
                found[row] = float(upper_spread(cell.spread, len(cell.counted))), len(cell.counted)
        if column is None or not found:
            rows.append((task, "no earlier results", "–", "–", "–"))
            continue
        limits = sorted(spread for spread, _ in found.values())
        family = max(1, len(found) * (len(found) - 1) // 2)
        pairs = {
            "steadiest": (limits[0], limits[min(1, len(limits) - 1)]),
            "least steady": (limits[-1], limits[-2 if len(limits) > 1 else -1]),
        }
        budget = f"{column.fingerprint.iterations} iterations" + ("" if own else ", not the task's budget")
        for name, pair in pairs.items():
            rows.append(
                (
                    f"{task} ({budget})",
                    f"{name} pair of {len(found)} rows: SD up to {pair[0]:.3f} and {pair[1]:.3f}",
                    str(family),
                    f"{detectable(pair, (seeds, seeds), family):.3f}",
                    in_words(float(seeds_to_settle(5 * ROPE, *pair, family))),
                )
            )
    print_table(
        ("task", "spread over seeds", "tests", f"difference found with {seeds} seeds", f"seeds to find {5 * ROPE:g}"),
        rows,
    )
    print(
        f"Welch's test on the mean at 0.05, adjusted for all pairs of the task's rows; found with probability "
        f"{POWER:g}, with spreads at their upper {100 * CONFIDENCE:.0f} % limit"
    )
    if refused:
        raise BadInput(refused)


def factorial(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Print the effects of a factorial and write ``effects.csv``, ``cells.csv`` and ``factorial.md``.

    Parameters
    ----------
    rows : sequence of dict
        A trial each, as :func:`leaderboard.stats.factorial.effects` wants them.
    out : Path
        Folder.

    Raises
    ------
    BadInput
        Fewer than two scores in a cell.
    """
    import pandas as pd

    from leaderboard.stats import factorial

    trials = pd.DataFrame(rows)
    effects, cells = factorial.effects(trials), factorial.cells(trials)
    text = factorial.markdown(effects, cells)
    for name, content in (("effects.csv", effects.to_csv(index=False)), ("cells.csv", cells.to_csv(index=False))):
        write_atomic(out / name, content.encode())
    write_atomic(out / "factorial.md", text.encode())
    print(text)
    print(f"tables: {out / 'effects.csv'}, {out / 'cells.csv'}, {out / 'factorial.md'}")

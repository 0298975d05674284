"""What the commands ``compare`` and ``leaderboard`` do, as plain functions."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from embench.core.console import print_table
from embench.core.errors import BadInput
from embench.core.files import check_writable, write_atomic
from embench.scoring.results import load
from leaderboard import boards
from leaderboard import trials as trials_module
from leaderboard.site import build as site
from leaderboard.stats import tests


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


def controls(repeats: int, seed: int) -> None:
    """Print the controls of the statistics on simulated scores, then those of the whole chain from result files on.

    The second take longer, so there is one board of files for ten repeats.

    Raises
    ------
    BadInput
        Fewer than 100 repeats; or, after printing, a control that does not hold.
    """
    from leaderboard.calibration import pipeline, statistics

    if repeats < 100:
        raise BadInput(f"--repeats {repeats}: give at least 100, fewer tell nothing")
    failed = []
    generator = np.random.default_rng(seed)
    runs = ((statistics.run, repeats), (pipeline.run, repeats // 10))
    for control in (control for run, count in runs for control in run(generator, count)):
        line = f"{control.name}: {control.share:.3f} of {control.of}, promised {control.promise:.3f}"
        print(f"{'holds' if control.passed else 'FAILS'}  {line}", flush=True)
        failed += [] if control.passed else [f"{line}; the statistics are not to be trusted: report this"]
    if failed:
        raise BadInput(failed)


def power(results: Sequence[Path], tasks: Sequence[str], seeds: int) -> None:
    """Print what so many seeds can tell apart on each task, from the spread of earlier results.

    A task without results of its own borrows the spread of all real ones; without any the difference is given in
    standard deviations.

    Raises
    ------
    BadInput
        After printing: result files that could not be used.
    """
    from leaderboard.stats.power import prospects

    folders = [folder for folder in results if folder.is_dir()]
    trials, refused = trials_module.read(folders)
    samples: dict[str, list[tests.Floats]] = defaultdict(list)
    for (_, (task, _)), cell in boards.cells_of(trials).items():
        if task in tasks or not any(trial.result.synthetic for trial in cell.trials):
            samples[task].append(cell.scores)
    rows = []
    for found in prospects(samples, tasks, seeds, np.random.default_rng(0)):
        spread = found.spread
        if not spread.rows:
            source, difference = "no earlier results", f"{found.deviations:.2f} SD"
        else:
            of = "" if found.own else " of other tasks"
            source = f"SD {spread.deviation:.3f} ({spread.low:.3f}–{spread.high:.3f}), {spread.rows} rows{of}"
            difference = f"{found.detectable:.3f}"
        if found.smallest_p >= tests.LEVEL:
            difference = "none: n too small"
        rows.append((found.task, source, f"{found.smallest_p:.4f}", difference))
    print_table(("task", "spread over seeds", f"smallest p, {seeds} seeds", "difference found 8 times in 10"), rows)
    print("two-sided Mann-Whitney U at 0.05 per task, two rows of so many seeds, normal scores of one spread")
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

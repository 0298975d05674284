"""What the commands ``compare`` and ``leaderboard`` do, as plain functions."""

from __future__ import annotations

import gc
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from embench.console import print_table
from embench.errors import BadInput
from embench.files import check_writable, write_atomic
from embench.names import unknown
from embench.results import load
from leaderboard import site, statistics, table
from leaderboard.table import Cell, Column, Measure, Trial


def compare(
    results: Sequence[Path],
    a: str,
    b: str,
    tasks: Sequence[str] | None = None,
    as_json: bool = False,
    margin: float | None = None,
    measure: str = "score",
) -> None:
    """Print two rows compared on every task that both have, and over these tasks.

    Per task medians, spread, Mann-Whitney U over seeds with Hodges-Lehmann's shift, and the paired tests over test
    images and, where both rows draw the same random streams, over seeds. Over tasks, real and synthetic ones apart:
    p adjusted by Holm, and the probability of improvement.

    Parameters
    ----------
    results : sequence of Path
    a, b : str
        Rows.
    tasks : sequence of str, optional
    as_json : bool
    margin : float, optional
        Say also which row is non-inferior: worse by less than this, one-sided at 0.05.
    measure : {"score", "average_precision"}

    Raises
    ------
    BadInput
        Unknown row, task or measure (with the near names), a margin outside 0..1, no task in common, or, after
        printing, unusable result files.
    """
    if measure not in table.MEASURES:
        raise unknown("measure", measure, table.MEASURES)
    if margin is not None and not 0 < margin < 1:
        raise BadInput(f"--margin {margin}: give a difference of scores between 0 and 1, as 0.01")
    trials, refused = table.read(results)
    rows = [_row(name, trials) for name in (a, b)]
    chosen = [trial for trial in trials if trial.row in rows]
    for task in tasks or ():
        if task not in {trial.result.task for trial in chosen}:
            raise unknown("task", task, {trial.result.task for trial in chosen})
    cells = table.cells_of(chosen)
    columns = [column for column in table.columns_of(chosen) if not tasks or column.task in tasks]
    shared = [column for column in columns if all((row, column.key) in cells for row in rows)]
    compared = [
        _compared(column, cells[rows[0], column.key], cells[rows[1], column.key], measure, margin) for column in shared
    ]
    over_tasks = [_over_tasks(compared, synthetic) for synthetic in (False, True)]
    apart = _apart(columns, cells, rows)
    if as_json:
        facts = {
            "first": rows[0],
            "second": rows[1],
            "measure": measure,
            "tasks": compared,
            "over_tasks": [each for each in over_tasks if each],
            "not_compared": apart,
            "refused": refused,
        }
        print(json.dumps(_finite(facts), indent=1))
    else:
        _print(rows, compared, [each for each in over_tasks if each], apart, table.MEASURES[measure])
    if not compared:
        raise BadInput([f"{rows[0]} and {rows[1]} have no task in common under one fingerprint", *apart, *refused])
    if refused:
        raise BadInput(refused)


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
    trials, refused = table.read(results)
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


def diff(first: Path, second: Path) -> tuple[list[str], list[str]]:
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
        trials.append(table.trial_of(load(path), path))
    one, two = trials
    lines = table.differences(one.result.fingerprint, two.result.fingerprint)
    if {one.kind, two.kind} != {"synthetic"} and "synthetic" in {one.kind, two.kind}:
        lines.append("data: synthetic against real")
    lines += [f"{trial.path}: diverged, it has no score" for trial in trials if trial.score is None]
    if not lines and one.row == two.row and one.result.seed == two.result.seed:
        _, same = table.distinct(trials)
        lines += same
    return lines, table.circumstances(one, two)


def _row(name: str, trials: Sequence[Trial]) -> str:
    """Return the row called ``name``, or the only one of that model and recipe."""
    rows = sorted({trial.row for trial in trials})
    if name in rows:
        return name
    same = sorted({trial.row for trial in trials if trial.result.row == name})
    if len(same) == 1:
        return same[0]
    raise unknown("row", name, same or rows)


def _compared(column: Column, first: Cell, second: Cell, measure: Measure, margin: float | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "task": column.task,
        "label": column.label,
        "fingerprint": column.digest,
        "synthetic": column.synthetic,
        "first": _summary(first, measure),
        "second": _summary(second, measure),
    }
    one, two = first.values(measure), second.values(measure)
    if not len(one) or not len(two):
        nothing = "no finished trial" if not len(first.scores) or not len(second.scores) else "not measured"
        return {**entry, "p": float("nan"), "verdict": nothing, "stars": ""}
    test = statistics.compare(one, two)
    entry |= {
        "median_difference": entry["first"]["median"] - entry["second"]["median"],
        **asdict(test),
        "a12": test.a12,
        "paired_by_image": None,
        "paired_by_seed": None,
    }
    images = table.image_table([first, second])
    if measure == "score" and images.shape[1] > 1 and np.isfinite(images).all():
        entry["paired_by_image"] = asdict(statistics.compare_pairs(*images))
    if pairs := table.seeds_pair(first, second):
        values = np.array([[getattr(trial, measure) for trial in pair] for pair in pairs], float)
        known = values[np.isfinite(values).all(axis=1)]
        entry["paired_by_seed"] = asdict(statistics.compare_pairs(known[:, 0], known[:, 1]))
    if margin is not None:
        entry["non_inferiority"] = {
            "margin": margin,
            "first": statistics.non_inferior(one, two, margin),
            "second": statistics.non_inferior(two, one, margin),
        }
    return entry


def _over_tasks(compared: Sequence[dict[str, Any]], synthetic: bool) -> dict[str, Any]:
    """Adjust p over the real or the synthetic tasks, in place, and return the probability of improvement over them."""
    family = [entry for entry in compared if entry["synthetic"] == synthetic]
    for entry, p in zip(family, statistics.holm([entry["p"] for entry in family]), strict=True):
        entry["p_holm"] = float(p)
    tested = [entry for entry in family if "a12" in entry and min(entry["n"], entry["m"]) > 1]
    if not tested:
        return {}
    estimate, low, high = statistics.improvement_interval(
        [entry["a12"] for entry in tested], [entry["n"] for entry in tested], [entry["m"] for entry in tested]
    )
    return {
        "synthetic": synthetic,
        "tasks": [entry["label"] for entry in tested],
        "probability_of_improvement": float(estimate),
        "low": float(low),
        "high": float(high),
    }


def _summary(cell: Cell, measure: Measure) -> dict[str, Any]:
    scores = cell.values(measure)
    facts: dict[str, Any] = {"n": len(scores), "seeds": cell.seeds, "diverged": cell.diverged}
    if len(scores):
        q1, median, q3 = (float(q) for q in np.quantile(scores, [0.25, 0.5, 0.75]))
        facts |= {
            "median": median,
            "q1": q1,
            "q3": q3,
            "min": float(scores.min()),
            "max": float(scores.max()),
            "mean": float(scores.mean()),
            "sd": float(scores.std(ddof=1)) if len(scores) > 1 else float("nan"),
            "mean_iou": cell.mean,
            "plain_iou": cell.summary["plain"],
            "average_precision": cell.mean_of("average_precision"),
            "tuned_iou": cell.mean_of("tuned"),
            "threshold_gap": cell.threshold_gap,
            "threshold_artefacts": cell.artefacts,
        }
    return facts


def _apart(columns: Sequence[Column], cells: dict[tuple[str, tuple[str, str]], Cell], rows: Sequence[str]) -> list[str]:
    """Return why columns of only one of the rows are not compared."""
    lines = []
    lacking: dict[str, list[str]] = {row: [] for row in rows}
    for task in dict.fromkeys(column.task for column in columns):
        own = [[c for c in columns if c.task == task and (row, c.key) in cells] for row in rows]
        if {c.key for c in own[0]} & {c.key for c in own[1]}:
            continue
        if own[0] and own[1]:
            facts = table.differences(own[0][0].fingerprint, own[1][0].fingerprint)
            lines.append(f"{task}: not comparable, {'; '.join(facts)}")
        else:
            lacking[rows[1] if own[0] else rows[0]].append(task)
    return lines + [f"no trial of {row} on {', '.join(names)}" for row, names in lacking.items() if names]


def _print(
    rows: Sequence[str],
    compared: Sequence[dict[str, Any]],
    over_tasks: Sequence[dict[str, Any]],
    apart: Sequence[str],
    measure: str,
) -> None:
    from rich.box import HEAVY_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    to_terminal = sys.stdout.isatty()
    console = Console(width=None if to_terminal else 220, highlight=False, markup=False)
    shown = Table(title=None, box=HEAVY_HEAD if to_terminal else None, pad_edge=False)
    shown.add_column("task", no_wrap=not to_terminal)
    for name in ("first", "second"):
        shown.add_column(f"{name}: median", justify="right")
        shown.add_column("IQR", justify="right", no_wrap=True)
        shown.add_column("min–max", justify="right", no_wrap=True)
    shown.add_column("difference", justify="right")
    shown.add_column("shift, 95 %", justify="right")
    shown.add_column("p", justify="right")
    shown.add_column("p Holm", justify="right")
    shown.add_column("")
    shown.add_column("n", justify="right")
    for entry in compared:
        cells = [entry["label"] + (" (synthetic)" if entry["synthetic"] else "")]
        for name in ("first", "second"):
            facts = entry[name]
            mark = "†" if facts.get("threshold_gap") else ""
            if facts["n"]:
                cells.append(f"{facts['median']:.3f}{mark}")
                cells += [f"{facts[a]:.3f}–{facts[b]:.3f}" for a, b in (("q1", "q3"), ("min", "max"))]
            else:
                cells += ["none", "–", "–"]
        known = "shift" in entry
        cells += [
            f"{entry['median_difference']:+.3f}" if known else "–",
            f"{entry['low']:+.3f} to {entry['high']:+.3f}" if known and not isnan(entry["low"]) else "–",
            statistics.as_text(entry["p"]) if known else "–",
            statistics.as_text(entry["p_holm"]) if known else "–",
            entry["stars"] if entry["verdict"] == "different" else entry["verdict"],
            f"{entry['first']['n']}, {entry['second']['n']}",
        ]
        shown.add_row(*map(Text, cells))
    console.print(Text(f"first: {rows[0]}    second: {rows[1]}    measure: {measure}"))
    if compared:
        console.print(shown)
        console.print(Text("two-sided Mann-Whitney U over seeds: * p < 0.05, ** p < 0.01; difference: of medians"))
    for line in [*_further(rows, compared, over_tasks), *apart]:
        console.print(Text(line))


def _further(
    rows: Sequence[str], compared: Sequence[dict[str, Any]], over_tasks: Sequence[dict[str, Any]]
) -> Iterator[str]:
    """Yield what does not fit the table: thresholds, paired tests, non-inferiority, and the tasks together."""
    for entry in compared:
        for name, row in zip(("first", "second"), rows, strict=True):
            facts = entry[name]
            if facts.get("threshold_gap"):
                plain = facts["mean_iou"] if isnan(facts["plain_iou"]) else facts["plain_iou"]
                yield (
                    f"† {entry['label']}: {row} has IoU {plain:.3f} at the protocol's threshold and "
                    f"{facts['tuned_iou']:.3f} at the one chosen on training images, "
                    f"average precision {facts['average_precision']:.3f}"
                )
        for over in ("image", "seed"):
            if paired := entry.get(f"paired_by_{over}"):
                yield (
                    f"{entry['label']}: paired by {over}, shift {paired['shift']:+.3f}, signed-rank p = "
                    f"{statistics.as_text(paired['p'])}, {paired['verdict']}, n = {paired['n']}"
                )
        if margins := entry.get("non_inferiority"):
            for name, row in zip(("first", "second"), rows, strict=True):
                yield f"{entry['label']}: {row} with margin {margins['margin']:g}: {margins[name]}"
    for each in over_tasks:
        kind = "synthetic" if each["synthetic"] else "real"
        yield (
            f"probability that a run of the first beats one of the second on {kind} data ({len(each['tasks'])} tasks): "
            f"{each['probability_of_improvement']:.3f} ({each['low']:.3f} to {each['high']:.3f})"
        )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and isnan(value) else value


def controls(repeats: int, seed: int) -> None:
    """Print the controls of the statistics on simulated scores, then those of the whole chain from result files on.

    The second take longer, so there is one board of files for ten repeats.

    Raises
    ------
    BadInput
        Fewer than 100 repeats; or, after printing, a control that does not hold.
    """
    from leaderboard import chain, controls

    if repeats < 100:
        raise BadInput(f"--repeats {repeats}: give at least 100, fewer tell nothing")
    failed = []
    generator = np.random.default_rng(seed)
    runs = ((controls.run, repeats), (chain.run, repeats // 10))
    for control in (control for run, count in runs for control in run(generator, count)):
        line = f"{control.name}: {control.share:.3f} of {control.of}, promised {control.promise:.3f}"
        print(f"{'holds' if control.passed else 'FAILS'}  {line}", flush=True)
        failed += [] if control.passed else [f"{line}; the statistics are not to be trusted: report this"]
    if failed:
        raise BadInput(failed)


def prospects(results: Sequence[Path], tasks: Sequence[str], seeds: int) -> None:
    """Print what so many seeds can tell apart on each task, from the spread of earlier results.

    A task without results of its own borrows the spread of all real ones; without any the difference is given in
    standard deviations.

    Raises
    ------
    BadInput
        After printing: result files that could not be used.
    """
    from leaderboard import power

    folders = [folder for folder in results if folder.is_dir()]
    trials, refused = table.read(folders)
    samples: dict[str, list[statistics.Floats]] = defaultdict(list)
    for (_, (task, _)), cell in table.cells_of(trials).items():
        if task in tasks or not any(trial.result.synthetic for trial in cell.trials):
            samples[task].append(cell.scores)
    rows = []
    for found in power.prospects(samples, tasks, seeds, np.random.default_rng(0)):
        spread = found.spread
        if not spread.rows:
            source, difference = "no earlier results", f"{found.deviations:.2f} SD"
        else:
            of = "" if found.own else " of other tasks"
            source = f"SD {spread.deviation:.3f} ({spread.low:.3f}–{spread.high:.3f}), {spread.rows} rows{of}"
            difference = f"{found.detectable:.3f}"
        if found.smallest_p >= statistics.LEVEL:
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
        A trial each, as :func:`leaderboard.factorial.effects` wants them.
    out : Path
        Folder.

    Raises
    ------
    BadInput
        Fewer than two scores in a cell.
    """
    import pandas as pd

    from leaderboard import factorial

    trials = pd.DataFrame(rows)
    effects, cells = factorial.effects(trials), factorial.cells(trials)
    text = factorial.markdown(effects, cells)
    for name, content in (("effects.csv", effects.to_csv(index=False)), ("cells.csv", cells.to_csv(index=False))):
        write_atomic(out / name, content.encode())
    write_atomic(out / "factorial.md", text.encode())
    print(text)
    print(f"tables: {out / 'effects.csv'}, {out / 'cells.csv'}, {out / 'factorial.md'}")

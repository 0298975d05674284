"""What the commands ``compare`` and ``leaderboard`` do, as plain functions."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from embench.errors import BadInput
from embench.files import check_writable
from embench.names import unknown
from embench.results import load
from leaderboard import site, statistics, table
from leaderboard.table import Cell, Column, Trial


def compare(results: Sequence[Path], a: str, b: str, tasks: Sequence[str] | None = None, as_json: bool = False) -> None:
    """Print two rows compared on every task that both have: medians, spread, difference, Mann-Whitney U and n.

    Raises
    ------
    BadInput
        Unknown row or task (with the near names), no task in common, or, after printing, unusable result files.
    """
    trials, refused = table.read(results)
    rows = [_row(name, trials) for name in (a, b)]
    chosen = [trial for trial in trials if trial.row in rows]
    for task in tasks or ():
        if task not in {trial.result.task for trial in chosen}:
            raise unknown("task", task, {trial.result.task for trial in chosen})
    cells = table.cells_of(chosen)
    columns = [column for column in table.columns_of(chosen) if not tasks or column.task in tasks]
    shared = [column for column in columns if all((row, column.key) in cells for row in rows)]
    compared = [_compared(column, cells[rows[0], column.key], cells[rows[1], column.key]) for column in shared]
    apart = _apart(columns, cells, rows)
    adjusted = statistics.holm([entry["p"] for entry in compared])
    for entry, p in zip(compared, adjusted, strict=True):
        entry["p_holm"] = float(p)
    if as_json:
        facts = {"first": rows[0], "second": rows[1], "tasks": compared, "not_compared": apart, "refused": refused}
        print(json.dumps(_finite(facts), indent=1))
    else:
        _print(rows, compared, apart)
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
    trials, refused = table.read(results)
    if not trials:
        raise BadInput(refused or [f"{', '.join(map(str, results))}: no result files; run: embench run --results DIR"])
    check_writable(out)
    faults = site.build(trials, refused, out, data)
    page = out / "index.html"
    if refused or faults:
        raise BadInput([*refused, *faults, f"{page}: built without the files above; remove or repair them"])
    return page


def diff(first: Path, second: Path) -> list[str]:
    """Return why two results may not be compared, one line per fact; empty when they may.

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
    return lines


def _row(name: str, trials: Sequence[Trial]) -> str:
    """Return the row called ``name``, or the only one of that model and recipe."""
    rows = sorted({trial.row for trial in trials})
    if name in rows:
        return name
    same = sorted({trial.row for trial in trials if trial.result.row == name})
    if len(same) == 1:
        return same[0]
    raise unknown("row", name, same or rows)


def _compared(column: Column, first: Cell, second: Cell) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "task": column.task,
        "label": column.label,
        "fingerprint": column.digest,
        "synthetic": column.synthetic,
        "first": _summary(first),
        "second": _summary(second),
    }
    if not len(first.scores) or not len(second.scores):
        return {**entry, "p": float("nan"), "verdict": "no finished trial", "stars": ""}
    test = statistics.compare(first.scores, second.scores)
    difference = entry["first"]["median"] - entry["second"]["median"]
    return {**entry, "median_difference": difference, **asdict(test), "a12": test.a12}


def _summary(cell: Cell) -> dict[str, Any]:
    scores = cell.scores
    facts: dict[str, Any] = {"n": len(scores), "seeds": cell.seeds, "diverged": cell.diverged}
    if len(scores):
        q1, median, q3 = (float(q) for q in np.quantile(scores, [0.25, 0.5, 0.75]))
        facts |= {
            "median": median,
            "q1": q1,
            "q3": q3,
            "min": float(scores.min()),
            "max": float(scores.max()),
            "mean": cell.mean,
            "sd": cell.spread,
            "average_precision": cell.mean_of("average_precision"),
            "tuned_iou": cell.mean_of("tuned"),
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


def _print(rows: Sequence[str], compared: Sequence[dict[str, Any]], apart: Sequence[str]) -> None:
    to_terminal = sys.stdout.isatty()
    console = Console(width=None if to_terminal else 200, highlight=False, markup=False)
    shown = Table(title=None, box=HEAVY_HEAD if to_terminal else None, pad_edge=False)
    shown.add_column("task", no_wrap=not to_terminal)
    for name in ("first", "second"):
        shown.add_column(f"{name}: median", justify="right")
        shown.add_column("IQR", justify="right", no_wrap=True)
        shown.add_column("min–max", justify="right", no_wrap=True)
    shown.add_column("difference", justify="right")
    shown.add_column("p", justify="right")
    shown.add_column("")
    shown.add_column("n", justify="right")
    for entry in compared:
        cells = [entry["label"] + (" (synthetic)" if entry["synthetic"] else "")]
        for name in ("first", "second"):
            facts = entry[name]
            mark = "†" if facts.get("threshold_artefacts") else ""
            if facts["n"]:
                cells.append(f"{facts['median']:.3f}{mark}")
                cells += [f"{facts[a]:.3f}–{facts[b]:.3f}" for a, b in (("q1", "q3"), ("min", "max"))]
            else:
                cells += ["diverged", "–", "–"]
        known = "shift" in entry
        cells += [
            f"{entry['median_difference']:+.3f}" if known else "–",
            f"{entry['p']:.4f}" if known else "–",
            entry["stars"] if entry["verdict"] == "different" else entry["verdict"],
            f"{entry['first']['n']}, {entry['second']['n']}",
        ]
        shown.add_row(*map(Text, cells))
    console.print(Text(f"first: {rows[0]}    second: {rows[1]}"))
    if compared:
        console.print(shown)
        console.print(Text("two-sided Mann-Whitney U over seeds: * p < 0.05, ** p < 0.01; difference: of medians"))
        if any(entry[name].get("threshold_artefacts") for entry in compared for name in ("first", "second")):
            console.print(Text("† near 0 only because of the threshold: --json has tuned IoU and average precision"))
    for line in apart:
        console.print(Text(line))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and isnan(value) else value

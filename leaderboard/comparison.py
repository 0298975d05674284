"""`embench compare`: two rows over tasks, in words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from embench.core.console import terminal
from embench.core.errors import BadInput
from embench.core.names import unknown
from leaderboard import boards, ranking
from leaderboard import trials as trials_module
from leaderboard.boards import Cell, Column
from leaderboard.stats import tests
from leaderboard.stats.means import non_inferior
from leaderboard.stats.pairwise import Pairings
from leaderboard.stats.power import in_words
from leaderboard.trials import Measure, Trial


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

    What the pairwise page says: Welch's test on the mean over seeds, adjusted by Holm for all pairs and tasks of the
    results, the probability that the difference is practically none, and the seeds that would settle it; as
    descriptions Mann-Whitney U with Hodges-Lehmann's shift, and the paired tests over test images and, where both
    rows draw the same random streams, over seeds. Over tasks, real and synthetic ones apart: the probability of
    improvement.

    Parameters
    ----------
    results : sequence of Path
    a, b : str
        Rows.
    tasks : sequence of str, optional
    as_json : bool
    margin : float, optional
        Say also which row is non-inferior: worse by less than this, one-sided at 0.025.
    measure : {"score", "average_precision"}

    Raises
    ------
    BadInput
        Unknown row, task or measure (with the near names), a margin outside 0..1, no task in common, or, after
        printing, unusable result files.
    """
    if measure not in trials_module.MEASURES:
        raise unknown("measure", measure, trials_module.MEASURES)
    if margin is not None and not 0 < margin < 1:
        raise BadInput(f"--margin {margin}: give a difference of scores between 0 and 1, as 0.01")
    trials, refused = trials_module.read(results)
    rows = [_row(name, trials, tasks) for name in (a, b)]
    chosen = [trial for trial in trials if trial.row in rows]
    for task in tasks or ():
        if task not in {trial.result.task for trial in chosen}:
            raise unknown("task", task, {trial.result.task for trial in chosen})
    cells = boards.cells_of(chosen)
    columns = [column for column in boards.columns_of(chosen) if not tasks or column.task in tasks]
    shared = [column for column in columns if all((row, column.key) in cells for row in rows)]
    pairings = _pairings(trials, measure)
    lines = {line["page"]: line for line in pairings.against(rows[0]).to_dict("records") if line["other"] == rows[1]}
    compared = [
        _compared(
            column, cells[rows[0], column.key], cells[rows[1], column.key], lines.get(column.slug), measure, margin
        )
        for column in shared
    ]
    families = {False: pairings.families[False], True: pairings.families[True]}
    over_tasks = [_over_tasks(compared, synthetic) for synthetic in (False, True)]
    apart = _apart(columns, cells, rows)
    if as_json:
        facts = {
            "first": rows[0],
            "second": rows[1],
            "measure": measure,
            "tasks": compared,
            "adjusted_for": {"real": families[False], "synthetic": families[True]},
            "over_tasks": [each for each in over_tasks if each],
            "not_compared": apart,
            "refused": refused,
        }
        print(json.dumps(_finite(facts), indent=1))
    else:
        _print(rows, compared, [each for each in over_tasks if each], apart, trials_module.MEASURES[measure], families)
    if not compared:
        raise BadInput([f"{rows[0]} and {rows[1]} have no task in common under one fingerprint", *apart, *refused])
    if refused:
        raise BadInput(refused)


def _row(name: str, trials: Sequence[Trial], tasks: Sequence[str] | None = None) -> str:
    """Return the row called ``name``, or the only one of that model and recipe, or of that model, on the tasks."""
    rows = sorted({trial.row for trial in trials})
    if name in rows:
        return name
    near = [trial for trial in trials if not tasks or trial.result.task in tasks] or trials
    for named in ({trial.row for trial in near if trial.result.row == name}, _of_model(name, near)):
        if len(named) == 1:
            return named.pop()
        if named:
            on = f" on {', '.join(tasks)}" if tasks else ""
            raise BadInput(f"{name}: {len(named)} rows of it{on}: {', '.join(sorted(named))}; name one of them")
    raise unknown("row", name, rows)


def _of_model(name: str, trials: Sequence[Trial]) -> set[str]:
    return {trial.row for trial in trials if trial.result.model.name == name}


def _pairings(trials: Sequence[Trial], measure: Measure) -> Pairings:
    """Compare all rows on all tasks: the family that p is adjusted for is that of the board's pairwise pages."""
    found = boards.boards(trials)
    columns = boards.columns_of(trials)
    board_of = {
        column.key: max((each for each in found if column in each.columns), key=lambda each: len(each.rows))
        for column in columns
    }
    compared = {}
    for column in columns:
        board = board_of[column.key]
        rows = [row for row in board.rows if (row, column.task) in board.runs[measure].samples]
        compared[column.key] = ranking.compared(board, column, rows, measure)
    return Pairings(columns, compared)


def _compared(
    column: Column,
    first: Cell,
    second: Cell,
    line: Mapping[Any, Any] | None,
    measure: Measure,
    margin: float | None,
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "task": column.task,
        "label": column.label,
        "fingerprint": column.digest,
        "synthetic": column.synthetic,
        "first": _summary(first, measure),
        "second": _summary(second, measure),
    }
    if line is None or not len(first.scores) or not len(second.scores):
        nothing = "no finished trial" if not len(first.scores) or not len(second.scores) else "not measured"
        return {**entry, "p": float("nan"), "verdict": nothing, "stars": ""}
    entry |= {name: value for name, value in line.items() if name not in ("other", "task", "page", "synthetic")}
    entry["verdict"] = line["verdict"] or "n too small"
    entry["paired_by_image"] = entry["paired_by_seed"] = None
    images = ranking.image_table([first, second])
    alone = not ranking.neighbours([first, second])
    if measure == "score" and images.shape[1] > 1 and np.isfinite(images).all() and alone:
        entry["paired_by_image"] = asdict(tests.compare_pairs(*images))
    if pairs := ranking.seeds_pair(first, second):
        values = np.array([[trial.value(measure) for trial in pair] for pair in pairs], float)
        known = values[np.isfinite(values).all(axis=1)]
        entry["paired_by_seed"] = asdict(tests.compare_pairs(known[:, 0], known[:, 1]))
    if margin is not None:
        entry["non_inferiority"] = {
            "margin": margin,
            "first": non_inferior(line["low"], margin),
            "second": non_inferior(-line["high"], margin),
        }
    return entry


def _over_tasks(compared: Sequence[dict[str, Any]], synthetic: bool) -> dict[str, Any]:
    """Return the probability of improvement over the real or the synthetic tasks."""
    tested = [entry for entry in compared if entry["synthetic"] == synthetic and "a12" in entry]
    if not tested or all(isnan(entry["improvement_low"]) for entry in tested):
        return {}
    return {
        "synthetic": synthetic,
        "tasks": [entry["label"] for entry in tested],
        "probability_of_improvement": tested[0]["improvement"],
        "low": tested[0]["improvement_low"],
        "high": tested[0]["improvement_high"],
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
            facts = trials_module.differences(own[0][0].fingerprint, own[1][0].fingerprint)
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
    families: Mapping[bool, int],
) -> None:
    from rich.box import HEAVY_HEAD
    from rich.table import Table
    from rich.text import Text

    to_terminal = sys.stdout.isatty()
    console = terminal(width=None if to_terminal else 220)
    shown = Table(title=None, box=HEAVY_HEAD if to_terminal else None, pad_edge=False)
    shown.add_column("task", no_wrap=not to_terminal)
    adjusted = any(families[entry["synthetic"]] > 1 for entry in compared)
    for name in ("first", "second"):
        shown.add_column(f"{name}: mean", justify="right")
        shown.add_column("min–max", justify="right", no_wrap=True)
    shown.add_column("difference, 95 %", justify="right")
    shown.add_column("p", justify="right")
    if adjusted:
        shown.add_column("p Holm", justify="right")
    shown.add_column("first is")
    shown.add_column("better, same, worse", justify="right")
    shown.add_column("seeds to settle", justify="right")
    shown.add_column("runs", justify="right")
    for entry in compared:
        cells = [entry["label"] + (" (synthetic)" if entry["synthetic"] else "")]
        known = "difference" in entry
        for name, mean in (("first", "mean"), ("second", "other_mean")):
            facts = entry[name]
            mark = "†" if facts.get("threshold_artefacts") else ""
            cells.append(f"{entry[mean]:.3f}{mark}" if known else "–")
            cells.append(f"{facts['min']:.3f}–{facts['max']:.3f}" if facts["n"] else "–")
        certain = known and not isnan(entry["low"])
        way = "better" if known and entry["difference"] > 0 else "worse"
        cells += [
            (f"{entry['difference']:+.3f}" + (f" [{entry['low']:+.3f}, {entry['high']:+.3f}]" if certain else ""))
            if known
            else "–",
            tests.as_text(entry["p"]) if known else "–",
            *([tests.as_text(entry["p_holm"]) if known else "–"] if adjusted else []),
            way if entry["verdict"] == "different" else entry["verdict"],
            f"{entry['better']:.2f}, {entry['same']:.2f}, {entry['worse']:.2f}" if certain else "–",
            in_words(entry["seeds"]) if known else "–",
            ", ".join(_runs(entry[name]) for name in ("first", "second")),
        ]
        shown.add_row(*map(Text, cells))
    console.print(Text(f"first: {rows[0]}    second: {rows[1]}    measure: {measure}"))
    if compared:
        console.print(shown)
        console.print(Text("p: Welch's test on the mean over seeds; better, same (within 0.01), worse: probabilities"))
        if any(entry[name].get("threshold_artefacts") for entry in compared for name in ("first", "second")):
            console.print(Text("†: near 0 only because of the threshold"))
        if adjusted:
            names = ((False, "real"), (True, "synthetic"))
            kinds = [f"{families[kind]} on {name} data" for kind, name in names if families[kind]]
            console.print(
                Text(f"p Holm, and what is said from it: adjusted for all pairs and tasks: {', '.join(kinds)}")
            )
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
                    f"{'† ' if facts['threshold_artefacts'] else ''}{entry['label']}: {row} has IoU {plain:.3f} at the "
                    f"protocol's threshold and {facts['tuned_iou']:.3f} at the one chosen on training images, "
                    f"average precision {facts['average_precision']:.3f}"
                )
        for over in ("image", "seed"):
            if paired := entry.get(f"paired_by_{over}"):
                yield (
                    f"{entry['label']}: paired by {over}, shift {paired['shift']:+.3f}, signed-rank p = "
                    f"{tests.as_text(paired['p'])}, {paired['verdict']}, n = {paired['n']}"
                )
        if "delta" in entry:
            yield (
                f"{entry['label']}: medians {entry['median']:.3f} and {entry['other_median']:.3f}, "
                f"Hodges-Lehmann shift {entry['shift']:+.3f}, Cliff's delta {entry['delta']:+.2f}, "
                f"A12 {entry['a12']:.2f}, Mann-Whitney p = {tests.as_text(entry['p_mann_whitney'])}"
                f"{entry['stars']} (not adjusted)"
            )
        if margins := entry.get("non_inferiority"):
            for name, row in zip(("first", "second"), rows, strict=True):
                yield f"{entry['label']}: {row} with margin {margins['margin']:g}: {margins[name]} (one-sided 0.025)"
    for each in over_tasks:
        kind = "synthetic" if each["synthetic"] else "real"
        yield (
            f"probability that a run of the first beats one of the second on {kind} data ({len(each['tasks'])} tasks): "
            f"{each['probability_of_improvement']:.3f} ({each['low']:.3f} to {each['high']:.3f})"
        )


def _runs(facts: Mapping[str, Any]) -> str:
    failed = len(facts["diverged"])
    return f"{facts['n']} of {facts['n'] + failed}" if failed else str(facts["n"])


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value

"""What architecture, recipe and pre-training each contribute, and what they do together: a 2 x 2 x 2 factorial.

The papers compare pairings (a network under its own recipe from its own start), so that the three are confounded. Here
every network is trained under every recipe, at random and from a pre-training, over the same number of seeds.

An effect is a contrast of the eight means: half of them added and half subtracted, divided by four, so that a main
effect is the difference between the means of the two levels. An interaction of two is half the difference between an
effect at one level of the other factor and at the other. Variances of the eight cells are not assumed equal: intervals
and p are Welch's, with Satterthwaite's degrees of freedom, and p are adjusted by Holm over the effects of a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import nan, sqrt

import numpy as np
import pandas as pd
from scipy import stats

from embench.core.errors import BadInput
from leaderboard.stats.several import holm
from leaderboard.stats.tests import LEVEL, as_text

FACTORS = ("architecture", "recipe", "start")
"""Columns of the table of trials, each of two levels; beside them ``task``, ``seed`` and ``score``."""
OVER_TASKS = "all tasks"


def effects(trials: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """Return every main effect and interaction, per task and averaged over tasks.

    Parameters
    ----------
    trials : DataFrame
        A row per trial: ``task``, ``architecture``, ``recipe``, ``start``, ``seed``, ``score``. A NaN score
        (diverged) counts as no trial. An effect is that of the second level against the first, in order of appearance.
    level : float
        1 - level is the confidence of the intervals.

    Returns
    -------
    DataFrame
        ``task``, ``effect`` (as in ``recipe`` or ``architecture x recipe``), ``contrast`` in words, ``estimate``,
        ``low``, ``high``, ``freedom``, ``p``, ``p_holm``. Over tasks, tasks have equal weight and are not a sample:
        the interval speaks of further seeds on the same tasks.

    Raises
    ------
    BadInput
        A factor with other than two levels, or a cell with fewer than two scores, each named.
    """
    levels = _levels(trials)
    tasks = list(dict.fromkeys(trials["task"]))
    by_task = np.array([_contrasted(trials[trials["task"] == task], levels, task) for task in tasks])
    found = [_rows(task, moments, levels, level) for task, moments in zip(tasks, by_task, strict=True)]
    if len(tasks) > 1:
        mean = by_task.sum(axis=0) / [len(tasks), len(tasks) ** 2, len(tasks) ** 4]
        found.append(_rows(OVER_TASKS, mean, levels, level))
    return pd.DataFrame([row for rows in found for row in rows])


def cells(trials: pd.DataFrame) -> pd.DataFrame:
    """Return number, mean and standard deviation of the scores of each cell, per task."""
    order = ["task", *FACTORS]
    grouped = trials.groupby(order, sort=False)["score"]
    return grouped.agg(n="count", mean="mean", sd="std").reset_index()


def markdown(effects: pd.DataFrame, cells: pd.DataFrame) -> str:
    """Return both tables for reading."""
    lines = ["# Architecture, recipe and pre-training, separated", ""]
    for task in dict.fromkeys(effects["task"]):
        lines += [f"## {task}", "", "| effect | contrast | estimate | 95 % interval | p | p (Holm) |"]
        lines += ["| --- | --- | ---: | ---: | ---: | ---: |"]
        for row in effects[effects["task"] == task].itertuples():
            between, p, p_holm = f"{row.low:+.3f} to {row.high:+.3f}", as_text(row.p), as_text(row.p_holm)
            lines.append(f"| {row.effect} | {row.contrast} | {row.estimate:+.3f} | {between} | {p} | {p_holm} |")
        lines.append("")
        own = cells[cells["task"] == task]
        if len(own):
            lines += [
                "| architecture | recipe | start | seeds | mean | SD |",
                "| --- | --- | --- | ---: | ---: | ---: |",
            ]
            lines += [
                f"| {row.architecture} | {row.recipe} | {row.start} | {row.n} | {row.mean:.3f} | {row.sd:.3f} |"
                for row in own.itertuples()
            ]
            lines.append("")
    lines += [
        "An effect is the second level's mean minus the first's; an interaction is half the difference of an effect",
        "between the levels of the other factor. Welch's intervals over seeds, Satterthwaite's degrees of freedom.",
        "",
    ]
    return "\n".join(lines)


def _effects() -> list[tuple[str, ...]]:
    return [names for size in (1, 2, 3) for names in combinations(FACTORS, size)]


def _name(names: Sequence[str]) -> str:
    return " x ".join(names)


def _contrast(names: Sequence[str]) -> np.ndarray:
    """Return the weight of each cell (2, 2, 2): the product of the signs of the factors, over four."""
    signs = np.ones((2, 2, 2))
    for axis, factor in enumerate(FACTORS):
        if factor in names:
            signs *= np.array([-1.0, 1.0]).reshape([2 if axis == other else 1 for other in range(3)])
    return signs / 4


def _levels(trials: pd.DataFrame) -> dict[str, list[str]]:
    levels = {factor: list(dict.fromkeys(trials[factor])) for factor in FACTORS}
    if odd := [f"{factor}: {', '.join(map(str, found))}" for factor, found in levels.items() if len(found) != 2]:
        raise BadInput([f"{line}; a factor has two levels" for line in odd])
    return levels


def _cells(trials: pd.DataFrame, levels: dict[str, list[str]], task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, squared standard error and degrees of freedom of the cells (2, 2, 2)."""
    means, errors, freedoms = (np.full((2, 2, 2), nan) for _ in range(3))
    faults = []
    for place in np.ndindex(2, 2, 2):
        cell = [levels[factor][k] for factor, k in zip(FACTORS, place, strict=True)]
        chosen = (trials[list(FACTORS)] == cell).all(axis=1)
        scores = trials.loc[chosen, "score"].dropna().to_numpy(float)
        if len(scores) < 2:
            faults.append(f"{task}, {', '.join(cell)}: {len(scores)} scores; at least 2 are needed")
            continue
        means[place] = scores.mean()
        errors[place] = scores.var(ddof=1) / len(scores)
        freedoms[place] = len(scores) - 1
    if faults:
        raise BadInput(faults)
    return means, errors, freedoms


def _contrasted(trials: pd.DataFrame, levels: dict[str, list[str]], task: str) -> list[list[float]]:
    """Return of each effect the estimate, its variance, and the sum of the squared variances over their freedoms."""
    means, errors, freedoms = _cells(trials, levels, task)
    found = []
    for names in _effects():
        weights = _contrast(names)
        parts = weights**2 * errors
        found.append([(weights * means).sum(), parts.sum(), (parts**2 / freedoms).sum()])
    return found


def _rows(task: str, moments: np.ndarray, levels: dict[str, list[str]], level: float) -> list[dict[str, object]]:
    """Return the lines of a task, with p adjusted over them; ``moments`` as :func:`_contrasted` has them."""
    rows = []
    for names, (estimate, variance, fourth) in zip(_effects(), moments.tolist(), strict=True):
        freedom = variance**2 / fourth if fourth else nan
        error = sqrt(variance)
        if error:
            half = float(stats.t.ppf(1 - level / 2, freedom)) * error
            p = float(2 * stats.t.sf(abs(estimate) / error, freedom))
        else:  # every cell repeats one score: nothing is left to chance
            half, p = 0.0, 0.0 if estimate else 1.0
        rows.append(
            {
                "task": task,
                "effect": _name(names),
                "contrast": "; ".join(f"{levels[name][1]} − {levels[name][0]}" for name in names),
                "estimate": estimate,
                "low": estimate - half,
                "high": estimate + half,
                "freedom": freedom,
                "p": p,
            }
        )
    adjusted = holm([row["p"] for row in rows])
    return [{**row, "p_holm": float(p)} for row, p in zip(rows, adjusted, strict=True)]

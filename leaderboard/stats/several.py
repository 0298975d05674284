"""Statistics over several tasks and several pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan, nan, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy import special  # its stats takes half a second to import: only where a test of it is asked for

from leaderboard.stats.tests import LEVEL, Floats, cliffs_delta, doubled_ranks


def percent_difference(
    means: Mapping[str, float], baseline: str, otherwise: str
) -> tuple[dict[str, float], str | None]:
    """Return each row's difference from the baseline in percent, and against which row it was taken.

    Against ``otherwise`` where the baseline scores 0.000, as the paper does on CREMI (protocol 5, Figure S1);
    nothing and ``None`` where neither is there or above 0.000.
    """
    for reference in (baseline, otherwise):
        against = means.get(reference, nan)
        if not isnan(against) and round(against, 3) > 0:
            return {row: 100 * (mean - against) / against for row, mean in means.items()}, reference
    return {}, None


def holm(p_values: ArrayLike, axis: int | None = None) -> Floats:
    """Return p-values adjusted for their number by Holm's step-down method; NaN is passed through and not counted.

    All of them are one family, or those along ``axis`` are.
    """
    p = np.asarray(p_values, float)
    flat = p.reshape(-1, 1) if axis is None else np.moveaxis(p, axis, 0).reshape(p.shape[axis], -1)
    order = np.argsort(flat, axis=0, kind="stable")  # NaN last
    left = (~np.isnan(flat)).sum(axis=0) - np.arange(len(flat))[:, None]
    steps = np.take_along_axis(flat, order, axis=0) * left
    adjusted = np.empty_like(flat)
    np.put_along_axis(adjusted, order, np.minimum(1, np.maximum.accumulate(steps, axis=0)), axis=0)
    return (
        adjusted.reshape(p.shape)
        if axis is None
        else np.moveaxis(adjusted.reshape(np.moveaxis(p, axis, 0).shape), 0, axis)
    )


def probability_of_improvement(first: Sequence[ArrayLike], second: Sequence[ArrayLike]) -> float:
    """Return the mean over tasks of A12 (Agarwal et al. 2021): how probably a run of the first beats the second's."""
    return float(np.mean([(cliffs_delta(x, y) + 1) / 2 for x, y in zip(first, second, strict=True)]))


def improvement_interval(
    a12: ArrayLike, n: ArrayLike, m: ArrayLike, level: float = LEVEL
) -> tuple[Floats, Floats, Floats]:
    """Return the probability of improvement and its interval from A12 of each task.

    A score interval with Newcombe's variance (2006, method 5) taken at the tasks' A12 moved by the interval's own
    end, so that it keeps a width at 0 and 1, where a bootstrap of six seeds has none. The variance is enlarged by
    n / (n - 1) of the smaller sample: without it the mean over eight tasks of three seeds is covered in 92 %.

    Parameters
    ----------
    a12 : array, shape (tasks, ...)
        NaN where a task is not shared: it is left out.
    n, m : array, broadcast to it
        Seeds of the first and of the second.

    Returns
    -------
    estimate, low, high : ndarray, shape (...)
        The ends are NaN where a task has a single seed.
    """
    tasks = np.asarray(a12, float)
    n, m = (np.broadcast_to(np.asarray(size, float), tasks.shape) for size in (n, m))
    smaller = np.minimum(n, m)
    factor = smaller / np.maximum(smaller - 1, 0.5) / (n * m)
    count = (~np.isnan(tasks)).sum(axis=0)
    quantile = float(special.ndtri(1 - level / 2)) / count
    centre = np.nansum(tasks, axis=0) / count
    ends = []
    for side in (-1, 1):
        near, far = np.zeros_like(centre), np.ones_like(centre)
        for _ in range(24):
            middle = (near + far) / 2
            moved = np.clip(tasks + side * middle, 0, 1)
            skew = (1 - moved) / (2 - moved) + moved / (1 + moved)
            variance = moved * (1 - moved) * (1 + ((n + m) / 2 - 1) * skew) * factor
            inside = middle <= quantile * np.sqrt(np.nansum(variance, axis=0))
            near, far = np.where(inside, middle, near), np.where(inside, far, middle)
        ends.append(np.clip(centre + side * far, 0, 1))
    low, high = (np.where((smaller < 2).any(axis=0), nan, end) for end in ends)
    return centre, low, high


# ---- several rows over several tasks


@dataclass(frozen=True)
class Friedman:
    """The Friedman test with Nemenyi's comparisons (Demsar 2006).

    ``mean_ranks`` per row (1 is best); ``critical_difference`` of two mean ranks at the level.
    """

    p: float
    mean_ranks: Floats
    critical_difference: float


def mean_ranks(scores: Floats) -> Floats:
    """Return each row's rank averaged over tasks from (tasks, rows) scores; 1 is best, ties share their mean."""
    return np.mean([doubled_ranks(-each) for each in scores], axis=0) / 2


def friedman(scores: Floats, level: float = LEVEL) -> Friedman:
    """Test whether rows differ over tasks.

    Parameters
    ----------
    scores : ndarray, shape (tasks, rows)
        At least two tasks and three rows.
    """
    from scipy import stats

    tasks, rows = scores.shape
    return Friedman(
        p=float(stats.friedmanchisquare(*scores.T).pvalue),
        mean_ranks=mean_ranks(scores),
        critical_difference=critical_difference(rows, tasks, level),
    )


def nemenyi(ranks: Floats, tasks: int) -> Floats:
    """Return Nemenyi's p-value of every pair of mean ranks over ``tasks`` tasks, shape (rows, rows)."""
    from scipy import stats

    rows = len(ranks)
    distance = np.abs(np.subtract.outer(ranks, ranks)) / sqrt(rows * (rows + 1) / (6 * tasks))
    return np.asarray(stats.studentized_range.sf(distance * sqrt(2), rows, inf), float)


def critical_difference(rows: int, tasks: int, level: float = LEVEL) -> float:
    """Return Nemenyi's critical difference of mean ranks."""
    from scipy import stats

    quantile = float(stats.studentized_range.ppf(1 - level, rows, inf)) / sqrt(2)
    return quantile * sqrt(rows * (rows + 1) / (6 * tasks))

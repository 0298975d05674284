"""Bootstrap intervals of means and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, nan, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # its stats takes half a second to import: only where a test of it is asked for

from leaderboard.stats.tests import LEVEL, Floats, checked_sample

# ---- one row over several tasks


def bootstrap_means(
    samples: Sequence[ArrayLike], generator: np.random.Generator, draws: int = 10_000, level: float = LEVEL
) -> Floats:
    """Return bootstrap draws of the mean over tasks of the mean over seeds: the spread of training again.

    Seeds are resampled within each task (stratified). With few seeds the plain percentile interval is too narrow,
    so residuals are scaled by sqrt(n / (n - 1)) and the draws widened by the ratio of the t to the normal quantile
    at Satterthwaite's degrees of freedom (Hesterberg 2015, the expanded percentile interval): quantiles of the
    draws at ``level / 2`` and ``1 - level / 2`` then keep their promise for five seeds as for fifty.

    Parameters
    ----------
    samples : sequence of samples, one per task
    generator : numpy.random.Generator
    draws : int
    level : float
        At which quantiles will be taken.

    Returns
    -------
    ndarray, shape (draws,)
        NaN when a sample has fewer than two scores: one run says nothing of the spread.
    """
    scores = [checked_sample(each) for each in samples]
    if not scores or min(len(each) for each in scores) < 2:
        return np.full(draws, nan)
    deviation = np.zeros(draws)
    for each in scores:
        n = len(each)
        picked = generator.integers(0, n, (n, draws), dtype=np.uint16)
        deviation += _residuals(each)[picked].sum(axis=0) / (n * len(scores))
    variances = np.array([[each.var(ddof=1) / len(each)] for each in scores])
    centre = float(np.mean([each.mean() for each in scores]))
    return centre + deviation * _widening(variances, [len(each) for each in scores], level)


def bootstrap_images(
    tables: Sequence[Floats],
    generator: np.random.Generator,
    draws: int = 10_000,
    level: float = LEVEL,
    weights: Sequence[float] | None = None,
) -> Floats:
    """Return bootstrap draws of each row's mean over tasks of the mean over test images: the spread of other images.

    Test images are resampled within each task (stratified), the same ones for every row, so that differences of
    rows keep their pairing; the models are taken as they are. A task with a single test volume cannot be
    resampled and keeps its score. Residuals and draws are widened as in :func:`bootstrap_means`.

    Parameters
    ----------
    tables : sequence of ndarray, shape (rows, images)
        Per task, each row's score on each test image or volume, a mean over seeds.
    generator : numpy.random.Generator
    draws : int
    level : float
        At which quantiles will be taken.
    weights : sequence of float, optional
        Of the tasks, with sum 1 (default: the same for all).

    Returns
    -------
    ndarray, shape (draws, rows)
        NaN where no task has two images.
    """
    rows = len(tables[0])
    shares = [1 / len(tables)] * len(tables) if weights is None else weights
    resampled = [(table, share) for table, share in zip(tables, shares, strict=True) if table.shape[1] > 1]
    if not resampled:
        return np.full((draws, rows), nan)
    centre = np.sum([share * table.mean(axis=1) for table, share in zip(tables, shares, strict=True)], axis=0)
    deviation = np.zeros((draws, rows))
    for table, share in resampled:
        n = table.shape[1]
        picked = generator.integers(0, n, (draws, n)) + n * np.arange(draws)[:, None]
        counts = np.bincount(picked.ravel(), minlength=draws * n).reshape(draws, n) / n
        deviation += share * (counts @ _residuals(table).T)
    variances = np.array([share**2 * table.var(axis=1, ddof=1) / table.shape[1] for table, share in resampled])
    return centre + deviation * _widening(variances, [table.shape[1] for table, _ in resampled], level)


def interval(draws: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of bootstrap draws; NaN for NaN draws."""
    low, high = intervals(draws[:, None], level)[0]
    return float(low), float(high)


def intervals(draws: Floats, level: float = LEVEL) -> Floats:
    """Return the percentile intervals, shape (rows, 2), of bootstrap draws (draws, rows); NaN where draws have NaN."""
    return np.quantile(np.ascontiguousarray(draws.T), [level / 2, 1 - level / 2], axis=1).T


def rank_intervals(draws: Floats, level: float = LEVEL) -> NDArray[np.int64]:
    """Return for each row the ranks that its bootstrap draws take.

    Parameters
    ----------
    draws : ndarray, shape (draws, rows)
        The larger the better; a row of NaN (a single run) may hold any rank.

    Returns
    -------
    ndarray, shape (rows, 2)
        Best and worst rank at ``1 - level``, 1 the best.
    """
    rows = draws.shape[1]
    known = ~np.isnan(draws).any(axis=0)
    ranges = np.tile([1, rows], (rows, 1))
    if known.any():
        count, others = known.sum(), (~known).sum()
        order, ranks = _ranks(draws[:, known])
        counts = np.bincount((order * count + ranks).ravel(), minlength=count**2).reshape(count, count)
        below = counts.cumsum(axis=1)
        last = len(draws) - 1
        low = (below <= floor(last * level / 2)).sum(axis=1) + 1
        high = (below <= ceil(last * (1 - level / 2))).sum(axis=1) + 1
        ranges[known] = np.stack([low, high + others], axis=1)
    return ranges


def _ranks(draws: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of every draw, the largest first, and their ranks from 0; equal ones share the best."""
    falling = -draws
    order, ordered = np.argsort(falling, axis=1), np.sort(falling, axis=1)
    places = np.broadcast_to(np.arange(draws.shape[1]), draws.shape)
    if (tied := ordered[:, 1:] == ordered[:, :-1]).any():
        first = np.where(tied, 0, places[:, 1:])
        places = np.maximum.accumulate(np.pad(first, ((0, 0), (1, 0))), axis=1)
    return order, places


def tie_groups(draws: Floats, centres: ArrayLike, level: float = LEVEL) -> list[int]:
    """Return a group number per row; rows of a group cannot be told from its best row.

    From the best row down: a row joins the current group while the interval of its difference from the group's
    best row includes 0, else it opens the next group.

    Parameters
    ----------
    draws : ndarray, shape (draws, rows)
        NaN draws cannot be told from anything.
    centres : array, shape (rows,)
        The estimates, in any order.
    """
    means = np.asarray(centres, float)
    groups = [0] * len(means)
    leader, group = -1, 0
    by_row = np.ascontiguousarray(draws.T)
    for row in np.argsort(-means, kind="stable"):
        if leader < 0 or _mostly_above(by_row[leader], by_row[row], level):
            leader, group = int(row), group + 1
        groups[row] = group
    return groups


def _mostly_above(first: Floats, second: Floats, level: float) -> bool:
    """Whether the interval of the difference of two rows' draws lies above 0, by counting where that decides it."""
    above, place = int(np.count_nonzero(first > second)), floor((len(first) - 1) * level / 2)
    if above >= len(first) - place:
        return True
    return above >= len(first) - place - 1 and interval(first - second, level)[0] > 0


def interquartile_mean(samples: Sequence[ArrayLike]) -> float:
    """Return the mean of the middle half of all runs on all tasks (Agarwal et al. 2021)."""
    pooled = np.sort(np.concatenate([checked_sample(each) for each in samples]))
    cut = len(pooled) // 4
    return float(pooled[cut : len(pooled) - cut].mean())


def bootstrap_interquartile_means(
    samples: Sequence[ArrayLike], generator: np.random.Generator, draws: int = 2000, level: float = LEVEL
) -> Floats:
    """Return bootstrap draws of the interquartile mean, shape (draws,); NaN when a sample has fewer than two scores.

    Seeds are resampled within each task (Agarwal et al. 2021), residuals scaled and draws widened as in
    :func:`bootstrap_means`. Every draw is sorted, so there are fewer by default.
    """
    scores = [checked_sample(each) for each in samples]
    if not scores or min(len(each) for each in scores) < 2:
        return np.full(draws, nan)
    pooled = np.concatenate(
        [each.mean() + _residuals(each)[generator.integers(0, len(each), (len(each), draws))] for each in scores]
    )
    cut = len(pooled) // 4
    found = np.sort(pooled, axis=0)[cut : len(pooled) - cut].mean(axis=0)
    centre = interquartile_mean(scores)
    variances = np.array([[each.var(ddof=1) / len(each)] for each in scores])
    return centre + (found - found.mean()) * _widening(variances, [len(each) for each in scores], level)


def _residuals(scores: Floats) -> Floats:
    """Return what each score (last axis) departs from the mean, scaled to have the unbiased variance."""
    n = scores.shape[-1]
    return (scores - scores.mean(axis=-1, keepdims=True)) * sqrt(n / (n - 1))


def _widening(variances: Floats, sizes: Sequence[int], level: float) -> Floats:
    """Return the t over the normal quantile at Satterthwaite's degrees of freedom; variances (tasks, rows)."""
    freedoms = np.array(sizes)[:, None] - 1
    with np.errstate(invalid="ignore"):
        freedom = variances.sum(axis=0) ** 2 / (variances**2 / freedoms).sum(axis=0)
    ratio = special.stdtrit(freedom, 1 - level / 2) / special.ndtri(1 - level / 2)
    return np.where(variances.any(axis=0), ratio, 1.0)

"""Statistics of scores: pure functions of arrays, with the random generator passed in.

A *sample* is the scores of one row on one task, one per seed. Differences are ``first - second``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import ceil, comb, floor, inf, isnan, nan, sqrt
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # its stats takes half a second to import: only where a test of it is asked for

Floats = NDArray[np.float64]
Verdict = Literal["different", "not distinguished", "n too small"]
VERDICTS: tuple[Verdict | Literal[""], ...] = ("", "n too small", "not distinguished", "different")
"""The first where there is nothing to compare."""
STARS = ("", "*", "**")

LEVEL = 0.05
EXACT_AT_MOST = 40
"""Pooled size up to which null distributions are enumerated; above it they are approximated by a normal."""


# ---- two samples


@dataclass(frozen=True)
class Comparison:
    """Two samples compared.

    ``shift`` is the Hodges-Lehmann estimate of ``first - second`` with its interval (NaN where n is too small),
    ``delta`` Cliff's delta, ``p`` the two-sided Mann-Whitney U test's.
    """

    n: int
    m: int
    p: float
    smallest_p: float
    verdict: Verdict
    stars: str
    shift: float
    low: float
    high: float
    delta: float

    @property
    def a12(self) -> float:
        """Vargha and Delaney's A12: the probability that a run of the first beats one of the second."""
        return (self.delta + 1) / 2


def compare(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> Comparison:
    """Compare two samples in every way that the board shows."""
    x, y = _sample(first), _sample(second)
    p = mann_whitney(x, y)
    shift, low, high = hodges_lehmann(x, y, level)
    return Comparison(
        n=len(x),
        m=len(y),
        p=p,
        smallest_p=smallest_p(len(x), len(y)),
        verdict=verdict(p, len(x), len(y), level),
        stars=stars(p),
        shift=shift,
        low=low,
        high=high,
        delta=cliffs_delta(x, y),
    )


def mann_whitney(first: ArrayLike, second: ArrayLike) -> float:
    """Return the p-value of the two-sided Mann-Whitney U test (protocol 5).

    Exact, conditionally on ties (mid-ranks enumerated); the normal approximation with tie correction (scipy) when
    more than 40 scores are pooled.
    """
    x, y = _sample(first), _sample(second)
    return float(_mann_whitney_many(x[None], y[None])[0, 0])


@dataclass(frozen=True)
class Pairs:
    """Every pair of K samples compared, as :class:`Comparison` does one; (K, K) arrays, NaN for an empty sample."""

    n: NDArray[np.int64]
    p: Floats
    smallest_p: Floats
    shift: Floats
    low: Floats
    high: Floats
    delta: Floats

    def verdicts(self, level: float = LEVEL) -> NDArray[np.uint8]:
        """Return the place in ``VERDICTS`` of every pair's verdict."""
        return verdicts(self.p, self.smallest_p, level)

    def stars(self) -> NDArray[np.uint8]:
        """Return the place in ``STARS`` of every pair's marks."""
        return np.add(self.p < 0.01, self.p < 0.05, dtype=np.uint8)


def compare_all(samples: Sequence[ArrayLike], level: float = LEVEL) -> Pairs:
    """Compare every pair of samples; samples of one size go together, so that hundreds take seconds."""
    scores = [_sample(each) for each in samples]
    size = len(scores)
    p, smallest, shift, low, high, delta = (np.full((size, size), nan) for _ in range(6))
    lengths = sorted({len(each) for each in scores} - {0})
    members = {n: [k for k, each in enumerate(scores) if len(each) == n] for n in lengths}
    stacked = {n: np.stack([scores[k] for k in members[n]]) for n in lengths}
    for n in lengths:
        for m in lengths:
            where = np.ix_(members[n], members[m])
            differences = stacked[n][:, None, :, None] - stacked[m][None, :, None, :]
            differences = np.sort(differences.reshape(*differences.shape[:2], n * m), axis=-1)
            shift[where] = (differences[..., (n * m - 1) // 2] + differences[..., n * m // 2]) / 2
            delta[where] = np.sign(differences).mean(axis=-1)
            smallest[where] = smallest_p(n, m)
            if (k := critical_count(n, m, level)) >= 1:
                low[where], high[where] = differences[..., k - 1], differences[..., -k]
            if n <= m:
                block = _mann_whitney_many(stacked[n], stacked[m])
                p[where] = block
                p[np.ix_(members[m], members[n])] = block.T
    return Pairs(np.array([len(each) for each in scores]), p, smallest, shift, low, high, delta)


def smallest_p(n: int, m: int) -> float:
    """Return the smallest two-sided p that a Mann-Whitney test of ``n`` against ``m`` scores can reach."""
    return min(1.0, 2 / comb(n + m, n))


def verdict(p: float, n: int, m: int, level: float = LEVEL) -> Verdict:
    """Return what a p-value says; ``n too small`` where no data of this size could have reached the level."""
    if smallest_p(n, m) >= level:
        return "n too small"
    return "different" if p < level else "not distinguished"


def verdicts(p: ArrayLike, smallest: ArrayLike, level: float = LEVEL) -> NDArray[np.uint8]:
    """Return the places in ``VERDICTS`` of what p-values say, given the smallest that each could have been."""
    some = np.asarray(p)
    found = np.where(np.asarray(smallest) >= level, 1, np.where(some < level, 3, 2))
    return np.where(np.isnan(some), 0, found).astype(np.uint8)


def stars(p: float) -> str:
    """Return the marks of the paper: ``*`` for p < 0.05, ``**`` for p < 0.01 (protocol 5)."""
    return "**" if p < 0.01 else "*" if p < 0.05 else ""


def as_text(p: float | None) -> str:
    """Return a p-value to four decimals, below 0.0001 as ``2e-05``, and a dash where there is none."""
    return "–" if p is None or isnan(p) else f"{p:.4f}" if p >= 0.0001 else f"{p:.0e}"


def hodges_lehmann(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> tuple[float, float, float]:
    """Return the median of all differences ``first - second`` and its ``1 - level`` interval.

    The interval holds the shifts that the two-sided Mann-Whitney test does not reject, so it is exact up to 40
    pooled scores without ties; NaN where the test cannot reach ``level``.
    """
    x, y = _sample(first), _sample(second)
    differences = np.sort(np.subtract.outer(x, y).ravel())
    k = critical_count(len(x), len(y), level)
    estimate = float(np.median(differences))
    if k < 1:
        return estimate, nan, nan
    return estimate, float(differences[k - 1]), float(differences[-k])


def cliffs_delta(first: ArrayLike, second: ArrayLike) -> float:
    """Return P(first > second) - P(first < second): 1 when every run of the first beats every one of the second."""
    x, y = _sample(first), _sample(second)
    return float(np.sign(np.subtract.outer(x, y)).mean())


def non_inferior(
    first: ArrayLike, second: ArrayLike, margin: float, level: float = LEVEL
) -> Verdict | Literal["non-inferior"]:
    """Whether ``first`` is worse than ``second`` by less than ``margin``, one-sided at ``level``.

    Returns
    -------
    {"non-inferior", "not distinguished", "n too small"}
        The second when the data leave a larger loss possible.
    """
    x, y = _sample(first), _sample(second)
    if smallest_p(len(x), len(y)) / 2 >= level:
        return "n too small"
    _, low, _ = hodges_lehmann(x, y, 2 * level)
    return "non-inferior" if low > -margin else "not distinguished"


# ---- pairs


@dataclass(frozen=True)
class PairedComparison:
    """Two rows compared on what both have: the same test images, or seeds that draw the same random streams.

    ``shift`` is the Hodges-Lehmann estimate of ``first - second`` (the median of all means of two differences),
    ``p`` the two-sided Wilcoxon signed-rank test's.
    """

    n: int
    shift: float
    p: float
    smallest_p: float
    verdict: Verdict


def compare_pairs(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> PairedComparison:
    """Compare ``first[i]`` with ``second[i]``."""
    difference = _sample(first) - _sample(second)
    n, p = len(difference), signed_rank(first, second)
    above = np.triu_indices(n)
    smallest = smallest_signed_p(n)
    found: Verdict = "n too small" if smallest >= level else "different" if p < level else "not distinguished"
    return PairedComparison(
        n=n,
        shift=float(np.median(np.add.outer(difference, difference)[above] / 2)) if n else nan,
        p=p,
        smallest_p=smallest,
        verdict=found,
    )


def signed_rank(first: ArrayLike, second: ArrayLike) -> float:
    """Return the p-value of the two-sided Wilcoxon signed-rank test of pairs; 1 when all pairs are equal.

    Equal pairs are left out, as Wilcoxon did. Exact, conditionally on ties (mid-ranks), up to 40 pairs; the normal
    approximation with tie correction above.
    """
    x, y = _sample(first), _sample(second)
    return float(signed_rank_all(np.stack([x, y]))[0, 1])


def signed_rank_all(scores: Floats) -> Floats:
    """Return the signed-rank p-value of every pair of rows of (rows, n) scores; NaN for rows with NaN."""
    rows, n = scores.shape
    p = np.full((rows, rows), nan)
    for k, row in enumerate(scores):
        differences = row - scores[k:]
        sizes = np.abs(differences)
        order = np.argsort(sizes, axis=1)
        ordered = np.take_along_axis(sizes, order, axis=1)
        above = np.take_along_axis(differences, order, axis=1) > 0
        ranks = _mid_ranks(ordered)
        positive = (ranks * above).sum(axis=1)
        unknown = np.isnan(differences).any(axis=1)
        exact = ((ordered > 0).sum(axis=1) <= EXACT_AT_MOST) & ~unknown
        if n <= EXACT_AT_MOST:
            found = _exact_by_signed_sum(n)[positive.astype(int)]
            exact &= (np.diff(ordered, axis=1, prepend=0) == 0).any(axis=1)
        else:
            found = _approximate_by_signed_sum(ranks, positive)
        for other in np.flatnonzero(exact):
            doubled = (2 * ranks[other, ordered[other] > 0]).astype(int)
            probabilities = _signed_sums(tuple(doubled.tolist()))
            distance = np.abs(2 * np.arange(len(probabilities)) - doubled.sum())
            found[other] = probabilities[distance >= abs(4 * positive[other] - doubled.sum()) - 1e-9].sum()
        found[unknown] = nan
        p[k, k:] = p[k:, k] = np.minimum(found, 1.0)
    return p


def _mid_ranks(ordered: Floats) -> Floats:
    """Return the ranks of sizes in rising order (rows, n): ties share their mean; those that are 0 have none, 0."""
    n = ordered.shape[1]
    places = np.arange(1, n + 1)
    new = np.diff(ordered, axis=1, prepend=-1) > 0
    first = np.maximum.accumulate(np.where(new, places, 0), axis=1)
    last = np.minimum.accumulate(np.where(np.roll(new, -1, axis=1), places, n)[:, ::-1], axis=1)[:, ::-1]
    zeros = (ordered == 0).sum(axis=1, keepdims=True)
    return np.where(ordered == 0, 0.0, (first + last) / 2 - zeros)


def _approximate_by_signed_sum(ranks: Floats, positive: Floats) -> Floats:
    """Return the normal approximation of p from ranks (rows, n), some maybe 0, and the sums of the positive ones."""
    spread = np.sqrt((ranks**2).sum(axis=1)) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        found = 2 * special.ndtr(-np.abs(positive - ranks.sum(axis=1) / 2) / spread)
    return np.where(spread > 0, found, 1.0)


def smallest_signed_p(n: int) -> float:
    """Return the smallest two-sided p that a signed-rank test of ``n`` pairs can reach."""
    return min(1.0, 2.0 ** (1 - n))


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
    scores = [_sample(each) for each in samples]
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
    tables: Sequence[Floats], generator: np.random.Generator, draws: int = 10_000, level: float = LEVEL
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

    Returns
    -------
    ndarray, shape (draws, rows)
        NaN where no task has two images.
    """
    rows = len(tables[0])
    resampled = [table for table in tables if table.shape[1] > 1]
    if not resampled:
        return np.full((draws, rows), nan)
    centre = np.mean([table.mean(axis=1) for table in tables], axis=0)
    deviation = np.zeros((draws, rows))
    for table in resampled:
        n = table.shape[1]
        picked = generator.integers(0, n, (draws, n)) + n * np.arange(draws)[:, None]
        weights = np.bincount(picked.ravel(), minlength=draws * n).reshape(draws, n) / n
        deviation += weights @ _residuals(table).T / len(tables)
    variances = np.array([table.var(axis=1, ddof=1) / table.shape[1] for table in resampled])
    return centre + deviation * _widening(variances, [table.shape[1] for table in resampled], level)


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
    pooled = np.sort(np.concatenate([_sample(each) for each in samples]))
    cut = len(pooled) // 4
    return float(pooled[cut : len(pooled) - cut].mean())


def bootstrap_interquartile_means(
    samples: Sequence[ArrayLike], generator: np.random.Generator, draws: int = 2000, level: float = LEVEL
) -> Floats:
    """Return bootstrap draws of the interquartile mean, shape (draws,); NaN when a sample has fewer than two scores.

    Seeds are resampled within each task (Agarwal et al. 2021), residuals scaled and draws widened as in
    :func:`bootstrap_means`. Every draw is sorted, so there are fewer by default.
    """
    scores = [_sample(each) for each in samples]
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
    return np.mean([_doubled_ranks(-each) for each in scores], axis=0) / 2


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


# ---- the parts


def _sample(scores: ArrayLike) -> Floats:
    sample = np.asarray(scores, float)
    if sample.ndim != 1 or not np.isfinite(sample).all():
        raise ValueError(f"a sample is a list of finite scores, not {sample!r}")
    return sample


def _mann_whitney_many(x: Floats, y: Floats) -> Floats:
    """Return p (A, B) for samples x (A, n) against y (B, m)."""
    n, m = x.shape[1], y.shape[1]
    large = n + m > EXACT_AT_MOST
    if large:
        from scipy import stats
    p = np.empty((len(x), len(y)))
    for a, sample in enumerate(x):
        if large:
            with np.errstate(invalid="ignore", divide="ignore"):
                p[a] = stats.mannwhitneyu(sample[None], y, axis=1, method="asymptotic").pvalue
            continue
        above = (sample[:, None] > y[:, None, :]).sum(axis=(1, 2))
        p[a] = _exact_by_u(n, m)[above]
        pooled = np.concatenate([np.broadcast_to(sample, (len(y), n)), y], axis=1)
        for b in np.flatnonzero((np.diff(np.sort(pooled, axis=1), axis=1) == 0).any(axis=1)):
            doubled = _doubled_ranks(pooled[b])
            p[a, b] = _exact_p(tuple(sorted(doubled.tolist())), n, int(doubled[:n].sum()))
    # All scores equal: the asymptotic statistic is 0/0, and nothing speaks against equality.
    return np.where(np.isnan(p), 1.0, p)


def _doubled_ranks(sample: Floats) -> NDArray[np.int64]:
    """Return twice the rank of every score, 1 the smallest; equal ones share the mean of theirs."""
    _, place, counts = np.unique(sample, return_inverse=True, return_counts=True)
    return (2 * counts.cumsum() - counts + 1)[place]


@cache
def _exact_by_u(n: int, m: int) -> Floats:
    """Return the exact two-sided p of samples without ties for every U from 0 to ``n * m``."""
    ranks = tuple(range(2, 2 * (n + m) + 1, 2))
    return np.array([_exact_p(ranks, n, n * (n + 1) + 2 * u) for u in range(n * m + 1)])


@cache
def _exact_by_signed_sum(n: int) -> Floats:
    """Return the exact two-sided p of ``n`` pairs without ties for every sum of the positive ones' ranks."""
    probabilities = _signed_sums(tuple(range(1, n + 1)))
    distance = np.abs(2 * np.arange(len(probabilities)) - len(probabilities) + 1)
    return np.array([min(1.0, probabilities[distance >= each].sum()) for each in distance])


@lru_cache(maxsize=4096)
def _rank_sums(ranks: tuple[int, ...], n: int) -> Floats:
    """Return how many of the choices of ``n`` among ``ranks`` have each sum, as probabilities."""
    counts = np.zeros((n + 1, sum(ranks) + 1))
    counts[0, 0] = 1
    for rank in ranks:
        for size in range(n, 0, -1):
            counts[size, rank:] += counts[size - 1, : counts.shape[1] - rank]
    return counts[n] / comb(len(ranks), n)


@lru_cache(maxsize=4096)
def _signed_sums(ranks: tuple[int, ...]) -> Floats:
    """Return the probability of each sum of the ranks that a fair coin picks."""
    sums = np.zeros(sum(ranks) + 1)
    sums[0] = 1
    for rank in ranks:
        shifted = np.zeros_like(sums)
        shifted[rank:] = sums[: len(sums) - rank]
        sums = (sums + shifted) / 2
    return sums


def _exact_p(doubled_ranks: tuple[int, ...], n: int, doubled_sum: int) -> float:
    probabilities = _rank_sums(doubled_ranks, n)
    centre = n * (len(doubled_ranks) + 1)
    distance = np.abs(np.arange(len(probabilities)) - centre)
    return float(min(1.0, probabilities[distance >= abs(doubled_sum - centre)].sum()))


def critical_count(n: int, m: int, level: float) -> int:
    """Return the largest k with P(U <= k - 1) <= level / 2; 0 when there is none. The test rejects such U."""
    if n + m > EXACT_AT_MOST:
        spread = sqrt(n * m * (n + m + 1) / 12)
        return floor(n * m / 2 - float(special.ndtri(1 - level / 2)) * spread)
    below = np.cumsum(_rank_sums(tuple(range(1, n + m + 1)), n)[n * (n + 1) // 2 :])
    return int((below <= level / 2 + 1e-12).sum())


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

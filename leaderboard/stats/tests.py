"""Statistics of scores: pure functions of arrays, with the random generator passed in.

A *sample* is the scores of one row on one task, one per seed. Differences are ``first - second``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import comb, floor, isnan, nan, sqrt
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
    x, y = checked_sample(first), checked_sample(second)
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
    x, y = checked_sample(first), checked_sample(second)
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
    scores = [checked_sample(each) for each in samples]
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
    x, y = checked_sample(first), checked_sample(second)
    differences = np.sort(np.subtract.outer(x, y).ravel())
    k = critical_count(len(x), len(y), level)
    estimate = float(np.median(differences))
    if k < 1:
        return estimate, nan, nan
    return estimate, float(differences[k - 1]), float(differences[-k])


def cliffs_delta(first: ArrayLike, second: ArrayLike) -> float:
    """Return P(first > second) - P(first < second): 1 when every run of the first beats every one of the second."""
    x, y = checked_sample(first), checked_sample(second)
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
    x, y = checked_sample(first), checked_sample(second)
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
    difference = checked_sample(first) - checked_sample(second)
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
    x, y = checked_sample(first), checked_sample(second)
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


# ---- the parts


def checked_sample(scores: ArrayLike) -> Floats:
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
            doubled = doubled_ranks(pooled[b])
            p[a, b] = _exact_p(tuple(sorted(doubled.tolist())), n, int(doubled[:n].sum()))
    # All scores equal: the asymptotic statistic is 0/0, and nothing speaks against equality.
    return np.where(np.isnan(p), 1.0, p)


def doubled_ranks(sample: Floats) -> NDArray[np.int64]:
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

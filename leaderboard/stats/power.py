"""What a number of seeds can tell apart, from the spread of earlier results: before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from leaderboard.stats import tests
from leaderboard.stats.tests import LEVEL, Floats

POWER = 0.8
"""Probability with which a difference is to be found to count as detectable."""
DRAWS = 20_000


@dataclass(frozen=True)
class Spread:
    """Standard deviation of scores over seeds, pooled over rows.

    Parameters
    ----------
    rows, scores : int
        What it comes from.
    deviation : float
        NaN without a row of two scores.
    low, high : float
        95 % interval of the deviation, for normal scores of one variance.
    """

    rows: int
    scores: int
    deviation: float
    low: float
    high: float


def spread(samples: Sequence[ArrayLike], level: float = LEVEL) -> Spread:
    """Return the pooled standard deviation of samples with means of their own."""
    scores = [np.asarray(each, float) for each in samples]
    scores = [each for each in scores if len(each) > 1]
    freedom = sum(len(each) - 1 for each in scores)
    if not freedom:
        return Spread(0, 0, nan, nan, nan)
    squares = float(sum(((each - each.mean()) ** 2).sum() for each in scores))
    low, high = (sqrt(squares / float(stats.chi2.ppf(q, freedom))) for q in (1 - level / 2, level / 2))
    return Spread(len(scores), sum(map(len, scores)), sqrt(squares / freedom), low, high)


def power(
    shifts: ArrayLike, n: int, m: int, generator: np.random.Generator, level: float = LEVEL, draws: int = DRAWS
) -> Floats:
    """Return the probability that the two-sided Mann-Whitney U test finds each shift of normal scores.

    Parameters
    ----------
    shifts : array_like
        True differences, in standard deviations over seeds.
    n, m : int
        Seeds of either row.
    generator : numpy.random.Generator
    level : float
    draws : int
        Simulated pairs of samples; the same ones for every shift, so that power grows with it.
    """
    first, second = generator.standard_normal((draws, n, 1)), generator.standard_normal((draws, 1, m))
    return _found(np.atleast_1d(np.asarray(shifts, float)), first - second, level)


def detectable(
    n: int, m: int, generator: np.random.Generator, wanted: float = POWER, level: float = LEVEL, draws: int = DRAWS
) -> float:
    """Return the smallest shift of normal scores, in standard deviations, found with probability ``wanted``.

    Infinite where so few seeds cannot reach the level whatever they score (:func:`statistics.smallest_p`).
    """
    if tests.smallest_p(n, m) >= level:
        return inf
    differences = generator.standard_normal((draws, n, 1)) - generator.standard_normal((draws, 1, m))
    low, high = 0.0, 1.0
    while _found(np.array([high]), differences, level)[0] < wanted:
        low, high = high, 2 * high
    while high - low > 0.005:
        middle = (low + high) / 2
        low, high = (low, middle) if _found(np.array([middle]), differences, level)[0] >= wanted else (middle, high)
    return high


def _found(shifts: Floats, differences: Floats, level: float) -> Floats:
    """Return how often the test rejects; ``differences`` (draws, n, m) of scores without a shift."""
    n, m = differences.shape[1:]
    critical = tests.critical_count(n, m, level)
    if not critical:
        return np.zeros(len(shifts))
    wins = [(differences > -shift).sum(axis=(1, 2)) for shift in shifts]
    return np.array([((u <= critical - 1) | (u >= n * m - critical + 1)).mean() for u in wins])


@dataclass(frozen=True)
class Prospect:
    """What seeds can tell apart on a task.

    Parameters
    ----------
    task : str
    spread : Spread
        Of earlier results on the task, or, where it has none, of those on all tasks.
    own : bool
        Whether the results are the task's own.
    seeds : int
        Of either row.
    smallest_p : float
        The smallest p that the test can reach.
    deviations : float
        Difference found with probability 0.8 at the level 0.05, in standard deviations over seeds.
    """

    task: str
    spread: Spread
    own: bool
    seeds: int
    smallest_p: float
    deviations: float

    @property
    def detectable(self) -> float:
        """That difference in scores; NaN without any spread."""
        return self.deviations * self.spread.deviation


def prospects(
    samples: Mapping[str, Sequence[ArrayLike]], tasks: Sequence[str], seeds: int, generator: np.random.Generator
) -> list[Prospect]:
    """Return for each task what so many seeds can tell apart.

    Parameters
    ----------
    samples : mapping
        Task to the scores over seeds of each of its rows, from earlier results.
    tasks : sequence of str
    seeds : int
        Of either row.
    generator : numpy.random.Generator
    """
    deviations, smallest = detectable(seeds, seeds, generator), tests.smallest_p(seeds, seeds)
    everything = spread([sample for rows in samples.values() for sample in rows])
    found = []
    for task in tasks:
        own = spread(samples.get(task, ()))
        used = own if own.rows else everything
        found.append(Prospect(task, used, bool(own.rows), seeds, smallest, deviations))
    return found

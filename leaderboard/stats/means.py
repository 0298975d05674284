"""The mean that a board ranks by: Welch's test and interval, practical equivalence and non-inferiority.

Everything a board says of a difference, it says of this mean: p, interval, mark, letter, rank and non-inferiority
come from one standard error and one t distribution, so that none can contradict another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import comb, fsum, nan

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

LEVEL = 0.05
MANY = 1e9
"""Degrees of freedom from which a t distribution is a normal one."""
ROPE = 0.01
"""Difference of scores that is practically none, by default."""


@dataclass(frozen=True)
class Part:
    """What one group of runs adds to the variance of a row's mean.

    Parameters
    ----------
    variance : float
        Squared standard error; NaN where a single run leaves it unknown.
    freedom : int
        Degrees of freedom that it was estimated with.
    runs : int
        Runs, or checkpoints where those are the replicates.
    """

    variance: float
    freedom: int
    runs: int


@dataclass(frozen=True)
class Mean:
    """The mean of a row and what is known of its error."""

    value: float
    parts: tuple[Part, ...]

    @property
    def variance(self) -> float:
        """Squared standard error; NaN where a part of it is unknown."""
        return float(sum(part.variance for part in self.parts))

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom; NaN without an estimate of the spread."""
        below = sum(part.variance**2 / part.freedom for part in self.parts if part.freedom)
        return float(self.variance**2 / below) if below else nan

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the t interval; NaN where the spread is unknown or none was seen."""
        if not self.variance > 0:
            return nan, nan
        reach = float(special.stdtrit(self.freedom, 1 - level / 2)) * self.variance**0.5
        return self.value - reach, self.value + reach


NOTHING = Mean(nan, (Part(nan, 0, 0),))
"""Of a row without runs."""


def mean_of(
    samples: Sequence[ArrayLike], weights: Sequence[float], checkpoints: Sequence[Sequence[object]] | None = None
) -> Mean:
    """Return the weighted mean over tasks of the mean over seeds.

    Where runs of a task start from several checkpoints, the checkpoints are the replicates and not the runs: runs
    from one checkpoint share what its pre-training happened to learn, on every task. Tasks whose runs all start
    from one checkpoint, or from none, have their runs as replicates, given that checkpoint.

    Parameters
    ----------
    samples : sequence of array_like
        Per task the scores over seeds.
    weights : sequence of float
        Per task; their sum is 1.
    checkpoints : sequence of sequence, optional
        Per task the checkpoint of every run.
    """
    value, parts = 0.0, []
    by_checkpoint: dict[object, float] = {}
    for place, (sample, weight) in enumerate(zip(samples, weights, strict=True)):
        scores = np.asarray(sample, float)
        n, centre = len(scores), _centre(scores)
        value += weight * centre
        starts = list(checkpoints[place]) if checkpoints is not None else []
        if len(set(starts)) > 1:
            for start, score in zip(starts, scores, strict=True):
                by_checkpoint[start] = by_checkpoint.get(start, 0.0) + weight * (float(score) - centre) / n
        elif n > 1:
            parts.append(Part(weight**2 * float(_variance(scores)) / n, n - 1, n))
        else:
            parts.append(Part(nan, 0, n))
    if by_checkpoint:
        count = len(by_checkpoint)
        squares = sum(each**2 for each in by_checkpoint.values())
        parts.append(Part(count / (count - 1) * squares, count - 1, count))
    return Mean(value, tuple(parts))


@dataclass(frozen=True)
class Differences:
    """Every pair of K rows compared; (K, K) arrays of ``row - column``, NaN where nothing can be said.

    Parameters
    ----------
    difference : ndarray
        Of the means.
    error : ndarray
        Standard error; NaN where a row has a single run on a task.
    freedom : ndarray
        Welch's degrees of freedom.
    p : ndarray
        Two-sided.
    smallest_p : ndarray
        The smallest p that scores of this kind can reach: 0, but for rows that do not vary.
    """

    difference: Floats
    error: Floats
    freedom: Floats
    p: Floats
    smallest_p: Floats

    def of(self, rows: Sequence[int]) -> Differences:
        """Return the differences of some rows, in this order."""
        at = np.ix_(rows, rows)
        return Differences(*(getattr(self, each.name)[at] for each in fields(self)))

    def interval(self, level: float = LEVEL) -> tuple[Floats, Floats]:
        """Return the ends of the t intervals; none where p is the exact test's and does not reach ``level``."""
        reach = special.stdtrit(self.freedom, 1 - level / 2) * self.error
        low, high = (np.where(self._unsaid(level), nan, self.difference + sign * reach) for sign in (-1, 1))
        return low, high

    def _unsaid(self, level: float) -> NDArray[np.bool_]:
        """Return where nothing is known of the spread, so that an interval would promise too much."""
        return np.isnan(self.p) | ((self.smallest_p >= level) & (self.difference != 0))

    def rope(self, margin: float = ROPE) -> tuple[Floats, Floats, Floats]:
        """Return the probabilities that the row is better, practically the same, and worse by more than ``margin``.

        From the t distribution around the difference, which is the posterior under a flat prior. So "not
        distinguished" can be told from "equal": the first may leave all three far from 1.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            worse = special.stdtr(self.freedom, (-margin - self.difference) / self.error)
            not_better = special.stdtr(self.freedom, (margin - self.difference) / self.error)
        exact = self.error == 0
        worse = np.where(exact, (self.difference < -margin).astype(float), worse)
        not_better = np.where(exact, (self.difference <= margin).astype(float), not_better)
        unsaid = self._unsaid(LEVEL)
        better, same, worse = (np.where(unsaid, nan, each) for each in (1 - not_better, not_better - worse, worse))
        return better, same, worse


def welch(means: Sequence[Mean]) -> Differences:
    """Compare every pair of means by Welch's t test.

    A row that does not vary at all says nothing of its spread: no p is believed there that the exact test of so
    many runs could not reach, ``2 / C(n + m, n)`` on one task.

    References
    ----------
    Welch (1947), The generalization of Student's problem when several different population variances are involved,
    Biometrika 34:28. Satterthwaite (1946), Biometrics Bulletin 2:110.
    """
    value = np.array([mean.value for mean in means])
    variance = np.array([mean.variance for mean in means])
    below = np.array([sum(part.variance**2 / max(part.freedom, 1) for part in mean.parts) for mean in means])
    difference = np.subtract.outer(value, value)
    squares = np.add.outer(variance, variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = squares**2 / np.add.outer(below, below)
        p = 2 * special.stdtr(freedom, -np.abs(difference) / np.sqrt(squares))
    still = squares == 0
    freedom[still] = MANY
    p[still] = np.where(difference[still] == 0, 1.0, 0.0)
    smallest = np.zeros_like(p)
    for row in np.flatnonzero(variance == 0).tolist():
        for other, mean in enumerate(means):
            smallest[row, other] = smallest[other, row] = _smallest_exact(means[row], mean)
    p = np.maximum(p, smallest)
    return Differences(difference, np.sqrt(squares), freedom, p, smallest)


def _smallest_exact(first: Mean, second: Mean) -> float:
    """Return the smallest two-sided p of a permutation of runs within tasks."""
    ways = 1.0
    for one, two in zip(first.parts, second.parts, strict=False):
        ways *= comb(one.runs + two.runs, one.runs)
    return min(1.0, 2 / ways)


def non_inferior(low: float, margin: float) -> str:
    """Whether a row is worse by less than ``margin``, one-sided at 0.025.

    Parameters
    ----------
    low : float
        Lower end of the 95 % interval of the row's mean minus the other's; NaN where n is too small.
    margin : float

    Returns
    -------
    {"non-inferior", "not distinguished", "n too small"}
        The second when the runs leave a larger loss possible.
    """
    if np.isnan(low):
        return "n too small"
    return "non-inferior" if low > -margin else "not distinguished"


def _centre(scores: Floats) -> float:
    """Return the mean, the same for the same scores in any order, and for equal ones exactly theirs."""
    return float(scores[0]) if (scores == scores[0]).all() else fsum(scores) / len(scores)


def _variance(scores: Floats) -> float:
    """Return the unbiased variance; exactly 0 for equal scores, whose mean rounds."""
    return 0.0 if (scores == scores[0]).all() else float(scores.var(ddof=1))

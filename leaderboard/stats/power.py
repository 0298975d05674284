"""How many seeds a difference needs: the power of the test that the board makes, with each row's own spread."""

from __future__ import annotations

from functools import lru_cache
from math import inf, nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from leaderboard.stats.means import LEVEL, Floats

POWER = 0.8
"""Probability with which a difference is to be found."""
CONFIDENCE = 0.8
"""One-sided, of the upper limit of a spread: earlier results understate it half the time (Browne 1995)."""
MOST = 1000
"""Seeds above which no number is recommended."""

_QUANTILES = (np.arange(20) + 0.5) / 20
_SEEDS = np.unique(np.concatenate([np.arange(2, 41), np.geomspace(40, MOST, 24).round()])).astype(int)
_SHARES = np.array([0.0, 0.02, 0.06, 0.13, 0.25, 0.5])
"""Of the smaller variance in the sum of both."""


def upper_spread(spread: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE) -> Floats:
    """Return the upper limit of a standard deviation over seeds that was estimated from ``n`` normal scores.

    NaN below two scores.

    References
    ----------
    Browne (1995), On the use of a pilot sample for sample size determination, Statistics in Medicine 14:1933.
    """
    freedom = np.maximum(np.asarray(n, float) - 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        limit = np.asarray(spread, float) * np.sqrt(freedom / special.chdtri(freedom, confidence))
    return np.where(freedom > 0, limit, nan)


def power(difference: float, spreads: tuple[float, float], seeds: tuple[int, int], family: int = 1) -> float:
    """Return the probability that Welch's test finds a difference of two rows, on its right side.

    Parameters
    ----------
    difference : float
        Of the true means, in scores.
    spreads : tuple of float
        True standard deviations over seeds.
    seeds : tuple of int
        Of either row.
    family : int
        Tests that p is adjusted for. Holm's first step, ``level / family``, is taken for all: a lower bound.
    """
    if min(seeds) < 2:
        return 0.0
    if not any(spreads):
        return float(difference != 0)
    needed, error = _needed_by(spreads, seeds, family)
    return float(special.ndtr((abs(difference) - needed) / error).mean())


def detectable(spreads: tuple[float, float], seeds: tuple[int, int], family: int = 1, wanted: float = POWER) -> float:
    """Return the smallest difference that is found with probability ``wanted``; infinite below two seeds."""
    if min(seeds) < 2:
        return inf
    if not any(spreads):
        return 0.0
    needed, error = _needed_by(spreads, seeds, family)
    return float(_found_by(needed, error, wanted)[0])


def seeds_to_settle(difference: ArrayLike, first: ArrayLike, second: ArrayLike, family: int = 1) -> Floats:
    """Return how many seeds of each row find a difference 8 times in 10.

    Parameters
    ----------
    difference : array_like
        The one that is to be found: one that is worth while, or the estimate of a pair that is to be settled.
    first, second : array_like
        True standard deviations over seeds, of the same shape.
    family : int
        Tests that p is adjusted for.

    Returns
    -------
    ndarray
        Whole numbers; infinite above ``MOST``, as for a difference of 0; NaN where a spread is.
    """
    wanted, one, two = np.broadcast_arrays(*(np.asarray(each, float) for each in (difference, first, second)))
    both = one**2 + two**2
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = np.abs(wanted) / np.sqrt(both)
        share = np.minimum(one, two) ** 2 / both
    found = np.stack(
        [
            np.interp(-np.nan_to_num(effect, posinf=1e9), -effects, _SEEDS, left=2, right=inf)
            for effects in _effects(family)
        ]
    )
    place = np.clip(np.searchsorted(_SHARES, np.nan_to_num(share), side="right") - 1, 0, len(_SHARES) - 2)
    near, far = (np.take_along_axis(found, (place + k)[None], axis=0)[0] for k in (0, 1))
    part = (np.nan_to_num(share) - _SHARES[place]) / (_SHARES[place + 1] - _SHARES[place])
    with np.errstate(invalid="ignore"):
        seeds = np.where(np.isinf(near) | np.isinf(far), np.maximum(near, far), near + part * (far - near))
    seeds = np.where(wanted == 0, inf, np.where(both == 0, 2, np.ceil(seeds - 1e-6)))
    return np.where(np.isnan(both + wanted), nan, seeds)


@lru_cache(maxsize=16)
def _effects(family: int) -> Floats:
    """Return the detectable difference over the root of both variances, shape (shares, numbers of seeds)."""
    share, seeds = (each.ravel() for each in np.meshgrid(_SHARES, _SEEDS, indexing="ij"))
    needed, error = _needed(np.sqrt(share), np.sqrt(1 - share), seeds, seeds, family)
    return _found_by(needed, error, POWER).reshape(len(_SHARES), len(_SEEDS))


def _needed_by(spreads: tuple[float, float], seeds: tuple[int, int], family: int) -> tuple[Floats, Floats]:
    (one, two), (n, m) = (np.reshape(each, (2, 1)) for each in (spreads, seeds))
    return _needed(one, two, n, m, family)


def _needed(one: Floats, two: Floats, n: NDArray[Any], m: NDArray[Any], family: int) -> tuple[Floats, Floats]:
    """Return the estimated differences that are significant, (cases, quantiles), and the standard errors (cases, 1).

    Over quantiles of both estimated variances, from which Welch takes its degrees of freedom too; the difference of
    normal means does not depend on them.
    """
    first, second = (
        (spread**2 / count)[:, None] * special.chdtri(count[:, None] - 1, _QUANTILES) / (count[:, None] - 1)
        for spread, count in ((one, n), (two, m))
    )
    first, second = first[:, :, None], second[:, None, :]
    squares = first + second
    freedom = squares**2 / (first**2 / (n - 1)[:, None, None] + second**2 / (m - 1)[:, None, None])
    needed: Floats = -special.stdtrit(freedom, LEVEL / family / 2) * np.sqrt(squares)
    return needed.reshape(len(one), -1), np.sqrt(one**2 / n + two**2 / m)[:, None]


def _found_by(needed: Floats, error: Floats, wanted: float) -> Floats:
    """Return the true difference that exceeds what is needed with probability ``wanted``, by bisection."""
    low = np.zeros(len(needed))
    high = needed.max(axis=1) + 10 * error[:, 0]
    for _ in range(40):
        middle = (low + high) / 2
        enough = special.ndtr((middle[:, None] - needed) / error).mean(axis=1) >= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


def in_words(seeds: float) -> str:
    """Return a number of seeds as a page says it."""
    return "–" if np.isnan(seeds) else f"more than {MOST:,}" if np.isinf(seeds) else f"{seeds:.0f}"

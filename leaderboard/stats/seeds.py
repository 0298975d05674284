"""How many seeds a difference needs: the power of the test that the board makes, with each row's own spread."""

from __future__ import annotations

from math import inf, nan, sqrt

import numpy as np
from scipy import special

from leaderboard.stats.means import LEVEL

POWER = 0.8
"""Probability with which a difference is to be found."""
CONFIDENCE = 0.8
"""One-sided, of the upper limit of a spread: earlier results understate it half the time (Browne 1995)."""
MOST = 1000
"""Seeds above which no number is recommended."""
_QUANTILES = (np.arange(32) + 0.5) / 32


def upper_spread(spread: float, n: int, confidence: float = CONFIDENCE) -> float:
    """Return the upper limit of a standard deviation over seeds that was estimated from ``n`` normal scores.

    References
    ----------
    Browne (1995), On the use of a pilot sample for sample size determination, Statistics in Medicine 14:1933.
    """
    if n < 2:
        return nan
    return spread * sqrt((n - 1) / float(special.chdtri(n - 1, confidence)))


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
    # The mean over quantiles of the two estimated variances, from which Welch takes its degrees of freedom too.
    one, two = (
        spread**2 / n * special.chdtri(n - 1, _QUANTILES) / (n - 1) for spread, n in zip(spreads, seeds, strict=True)
    )
    squares = one[:, None] + two
    freedom = squares**2 / (one[:, None] ** 2 / (seeds[0] - 1) + two**2 / (seeds[1] - 1))
    needed = -special.stdtrit(freedom, LEVEL / family / 2) * np.sqrt(squares)
    error = sqrt(sum(spread**2 / n for spread, n in zip(spreads, seeds, strict=True)))
    return float(special.ndtr((abs(difference) - needed) / error).mean())


def detectable(spreads: tuple[float, float], seeds: tuple[int, int], family: int = 1, wanted: float = POWER) -> float:
    """Return the smallest difference that is found with probability ``wanted``; infinite below two seeds."""
    if min(seeds) < 2:
        return inf
    low, high = 0.0, max(*spreads, 1e-9)
    while power(high, spreads, seeds, family) < wanted:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, spreads, seeds, family) >= wanted else (middle, high)
    return high


def seeds_to_settle(
    difference: float, spreads: tuple[float, float], family: int = 1, wanted: float = POWER
) -> int | None:
    """Return how many seeds of each row find a difference with probability ``wanted``.

    Parameters
    ----------
    difference : float
        The one that is to be found: one that is worth while, or the estimate of a pair that is to be settled.

    Returns
    -------
    int or None
        None where that takes more than ``MOST``, as for a difference of 0.
    """
    if not difference or power(difference, spreads, (MOST, MOST), family) < wanted:
        return None
    few, many = 1, MOST
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if power(difference, spreads, (middle, middle), family) >= wanted else (middle, many)
    return many


def in_words(seeds: int | None) -> str:
    """Return a number of seeds as a page says it."""
    return f"more than {MOST}" if seeds is None else str(seeds)

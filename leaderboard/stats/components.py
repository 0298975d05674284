"""The two spreads of a score, over seeds and over test images, taken apart and put together."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from leaderboard.stats.means import LEVEL, Floats


@dataclass(frozen=True)
class Components:
    """Standard deviations of the score of one run on one image; 0 where the estimate is negative, NaN where unknown.

    Parameters
    ----------
    seed : float
        Of training again, the same on all images.
    image : float
        Of images, the same for all seeds.
    both : float
        Of the rest: seeds that differ from image to image, and noise.
    """

    seed: float
    image: float
    both: float


def components(scores: ArrayLike) -> Components:
    """Return the variance components of a table of runs by images (two crossed random factors, one score each).

    Parameters
    ----------
    scores : array_like, shape (seeds, images)

    References
    ----------
    Searle, Casella & McCulloch (1992), Variance Components, section 4.3: the ANOVA estimators.
    """
    table = np.asarray(scores, float)
    seeds, images = table.shape
    if min(seeds, images) < 2:
        return Components(nan, nan, nan)
    of_seeds, of_images, rest = _mean_squares(table)
    return Components(
        seed=sqrt(max(0.0, (of_seeds - rest) / images)),
        image=sqrt(max(0.0, (of_images - rest) / seeds)),
        both=sqrt(rest),
    )


def crossed(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> tuple[float, float, float, float]:
    """Compare two rows over seeds and over the test volumes that both have: as if trained and imaged again.

    The squared error of the difference is that over volumes plus that over the seeds of either row. What differs
    from volume to volume within a seed is in both, so that the interval is rather too wide than too narrow.

    Parameters
    ----------
    first, second : array_like, shape (seeds, volumes)
        Scores of either row's runs on the same volumes.
    level : float

    Returns
    -------
    difference, low, high, p : float
        Of the means, with the t interval at Satterthwaite's degrees of freedom; NaN below two seeds or volumes.
    """
    one, two = np.asarray(first, float), np.asarray(second, float)
    difference = float(one.mean() - two.mean())
    volumes = one.shape[1]
    if min(len(one), len(two), volumes) < 2:
        return difference, nan, nan, nan
    by_volume = one.mean(axis=0) - two.mean(axis=0)
    parts = [(float(by_volume.var(ddof=1)) / volumes, volumes - 1)]
    parts += [(float(table.mean(axis=1).var(ddof=1)) / len(table), len(table) - 1) for table in (one, two)]
    variance = sum(each for each, _ in parts)
    if variance == 0:
        return difference, difference, difference, float(difference == 0)
    freedom = variance**2 / sum(each**2 / count for each, count in parts)
    error = sqrt(variance)
    reach = float(special.stdtrit(freedom, 1 - level / 2)) * error
    return (
        difference,
        difference - reach,
        difference + reach,
        2 * float(special.stdtr(freedom, -abs(difference) / error)),
    )


def _mean_squares(table: Floats) -> tuple[float, float, float]:
    """Return the mean squares of rows, of columns and of what is left."""
    seeds, images = table.shape
    by_seed, by_image = table.mean(axis=1), table.mean(axis=0)
    rest = table - by_seed[:, None] - by_image + table.mean()
    return (
        images * float(by_seed.var(ddof=1)),
        seeds * float(by_image.var(ddof=1)),
        float((rest**2).sum()) / ((seeds - 1) * (images - 1)),
    )

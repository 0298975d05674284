"""The two spreads of a score, over seeds and over test images, taken apart and put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from leaderboard.stats.means import LEVEL, MANY, Floats


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


UNKNOWN = Components(nan, nan, nan)


def components(scores: ArrayLike) -> Components:
    """Return the variance components of a table of runs by images (two crossed random factors, one score each).

    Parameters
    ----------
    scores : array_like, shape (seeds, images)

    References
    ----------
    Searle, Casella & McCulloch (1992), Variance Components, section 4.3: the ANOVA estimators.
    """
    table = np.atleast_2d(np.asarray(scores, float))
    seeds, images = table.shape
    if min(seeds, images) < 2:
        return UNKNOWN
    of_seeds, of_images, rest = _mean_squares(table)
    return Components(
        seed=sqrt(max(0.0, (of_seeds - rest) / images)),
        image=sqrt(max(0.0, (of_images - rest) / seeds)),
        both=sqrt(rest),
    )


def crossed(tables: Sequence[ArrayLike], level: float = LEVEL) -> tuple[Floats, Floats, Floats]:
    """Compare rows over seeds and over the test volumes that they share: as if trained and imaged again.

    The squared error of a difference is that over volumes plus that over the seeds of either row. What differs from
    volume to volume within a seed is in both, so that the interval is rather too wide than too narrow. With two
    volumes it covers 92 % where 95 is said: one degree of freedom is too few for Satterthwaite.

    Parameters
    ----------
    tables : sequence of array_like, shape (seeds, volumes)
        Scores of each row's runs on the same volumes.
    level : float

    Returns
    -------
    low, high, p : ndarray, shape (rows, rows)
        Of the row's mean minus the column's, from a t distribution at Satterthwaite's degrees of freedom; NaN below
        two seeds or volumes.
    """
    scores = [np.asarray(table, float) for table in tables]
    volumes = scores[0].shape[1] if scores else 0
    rows = len(scores)
    if volumes < 2:
        unknown = np.full((rows, rows), nan)
        return unknown, unknown, unknown
    means = np.array([table.mean(axis=0) if len(table) else np.full(volumes, nan) for table in scores])
    covariance = np.atleast_2d(np.cov(means))
    own = covariance.diagonal()
    over_volumes = np.maximum(own[:, None] + own - 2 * covariance, 0) / volumes
    over_seeds = np.array(
        [table.mean(axis=1).var(ddof=1) / len(table) if len(table) > 1 else nan for table in scores], float
    )
    counts = np.array([max(len(table) - 1, 1) for table in scores])
    difference = np.subtract.outer(means.mean(axis=1), means.mean(axis=1))
    variance = over_volumes + over_seeds[:, None] + over_seeds
    below = over_volumes**2 / (volumes - 1) + np.add.outer(over_seeds**2 / counts, over_seeds**2 / counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(variance > 0, variance**2 / below, MANY)
        p = 2 * special.stdtr(freedom, -np.abs(difference) / np.sqrt(variance))
    p[(variance == 0) & (difference == 0)] = 1.0
    reach = special.stdtrit(freedom, 1 - level / 2) * np.sqrt(variance)
    return difference - reach, difference + reach, p


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

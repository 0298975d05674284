"""Does the choice of a measure, or of how runs are summed up, decide the ranking?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leaderboard.stats.means import Floats


def ranks(scores: ArrayLike) -> NDArray[np.int64]:
    """Return the rank of every score, the largest first; equal ones share the best."""
    values = np.asarray(scores, float)
    return 1 + (values[None, :] > values[:, None]).sum(axis=1).astype(np.int64)


def kendall(first: ArrayLike, second: ArrayLike) -> float:
    """Return Kendall's tau-b of two rankings: 1 for the same order, -1 for the reverse, 0 where one is all ties.

    References
    ----------
    Kendall (1945), The treatment of ties in ranking problems, Biometrika 33:239.
    """
    one, two = np.asarray(first, float), np.asarray(second, float)
    pairs = np.triu_indices(len(one), 1)
    a, b = (np.sign(np.subtract.outer(each, each)[pairs]) for each in (one, two))
    possible = np.sqrt(float((a != 0).sum()) * float((b != 0).sum()))
    return float((a * b).sum() / possible) if possible else 0.0


@dataclass(frozen=True)
class Way:
    """One way to rank the same rows: a measure, and how its values are summed up.

    Parameters
    ----------
    name : str
    ranks : ndarray of int, shape (rows,)
    tau : float
        Kendall's, against the first way.
    """

    name: str
    ranks: NDArray[np.int64]
    tau: float


def ways(values: Mapping[str, Floats]) -> list[Way]:
    """Return the ranks by every way from its value of each row, larger being better; the first is the board's own."""
    main = next(iter(values.values()), np.zeros(0))
    return [Way(name, ranks(each), kendall(main, each)) for name, each in values.items()]


def summed_up(samples: Sequence[Sequence[Floats]], weights: Sequence[float]) -> dict[str, Floats]:
    """Return what rows are ranked by when their runs are summed up in other ways than by the mean.

    Parameters
    ----------
    samples : sequence of sequence of ndarray
        By row and task, the scores over seeds.
    weights : sequence of float
        Of the tasks.

    Returns
    -------
    dict
        ``median``: the weighted mean over tasks of the median over seeds; ``mean rank``: of the row's rank on a
        task, negated; ``test, then rank``: over tasks, how many rows the row beats by a two-sided Mann-Whitney test
        less those that beat it, as the paper's stars would have it.
    """
    from leaderboard.stats.tests import compare_all

    rows = len(samples)
    medians, mean_ranks, wins = np.zeros(rows), np.zeros(rows), np.zeros(rows)
    for place, weight in enumerate(weights):
        own = [row[place] for row in samples]
        medians += weight * np.array([np.median(each) for each in own])
        means = np.array([each.mean() for each in own])
        below = (means[None, :] < means[:, None]).sum(axis=1)
        above = (means[None, :] > means[:, None]).sum(axis=1)
        mean_ranks += weight * (below - above) / 2
        pairs = compare_all(own)
        found = (pairs.p < 0.05) & (pairs.smallest_p < 0.05)
        wins += weight * (found * np.sign(pairs.delta)).sum(axis=1)
    return {"median": medians, "mean rank": mean_ranks, "test, then rank": wins}

"""A ranking with what its runs allow: ranks with joint intervals, and letters for what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leaderboard.stats.letters import MOST_ROWS, letters
from leaderboard.stats.means import LEVEL, MANY, Differences, Floats, Mean, welch
from leaderboard.stats.runs import Runs, runs_of
from leaderboard.stats.several import holm


def adjusted(p: Floats) -> Floats:
    """Return p of every pair on every task, (tasks, K, K) and symmetric, adjusted by Holm for all of them together."""
    pairs = np.triu_indices(p.shape[1], 1)
    found = np.full_like(p, np.nan)
    found[:, *pairs] = holm(p[:, *pairs])
    return np.fmax(found, found.transpose(0, 2, 1))


COLUMNS = ("model", "mean", "rank", "rank_low", "rank_high", "letters", "failed")


def rank(frame: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """Rank the models of a table of runs.

    Models are ranked by the mean over benchmarks of the mean over seeds, larger being better. Every pair is compared
    by Welch's test on that mean, adjusted over all pairs by Holm. From these tests come the letters and the ranks that
    a row may have, so that all of them hold at once with probability ``1 - level``.

    Parameters
    ----------
    frame : DataFrame
        One line a run; see :func:`leaderboard.stats.runs.runs_of`. A run with a NaN score failed, as did one
        that a model has on another task only: it counts as the worst there can be, 0 (or the lowest score on the
        task where that is below 0).
    level : float

    Returns
    -------
    DataFrame
        One line a model, best first: ``model``; ``mean``; ``rank``, equal means sharing the best;
        ``rank_low`` to ``rank_high``, the ranks that the tests leave possible; ``letters``, of which two models
        share none exactly when they differ (empty above 40 models); ``failed``, how many runs.

    Raises
    ------
    BadInput
        A table that :func:`leaderboard.stats.runs.runs_of` refuses.

    Examples
    --------
    >>> from leaderboard import rank
    >>> rank(pandas.read_csv("trials.csv").rename(columns={"row": "model"}))  # doctest: +SKIP
    """
    return Ranking.of(runs_of(frame), level).table


@dataclass(frozen=True)
class Ranking:
    """Models in the order of a ranking, best first, with the tests that it rests on.

    Parameters
    ----------
    models : tuple of str
    means : tuple of Mean
    failed, runs : tuple of int
        Runs without a score, and all of them.
    level : float
    """

    models: tuple[str, ...]
    means: tuple[Mean, ...]
    failed: tuple[int, ...]
    runs: tuple[int, ...]
    level: float = LEVEL

    @classmethod
    def of(cls, runs: Runs, level: float = LEVEL) -> Ranking:
        """Return the ranking of checked runs."""
        means = {model: runs.mean(model) for model in runs.models}
        order = sorted(runs.models, key=lambda model: (-means[model].value, model))
        return cls(
            models=tuple(order),
            means=tuple(means[model] for model in order),
            failed=tuple(runs.failed(model) for model in order),
            runs=tuple(runs.count(model) for model in order),
            level=level,
        )

    @cached_property
    def differences(self) -> Differences:
        """Every pair compared."""
        return welch(self.means)

    @cached_property
    def _pairs(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.triu_indices(len(self.models), 1)

    @property
    def family(self) -> int:
        """Pairs that are tested."""
        return int((~np.isnan(self.differences.p[self._pairs])).sum())

    @cached_property
    def p(self) -> Floats:
        """P of every pair adjusted by Holm for all pairs; NaN where a model has one run."""
        return adjusted(self.differences.p[None])[0]

    @property
    def too_small(self) -> NDArray[np.bool_]:
        """Which pairs no outcome of so many runs could tell apart: a single run, or two rows that never vary."""
        return np.isnan(self.p) | (self.differences.smallest_p * max(self.family, 1) >= self.level)

    @property
    def different(self) -> NDArray[np.bool_]:
        """Which pairs differ."""
        return np.nan_to_num(self.p, nan=1.0) < self.level

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """Rank with the lowest and the highest that the tests leave, shape (models, 3); 1 is best."""
        values = np.array([mean.value for mean in self.means])
        better = self.different & (self.differences.difference > 0)  # row better than column
        return np.stack(
            [
                1 + (values[None, :] > values[:, None]).sum(axis=1),
                1 + better.sum(axis=0),
                len(values) - better.sum(axis=1),
            ],
            axis=1,
        ).astype(np.int64)

    @cached_property
    def letters(self) -> list[str]:
        """Letters of every model; empty ones above ``MOST_ROWS`` models, where they help no reader."""
        return letters(self.different) if len(self.models) <= MOST_ROWS else [""] * len(self.models)

    def frequency(self, generator: np.random.Generator, draws: int = 10_000) -> Floats:
        """Return how often each model takes each rank, shape (models, ranks), were all runs made again.

        A parametric bootstrap: means are drawn from their t distributions, those that the tests are made with.
        Models of a single run, whose spread is not known, stay where they are.
        """
        count = len(self.models)
        values = np.array([mean.value for mean in self.means])
        errors = np.nan_to_num(np.sqrt([mean.variance for mean in self.means]))
        freedom = np.nan_to_num([mean.freedom for mean in self.means], nan=MANY)
        means = values + errors * generator.standard_t(freedom, (draws, count))
        order = np.argsort(-means, axis=1, kind="stable")
        counts = np.zeros((count, count))
        for rank_of in range(count):
            counts[:, rank_of] = np.bincount(order[:, rank_of], minlength=count)
        return counts / draws

    @property
    def table(self) -> pd.DataFrame:
        """One line a model, best first."""
        return pd.DataFrame(
            {
                "model": pd.Series(self.models, dtype=object),
                "mean": pd.Series([mean.value for mean in self.means], dtype=float),
                **dict(zip(("rank", "rank_low", "rank_high"), self.ranks.T, strict=True)),
                "letters": pd.Series(self.letters, dtype=object),
                "failed": pd.Series(self.failed, dtype=int),
            },
            columns=list(COLUMNS),
        )


@dataclass(frozen=True)
class OnTasks:
    """Every pair of rows on every task: one family, so that a mark means the same wherever it stands.

    Parameters
    ----------
    models, tasks : tuple of str
    differences : tuple of Differences
        By task.
    level : float
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    differences: tuple[Differences, ...]
    level: float = LEVEL

    @classmethod
    def of(cls, runs: Runs, models: Sequence[str], level: float = LEVEL) -> OnTasks:
        """Compare ``models``, in this order, on every task."""
        found = tuple(welch([runs.mean_on(model, task) for model in models]) for task in runs.tasks)
        return cls(tuple(models), runs.tasks, found, level)

    def only(self, task: str) -> OnTasks:
        """Return one of the tasks, a family of its own; none where it is not among them."""
        chosen = [k for k, own in enumerate(self.tasks) if own == task]
        return OnTasks(self.models, (task,) * len(chosen), tuple(self.differences[k] for k in chosen), self.level)

    @cached_property
    def p(self) -> Floats:
        """P adjusted by Holm for all pairs on all tasks, shape (tasks, models, models); NaN for single runs."""
        return adjusted(np.stack([each.p for each in self.differences]))

    @cached_property
    def family(self) -> int:
        """Tests that are adjusted for."""
        return sum(int((~np.isnan(each.p[np.triu_indices(len(self.models), 1)])).sum()) for each in self.differences)

    @cached_property
    def too_small(self) -> NDArray[np.bool_]:
        """Which pairs no outcome of so many runs could tell apart in this family."""
        smallest = np.stack([each.smallest_p for each in self.differences])
        return np.isnan(self.p) | (smallest * max(self.family, 1) >= self.level)

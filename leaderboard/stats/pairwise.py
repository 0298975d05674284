"""One row against every other on every task, under every test: the lines of the pairwise pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan, nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leaderboard.boards import Column
from leaderboard.stats import several
from leaderboard.stats import tests as statistics
from leaderboard.stats.means import Differences
from leaderboard.stats.power import seeds_to_settle
from leaderboard.stats.tests import Floats, Pairs

Key = tuple[str, str]


@dataclass(frozen=True)
class Compared:
    """Every pair of the rows of one column compared.

    Parameters
    ----------
    rows : sequence of str
    n, failed : ndarray of int, shape (K,)
        Runs with a score, and without.
    means, medians, spreads : ndarray, shape (K,)
        Over seeds; the spread is the upper limit of the standard deviation.
    welch : Differences
        Of the means.
    ranks : Pairs
        Mann-Whitney's test and what goes with it.
    images : int
        Test images, or volumes.
    p_images : ndarray, shape (K, K)
        Of the signed-rank test over them; NaN where they are neighbours in one stack.
    crossed : tuple of ndarray
        Ends of the intervals over seeds and volumes.
    """

    rows: Sequence[str]
    n: NDArray[np.int64]
    failed: NDArray[np.int64]
    means: Floats
    medians: Floats
    spreads: Floats
    welch: Differences
    ranks: Pairs
    images: int
    p_images: Floats
    crossed: tuple[Floats, Floats]


class Pairings:
    """Every pair of rows, compared on the columns that both have.

    Parameters
    ----------
    columns : sequence of Column
    compared : mapping of column key to Compared
    """

    def __init__(self, columns: Sequence[Column], compared: Mapping[Key, Compared]) -> None:
        self.columns = columns
        own = [compared[column.key] for column in columns]
        self.rows = sorted({row for each in own for row in each.rows})
        places = {row: k for k, row in enumerate(self.rows)}
        self._at = [np.array([places[row] for row in each.rows], int) for each in own]
        self._of_row = {
            **{name: self._rows([getattr(each, name) for each in own], 0) for name in ("n", "failed")},
            **{
                name: self._rows([getattr(each, name) for each in own], nan) for name in ("means", "medians", "spreads")
            },
        }
        low_high = [each.welch.interval() for each in own]
        rope = [each.welch.rope() for each in own]
        tables = {
            **{name: [getattr(each.welch, name) for each in own] for name in ("difference", "p", "smallest_p")},
            **{name: [each[k] for each in low_high] for k, name in enumerate(("low", "high"))},
            **{name: [each[k] for each in rope] for k, name in enumerate(("better", "same", "worse"))},
            **{name: [each.crossed[k] for each in own] for k, name in enumerate(("crossed_low", "crossed_high"))},
            **{name: [getattr(each.ranks, name) for each in own] for name in ("shift", "delta")},
            "p_mann_whitney": [each.ranks.p for each in own],
            "p_images": [each.p_images for each in own],
        }
        self._of_pair = {name: self._pairs(each) for name, each in tables.items()}
        self._images = np.array([each.images for each in own])
        self._synthetic = np.array([column.synthetic for column in columns], bool)
        self.words: dict[str, Sequence[str]] = {
            "other": self.rows,
            "task": [column.label for column in columns],
            "page": [column.slug for column in columns],
            "verdict": statistics.VERDICTS,
            "stars": statistics.STARS,
        }
        """Of every field of :meth:`lines` that is a text: what its numbers stand for."""

    def _rows(self, values: Sequence[Any], nothing: float) -> NDArray[Any]:
        """Return (columns, rows) from values by column, in the order of its own rows."""
        whole = np.full((len(self.columns), len(self.rows)), nothing)
        for k, each in enumerate(values):
            whole[k, self._at[k]] = each
        return whole

    def _pairs(self, tables: Sequence[Floats]) -> Floats:
        """Return (columns, rows, rows) from tables by column, NaN for rows that it does not have."""
        whole = np.full((len(self.columns), len(self.rows), len(self.rows)), nan)
        for k, each in enumerate(tables):
            whole[k][np.ix_(self._at[k], self._at[k])] = each
        return whole

    @cached_property
    def families(self) -> dict[bool, int]:
        """Tests that p is adjusted for: all pairs on all tasks of real data (False), and of synthetic data (True)."""
        first, second = np.triu_indices(len(self.rows), 1)
        known = ~np.isnan(self._of_pair["p"][:, first, second])
        return {synthetic: int(known[self._synthetic == synthetic].sum()) for synthetic in (False, True)}

    @cached_property
    def _over_all(self) -> dict[str, Floats]:
        """What is over several tasks or pairs, (columns, rows, rows); never over real and synthetic data together.

        P adjusted by Holm for all pairs and tasks; the seeds that would settle each; the probability of improvement
        and its ends, the same on all columns of a kind.
        """
        names = ("p_holm", "seeds", *_IMPROVEMENT)
        found = {name: np.full_like(self._of_pair["p"], nan) for name in names}
        first, second = np.triu_indices(len(self.rows), 1)
        n = np.where(self._of_row["n"] + self._of_row["failed"] > 0, self._of_row["n"] + self._of_row["failed"], nan)
        for synthetic in (False, True):
            family = np.flatnonzero(self._synthetic == synthetic)[:, None]
            if not len(family):
                continue
            p, delta, difference = (self._of_pair[name][family, first, second] for name in ("p", "delta", "difference"))
            one, two = (self._of_row["spreads"][family, each] for each in (first, second))
            seeds = seeds_to_settle(difference, one, two, max(self.families[synthetic], 1))
            with np.errstate(divide="ignore", invalid="ignore"):  # pairs without a task in common
                chance, low, high = several.improvement_interval((delta + 1) / 2, n[family, first], n[family, second])
            tables = (several.holm(p), seeds, chance, low, high)
            mirrored = (*tables[:2], 1 - chance, 1 - high, 1 - low)
            for name, table, other in zip(names, tables, mirrored, strict=True):
                found[name][family, first, second] = table
                found[name][family, second, first] = other
        return found

    @cached_property
    def _verdicts(self) -> NDArray[np.uint8]:
        family = np.where(self._synthetic, self.families[True], self.families[False])[:, None, None]
        smallest = np.where(np.isnan(self._of_pair["p"]), 1.0, self._of_pair["smallest_p"] * np.maximum(family, 1))
        return statistics.verdicts(np.nan_to_num(self._over_all["p_holm"], nan=1.0), smallest)

    def against(self, row: str) -> pd.DataFrame:
        """Return :meth:`lines` as a table, with the words."""
        return pd.DataFrame(
            {
                name: np.array(self.words[name], object)[values] if name in self.words else values
                for name, values in self.lines(row).items()
            }
        )

    def lines(self, row: str) -> dict[str, NDArray[Any]]:
        """Return one line per other row and shared column, field by field; for a text its place in ``words``.

        Returns
        -------
        dict
            ``other``, ``task``, ``page``, ``synthetic``; seeds that finished ``n``, ``m`` and failed ``failed``,
            ``other_failed``; ``mean``, ``other_mean`` over all of them, their ``difference`` (``low`` to ``high``),
            Welch's ``p``, ``p_holm`` adjusted for all pairs and tasks, ``verdict`` from it; probabilities of
            ``better``, ``same``, ``worse``; ``seeds`` that would settle it; ``crossed_low``, ``crossed_high`` over
            seeds and volumes. As descriptions: ``median``, ``other_median``, Hodges-Lehmann ``shift``, ``delta``,
            ``a12``, ``p_mann_whitney`` with the paper's ``stars``; ``images``, ``p_images`` (signed rank over test
            images); ``improvement`` (``_low`` to ``_high``): the probability that a run of the row beats one of the
            other on the pair's tasks, real or synthetic ones.
        """
        own = self.rows.index(row)
        runs = self._of_row["n"] + self._of_row["failed"]
        compared = (runs > 0) & (runs[:, own] > 0)[:, None]
        compared[:, own] = False
        column, other = np.nonzero(compared)
        pair = {name: table[column, own, other] for name, table in {**self._of_pair, **self._over_all}.items()}
        stars = np.add(pair["p_mann_whitney"] < 0.01, pair["p_mann_whitney"] < 0.05, dtype=np.uint8)
        found = {
            **pair,
            "other": other,
            "task": column,
            "page": column,
            "synthetic": self._synthetic[column],
            "n": self._of_row["n"][column, own],
            "m": self._of_row["n"][column, other],
            "failed": self._of_row["failed"][column, own],
            "other_failed": self._of_row["failed"][column, other],
            "mean": self._of_row["means"][column, own],
            "other_mean": self._of_row["means"][column, other],
            "median": self._of_row["medians"][column, own],
            "other_median": self._of_row["medians"][column, other],
            "a12": (pair["delta"] + 1) / 2,
            "verdict": self._verdicts[column, own, other],
            "stars": stars,
            "images": self._images[column],
        }
        return {name: found[name] for name in FIELDS}


def said(row: str, other: str, tests: Sequence[Mapping[str, Any]]) -> str:
    """Return in a sentence or two how a row does against another one, from the lines of that pair.

    The script of the page says the same of the pair that the reader picks.
    """
    if not tests:
        return f"{row} and {other} have no task in common under one fingerprint: their scores may not be compared."
    better = sum(test["verdict"] == "different" and test["difference"] > 0 for test in tests)
    worse = sum(test["verdict"] == "different" and test["difference"] < 0 for test in tests)
    small = sum(test["verdict"] == "n too small" for test in tests)
    chances = []
    for kind in (False, True):
        for test in [test for test in tests if test["synthetic"] is kind][:1]:  # the same on all tasks of a kind
            chance, low, high = (test[name] for name in _IMPROVEMENT)
            within = "" if isnan(low) else f" [{low:.2f}, {high:.2f}]"
            chances.append(f"{chance:.2f}{within} on {'synthetic' if kind else 'real'} data")
    return (
        f"{row} is better than {other} on {better} of {len(tests)} task{'s' if len(tests) != 1 else ''}, "
        f"worse on {worse}, not distinguished on {len(tests) - better - worse - small}"
        + (f", with too few seeds on {small}" if small else "")
        + f". Probability of improvement: {', '.join(chances)}."
    )


_IMPROVEMENT = ("improvement", "improvement_low", "improvement_high")
FIELDS = (
    *("other", "task", "page", "synthetic", "n", "m", "failed", "other_failed", "mean", "other_mean"),
    *("difference", "low", "high", "p", "p_holm", "verdict", "better", "same", "worse", "seeds"),
    *("crossed_low", "crossed_high", "median", "other_median", "shift", "delta", "a12", "p_mann_whitney", "stars"),
    *("images", "p_images", *_IMPROVEMENT),
)

"""One row against every other on every task, under every test: the lines of the pairwise pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import isnan, nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leaderboard.boards import Cell, Column
from leaderboard.stats import several
from leaderboard.stats import tests as statistics
from leaderboard.stats.tests import Floats, Pairs

Key = tuple[str, str]


class Pairings:
    """Every pair of rows, compared on the columns that both have.

    Parameters
    ----------
    columns : sequence of Column
    cells : mapping of column key to row to Cell
    tests : mapping of column key to Pairs
        Over seeds, rows in the order of ``cells``.
    by_image : mapping of column key to (int, ndarray)
        Number of test images, and p of the signed-rank test over them for every pair of rows.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        cells: Mapping[Key, Mapping[str, Cell]],
        tests: Mapping[Key, Pairs],
        by_image: Mapping[Key, tuple[int, Floats]],
    ) -> None:
        self.columns = columns
        self.rows = sorted({row for by_row in cells.values() for row in by_row})
        places = {row: k for k, row in enumerate(self.rows)}
        self._at = [np.array([places[row] for row in cells[column.key]], int) for column in columns]
        self._tests = Pairs(
            n=self._of_rows([tests[column.key].n for column in columns], 0),
            **{name: self._of_pairs([getattr(tests[column.key], name) for column in columns]) for name in _COMPARED},
        )
        self._means = self._of_rows([[cell.mean for cell in cells[column.key].values()] for column in columns], nan)
        medians = [[cell.summary["median"] for cell in cells[column.key].values()] for column in columns]
        self._medians = self._of_rows(medians, nan)
        self._images = np.array([by_image[column.key][0] for column in columns])
        self._p_images = self._of_pairs([by_image[column.key][1] for column in columns])
        self._synthetic = np.array([column.synthetic for column in columns], bool)
        self.words: dict[str, Sequence[str]] = {
            "other": self.rows,
            "task": [column.label for column in columns],
            "page": [column.slug for column in columns],
            "verdict": statistics.VERDICTS,
            "stars": statistics.STARS,
            "verdict_images": statistics.VERDICTS,
        }
        """Of every field of :meth:`lines` that is a text: what its numbers stand for."""

    def _of_rows(self, values: Sequence[Any], nothing: float) -> NDArray[Any]:
        """Return (columns, rows) from values by column, in the order of its own rows."""
        whole = np.full((len(self.columns), len(self.rows)), nothing)
        for k, each in enumerate(values):
            whole[k, self._at[k]] = each
        return whole

    def _of_pairs(self, tables: Sequence[Floats]) -> Floats:
        """Return (columns, rows, rows) from tables by column, NaN for rows that it does not have."""
        whole = np.full((len(self.columns), len(self.rows), len(self.rows)), nan)
        for k, each in enumerate(tables):
            whole[k][np.ix_(self._at[k], self._at[k])] = each
        return whole

    @cached_property
    def _over_all(self) -> dict[str, Floats]:
        """What is over several tasks or pairs, (columns, rows, rows); never over real and synthetic data together.

        P adjusted by Holm for the tasks of a pair and for all pairs and tasks; the probability of improvement and its
        ends, the same on all columns of a kind.
        """
        names = ("p_holm", "p_holm_all", *_IMPROVEMENT)
        found = {name: np.full_like(self._tests.p, nan) for name in names}
        first, second = np.triu_indices(len(self.rows), 1)
        n = np.where(self._tests.n > 0, self._tests.n, nan)
        for synthetic in (False, True):
            family = np.flatnonzero(self._synthetic == synthetic)[:, None]
            if not len(family):
                continue
            p, delta = self._tests.p[family, first, second], self._tests.delta[family, first, second]
            with np.errstate(divide="ignore", invalid="ignore"):  # pairs without a task in common
                chance, low, high = several.improvement_interval((delta + 1) / 2, n[family, first], n[family, second])
            tables = (several.holm(p, axis=0), several.holm(p), chance, low, high)
            mirrored = (*tables[:2], 1 - chance, 1 - high, 1 - low)
            for name, table, other in zip(names, tables, mirrored, strict=True):
                found[name][family, first, second] = table
                found[name][family, second, first] = other
        return found

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
            ``other``, ``task``, ``page``, ``synthetic``; seeds ``n``, ``m``; means, medians; Hodges-Lehmann ``shift``
            (``low`` to ``high``); ``p`` (Mann-Whitney U over seeds), ``delta``, ``a12``, ``verdict``, ``stars``;
            ``images``, ``p_images`` (signed rank over test images), ``verdict_images``; ``p_holm`` adjusted for the
            tasks of the pair, ``p_holm_all`` for all pairs and tasks; ``improvement`` (``_low`` to ``_high``): the
            probability that a run of the row beats one of the other on the pair's tasks, real or synthetic ones.
        """
        own = self.rows.index(row)
        compared = (self._tests.n > 0) & (self._tests.n[:, own] > 0)[:, None]
        compared[:, own] = False
        column, other = np.nonzero(compared)
        tests = Pairs(
            n=self._tests.n[column, other],
            **{name: getattr(self._tests, name)[column, own, other] for name in _COMPARED},
        )
        images, p_images = self._images[column], self._p_images[column, own, other]
        smallest = np.array([statistics.smallest_signed_p(each) for each in self._images])[column]
        found = {
            "other": other,
            "task": column,
            "page": column,
            "synthetic": self._synthetic[column],
            "n": self._tests.n[column, own],
            "m": tests.n,
            "mean": self._means[column, own],
            "other_mean": self._means[column, other],
            "median": self._medians[column, own],
            "other_median": self._medians[column, other],
            **{name: getattr(tests, name) for name in ("shift", "low", "high", "p", "delta")},
            "a12": (tests.delta + 1) / 2,
            "verdict": tests.verdicts(),
            "stars": tests.stars(),
            "images": images,
            "p_images": np.where(images < 2, nan, p_images),
            "verdict_images": statistics.verdicts(p_images, smallest),
            **{name: table[column, own, other] for name, table in self._over_all.items()},
        }
        return {name: found[name] for name in FIELDS}


def said(row: str, other: str, tests: Sequence[Mapping[str, Any]]) -> str:
    """Return in a sentence or two how a row does against another one, from the lines of that pair.

    The script of the page says the same of the pair that the reader picks.
    """
    if not tests:
        return f"{row} and {other} have no task in common under one fingerprint: their scores may not be compared."
    better = sum(test["verdict"] == "different" and test["delta"] > 0 for test in tests)
    worse = sum(test["verdict"] == "different" and test["delta"] < 0 for test in tests)
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


_COMPARED = ("p", "smallest_p", "shift", "low", "high", "delta")
_IMPROVEMENT = ("improvement", "improvement_low", "improvement_high")
FIELDS = (
    *("other", "task", "page", "synthetic", "n", "m", "mean", "other_mean", "median", "other_median"),
    *("shift", "low", "high", "p", "p_holm", "p_holm_all", "delta", "a12", "verdict", "stars"),
    *("images", "p_images", "verdict_images", *_IMPROVEMENT),
)

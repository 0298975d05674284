"""One row against every other on every task, under every test: the lines of the pairwise pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leaderboard import statistics
from leaderboard.statistics import Floats, Pairs
from leaderboard.table import Cell, Column

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
                chance, low, high = statistics.improvement_interval(
                    (delta + 1) / 2, n[family, first], n[family, second]
                )
            tables = (statistics.holm(p, axis=0), statistics.holm(p), chance, low, high)
            mirrored = (*tables[:2], 1 - chance, 1 - high, 1 - low)
            for name, table, other in zip(names, tables, mirrored, strict=True):
                found[name][family, first, second] = table
                found[name][family, second, first] = other
        return found

    def against(self, row: str) -> pd.DataFrame:
        """Return :meth:`lines` as a table."""
        return pd.DataFrame(self.lines(row), copy=False)

    def lines(self, row: str) -> dict[str, NDArray[Any]]:
        """Return one line per other row and shared column, field by field.

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
        verdicts = np.where(p_images < statistics.LEVEL, "different", "not distinguished").astype(object)
        few = np.array([statistics.smallest_signed_p(each) >= statistics.LEVEL for each in self._images], bool)
        verdicts[few[column]] = "n too small"
        verdicts[np.isnan(p_images)] = ""
        p_images[images < 2] = nan
        found = {
            "other": np.array(self.rows, object)[other],
            "task": np.array([each.label for each in self.columns], object)[column],
            "page": np.array([each.slug for each in self.columns], object)[column],
            "synthetic": self._synthetic[column],
            "n": self._tests.n[column, own],
            "m": tests.n,
            "mean": self._means[column, own],
            "other_mean": self._means[column, other],
            "median": self._medians[column, own],
            "other_median": self._medians[column, other],
            **{name: getattr(tests, name) for name in ("shift", "low", "high", "p", "delta")},
            "a12": (tests.delta + 1) / 2,
            "verdict": tests.verdicts().astype(object),
            "stars": tests.stars().astype(object),
            "images": images,
            "p_images": p_images,
            "verdict_images": verdicts,
            **{name: table[column, own, other] for name, table in self._over_all.items()},
        }
        return {name: found[name] for name in FIELDS}

    def said(self, row: str, lines: Mapping[str, NDArray[Any]]) -> dict[str, str]:
        """Return in a sentence or two how the row does against each other one, from its lines."""
        others, names = pd.factorize(lines["other"])
        different, delta = lines["verdict"] == "different", lines["delta"]
        kinds_of = (
            np.ones(len(others)),
            different & (delta > 0),
            different & (delta < 0),
            lines["verdict"] == "n too small",
        )
        counts = zip(names, *(np.bincount(others, kind).astype(int).tolist() for kind in kinds_of), strict=True)
        chances: dict[str, list[str]] = {}
        for kind, first in zip(*np.unique(2 * others + lines["synthetic"].astype(int), return_index=True), strict=True):
            chance, low, high = (lines[name][first] for name in _IMPROVEMENT)
            within = "" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]"
            chances.setdefault(names[kind // 2], []).append(
                f"{chance:.2f}{within} on {'synthetic' if kind % 2 else 'real'} data"
            )
        return {
            other: f"{row} is better than {other} on {better} of {tasks} task{'s' if tasks != 1 else ''}, "
            f"worse on {worse}, not distinguished on {tasks - better - worse - small}"
            + (f", with too few seeds on {small}" if small else "")
            + f". Probability of improvement: {', '.join(chances[other])}."
            for other, tasks, better, worse, small in counts
        }


_COMPARED = ("p", "smallest_p", "shift", "low", "high", "delta")
_IMPROVEMENT = ("improvement", "improvement_low", "improvement_high")
FIELDS = (
    *("other", "task", "page", "synthetic", "n", "m", "mean", "other_mean", "median", "other_median"),
    *("shift", "low", "high", "p", "p_holm", "p_holm_all", "delta", "a12", "verdict", "stars"),
    *("images", "p_images", "verdict_images", *_IMPROVEMENT),
)

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
        self.cells = cells
        self.tests = tests
        self.by_image = by_image
        self.rows = sorted({row for by_row in cells.values() for row in by_row})

    @cached_property
    def adjusted(self) -> dict[Key, Floats]:
        """P by column, adjusted by Holm over all pairs and tasks; real and synthetic ones are families of their own."""
        found = {}
        for synthetic in (False, True):
            family = [column.key for column in self.columns if column.synthetic == synthetic]
            above = {key: np.triu_indices(len(self.tests[key].p), 1) for key in family}
            sizes = [len(above[key][0]) for key in family]
            p = statistics.holm(np.concatenate([[], *(self.tests[key].p[above[key]] for key in family)]))
            for key, part in zip(family, np.split(p, np.cumsum(sizes)[:-1]), strict=True) if family else ():
                whole = np.full(self.tests[key].p.shape, nan)
                whole[above[key]] = part
                found[key] = np.where(np.isnan(whole), whole.T, whole)
        return found

    @cached_property
    def over_tasks(self) -> dict[Key, dict[str, Floats]]:
        """What is over all tasks of a pair, real or synthetic ones, shape (rows, rows) in the order of ``rows``.

        By column ``p_holm``, adjusted over the tasks, and ``improvement`` with its ends.
        """
        found: dict[Key, dict[str, Floats]] = {}
        places = {row: k for k, row in enumerate(self.rows)}
        for synthetic in (False, True):
            family = [column.key for column in self.columns if column.synthetic == synthetic]
            if not family:
                continue
            p, delta = (np.full((len(family), len(places), len(places)), nan) for _ in range(2))
            n = np.full((len(family), len(places)), nan)
            for k, key in enumerate(family):
                at = [places[row] for row in self.cells[key]]
                n[k, at] = np.where(self.tests[key].n > 0, self.tests[key].n, nan)
                p[k][np.ix_(at, at)] = self.tests[key].p
                delta[k][np.ix_(at, at)] = self.tests[key].delta
            adjusted = statistics.holm(p, axis=0)
            with np.errstate(divide="ignore", invalid="ignore"):  # pairs without a task in common
                ends = statistics.improvement_interval((delta + 1) / 2, n[:, :, None], n[:, None, :])
            for k, key in enumerate(family):
                at = [places[row] for row in self.cells[key]]
                tables = (adjusted[k], *ends)
                names = ("p_holm", "improvement", "improvement_low", "improvement_high")
                found[key] = {name: table[np.ix_(at, at)] for name, table in zip(names, tables, strict=True)}
        return found

    def against(self, row: str) -> pd.DataFrame:
        """Return one line per other row and shared column.

        Returns
        -------
        DataFrame
            ``other``, ``task``, ``page``, ``synthetic``; seeds ``n``, ``m``; means, medians; Hodges-Lehmann ``shift``
            (``low`` to ``high``); ``p`` (Mann-Whitney U over seeds), ``delta``, ``a12``, ``verdict``, ``stars``;
            ``images``, ``p_images`` (signed rank over test images), ``verdict_images``; ``p_holm`` adjusted for the
            tasks of the pair, ``p_holm_all`` for all pairs and tasks; ``improvement`` (``_low`` to ``_high``): the
            probability that a run of the row beats one of the other on the pair's tasks, real or synthetic ones.
        """
        parts = [self._on(column, row) for column in self.columns if row in self.cells[column.key]]
        parts = [part for part in parts if len(part["m"])]
        if not parts:
            return pd.DataFrame(columns=["other"])
        return pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, copy=False)

    def said(self, row: str, frame: pd.DataFrame) -> dict[str, str]:
        """Return in a sentence or two how the row does against each other one, from its lines."""
        if not len(frame):
            return {}
        others, names = pd.factorize(frame["other"])
        different, delta = (frame["verdict"] == "different").to_numpy(), frame["delta"].to_numpy()
        kinds_of = (
            np.ones(len(frame)),
            different & (delta > 0),
            different & (delta < 0),
            frame["verdict"] == "n too small",
        )
        counts = zip(names, *(np.bincount(others, kind).astype(int).tolist() for kind in kinds_of), strict=True)
        kinds = frame.drop_duplicates(["other", "synthetic"])
        chances: dict[str, list[str]] = {}
        for other, synthetic, *ends in zip(
            *(kinds[name] for name in ("other", "synthetic", "improvement", "improvement_low", "improvement_high")),
            strict=True,
        ):
            within = "" if np.isnan(ends[1]) else f" [{ends[1]:.2f}, {ends[2]:.2f}]"
            chances.setdefault(other, []).append(
                f"{ends[0]:.2f}{within} on {'synthetic' if synthetic else 'real'} data"
            )
        return {
            other: f"{row} is better than {other} on {better} of {tasks} task{'s' if tasks != 1 else ''}, "
            f"worse on {worse}, not distinguished on {tasks - better - worse - small}"
            + (f", with too few seeds on {small}" if small else "")
            + f". Probability of improvement: {', '.join(chances[other])}."
            for other, tasks, better, worse, small in counts
        }

    @cached_property
    def _centres(self) -> dict[Key, tuple[Floats, Floats]]:
        """Means and medians of all rows, by column."""
        return {
            key: (
                np.array([cell.mean for cell in cells.values()]),
                np.array([cell.summary["median"] for cell in cells.values()]),
            )
            for key, cells in self.cells.items()
        }

    def _on(self, column: Column, row: str) -> dict[str, NDArray[Any]]:
        cells, tests, over_tasks = self.cells[column.key], self.tests[column.key], self.over_tasks[column.key]
        images, p_images = self.by_image[column.key]
        means, medians = self._centres[column.key]
        names = np.array(list(cells), object)
        own = list(cells).index(row)
        paired = p_images[own]
        decided = np.where(paired < statistics.LEVEL, "different", "not distinguished")
        if statistics.smallest_signed_p(images) >= statistics.LEVEL:
            decided = np.full(len(cells), "n too small")
        one = {
            "task": column.label,
            "page": column.slug,
            "synthetic": column.synthetic,
            "n": tests.n[own],
            "mean": means[own],
            "median": medians[own],
            "images": images,
        }
        many = {
            "other": names,
            "m": tests.n,
            "other_mean": means,
            "other_median": medians,
            "shift": tests.shift[own],
            "low": tests.low[own],
            "high": tests.high[own],
            "p": tests.p[own],
            "p_holm_all": self.adjusted[column.key][own],
            "delta": tests.delta[own],
            "a12": (tests.delta[own] + 1) / 2,
            "verdict": tests.verdicts(own).astype(object),
            "stars": tests.stars(own).astype(object),
            "p_images": paired if images > 1 else np.full(len(cells), nan),
            "verdict_images": np.where(np.isnan(paired), "", decided).astype(object),
            **{name: values[own] for name, values in over_tasks.items()},
        }
        chosen = (tests.n > 0) & (names != row) if tests.n[own] else np.zeros(len(cells), bool)
        count = int(chosen.sum())
        filled = {
            name: np.full(count, value, object if isinstance(value, str) else None) for name, value in one.items()
        }
        return {name: filled[name] if name in filled else many[name][chosen] for name in _FIELDS}


_FIELDS = (
    *("other", "task", "page", "synthetic", "n", "m", "mean", "other_mean", "median", "other_median"),
    *("shift", "low", "high", "p", "p_holm", "p_holm_all", "delta", "a12", "verdict", "stars"),
    *("images", "p_images", "verdict_images", "improvement", "improvement_low", "improvement_high"),
)

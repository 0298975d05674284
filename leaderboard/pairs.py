"""One row against every other on every task, under every test: the lines of the pairwise pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import nan

import numpy as np
import pandas as pd

from leaderboard import statistics, table
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
    """

    def __init__(
        self, columns: Sequence[Column], cells: Mapping[Key, Mapping[str, Cell]], tests: Mapping[Key, Pairs]
    ) -> None:
        self.columns = columns
        self.cells = cells
        self.tests = tests

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
    def by_image(self) -> dict[Key, tuple[int, Floats]]:
        """Number of test images, and p of the signed-rank test over them, by column."""
        images = {key: table.image_table(list(cells.values())) for key, cells in self.cells.items()}
        return {key: (scores.shape[1], statistics.signed_rank_all(scores)) for key, scores in images.items()}

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
        parts = [self._on(column, row) for column in self.columns if len(self._scores(column, row))]
        if not parts or not sum(map(len, parts)):
            return pd.DataFrame(columns=["other"])
        frame = pd.concat(parts, ignore_index=True)
        pair = pd.factorize(pd.MultiIndex.from_frame(frame[["other", "synthetic"]]))[0]
        task = pd.factorize(frame["page"])[0]
        p, a12, m = (np.full((task.max() + 1, pair.max() + 1), nan) for _ in range(3))
        p[task, pair], a12[task, pair], m[task, pair] = frame["p"], frame["a12"], frame["m"]
        n = np.full(task.max() + 1, nan)
        n[task] = frame["n"]
        frame["p_holm"] = statistics.holm(p, axis=0)[task, pair]
        for name, values in zip(
            ("", "_low", "_high"), statistics.improvement_interval(a12, n[:, None], m), strict=True
        ):
            frame[f"improvement{name}"] = values[pair]
        return frame

    def said(self, row: str, frame: pd.DataFrame) -> dict[str, str]:
        """Return in a sentence or two how the row does against each other one, from its lines."""
        if not len(frame):
            return {}
        different = frame["verdict"] == "different"
        counts = pd.DataFrame(
            {
                "tasks": 1,
                "better": different & (frame["delta"] > 0),
                "worse": different & (frame["delta"] < 0),
                "small": frame["verdict"] == "n too small",
            }
        )
        counts = counts.groupby(frame["other"], sort=False).sum()
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
            for other, tasks, better, worse, small in counts.itertuples()
        }

    def _scores(self, column: Column, row: str) -> Floats:
        cell = self.cells[column.key].get(row)
        return np.empty(0) if cell is None else cell.scores

    def _on(self, column: Column, row: str) -> pd.DataFrame:
        cells, tests = self.cells[column.key], self.tests[column.key]
        images, p_images = self.by_image[column.key]
        own = list(cells).index(row)
        paired = p_images[own]
        decided = np.where(paired < statistics.LEVEL, "different", "not distinguished")
        if statistics.smallest_signed_p(images) >= statistics.LEVEL:
            decided = np.full(len(cells), "n too small")
        part = pd.DataFrame(
            {
                "other": list(cells),
                "task": column.label,
                "page": column.slug,
                "synthetic": column.synthetic,
                "n": tests.n[own],
                "m": tests.n,
                "mean": cells[row].mean,
                "other_mean": [cell.mean for cell in cells.values()],
                "median": cells[row].summary["median"],
                "other_median": [cell.summary["median"] for cell in cells.values()],
                "shift": tests.shift[own],
                "low": tests.low[own],
                "high": tests.high[own],
                "p": tests.p[own],
                "p_holm_all": self.adjusted[column.key][own],
                "delta": tests.delta[own],
                "a12": (tests.delta[own] + 1) / 2,
                "verdict": tests.verdicts(own),
                "stars": tests.stars(own),
                "images": images,
                "p_images": paired if images > 1 else nan,
                "verdict_images": np.where(np.isnan(paired), "", decided),
            }
        )
        return part[(part["m"] > 0) & (part["other"] != row)]

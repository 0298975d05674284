"""All that the pages show, computed once from the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pandas as pd
from markupsafe import escape

from embench.core import parallel
from leaderboard import boards as table
from leaderboard import ranking as ranking_module
from leaderboard.boards import Board, Cell, Column
from leaderboard.site.overlays import Sections
from leaderboard.stats.pairwise import Pairings
from leaderboard.trials import Measure, Trial, slug
from leaderboard.trivial import NAMES, trivial

Key = tuple[str, str]
SEED = 0
"""Of all bootstrap draws."""
FEW = 1000
"""Trials up to which a single process is quicker."""


@dataclass(frozen=True)
class Content:
    """Everything the pages are made from."""

    trials: Sequence[Trial]
    refused: Sequence[str]

    @cached_property
    def boards(self) -> list[Board]:
        """Boards in reading order."""
        return table.boards(self.trials, self.cells)

    @cached_property
    def columns(self) -> list[Column]:
        """Every task under every fingerprint."""
        return table.columns_of(self.trials)

    @cached_property
    def cells(self) -> dict[tuple[str, tuple[str, str]], Cell]:
        """Trials by row and column."""
        return table.cells_of(self.trials)

    @cached_property
    def hours(self) -> dict[str, dict[str, float | None]]:
        """Hours of training by row."""
        return {row: _hours(trials) for row, trials in self.by_row.items()}

    @cached_property
    def by_column(self) -> dict[tuple[str, str], dict[str, Cell]]:
        """Rows and their trials by column."""
        found: dict[tuple[str, str], dict[str, Cell]] = {column.key: {} for column in self.columns}
        for (row, key), cell in sorted(self.cells.items(), key=lambda entry: entry[0]):
            found[key][row] = cell
        return found

    @cached_property
    def by_row(self) -> dict[str, list[Trial]]:
        """Trials by row."""
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            found.setdefault(trial.row, []).append(trial)
        return found

    @cached_property
    def rankings(self) -> dict[tuple[str, Measure], pd.DataFrame]:
        """Ranking by board and measure."""
        return {
            (board.slug, measure): self._figures["rank", board.slug, measure]
            for board in self.boards
            for measure in board.measures
        }

    @cached_property
    def standings(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Lines of the rankings by the protocol's score, by board and row."""
        return {
            board.slug: {str(line["row"]): line for line in lines(self.rankings[board.slug, "score"])}
            for board in self.boards
        }

    @cached_property
    def rows(self) -> list[str]:
        """Every row, the ones that rank best on any board first: the order of the palette."""
        best: dict[str, int] = {}
        for board in self.boards:
            ranking = self.rankings[board.slug, "score"]
            for row, rank in zip(ranking["row"], ranking["rank"], strict=True):
                best[row] = min(rank, best.get(row, rank))
        return sorted({trial.row for trial in self.trials}, key=lambda row: (best.get(row, len(best) + 1), row))

    @cached_property
    def options(self) -> dict[str, tuple[str, str]]:
        """The HTML option of every row, before and after the place of its ``selected``."""
        return {row: (f'<option value="{escape(slug(row))}"', f">{escape(row)}</option>") for row in self.rows}

    @cached_property
    def board_of(self) -> dict[Key, Board]:
        """Of every column the board that shows most of its rows."""
        found: dict[Key, Board] = {}
        for board in self.boards:
            for column in board.columns:
                if column.key not in found or len(board.rows) > len(found[column.key].rows):
                    found[column.key] = board
        return found

    def trivial(self, column: Column, pictures: Sections) -> dict[str, float]:
        """Return what trivial predictions score on a task."""
        if column.key not in self._trivial:
            cells = self.by_column[column.key].values()
            finished = (trial for cell in cells for trial in cell.trials if trial.score is not None)
            first = min(finished, key=lambda trial: not trial.result.sections, default=None)
            self._trivial[column.key] = {} if first is None else trivial(first, pictures.pixels)
        return self._trivial[column.key]

    def trivial_on(self, board: Board, pictures: Mapping[Key, Sections]) -> dict[str, float]:
        """Return what trivial predictions score over the tasks of a board, where that is known of all of them."""
        if any(column.key not in pictures for column in board.columns):
            return {}
        by_task = {column.task: self.trivial(column, pictures[column.key]) for column in board.columns}
        runs = board.runs["score"]
        return {
            name: sum(weight * by_task[task][name] for task, weight in zip(runs.tasks, runs.weights, strict=True))
            for name in NAMES
            if all(name in by_task[task] for task in runs.tasks)
        }

    @cached_property
    def _trivial(self) -> dict[Key, dict[str, float]]:
        return {}

    @cached_property
    def pairings(self) -> Pairings:
        """The lines of the pairwise pages."""
        return Pairings(self.columns, {column.key: self._figures["pairs", column.key] for column in self.columns})

    @cached_property
    def _figures(self) -> dict[tuple[Any, ...], Any]:
        """What takes long, all of it shared out among the processors at once, the longest first."""
        work: dict[tuple[Any, ...], Callable[[], Any]] = {}
        for board in self.boards:
            for measure in board.measures:
                work["rank", board.slug, measure] = partial(ranking_module.rank, board, SEED, measure=measure)
        for column in self.columns:
            board, rows = self.board_of[column.key], list(self.by_column[column.key])
            work["pairs", column.key] = partial(ranking_module.compared, board, column, rows)
        fewest = 2 if len(self.trials) > FEW else parallel.FEWEST
        found = parallel.forked(lambda each: each(), list(work.values()), fewest)
        return dict(zip(work, found, strict=True))


def lines(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.to_dict("records")  # type: ignore[return-value]


def _hours(trials: Sequence[Trial]) -> dict[str, float | None]:
    """Return the hours that training took over all tasks and seeds, and those of them on a GPU.

    ``None`` where predictions were made elsewhere: nothing is known of their training.
    """
    if any(trial.result.status == "submitted" for trial in trials):
        return {"hours": None, "gpu_hours": None}
    seconds = [(trial.result.seconds_training, trial.result.environment.get("device")) for trial in trials]
    on_gpu = sum(each for each, device in seconds if str(device).startswith("cuda"))
    return {"hours": sum(each for each, _ in seconds) / 3600, "gpu_hours": on_gpu / 3600}

"""Result files → trials → boards: who may be ranked against whom, and what is missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan
from statistics import quantiles
from typing import Any

import numpy as np
import pandas as pd

from embench.data.task import Task
from embench.scoring.schema import Fingerprint
from leaderboard.stats.ranking import OnTasks, Ranking
from leaderboard.stats.runs import Runs, runs_of
from leaderboard.stats.tests import Floats
from leaderboard.trials import KINDS, MEASURES, Kind, Measure, Trial, is_published_pairing, known_task, mean

FEWEST_SEEDS = 3
"""Runs per task that a ranked row needs (protocol 5: Table 1 has means of three runs)."""
THRESHOLD_MATTERS = 0.02
"""Difference between the IoU at the protocol's threshold and at the tuned one from which both are to be shown."""


@dataclass(frozen=True)
class Column:
    """One task under one fingerprint."""

    task: str
    digest: str
    label: str
    fingerprint: Fingerprint
    synthetic: bool
    facts: Task | None

    @property
    def key(self) -> tuple[str, str]:
        """Task and fingerprint digest."""
        return self.task, self.digest

    @property
    def slug(self) -> str:
        """Name of its page."""
        return f"{self.task}-{self.digest}"

    @property
    def title(self) -> str:
        """Human name."""
        return self.facts.title if self.facts else self.task


@dataclass(frozen=True)
class Cell:
    """The trials of one row in one column, in order of seed."""

    trials: tuple[Trial, ...]

    @cached_property
    def scores(self) -> Floats:
        """Scores of the trials that finished."""
        return np.array([trial.score for trial in self.trials if trial.score is not None], float)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the trials that finished."""
        return [trial.result.seed for trial in self.trials if trial.score is not None]

    @property
    def diverged(self) -> list[int]:
        """Seeds of the trials that did not."""
        return [trial.result.seed for trial in self.trials if trial.score is None]

    def values(self, measure: Measure) -> Floats:
        """Return the measure of the trials that finished and have it, in order of seed."""
        values = np.array([trial.value(measure) for trial in self.trials], float)
        return values[~np.isnan(values)]

    @property
    def of_unknown_budget(self) -> bool:
        """Whether a trial is of label maps made elsewhere, by a training that nothing is known of."""
        return any(trial.result.status == "submitted" and not trial.result.iterations_done for trial in self.trials)

    @cached_property
    def image_scores(self) -> dict[str, float]:
        """Score by test image or volume, the mean over the trials that finished; those all had the same images."""
        finished = [trial for trial in self.trials if trial.score is not None]
        if not finished or any(trial.images != finished[0].images for trial in finished):
            return {}
        means = np.mean([trial.image_scores for trial in finished], axis=0)
        return dict(sorted(zip(finished[0].images, means.tolist(), strict=True)))

    @cached_property
    def counted(self) -> Floats:
        """Scores of all trials: one that diverged counts as 0, the worst there can be."""
        return np.array([trial.score or 0.0 for trial in self.trials], float)

    @property
    def mean(self) -> float:
        """Mean over seeds, those that diverged among them; NaN without any."""
        return float(self.counted.mean()) if len(self.counted) else float("nan")

    @property
    def spread(self) -> float:
        """Standard deviation over the same (n - 1); NaN below two."""
        return float(self.counted.std(ddof=1)) if len(self.counted) > 1 else float("nan")

    @property
    def artefacts(self) -> int:
        """How many scores are near 0 only because of the threshold."""
        return sum(trial.artefact for trial in self.trials)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The figures that the pages show: centre, spread, diagnostics and what went wrong."""
        scores = self.counted
        few = scores.tolist() * 3 if len(scores) else [float("nan")] * 3
        q1, median, q3 = quantiles(scores, n=4, method="inclusive") if len(scores) > 1 else few
        finals = [trial.result.final for trial in self.trials]
        plain = mean(final.plain_score for final in finals if final is not None)
        return {
            "n": len(self.scores),
            "diverged": len(self.diverged),
            "mean": self.mean,
            "spread": self.spread,
            "median": median,
            "q1": q1,
            "q3": q3,
            "smallest": float(scores.min()) if len(scores) else float("nan"),
            "largest": float(scores.max()) if len(scores) else float("nan"),
            "plain": float("nan") if plain is None else plain,
            "tuned": self.mean_of("tuned"),
            "average_precision": self.mean_of("average_precision"),
            "artefacts": self.artefacts,
            "threshold_gap": self.threshold_gap,
        }

    @property
    def threshold_gap(self) -> float:
        """How much larger the IoU is at the threshold chosen on training images, both without instance matching.

        0 where it is below ``THRESHOLD_MATTERS`` in size or where there is no tuned IoU: nothing to show.
        """
        gaps = []
        for trial in self.trials:
            final = trial.result.final
            if final is not None and trial.tuned is not None:
                gaps.append(trial.tuned - (final.score if final.plain_score is None else final.plain_score))
        gap = mean(gaps) or 0.0
        return gap if abs(gap) >= THRESHOLD_MATTERS else 0.0

    def mean_of(self, measure: str) -> float:
        """Return the mean over seeds of ``score``, ``tuned``, ``average_precision``; NaN without any."""
        value = mean(getattr(trial, measure) for trial in self.trials)
        return float("nan") if value is None else value


@dataclass(frozen=True)
class Board:
    """Rows that may share a ranking, over columns of different tasks.

    ``layer`` counts boards of a kind (:func:`boards`).
    """

    kind: Kind
    layer: int
    columns: tuple[Column, ...]
    cells: dict[tuple[str, tuple[str, str]], Cell]
    published_rows: frozenset[str]

    @cached_property
    def keys(self) -> frozenset[tuple[str, str]]:
        """Of its columns."""
        return frozenset(column.key for column in self.columns)

    @property
    def slug(self) -> str:
        """Name of its section and files."""
        return self.kind if self.layer == 0 else f"{self.kind}-{self.layer + 1}"

    @property
    def title(self) -> str:
        """Heading."""
        heading = {
            "published": "Published pairings on real data",
            "open": "Open track on real data",
            "synthetic": "Synthetic data",
        }[self.kind]
        labels = [column.label for column in self.columns]
        tasks = ", ".join(labels) if len(labels) <= 4 else f"{len(labels)} tasks from {labels[0]} to {labels[-1]}"
        return heading if self.layer == 0 else f"{heading}: {tasks}"

    @cached_property
    def rows(self) -> list[str]:
        """Every row with a trial in any column, by name."""
        return sorted({row for row, _ in self.cells})

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """What rows can be ranked by: every measure that a trial here has."""
        trials = [trial for cell in self.cells.values() for trial in cell.trials]
        return tuple(
            measure for measure in MEASURES if measure == "score" or any(not isnan(t.value(measure)) for t in trials)
        )

    @cached_property
    def ranked(self) -> list[str]:
        """Rows from which nothing is missing."""
        return self.ranked_by("score")

    def ranked_by(self, measure: Measure) -> list[str]:
        """Return the rows from which nothing is missing that a ranking by ``measure`` needs."""
        return self._ranked_by[measure]

    @cached_property
    def _ranked_by(self) -> dict[Measure, list[str]]:
        return {measure: [row for row in self.rows if not self.missing(row, measure)] for measure in self.measures}

    def samples(self, row: str, measure: Measure) -> list[Floats]:
        """Return the values of a measure over seeds, by column."""
        return [self.cell(row, column).values(measure) for column in self.columns]

    def cell(self, row: str, column: Column) -> Cell:
        """Return the trials of a row in a column, maybe none."""
        return self.cells.get((row, column.key), Cell(()))

    def missing(self, row: str, measure: Measure = "score") -> list[str]:
        """Return what keeps a row from being ranked, one phrase per fault.

        A task without a trial, fewer than three seeds on a task, label maps made elsewhere by a training of unknown
        budget, or trials without the measure (label maps have no average precision). A diverged trial, or a seed that
        the row has on another task only, is a failed run: it counts, and keeps no row from being ranked.
        """
        faults: list[str] = []
        cells = [(column, self.cell(row, column)) for column in self.columns]
        if absent := [column.label for column, cell in cells if not cell.trials]:
            faults.append("no trial on " + ", ".join(absent))
        seeds = len({trial.result.seed for _, cell in cells for trial in cell.trials})
        for column, cell in cells:
            if cell.trials and seeds < FEWEST_SEEDS:
                faults.append(f"{column.label}: {len(cell.trials)} of at least {FEWEST_SEEDS} seeds")
            if cell.of_unknown_budget:
                faults.append(f"{column.label}: budget unknown")
            if len(cell.values(measure)) < len(cell.scores):
                faults.append(f"{column.label}: no {MEASURES[measure]}")
        return faults

    def lacking(self, row: str, column: Column) -> list[int]:
        """Return the seeds that a row has on another task of the board and lacks in this column."""
        seeds = {trial.result.seed for each in self.columns for trial in self.cell(row, each).trials}
        return sorted(seeds - {trial.result.seed for trial in self.cell(row, column).trials})

    @cached_property
    def runs(self) -> dict[Measure, Runs]:
        """By measure the runs of every row, as the statistics want them."""
        return {measure: self._runs(measure) for measure in self.measures}

    def _runs(self, measure: Measure) -> Runs:
        lines = [
            (row, column.task, trial.result.seed, trial.value(measure), trial.result.model.weights_hash)
            for column in self.columns
            for row in self.rows
            for trial in self.cell(row, column).trials
            if trial.score is None or not isnan(trial.value(measure))
        ]
        frame = pd.DataFrame(lines, columns=["model", "task", "seed", "score", "checkpoint"])
        return runs_of(frame.astype({"score": float}), whole=False)

    def ranking(self, measure: Measure = "score") -> Ranking:
        """Return the ranking of the complete rows by a measure."""
        return self._rankings[measure]

    @cached_property
    def _rankings(self) -> dict[Measure, Ranking]:
        return {measure: Ranking.of(self.runs[measure].only(self.ranked_by(measure))) for measure in self.measures}

    def missing_on(self, column: Column, row: str, measure: Measure = "score") -> list[str]:
        """Return what keeps a row from being ranked on one task, as :meth:`missing` does over all."""
        cell, seeds = self.cell(row, column), len(self.cell(row, column).trials) + len(self.lacking(row, column))
        faults = [f"{seeds} of at least {FEWEST_SEEDS} seeds"] if seeds < FEWEST_SEEDS else []
        return faults + ([f"no {MEASURES[measure]}"] if len(cell.values(measure)) < len(cell.scores) else [])

    def ranking_on(self, column: Column, measure: Measure = "score") -> Ranking:
        """Return the ranking on one task of the rows that have enough seeds there."""
        rows = [row for row in self.rows if self.cell(row, column).trials and not self.missing_on(column, row, measure)]
        return Ranking.of(self.runs[measure].on(column.task, rows))

    def on_tasks(self, measure: Measure = "score") -> OnTasks:
        """Return every pair of rows on every task; the rows in the order of ``rows``."""
        return self._on_tasks[measure]

    @cached_property
    def _on_tasks(self) -> dict[Measure, OnTasks]:
        return {measure: OnTasks.of(self.runs[measure], self.rows) for measure in self.measures}


MOST_BOARDS = 12
"""Of a kind; the tasks of the others have their own pages all the same."""
Key = tuple[str, str]


def boards(trials: Sequence[Trial], cells: Mapping[tuple[str, Key], Cell] | None = None) -> list[Board]:
    """Group trials into boards: by track, by synthetic or real, and by the tasks that rows have in common.

    There is a board for each set of tasks on which some row is complete, with a ranking of its own. So a trial of a
    new task, or of another budget, opens a board and empties none. The first one is that of most tasks among those
    that rank at least half as many rows as any; the others follow by the number of their rows, and what no row is
    complete on is last. A seed counts on a board where its row has it on more than half of the tasks.

    ``cells`` are the :func:`cells_of` these trials, where they are known already: boards share them.

    The published board holds the published pairings alone; the open board every pairing on the fingerprints that
    the open track uses, so that a pairing can be ranked against the published one.
    """
    columns, cells = columns_of(trials), cells_of(trials) if cells is None else cells
    found: list[Board] = []
    for kind in KINDS:
        keys = {trial.column for trial in trials if trial.kind == kind}
        members = [trial for trial in trials if trial.column in keys and (trial.kind == kind or kind == "open")]
        inside = {
            key: own
            for key, cell in cells.items()
            if key[1] in keys and (own := cell if kind == "open" else _of_kind(cell, kind)).trials
        }
        found += _boards_of(kind, [column for column in columns if column.key in keys], inside, members)
    return found


def _boards_of(
    kind: Kind, columns: Sequence[Column], cells: Mapping[tuple[str, Key], Cell], trials: Sequence[Trial]
) -> Iterator[Board]:
    """Yield the boards of a kind."""
    made = [
        _board(kind, 0, [column for column in columns if column.key in chosen], cells)
        for chosen in _sets(columns, cells)
    ]
    ranked = [board for board in made if board.ranked]
    ranked = [
        board
        for board in ranked
        if not any(board.keys < other.keys and board.ranked == other.ranked for other in ranked)
    ]
    crowd = max((len(board.ranked) for board in ranked), default=0)

    def place(board: Board) -> tuple[Any, ...]:
        many, tasks = 2 * len(board.ranked) >= crowd, len(board.columns)
        return not many, -tasks if many else 0, -len(board.ranked), -tasks, sorted(board.keys)

    ranked.sort(key=place)
    shown = {key for board in ranked for key in board.keys}
    left = [
        _board(kind, 0, [column for column in columns if column.key in layer], cells)
        for layer in _layers([trial for trial in trials if trial.column not in shown])
    ]
    for layer, board in enumerate([*ranked, *left][:MOST_BOARDS]):
        yield replace(board, layer=layer)


def _sets(columns: Sequence[Column], cells: Mapping[tuple[str, Key], Cell]) -> list[frozenset[Key]]:
    """Return every column by itself, and the columns of one budget on which a row is complete, one of a task."""
    found = dict.fromkeys(frozenset([column.key]) for column in columns)
    rows: defaultdict[str, list[Column]] = defaultdict(list)
    by_key = {column.key: column for column in columns}
    for (row, key), cell in cells.items():
        if len(cell.trials) >= FEWEST_SEEDS:
            rows[row].append(by_key[key])
    crowd = Counter(key for _, key in cells)
    for own in rows.values():
        budgets: defaultdict[Any, list[Column]] = defaultdict(list)
        for column in own:
            for budget in _budgets(column):
                budgets[budget].append(column)
        for alike in budgets.values():
            chosen: dict[str, Key] = {}
            for column in sorted(alike, key=lambda column: (-crowd[column.key], column.key)):
                chosen.setdefault(column.task, column.key)
            found[frozenset(chosen.values())] = None
    return list(found)


def _budgets(column: Column) -> list[tuple[Any, ...]]:
    """Return under which budgets a column may stand beside others: its number of steps, and the task's published."""
    mark = column.fingerprint
    revisions = (mark.scoring_revision, mark.training_revision)
    is_published = column.facts is not None and column.facts.iterations == mark.iterations
    return [(mark.iterations, *revisions), *([("published", *revisions)] if is_published else [])]


def _board(kind: Kind, layer: int, columns: Sequence[Column], cells: Mapping[tuple[str, Key], Cell]) -> Board:
    """Return a board over columns with the trials whose seeds count there."""
    keys = {column.key for column in columns}
    own = {key: cell for key, cell in cells.items() if key[1] in keys}
    seeds: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for (row, _), cell in own.items():
        seeds[row].update(trial.result.seed for trial in cell.trials)
    inside = {}
    for (row, key), cell in own.items():
        counted = {seed for seed, count in seeds[row].items() if 2 * count >= len(keys)}
        # A row without enough of them is not ranked, and shown with all that it has.
        inside[row, key] = _of_seeds(cell, counted) if len(counted) >= FEWEST_SEEDS else cell
    published = frozenset(row for (row, _), cell in inside.items() if any(map(is_published_pairing, cell.trials)))
    return Board(kind, layer, tuple(columns), inside, published)


def _of_seeds(cell: Cell, seeds: Container[int]) -> Cell:
    trials = tuple(trial for trial in cell.trials if trial.result.seed in seeds)
    return cell if len(trials) == len(cell.trials) else Cell(trials)


def _of_kind(cell: Cell, kind: Kind) -> Cell:
    trials = tuple(trial for trial in cell.trials if trial.kind == kind)
    return cell if len(trials) == len(cell.trials) else Cell(trials)


def cells_of(trials: Iterable[Trial]) -> dict[tuple[str, tuple[str, str]], Cell]:
    """Return the trials by row and column, each in order of seed."""
    groups: defaultdict[tuple[str, tuple[str, str]], list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[trial.row, trial.column].append(trial)
    return {key: Cell(tuple(sorted(group, key=lambda trial: trial.result.seed))) for key, group in groups.items()}


def columns_of(trials: Iterable[Trial]) -> list[Column]:
    """Return every task under every fingerprint, by task name and budget, each with a label of its own."""
    first: dict[tuple[str, str], Trial] = {}
    for trial in trials:
        first.setdefault(trial.column, trial)
    tasks = Counter(task for task, _ in first)
    budgets = Counter((task, trial.result.fingerprint.iterations) for (task, _), trial in first.items())
    revisions = Counter(
        (task, trial.result.fingerprint.iterations, _revision(trial.result.fingerprint))
        for (task, _), trial in first.items()
    )
    found = []
    for (task, digest), trial in first.items():
        mark = trial.result.fingerprint
        label = task if tasks[task] == 1 else f"{task}, {mark.iterations} iterations"
        if budgets[task, mark.iterations] > 1:
            label += f", revision {_revision(mark)}" if revisions[task, mark.iterations, _revision(mark)] == 1 else ""
            label += f", {digest[:6]}" if revisions[task, mark.iterations, _revision(mark)] > 1 else ""
        found.append(Column(task, digest, label, mark, trial.kind == "synthetic", known_task(task)))
    return sorted(found, key=_place)


def _place(column: Column) -> tuple[Any, ...]:
    """Return the place of a column: by task, then budget, the newest revision first."""
    mark = column.fingerprint
    revisions = (-mark.scoring_revision, -mark.training_revision)
    return _order(column.task), mark.iterations, revisions, column.digest


def _revision(mark: Fingerprint) -> str:
    """Return the revisions of scoring and training, as ``1.1``."""
    return f"{mark.scoring_revision}.{mark.training_revision}"


def _layers(trials: Sequence[Trial]) -> list[set[tuple[str, str]]]:
    """Split columns so that each set has one fingerprint per task: the ones with most rows first."""
    rows: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    budgets: dict[tuple[str, str], int] = {}
    for trial in trials:
        rows[trial.column].add(trial.row)
        budgets[trial.column] = trial.result.fingerprint.iterations
    layers: list[set[tuple[str, str]]] = []
    depth: Counter[str] = Counter()
    for column in sorted(rows, key=lambda key: (-len(rows[key]), -budgets[key], key)):
        if depth[column[0]] == len(layers):
            layers.append(set())
        layers[depth[column[0]]].add(column)
        depth[column[0]] += 1
    return layers


def _order(task: str) -> tuple[int, str]:
    """Published benchmarks in the order of the protocol, then by name."""
    published = ["cremi", "guay", "kasthuri", "perez-lyso", "perez-mito", "perez-nuclei", "perez-nucleoli", "urocell"]
    bare = task.removeprefix("mini-")
    return (published.index(bare) if bare in published else len(published), task)


def enumerated(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))

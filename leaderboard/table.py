"""Result files → trials → boards: who may be ranked against whom, and what is missing."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from statistics import quantiles
from typing import Any, Literal

import numpy as np
import pandas as pd

from embench.errors import BadInput
from embench.names import is_name
from embench.recipe import find_recipe
from embench.results import Fingerprint, TrialResult, digest_of, result_files
from embench.task import Task
from embench.tasks import find_task
from leaderboard import statistics
from leaderboard.kept import Kept, Memory, keep
from leaderboard.statistics import Floats

Kind = Literal["published", "open", "synthetic"]
KINDS: tuple[Kind, ...] = ("published", "open", "synthetic")
Measure = Literal["score", "average_precision"]
MEASURES: dict[Measure, str] = {"score": "IoU under the protocol", "average_precision": "average precision"}
"""What rows can be ranked by; the second needs no threshold."""
FEWEST_SEEDS = 3
"""Runs per task that a ranked row needs (protocol 5: Table 1 has means of three runs)."""
NEAR_ZERO, CLEARLY_LARGER = 0.05, 0.1
"""A score at most the first whose tuned IoU is larger by the second is a threshold artefact."""
THRESHOLD_MATTERS = 0.02
"""Difference between the IoU at the protocol's threshold and at the tuned one from which both are to be shown."""


@dataclass(frozen=True)
class Trial:
    """One result file, reduced to what the board shows: counts, loss curve and early snapshots are dropped.

    Parameters
    ----------
    path : Path
        The result file.
    result : TrialResult
        With at most the last snapshot, without its counts.
    row : str
        The leaderboard row: model, recipe where it is not the model's own, and stated overrides of the recipe,
        as in ``unet-resnet50+retina@crop=96,batch=8``.
    digest : str
        Of the fingerprint.
    kind : {"published", "open", "synthetic"}
    way : tuple of str
        Digests of the weights it started from and of its recipe.
    curve : tuple of (int, float)
        Iteration and score of every snapshot.
    images : tuple of str
        Names of the test images or volumes.
    image_scores : tuple of float
        Score on each of them.
    record : str
        Digest of everything in the file.
    """

    path: Path
    result: TrialResult
    row: str
    digest: str
    kind: Kind
    way: tuple[str, str]
    curve: tuple[tuple[int, float], ...]
    images: tuple[str, ...] = ()
    image_scores: tuple[float, ...] = ()
    record: str = ""

    @property
    def column(self) -> tuple[str, str]:
        """Task and fingerprint digest: only trials of one column may be compared."""
        return self.result.task, self.digest

    @cached_property
    def score(self) -> float | None:
        """The protocol's score; ``None`` when the trial diverged."""
        return self.result.score

    @cached_property
    def tuned(self) -> float | None:
        """Mean IoU over the task's classes at the thresholds chosen on training images."""
        return _mean(self._diagnostics("tuned_iou"))

    @cached_property
    def average_precision(self) -> float | None:
        """Mean average precision over the task's classes that have test pixels."""
        return _mean(self._diagnostics("average_precision"))

    @property
    def artefact(self) -> bool:
        """Whether the score is near 0 only because of the threshold."""
        return (
            self.score is not None
            and self.tuned is not None
            and self.score <= NEAR_ZERO
            and self.tuned >= self.score + CLEARLY_LARGER
        )

    def _diagnostics(self, name: str) -> list[float | None]:
        final = self.result.final
        values = None if final is None else getattr(final.diagnostics, name, None)  # label maps have no scores
        return [values.get(label) for label in self.result.fingerprint.scoring["classes"]] if values else []


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
        return self.scores if measure == "score" else self._average_precisions

    @cached_property
    def _average_precisions(self) -> Floats:
        known = [trial.average_precision for trial in self.trials if trial.score is not None]
        return np.array([value for value in known if value is not None], float)

    @cached_property
    def image_scores(self) -> dict[str, float]:
        """Score by test image or volume, the mean over the trials that finished; those all had the same images."""
        finished = [trial for trial in self.trials if trial.score is not None]
        if not finished or any(trial.images != finished[0].images for trial in finished):
            return {}
        means = np.mean([trial.image_scores for trial in finished], axis=0)
        return dict(sorted(zip(finished[0].images, means.tolist(), strict=True)))

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN when none finished."""
        return float(self.scores.mean()) if len(self.scores) else float("nan")

    @property
    def spread(self) -> float:
        """Standard deviation over seeds (n - 1); NaN below two."""
        return float(self.scores.std(ddof=1)) if len(self.scores) > 1 else float("nan")

    @property
    def artefacts(self) -> int:
        """How many scores are near 0 only because of the threshold."""
        return sum(trial.artefact for trial in self.trials)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The figures that the pages show: centre, spread, diagnostics and what went wrong."""
        scores = self.scores
        few = scores.tolist() * 3 if len(scores) else [float("nan")] * 3
        q1, median, q3 = quantiles(scores, n=4, method="inclusive") if len(scores) > 1 else few
        finals = [trial.result.final for trial in self.trials]
        plain = _mean(final.plain_score for final in finals if final is not None)
        return {
            "n": len(scores),
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
        gap = _mean(gaps) or 0.0
        return gap if abs(gap) >= THRESHOLD_MATTERS else 0.0

    def mean_of(self, measure: str) -> float:
        """Return the mean over seeds of ``score``, ``tuned``, ``average_precision``; NaN without any."""
        value = _mean(getattr(trial, measure) for trial in self.trials)
        return float("nan") if value is None else value


@dataclass(frozen=True)
class Board:
    """Rows that may share a ranking, over columns of different tasks.

    ``layer`` counts boards of a kind: each has one fingerprint of a task, the next holds the task's next one.
    """

    kind: Kind
    layer: int
    columns: tuple[Column, ...]
    cells: dict[tuple[str, tuple[str, str]], Cell]
    published_rows: frozenset[str]

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
        return heading if self.layer == 0 else f"{heading}: further budgets or data ({self.layer + 1})"

    @cached_property
    def rows(self) -> list[str]:
        """Every row with a trial in any column, by name."""
        return sorted({row for row, _ in self.cells})

    @cached_property
    def ranked(self) -> list[str]:
        """Rows from which nothing is missing."""
        return self.ranked_by("score")

    def ranked_by(self, measure: Measure) -> list[str]:
        """Return the rows from which nothing is missing that a ranking by ``measure`` needs."""
        return self._ranked_by[measure]

    @cached_property
    def _ranked_by(self) -> dict[Measure, list[str]]:
        return {measure: [row for row in self.rows if not self.missing(row, measure)] for measure in MEASURES}

    def samples(self, row: str, measure: Measure) -> list[Floats]:
        """Return the values of a measure over seeds, by column."""
        return [self.cell(row, column).values(measure) for column in self.columns]

    def cell(self, row: str, column: Column) -> Cell:
        """Return the trials of a row in a column, maybe none."""
        return self.cells.get((row, column.key), Cell(()))

    def missing(self, row: str, measure: Measure = "score") -> list[str]:
        """Return what keeps a row from being ranked, one phrase per fault.

        A task without a trial, a diverged trial, fewer than three seeds on a task, a seed that the row has on
        another task only, or trials without the measure (label maps made elsewhere have no average precision).
        """
        faults: list[str] = []
        cells = [(column, self.cell(row, column)) for column in self.columns]
        if absent := [column.label for column, cell in cells if not cell.trials]:
            faults.append("no trial on " + ", ".join(absent))
        everywhere = {trial.result.seed for _, cell in cells for trial in cell.trials}
        for column, cell in cells:
            if not cell.trials:
                continue
            if cell.diverged:
                faults.append(f"{column.label}: seed {_list(cell.diverged)} diverged")
            if lacking := everywhere - {trial.result.seed for trial in cell.trials}:
                faults.append(f"{column.label}: no seed {_list(lacking)}")
            elif len(cell.trials) < FEWEST_SEEDS:
                faults.append(f"{column.label}: {len(cell.trials)} of at least {FEWEST_SEEDS} seeds")
            if len(cell.values(measure)) < len(cell.scores):
                faults.append(f"{column.label}: no {MEASURES[measure]}")
        return faults


def read(folders: Iterable[Path], *, remembered: bool = True) -> tuple[list[Trial], list[str]]:
    """Read every result under ``folders``, one at a time.

    Parameters
    ----------
    folders : iterable of Path
    remembered : bool
        Whether to keep beside the prepared data what was read, for the next time.

    Returns
    -------
    trials : list of Trial
        In order of path.
    refused : list of str
        One line per file left out, with the reason: unusable, or a trial that another file already holds.
    """
    folders = list(folders)
    trials: list[Trial] = []
    refused: list[str] = []
    paths = list(result_files(folders))
    if len(folders) > 1 or any(map(os.path.islink, paths)):
        places: dict[Path, Path] = {}
        for path in paths:
            places.setdefault(path.resolve(), path)
        paths = list(places.values())
    memory = Memory(folders)
    with memory if remembered else nullcontext():
        found = memory.read(paths)
    views: dict[int, _View] = {}  # by the recipe, which all trials of a model on a task share
    changes: dict[tuple[str, str], str] = {}
    for path, kept in zip(paths, found, strict=True):
        if isinstance(kept, list):
            refused += kept
        else:
            recipe = id(kept.result.recipe)
            if recipe not in views:
                views[recipe] = _view(kept.result, changes)
            trials.append(_trial(kept, path, views[recipe]))
    trials, duplicates = distinct(trials)
    return trials, refused + duplicates


def trial_of(result: TrialResult, path: Path) -> Trial:
    """Return the board's view of a result."""
    return _trial(keep(result), path, _view(result, {}))


@dataclass(frozen=True)
class _View:
    """What all trials of one recipe and model on one task have in common."""

    row: str
    digest: str
    kind: Kind
    way: tuple[str, str]


def _trial(kept: Kept, path: Path, view: _View) -> Trial:
    return Trial(
        path=path,
        result=kept.result,
        row=view.row,
        digest=view.digest,
        kind=view.kind,
        way=view.way,
        curve=kept.curve,
        images=kept.images,
        image_scores=kept.image_scores,
        record=kept.digest,
    )


def _view(result: TrialResult, changes: dict[tuple[str, str], str]) -> _View:
    task = known_task(result.task)
    recipe = digest_of(result.recipe)
    if (recipe, result.task) not in changes:
        changes[recipe, result.task] = overrides(result.recipe, task)
    changed = changes[recipe, result.task]
    own = result.pairing == "default" and not changed and result.track == "published"
    synthetic = result.synthetic or (task is not None and task.synthetic)
    weights = {"hash": result.model.weights_hash, "transfer": (result.weights or {}).get("transfer")}
    return _View(
        row=result.row + (f"@{changed}" if changed else ""),
        digest=result.fingerprint.digest,
        kind="synthetic" if synthetic else "published" if own else "open",
        way=(digest_of(weights), recipe),
    )


def distinct(trials: Sequence[Trial]) -> tuple[list[Trial], list[str]]:
    """Give rows of different recipes or weights different names, and refuse second files of one trial.

    Where a row has trials of one column made in several ways, the names of all its trials get a suffix: the
    first digits of the weights' hash, or of the recipe's digest where the weights agree.
    """
    ways: defaultdict[tuple[str, tuple[str, str]], set[tuple[str, str]]] = defaultdict(set)
    for trial in trials:
        ways[trial.row, trial.column].add(trial.way)
    by_weights = {row for (row, _), found in ways.items() if len({weights for weights, _ in found}) > 1}
    by_recipe = {row for (row, _), found in ways.items() if len({recipe for _, recipe in found}) > 1}
    kept: dict[tuple[str, tuple[str, str], int], Trial] = {}
    refused = []
    for trial in trials:
        weights, recipe = trial.way
        suffix = (f"#weights={weights[:6]}" if trial.row in by_weights else "") + (
            f"#recipe={recipe[:6]}" if trial.row in by_recipe else ""
        )
        named = replace(trial, row=trial.row + suffix) if suffix else trial
        key = (named.row, named.column, named.result.seed)
        if key in kept:
            refused.append(f"{trial.path}: the same trial as {kept[key].path}; keep one of them")
        else:
            kept[key] = named
    return list(kept.values()), refused


def boards(trials: Sequence[Trial], cells: Mapping[tuple[str, tuple[str, str]], Cell] | None = None) -> list[Board]:
    """Group trials into boards: by track, by synthetic or real, and one fingerprint per task.

    ``cells`` are the :func:`cells_of` these trials, where they are known already: boards share them.

    The published board holds the published pairings alone; the open board every pairing on the fingerprints that
    the open track uses, so that a pairing can be ranked against the published one.
    """
    columns, cells = columns_of(trials), cells_of(trials) if cells is None else cells
    found = []
    for kind in KINDS:
        keys = {trial.column for trial in trials if trial.kind == kind}
        members = [trial for trial in trials if trial.column in keys and (trial.kind == kind or kind == "open")]
        for layer, chosen in enumerate(_layers(members)):
            inside = {
                key: own
                for key, cell in cells.items()
                if key[1] in chosen and (own := cell if kind == "open" else _of_kind(cell, kind)).trials
            }
            found.append(
                Board(
                    kind=kind,
                    layer=layer,
                    columns=tuple(column for column in columns if column.key in chosen),
                    cells=inside,
                    published_rows=frozenset(
                        row for (row, _), cell in inside.items() if any(map(is_published_pairing, cell.trials))
                    ),
                )
            )
    return found


def _of_kind(cell: Cell, kind: Kind) -> Cell:
    trials = tuple(trial for trial in cell.trials if trial.kind == kind)
    return cell if len(trials) == len(cell.trials) else Cell(trials)


def is_published_pairing(trial: Trial) -> bool:
    """Whether the model ran under its own recipe, without overrides, for the published budget."""
    return trial.result.track == "published" and trial.result.pairing == "default" and "@" not in trial.row


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
    found = []
    for (task, digest), trial in first.items():
        mark = trial.result.fingerprint
        label = task if tasks[task] == 1 else f"{task}, {mark.iterations} iterations"
        label += f", {digest[:6]}" if budgets[task, mark.iterations] > 1 else ""
        found.append(Column(task, digest, label, mark, trial.kind == "synthetic", known_task(task)))
    return sorted(found, key=lambda column: (_order(column.task), column.fingerprint.iterations, column.digest))


def frame(trials: Iterable[Trial]) -> pd.DataFrame:
    """Return one line per trial: what the statistics and the downloads start from."""
    return pd.DataFrame(
        [
            {
                "row": trial.row,
                "model": trial.result.model.name,
                "pairing": trial.result.pairing,
                "kind": trial.kind,
                "task": trial.result.task,
                "fingerprint": trial.digest,
                "seed": trial.result.seed,
                "status": trial.result.status,
                "score": trial.score,
                "plain_score": None if trial.result.final is None else trial.result.final.plain_score,
                "tuned_iou": trial.tuned,
                "average_precision": trial.average_precision,
                "threshold_artefact": trial.artefact,
                "iterations_asked": trial.result.iterations_asked,
                "iterations_done": trial.result.iterations_done,
                "seconds_training": trial.result.seconds_training,
                "seconds_prediction": trial.result.seconds_prediction,
                "peak_memory_bytes": trial.result.peak_memory_bytes,
                "parameters": trial.result.model.parameters,
                "trained_parameters": trial.result.model.trained_parameters,
                "data_hash": trial.result.fingerprint.data_hash,
            }
            for trial in trials
        ]
    )


def bootstrap(row: str, samples: Sequence[Floats], seed: int, draws: int = 10_000) -> dict[str, Floats]:
    """Return the bootstrap draws over seeds that a row is ranked by, from a random stream of its own.

    What other rows there are changes nothing here.

    Returns
    -------
    dict
        ``means``, shape (draws,): of the mean over tasks of the mean over seeds; ``middles``, shape (2000,) or
        (draws,) if those are fewer: of the interquartile mean.
    """
    generator = np.random.default_rng([seed, *row.encode()])
    return {
        "means": statistics.bootstrap_means(samples, generator, draws),
        "middles": statistics.bootstrap_interquartile_means(samples, generator, min(draws, 2000)),
    }


def rank(
    board: Board,
    seed: int,
    draws: int = 10_000,
    measure: Measure = "score",
    drawn: Mapping[str, Mapping[str, Floats]] | None = None,
) -> pd.DataFrame:
    """Rank the complete rows of a board by the mean over tasks of the mean over seeds of a measure.

    ``drawn`` are the :func:`bootstrap` draws of these rows (and maybe of others), where they are known already.

    Two spreads, never mixed: over seeds (the models trained again: ``low`` to ``rank_high`` and ``group``) and over
    test images (the same models on other images of the same kind: ``image_*``). Average precision is taken over
    all test pixels at once and has the first alone.

    Returns
    -------
    DataFrame
        Per ranked row, best first: ``row``, ``rank``, ``rank_low``, ``rank_high`` (bootstrap over seeds, 95 %),
        ``group`` (rows of one cannot be told from its best), ``mean``, ``low``, ``high`` (over seeds),
        ``image_low``, ``image_high``, ``image_rank_low``, ``image_rank_high`` (over test images; NaN and all ranks
        where there is nothing to resample), ``image_tasks`` (how many of the tasks have several test images and
        were resampled), ``interquartile_mean`` of all runs on all tasks (``interquartile_low``, ``interquartile_high``:
        95 %, over seeds), ``mean_rank`` and ``mean_average_precision``.
    """
    rows = board.ranked_by(measure)
    if not rows:
        return pd.DataFrame(columns=["row", "rank"]).astype({"rank": int})
    samples = {row: board.samples(row, measure) for row in rows}
    if drawn is None:
        drawn = {row: bootstrap(row, samples[row], seed, draws) for row in rows}
    means_drawn = np.stack([drawn[row]["means"] for row in rows], axis=1)
    images = [image_table([board.cell(row, column) for row in rows]) for column in board.columns]
    if measure != "score":
        images = [table[:, :1] for table in images]
    drawn_images = statistics.bootstrap_images(images, np.random.default_rng(seed), draws)
    per_task = np.array([[sample.mean() for sample in samples[row]] for row in rows])
    means = per_task.mean(axis=1)
    ranges, image_ranges = statistics.rank_intervals(means_drawn), statistics.rank_intervals(drawn_images)
    low, high = _intervals(means_drawn)
    image_low, image_high = _intervals(drawn_images)
    middle_low, middle_high = _intervals(np.stack([drawn[row]["middles"] for row in rows], axis=1))
    ranking = pd.DataFrame(
        {
            "row": rows,
            "rank": pd.Series(-means).rank(method="min").astype(int),
            "rank_low": ranges[:, 0],
            "rank_high": ranges[:, 1],
            "group": statistics.tie_groups(means_drawn, means),
            "mean": means,
            "low": low,
            "high": high,
            "image_low": image_low,
            "image_high": image_high,
            "image_rank_low": image_ranges[:, 0],
            "image_rank_high": image_ranges[:, 1],
            "image_tasks": sum(table.shape[1] > 1 for table in images),
            "interquartile_mean": [statistics.interquartile_mean(samples[row]) for row in rows],
            "interquartile_low": middle_low,
            "interquartile_high": middle_high,
            "mean_rank": statistics.mean_ranks(per_task.T),
            "mean_average_precision": [
                float(np.mean([board.cell(row, column).mean_of("average_precision") for column in board.columns]))
                for row in rows
            ],
        }
    )
    return ranking.sort_values(["rank", "row"], ignore_index=True)


def intervals(cells: Mapping[str, Cell], seed: int, drawn: Mapping[str, Mapping[str, Floats]]) -> pd.DataFrame:
    """Return the two spreads of every cell of one column, indexed by row.

    ``drawn`` are the :func:`bootstrap` draws of every row on this column, by which it is ranked there too.

    Returns
    -------
    DataFrame
        ``low``, ``high``: 95 % interval of the mean over seeds; ``image_low``, ``image_high``: of the mean over
        test images, the models taken as they are; ``images``: how many there are. NaN below two of either.
    """
    found = pd.DataFrame(index=pd.Index(list(cells), name="row"))
    found["low"], found["high"] = _intervals(np.stack([drawn[row]["means"] for row in cells], axis=1))
    images = image_table(list(cells.values()))
    drawn_images = statistics.bootstrap_images([images], np.random.default_rng(seed))
    found["image_low"], found["image_high"] = _intervals(drawn_images)
    found["images"] = images.shape[1]
    return found


def seeds_pair(first: Cell, second: Cell) -> list[tuple[Trial, Trial]]:
    """Return the finished trials of two cells that drew the same random streams: same model, recipe and seed.

    The harness draws from (model, recipe name, task, seed), so seed 0 of two different models has nothing in common.
    """
    by_stream = {_stream(trial): trial for trial in second.trials if trial.score is not None}
    return [
        (trial, by_stream[_stream(trial)])
        for trial in first.trials
        if trial.score is not None and _stream(trial) in by_stream
    ]


def image_table(cells: Sequence[Cell]) -> Floats:
    """Return the scores of one column's cells on its test images, shape (rows, images).

    The images are those of most cells; a cell scored on others (a file from elsewhere) or not at all is NaN.
    """
    names = Counter(tuple(cell.image_scores) for cell in cells if cell.image_scores)
    images = min(names, key=lambda each: (-names[each], each), default=())
    return np.array(
        [
            list(cell.image_scores.values()) if tuple(cell.image_scores) == images else [np.nan] * len(images)
            for cell in cells
        ],
        float,
    ).reshape(len(cells), -1)


def differences(first: Fingerprint, second: Fingerprint) -> list[str]:
    """Return why scores of two fingerprints may not be compared, one line per fact; empty when they may."""
    one, two = first.model_dump(mode="json"), second.model_dump(mode="json")
    return [f"{name}: {_brief(one[name])} against {_brief(two[name])}" for name in one if one[name] != two[name]]


def circumstances(first: Trial, second: Trial) -> list[str]:
    """Return in what two trials differ that does not keep them from being compared, one line per fact."""
    one, two = first.result, second.result
    facts: dict[str, tuple[Any, Any]] = {
        "row": (first.row, second.row),
        "seed": (one.seed, two.seed),
        "board": (first.kind, second.kind),
        "status": (one.status, two.status),
        "parameters": (one.model.parameters, two.model.parameters),
        "pre-training data": (one.model.pretraining_data, two.model.pretraining_data),
        "weights": (one.model.weights_hash or "none", two.model.weights_hash or "none"),
    }
    for part, left, right in (("recipe", one.recipe, two.recipe), ("environment", one.environment, two.environment)):
        facts |= {f"{part}.{name}": (left.get(name), right.get(name)) for name in sorted(left.keys() | right.keys())}
    return [f"{name}: {_brief(a)} against {_brief(b)}" for name, (a, b) in facts.items() if a != b]


def overrides(recipe: dict[str, Any], task: Task | None) -> str:
    """Return how a trial's recipe departs from the named one at the task's own sizes, as ``crop=96,batch=8``.

    Empty where it does not, and for a recipe that an adapter defines itself.
    """
    try:
        own = find_recipe(str(recipe.get("name")))
    except BadInput:
        return ""
    if task is not None:
        own = own.for_task(task)
    changed = []
    for name, short in (("crop", "crop"), ("batch_size", "batch")):
        expected = getattr(own, name)
        if expected is not None and recipe.get(name) != expected:
            changed.append(f"{short}={recipe[name]}" if isinstance(recipe.get(name), int) else short)
    crop, batch_size = (value if isinstance(value := recipe.get(key), int) else None for key in ("crop", "batch_size"))
    resized = asdict(own.resized(crop=crop, batch_size=batch_size))
    for name, value in resized.items():
        if name in ("name", "crop", "batch_size") or name not in recipe or recipe[name] == value:
            continue
        if name == "inference":
            changed.append(_inference_change(value, recipe[name]))
        else:
            found = str(recipe[name])
            changed.append(f"{name}={found}" if isinstance(recipe[name], float | int) or is_name(found) else name)
    return ",".join(changed)


def command(trials: Sequence[Trial]) -> str:
    """Return the command that makes these trials of one row and column again."""
    result = trials[0].result
    seeds = sorted(trial.result.seed for trial in trials)
    if result.status == "submitted":
        return f"embench score --task {result.task} --predictions DIR --name {result.model.name} --seed {seeds[0]}"
    parts = ["embench run", f"--model {result.model.name}", f"--task {result.task}"]
    if result.pairing != "default":
        parts.append(f"--recipe {result.pairing}")
    task = known_task(result.task)
    for override in overrides(result.recipe, task).split(","):
        name, _, value = override.partition("=")
        if name in ("crop", "batch", "precision", "overlap"):
            parts.append(f"--{'batch-size' if name == 'batch' else name} {value}")
    if task is None or task.iterations != result.iterations_asked:
        parts.append(f"--iterations {result.iterations_asked}")
    parts.append(f"--snapshots {max(len(trial.curve) for trial in trials)}")
    if seeds[0]:
        parts.append(f"--first-seed {seeds[0]}")
    parts.append(f"--seeds {seeds[-1] - seeds[0] + 1}")
    return " ".join(parts)


@cache
def slug(row: str) -> str:
    """Return a file name for a row: itself where it is one, else cleaned and with digits of its digest."""
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", row).strip("-.")
    return cleaned if cleaned == row else f"{cleaned}-{digest_of(row)[:6]}"


@cache
def known_task(name: str) -> Task | None:
    """Return the facts of a registered task or of one prepared here; ``None`` where there are none."""
    try:
        return find_task(name)
    except BadInput:
        return None


def _intervals(draws: Floats) -> tuple[Floats, Floats]:
    """Return the interval of each column of draws, kept within 0 and 1 as scores are."""
    found = statistics.intervals(draws).clip(0, 1)
    return found[:, 0], found[:, 1]


def _inference_change(own: dict[str, Any], found: Any) -> str:
    """Return ``overlap=0.25`` where only the window's overlap differs, else ``inference``."""
    if isinstance(found, dict) and found.keys() == own.keys():
        values = {str(found[key]) for key in own if found[key] != own[key] and key.startswith("overlap")}
        others = [key for key in own if found[key] != own[key] and not key.startswith("overlap")]
        if len(values) == 1 and not others and is_name(*values):
            return f"overlap={values.pop()}"
    return "inference"


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


def _stream(trial: Trial) -> tuple[str, str, int]:
    return trial.result.model.name, str(trial.result.recipe.get("name")), trial.result.seed


def _order(task: str) -> tuple[int, str]:
    """Published benchmarks in the order of the protocol, then by name."""
    published = ["cremi", "guay", "kasthuri", "perez-lyso", "perez-mito", "perez-nuclei", "perez-nucleoli", "urocell"]
    bare = task.removeprefix("mini-")
    return (published.index(bare) if bare in published else len(published), task)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _list(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

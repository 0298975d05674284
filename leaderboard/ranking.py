"""Ranks, intervals and bootstrap draws of a board."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from math import nan

import numpy as np
import pandas as pd

from leaderboard.boards import Board, Cell, Column
from leaderboard.stats import bootstrap as bootstrap_module
from leaderboard.stats import components, several
from leaderboard.stats import tests as tests_module
from leaderboard.stats.agreement import Way, summed_up, ways
from leaderboard.stats.comparison import spread_of
from leaderboard.stats.pairwise import Compared
from leaderboard.stats.tests import Floats
from leaderboard.trials import MEASURES, Measure, Trial, stream_of


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


def rank(
    board: Board, seed: int, draws: int = 10_000, measure: Measure = "score", column: Column | None = None
) -> pd.DataFrame:
    """Rank the complete rows of a board by the mean over benchmarks of the mean over seeds of a measure.

    On one task where a ``column`` is given: then every row with enough seeds there is ranked.

    Ranks, their intervals, letters and ``low`` to ``high`` come from :class:`leaderboard.stats.ranking.Ranking` and
    speak of the models trained again. ``image_low`` to ``image_high`` speak of the same models on other images of the
    same kind, and are never mixed with them. Average precision is taken over all test pixels at once and has the
    first alone.

    Returns
    -------
    DataFrame
        Per ranked row, best first: ``row``, ``rank``, ``rank_low``, ``rank_high`` (which all hold at once),
        ``letters``, ``mean``, ``low``, ``high`` (95 %, over seeds), ``failed`` and ``runs`` (how many failed, of how
        many), ``image_low``, ``image_high`` (95 %, over test images; NaN where there is nothing to resample),
        ``image_tasks`` (how many of the tasks have several test images and were resampled), ``interquartile_mean`` of
        all finished runs on all tasks (``interquartile_low``, ``interquartile_high``: 95 %, over seeds),
        ``mean_rank`` over benchmarks and ``mean_average_precision``.
    """
    ranking = board.ranking(measure) if column is None else board.ranking_on(column, measure)
    columns = board.columns if column is None else (column,)
    rows = list(ranking.models)
    if not rows:
        return pd.DataFrame(columns=["row", "rank"]).astype({"rank": int})
    found = ranking.table.rename(columns={"model": "row"})
    found["low"], found["high"] = np.array([mean.interval() for mean in ranking.means]).T.clip(0, 1)
    found["runs"] = ranking.runs
    images = [image_table([board.cell(row, each) for row in rows]) for each in columns]
    if measure != "score":
        images = [table[:, :1] for table in images]
    weights = board.runs[measure].weights if column is None else None
    drawn = bootstrap_module.bootstrap_images(images, np.random.default_rng(seed), draws, weights=weights)
    found["image_low"], found["image_high"] = _intervals(drawn)
    found["image_tasks"] = sum(table.shape[1] > 1 for table in images)
    middles = []
    for row in rows:
        samples = [values for each in columns if len(values := board.cell(row, each).values(measure))]
        generator = np.random.default_rng([seed, *row.encode()])
        middle = bootstrap_module.interquartile_mean(samples) if samples else nan
        interval = bootstrap_module.bootstrap_interquartile_means(samples, generator, min(draws, 2000))
        middles.append((middle, *bootstrap_module.intervals(interval[:, None])[0].clip(0, 1)))
    found["interquartile_mean"], found["interquartile_low"], found["interquartile_high"] = np.array(middles).T
    by_benchmark = benchmark_means(board, rows, measure) if column is None else found["mean"].to_numpy()[None]
    found["mean_rank"] = several.mean_ranks(by_benchmark)
    found["mean_average_precision"] = [
        float(np.mean([board.cell(row, each).mean_of("average_precision") for each in columns])) for row in rows
    ]
    return found


def ways_to_rank(board: Board, column: Column | None = None) -> tuple[list[str], list[Way]]:
    """Rank the rows that are ranked under every measure, by each, and by other sums over runs of the protocol's score.

    Returns
    -------
    rows : list of str
        Best first by the protocol's score.
    ways : list of Way
        That one first.
    """
    rankings = {
        measure: board.ranking(measure) if column is None else board.ranking_on(column, measure)
        for measure in board.measures
    }
    rows = [row for row in rankings["score"].models if all(row in each.models for each in rankings.values())]
    runs = board.runs["score"] if column is None else board.runs["score"].on(column.task, rows)
    columns = board.columns if column is None else (column,)
    by_task = {each.task: each for each in columns}
    values: dict[str, Floats] = {}
    for measure, ranking in rankings.items():
        means = dict(zip(ranking.models, ranking.means, strict=True))
        values[MEASURES[measure]] = np.array([means[row].value for row in rows])
    tuned = [[board.cell(row, by_task[task]).mean_of("tuned") for task in runs.tasks] for row in rows]
    if rows and not np.isnan(tuned).any():
        values["tuned IoU"] = np.array(tuned) @ np.array(runs.weights)
    if rows:
        samples = [[runs.samples[row, task].scores for task in runs.tasks] for row in rows]
        values |= summed_up(samples, runs.weights)
    return rows, ways(values)


def spreads(board: Board, column: Column, rows: Sequence[str], seed: int) -> pd.DataFrame:
    """Return the two spreads of every row on a task, indexed by row.

    Returns
    -------
    DataFrame
        ``low``, ``high``: 95 % interval of the mean over seeds; ``image_low``, ``image_high``: of the mean over
        test images, the models taken as they are; ``images``: how many there are. NaN below two of either. And the
        variance components as standard deviations: ``sd_seed``, ``sd_image``, ``sd_both``.
    """
    found = pd.DataFrame(index=pd.Index(list(rows), name="row"))
    cells = [board.cell(row, column) for row in rows]
    means = [board.runs["score"].mean_on(row, column.task) for row in rows]
    found["low"], found["high"] = np.array([mean.interval() for mean in means]).T.clip(0, 1)
    images = image_table(cells)
    drawn_images = bootstrap_module.bootstrap_images([images], np.random.default_rng(seed))
    found["image_low"], found["image_high"] = _intervals(drawn_images)
    found["images"] = images.shape[1]
    parts = []
    for cell in cells:
        scored = [trial for trial in cell.trials if trial.score is not None]
        same = len({trial.images for trial in scored}) == 1
        parts.append(components.components([trial.image_scores for trial in scored]) if same else components.UNKNOWN)
    found["sd_seed"], found["sd_image"], found["sd_both"] = np.array([[p.seed, p.image, p.both] for p in parts]).T
    return found


def neighbours(cells: Sequence[Cell]) -> bool:
    """Whether test images are sections of one stack: alike, so that an interval over them is too narrow."""
    names, _ = by_volume(cells)
    return len(set(names)) < len(names)


def benchmark_means(board: Board, rows: Sequence[str], measure: Measure = "score") -> Floats:
    """Return the mean of every row on every benchmark, shape (benchmarks, rows): tasks of one weigh together."""
    runs = board.runs[measure]
    by_task = np.array([[runs.mean_on(row, task).value for row in rows] for task in runs.tasks])
    names = np.array(runs.benchmarks)
    return np.array([by_task[names == name].mean(axis=0) for name in dict.fromkeys(runs.benchmarks)])


def compared(board: Board, column: Column, rows: Sequence[str], measure: Measure = "score") -> Compared:
    """Compare every pair of rows on one task, under every test, by a measure."""
    runs, tests = board.runs[measure], board.on_tasks(measure)
    samples = [runs.samples[row, column.task] for row in rows]
    means = [runs.mean_on(row, column.task) for row in rows]
    places = [tests.models.index(row) for row in rows]
    cells = [board.cell(row, column) for row in rows]
    images, (names, volumes) = image_table(cells), by_volume(cells)
    alone = images.shape[1] == len(set(names))
    if measure != "score":  # it alone is kept of every image
        images, volumes = images[:, :1], [table[:, :1] for table in volumes]
    low, high, _ = components.crossed(volumes)
    return Compared(
        rows=rows,
        n=np.array([int((~sample.failed).sum()) for sample in samples]),
        failed=np.array([int(sample.failed.sum()) for sample in samples]),
        means=np.array([mean.value for mean in means]),
        medians=np.array([float(np.median(sample.scores)) for sample in samples]),
        spreads=np.array([spread_of(mean) for mean in means]),
        welch=tests.differences[tests.tasks.index(column.task)].of(places),
        ranks=tests_module.compare_all([sample.scores for sample in samples]),
        images=images.shape[1],
        p_images=tests_module.signed_rank_all(images) if alone else np.full((len(rows), len(rows)), nan),
        crossed=(low, high),
    )


def by_volume(cells: Sequence[Cell]) -> tuple[list[str], list[Floats]]:
    """Return the volume of every test image, and each cell's scores (seeds, volumes): means over sections of one stack.

    An image of its own is a volume of its own. A cell scored on other images, or not at all, has no line.
    """
    names = Counter(trial.images for cell in cells for trial in cell.trials if trial.score is not None)
    images = min(names, key=lambda each: (-names[each], each), default=())
    volumes = [stack_of(image) for image in images]
    order = list(dict.fromkeys(volumes))
    mean = np.array([[volume == each for each in order] for volume in volumes], float)
    mean = mean / mean.sum(axis=0) if len(images) else mean.reshape(0, 0)
    tables = []
    for cell in cells:
        scores = [trial.image_scores for trial in cell.trials if trial.score is not None and trial.images == images]
        tables.append(np.array(scores, float).reshape(len(scores), len(images)) @ mean)
    return volumes, tables


def stack_of(image: str) -> str:
    """Return the stack that a test image is a section of: those of one are ``NAME-z0000``, ``NAME-z0001``, …"""
    return re.sub(r"-z\d+$", "", image)


def seeds_pair(first: Cell, second: Cell) -> list[tuple[Trial, Trial]]:
    """Return the finished trials of two cells that drew the same random streams: same model, recipe and seed.

    The harness draws from (model, recipe name, task, seed), so seed 0 of two different models has nothing in common.
    """
    by_stream = {stream_of(trial): trial for trial in second.trials if trial.score is not None}
    return [
        (trial, by_stream[stream_of(trial)])
        for trial in first.trials
        if trial.score is not None and stream_of(trial) in by_stream
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


def _intervals(draws: Floats) -> tuple[Floats, Floats]:
    """Return the interval of each column of draws, kept within 0 and 1 as scores are."""
    found = bootstrap_module.intervals(draws).clip(0, 1)
    return found[:, 0], found[:, 1]

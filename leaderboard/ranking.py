"""Ranks, intervals and bootstrap draws of a board."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import nan

import numpy as np
import pandas as pd

from leaderboard.boards import Board, Cell
from leaderboard.stats import bootstrap as bootstrap_module
from leaderboard.stats import several
from leaderboard.stats.tests import Floats
from leaderboard.trials import Measure, Trial, stream_of


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


def rank(board: Board, seed: int, draws: int = 10_000, measure: Measure = "score") -> pd.DataFrame:
    """Rank the complete rows of a board by the mean over benchmarks of the mean over seeds of a measure.

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
    ranking = board.ranking(measure)
    rows = list(ranking.models)
    if not rows:
        return pd.DataFrame(columns=["row", "rank"]).astype({"rank": int})
    found = ranking.table.rename(columns={"model": "row"})
    found["low"], found["high"] = np.array([mean.interval() for mean in ranking.means]).T.clip(0, 1)
    found["runs"] = ranking.runs
    images = [image_table([board.cell(row, column) for row in rows]) for column in board.columns]
    if measure != "score":
        images = [table[:, :1] for table in images]
    drawn = bootstrap_module.bootstrap_images(
        images, np.random.default_rng(seed), draws, weights=board.runs[measure].weights
    )
    found["image_low"], found["image_high"] = _intervals(drawn)
    found["image_tasks"] = sum(table.shape[1] > 1 for table in images)
    middles = []
    for row in rows:
        samples = [sample for sample in board.samples(row, measure) if len(sample)]
        generator = np.random.default_rng([seed, *row.encode()])
        middle = bootstrap_module.interquartile_mean(samples) if samples else nan
        interval = bootstrap_module.bootstrap_interquartile_means(samples, generator, min(draws, 2000))
        middles.append((middle, *bootstrap_module.intervals(interval[:, None])[0].clip(0, 1)))
    found["interquartile_mean"], found["interquartile_low"], found["interquartile_high"] = np.array(middles).T
    found["mean_rank"] = several.mean_ranks(benchmark_means(board, rows, measure))
    found["mean_average_precision"] = [
        float(np.mean([board.cell(row, column).mean_of("average_precision") for column in board.columns]))
        for row in rows
    ]
    return found


def benchmark_means(board: Board, rows: Sequence[str], measure: Measure = "score") -> Floats:
    """Return the mean of every row on every benchmark, shape (benchmarks, rows): tasks of one weigh together."""
    runs = board.runs[measure]
    by_task = np.array([[runs.mean_on(row, task).value for row in rows] for task in runs.tasks])
    names = np.array(runs.benchmarks)
    return np.array([by_task[names == name].mean(axis=0) for name in dict.fromkeys(runs.benchmarks)])


def intervals(board: Board, rows: Sequence[str], seed: int) -> pd.DataFrame:
    """Return the two spreads of every row of a board of one column, indexed by row.

    Returns
    -------
    DataFrame
        ``low``, ``high``: 95 % interval of the mean over seeds; ``image_low``, ``image_high``: of the mean over
        test images, the models taken as they are; ``images``: how many there are. NaN below two of either.
    """
    (column,) = board.columns
    found = pd.DataFrame(index=pd.Index(list(rows), name="row"))
    means = [board.runs["score"].mean_on(row, column.task) for row in rows]
    found["low"], found["high"] = np.array([mean.interval() for mean in means]).T.clip(0, 1)
    images = image_table([board.cell(row, column) for row in rows])
    drawn_images = bootstrap_module.bootstrap_images([images], np.random.default_rng(seed))
    found["image_low"], found["image_high"] = _intervals(drawn_images)
    found["images"] = images.shape[1]
    return found


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

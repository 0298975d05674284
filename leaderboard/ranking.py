"""Ranks, intervals and bootstrap draws of a board."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

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
        "means": bootstrap_module.bootstrap_means(samples, generator, draws),
        "middles": bootstrap_module.bootstrap_interquartile_means(samples, generator, min(draws, 2000)),
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
    drawn_images = bootstrap_module.bootstrap_images(images, np.random.default_rng(seed), draws)
    per_task = np.array([[sample.mean() for sample in samples[row]] for row in rows])
    means = per_task.mean(axis=1)
    ranges, image_ranges = bootstrap_module.rank_intervals(means_drawn), bootstrap_module.rank_intervals(drawn_images)
    low, high = _intervals(means_drawn)
    image_low, image_high = _intervals(drawn_images)
    middle_low, middle_high = _intervals(np.stack([drawn[row]["middles"] for row in rows], axis=1))
    ranking = pd.DataFrame(
        {
            "row": rows,
            "rank": pd.Series(-means).rank(method="min").astype(int),
            "rank_low": ranges[:, 0],
            "rank_high": ranges[:, 1],
            "group": bootstrap_module.tie_groups(means_drawn, means),
            "mean": means,
            "low": low,
            "high": high,
            "image_low": image_low,
            "image_high": image_high,
            "image_rank_low": image_ranges[:, 0],
            "image_rank_high": image_ranges[:, 1],
            "image_tasks": sum(table.shape[1] > 1 for table in images),
            "interquartile_mean": [bootstrap_module.interquartile_mean(samples[row]) for row in rows],
            "interquartile_low": middle_low,
            "interquartile_high": middle_high,
            "mean_rank": several.mean_ranks(per_task.T),
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

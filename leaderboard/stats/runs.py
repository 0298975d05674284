"""A table of runs, checked and cut into the samples that tests want."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from embench.core.errors import BadInput
from leaderboard.stats.means import Floats, Mean, mean_of

BENCHMARKS: Mapping[str, str] = {f"perez-{name}": "perez" for name in ("lyso", "mito", "nuclei", "nucleoli")}
"""Published tasks that are parts of one benchmark; every other task is a benchmark of its own (protocol 1)."""

NEEDED = ("model", "task", "seed", "score")


def benchmark_of(task: str) -> str:
    """Return the benchmark that a task is part of."""
    bare = task.removeprefix("mini-")
    return task.removesuffix(bare) + BENCHMARKS[bare] if bare in BENCHMARKS else task


@dataclass(frozen=True)
class Sample:
    """The runs of one model on one task, in order of seed.

    Parameters
    ----------
    scores : ndarray, shape (n,)
        A failed run has the task's floor: 0, or the lowest score of any run there where that is below 0.
    failed : ndarray of bool, shape (n,)
    seeds : tuple
    checkpoints : tuple
        What every run started from; ``None`` where nothing is said.
    images : ndarray, shape (n, images), optional
        Scores by test image; NaN where the run failed. ``None`` where the table has none.
    """

    scores: Floats
    failed: np.ndarray[tuple[int], np.dtype[np.bool_]]
    seeds: tuple[object, ...]
    checkpoints: tuple[object, ...]
    images: Floats | None = None


@dataclass(frozen=True)
class Runs:
    """Runs by model and task; every model has a sample on every task.

    Parameters
    ----------
    models, tasks : tuple of str
        In order of name.
    benchmarks : tuple of str
        Of every task.
    samples : mapping of (model, task) to Sample
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    benchmarks: tuple[str, ...]
    samples: Mapping[tuple[str, str], Sample]

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """What every task weighs in the overall mean: benchmarks weigh the same, and tasks within one."""
        sizes = {name: self.benchmarks.count(name) for name in self.benchmarks}
        return tuple(1 / (len(sizes) * sizes[name]) for name in self.benchmarks)

    def mean(self, model: str) -> Mean:
        """Return the mean over benchmarks of the mean over seeds, with its error."""
        return self._mean(model, self.tasks, self.weights)

    def mean_on(self, model: str, task: str) -> Mean:
        """Return the mean over seeds on one task, with its error."""
        return self._mean(model, (task,), (1.0,))

    def _mean(self, model: str, tasks: Sequence[str], weights: Sequence[float]) -> Mean:
        samples = [self.samples[model, task] for task in tasks]
        return mean_of([each.scores for each in samples], weights, [each.checkpoints for each in samples])

    def failed(self, model: str) -> int:
        """Return how many runs of a model have no score."""
        return sum(int(self.samples[model, task].failed.sum()) for task in self.tasks)

    def count(self, model: str) -> int:
        """Return how many runs a model has, those that failed among them."""
        return sum(len(self.samples[model, task].scores) for task in self.tasks)


def runs_of(frame: pd.DataFrame) -> Runs:
    """Check a table of runs.

    A run that a model has on one task and lacks on another (its seed, or with several checkpoints its seed and
    checkpoint) counts as failed there, as does one whose score is NaN or that lacks one of the task's images.

    Parameters
    ----------
    frame : DataFrame
        One line a run: ``model``, ``task``, ``seed``, ``score`` (larger is better; NaN for a failed run), and maybe
        ``benchmark`` (tasks of one benchmark weigh together), ``checkpoint`` (what pre-training the run started
        from) and ``image`` (then one line an image, and a run's score is their mean). Other columns are ignored.

    Raises
    ------
    BadInput
        A column is absent, a score is no number or infinite, a name is missing, a task is in two benchmarks, or a run
        or an image stands there twice.
    """
    if absent := [name for name in NEEDED if name not in frame.columns]:
        raise BadInput(f"the table has no column {', '.join(absent)}; it needs {', '.join(NEEDED)}")
    keys = ["model", "task", "seed"]
    optional = [name for name in ("benchmark", "checkpoint", "image") if name in frame.columns]
    table = frame[[*NEEDED, *optional]].reset_index(drop=True)
    scores = pd.to_numeric(table["score"], errors="coerce").astype(float)
    if (strange := scores.isna() & table["score"].notna()).any():
        raise BadInput(f"score {table['score'][strange].iloc[0]!r}: give a number, or NaN for a failed run")
    if np.isinf(scores).any():
        raise BadInput("an infinite score: give a number, or NaN for a failed run")
    for name in [*keys, *(name for name in optional if name != "checkpoint")]:
        if table[name].isna().any():
            raise BadInput(f"column {name}: a line has no value; every run needs one")
    table["score"] = scores
    for name in ("model", "task", *(name for name in optional if name == "benchmark")):
        table[name] = table[name].astype(str)
    within = [*keys, *(["image"] if "image" in optional else [])]
    if (twice := table.duplicated(within)).any():
        found = ", ".join(f"{name} {table[name][twice].iloc[0]}" for name in within)
        raise BadInput(f"{found}: there twice; keep one of them")
    if "benchmark" in optional:
        pairs = table[["task", "benchmark"]].drop_duplicates()
        if (several := pairs["task"].duplicated()).any():
            raise BadInput(f"task {pairs['task'][several].iloc[0]}: in two benchmarks; a task is part of one")
        benchmark = dict(zip(pairs["task"], pairs["benchmark"], strict=True))
    else:
        benchmark = {task: benchmark_of(task) for task in table["task"].unique()}
    return _cut(table, benchmark)


def _cut(table: pd.DataFrame, benchmark: Mapping[str, str]) -> Runs:
    models, tasks = sorted(table["model"].unique()), sorted(table["task"].unique())
    by_image = "image" in table.columns
    floors = table.groupby("task")["score"].min().clip(upper=0).fillna(0.0).to_dict()
    images = table.groupby("task")["image"].unique().map(list).to_dict() if by_image else {}
    groups = dict(iter(table.groupby(["model", "task"])))
    seeds = {model: _in_order(group["seed"].unique().tolist()) for model, group in table.groupby("model")}
    samples = {}
    for model in models:
        for task in tasks:
            group = groups.get((model, task))
            own = seeds[model]
            scores = dict.fromkeys(own, np.nan)
            starts: dict[object, object] = dict.fromkeys(own)
            parts = None
            if group is not None and by_image:
                whole = group.pivot(index="seed", columns="image", values="score").reindex(own, columns=images[task])
                parts = whole.to_numpy(float)
                scores = dict(zip(own, parts.mean(axis=1).tolist(), strict=True))
            elif group is not None:
                scores |= dict(zip(group["seed"], group["score"], strict=True))
            if group is not None and "checkpoint" in group:
                known = group["checkpoint"].astype(object).where(group["checkpoint"].notna(), None)
                starts |= dict(zip(group["seed"], known, strict=True))
            values = np.array([scores[seed] for seed in own], float)
            failed = np.isnan(values)
            values[failed] = floors[task]
            checkpoints = _filled([starts[seed] for seed in own], failed)
            samples[model, task] = Sample(values, failed, tuple(own), checkpoints, parts)
    return Runs(tuple(models), tuple(tasks), tuple(benchmark[task] for task in tasks), samples)


def _filled(starts: Sequence[object], failed: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[object, ...]:
    """Return the checkpoints; a run that is lacking started from the only one there is, or else from one of its own."""
    known = {start for start in starts if start is not None}
    if len(known) < 2:
        return tuple(next(iter(known), None) for _ in starts)
    return tuple(("run", k) if start is None else start for k, start in enumerate(starts))


def _in_order(seeds: Sequence[object]) -> list[object]:
    try:
        return sorted(seeds)  # type: ignore[type-var]
    except TypeError:
        return sorted(seeds, key=str)

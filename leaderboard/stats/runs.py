"""A table of runs, checked and cut into the samples that tests want."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from embench.core.errors import BadInput
from leaderboard.stats.means import NOTHING, Floats, Mean, mean_of

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
    """Runs by model and task.

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

    def only(self, models: Sequence[str]) -> Runs:
        """Return the runs of some models, which have a sample on every task."""
        return replace(self, models=tuple(models))

    def on(self, task: str, models: Sequence[str]) -> Runs:
        """Return the runs of some models on one task."""
        if task not in self.tasks:  # nobody has a run there
            return replace(self, models=(), tasks=(), benchmarks=())
        place = self.tasks.index(task)
        return replace(self, models=tuple(models), tasks=(task,), benchmarks=(self.benchmarks[place],))

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
        if any((model, task) not in self.samples for task in tasks):
            return NOTHING
        samples = [self.samples[model, task] for task in tasks]
        return mean_of([each.scores for each in samples], weights, [each.checkpoints for each in samples])

    def failed(self, model: str) -> int:
        """Return how many runs of a model have no score."""
        return sum(int(sample.failed.sum()) for sample in self._of(model))

    def count(self, model: str) -> int:
        """Return how many runs a model has, those that failed among them."""
        return sum(len(sample.scores) for sample in self._of(model))

    def _of(self, model: str) -> list[Sample]:
        return [self.samples[model, task] for task in self.tasks if (model, task) in self.samples]


def runs_of(frame: pd.DataFrame, whole: bool = True) -> Runs:
    """Check a table of runs.

    A run that a model has on one task and lacks on another (its seed, or with several checkpoints its seed and
    checkpoint) counts as failed there, as does one whose score is NaN or that lacks one of the task's images.

    Parameters
    ----------
    frame : DataFrame
        One line a run: ``model``, ``task``, ``seed``, ``score`` (larger is better; NaN for a failed run), and maybe
        ``benchmark`` (tasks of one benchmark weigh together), ``checkpoint`` (what pre-training the run started
        from) and ``image`` (then one line an image, and a run's score is their mean). Other columns are ignored.
    whole : bool
        Whether a model without any run on a task failed there. Without it the model has no sample on that task, and
        no mean over all.

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
    return _cut(table, benchmark, whole)


def _cut(table: pd.DataFrame, benchmark: Mapping[str, str], whole: bool) -> Runs:
    models, tasks = sorted(table["model"].unique()), sorted(table["task"].unique())
    floors = table.groupby("task")["score"].min().clip(upper=0).fillna(0.0).to_dict()
    images = table.groupby("task")["image"].unique().map(list).to_dict() if "image" in table else {}
    nothing = [None] * len(table)
    columns = [
        table[name].tolist() if name in table else nothing
        for name in ("model", "task", "seed", "score", "image", "checkpoint")
    ]
    lines: defaultdict[tuple[str, str], dict[object, dict[object, float]]] = defaultdict(dict)
    starts: defaultdict[tuple[str, str], dict[object, object]] = defaultdict(dict)
    seeds: defaultdict[str, dict[object, None]] = defaultdict(dict)
    for model, task, seed, score, image, start in zip(*columns, strict=True):
        lines[model, task].setdefault(seed, {})[image] = score
        starts[model, task][seed] = None if pd.isna(start) else start
        seeds[model][seed] = None
    order = {model: _in_order(list(own)) for model, own in seeds.items()}
    samples = {}
    for model in models:
        for task in tasks:
            if not whole and (model, task) not in lines:
                continue
            own, found = order[model], lines.get((model, task), {})
            parts = np.array(
                [[found.get(seed, {}).get(image, np.nan) for image in images.get(task, [None])] for seed in own], float
            )
            values = parts.mean(axis=1)
            failed = np.isnan(values)
            values[failed] = floors[task]
            known = starts.get((model, task), {})
            checkpoints = _filled([known.get(seed) for seed in own])
            samples[model, task] = Sample(values, failed, tuple(own), checkpoints, parts if images else None)
    return Runs(tuple(models), tuple(tasks), tuple(benchmark[task] for task in tasks), samples)


def _filled(starts: Sequence[object]) -> tuple[object, ...]:
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

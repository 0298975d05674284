"""How long trials will take on this machine: a short measurement of each kind of trial, multiplied out.

A trial trains for so many steps, and at each snapshot predicts the test split and counts. So a trial costs

    start + iterations x step + snapshots x (windows x window + voxels x voxel)

where *window* is one pass of the network over a sliding window (or over a megapixel, where whole sections are
predicted), and *voxel* is what scoring adds to a predicted voxel. The four paces are measured by running the code that
a trial runs, as many at a time as trials would run, so that what they take from each other is in the figures.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core import parallel
from embench.core.console import showing
from embench.core.errors import BadInput
from embench.core.paths import prepared_path
from embench.data import catalog
from embench.data.store import Prepared, Volume
from embench.data.task import Task
from embench.models.base import TorchModel
from embench.models.registry import find_model
from embench.models.volume import VolumeModel
from embench.runs.request import ModelTask, revived
from embench.training.recipe import Inference, Recipe, SlidingWindow

WARM_UP, SECONDS, MOST_STEPS = 2, 6.0, 20
"""Steps not timed (one, if it is as long as all that is to be timed), and when to stop timing: seconds, steps."""
LONG_STEP = 10.0
"""Seconds; a longer step is extrapolated from steps on a small batch."""
SMALL_BATCHES = (2, 4)
MEGAPIXEL = 2**20

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Pace:
    """What a trial's parts take, in seconds.

    Parameters
    ----------
    start : float
        To build the network and everything around it.
    step : float
        One optimiser step, loading and augmentation included.
    window : float
        Predicting one sliding window, or a megapixel of a whole section.
    voxel : float
        Scoring one predicted voxel.
    """

    start: float
    step: float
    window: float
    voxel: float


@dataclass(frozen=True)
class Line:
    """The forecast for one model on one task.

    Parameters
    ----------
    model, task : str
    trials, iterations, snapshots : int
    pace : Pace
    training : float
        Seconds of one trial before scoring.
    scoring : float or None
        Seconds of all its snapshots; ``None`` where the test split is not known before the data are prepared.
    """

    model: str
    task: str
    trials: int
    iterations: int
    snapshots: int
    pace: Pace
    training: float
    scoring: float | None

    @property
    def seconds(self) -> float:
        """Of one trial, as far as known."""
        return self.training + (self.scoring or 0.0)


def forecast(
    choices: Sequence[ModelTask], data: Path, device: str, threads: int, seeds: int, at_once: int
) -> list[Line]:
    """Measure and multiply out.

    Parameters
    ----------
    choices : sequence of ModelTask
        Models on tasks, with recipe and budget.
    data : Path
        The data folder. A task that is not prepared is measured on noise; its test split is then known only where
        the publication says its size.
    device : {"cpu", "cuda"}
    threads : int
        CPU threads per trial.
    seeds : int
        Trials of each choice.
    at_once : int
        Trials that will run at the same time.

    Returns
    -------
    list of Line
        One per choice, in their order.

    Raises
    ------
    BadInput
        A model that is no torch network: what its ``fit`` does cannot be measured in part.
    """
    for choice in choices:
        if not isinstance(choice.adapter, TorchModel) or isinstance(choice.adapter, VolumeModel):
            raise BadInput(
                f"{choice.adapter.name}: no torch network of sections, so its time cannot be measured in parts; run it"
            )
    distinct = {_kind(choice): choice for choice in choices}
    measure = partial(_measure, data=data, device=device, threads=threads)
    parts = [
        (choice.spec, choice.task, choice.recipe, choice.recipe_from, choice.recipe_changes)
        for choice in distinct.values()
    ]
    paces: dict[tuple[Any, ...], Pace] = {}
    with showing("measured", len(parts)) as progress:
        for kind, pace in zip(distinct, parallel.spawned(measure, parts, at_once), strict=True):
            paces[kind] = pace
            progress(1)
    return [_line(choice, paces[_kind(choice)], scored_shapes(choice.task, data), seeds) for choice in choices]


def makespan(lines: Sequence[Line], at_once: int) -> float:
    """Return the seconds from start to end with ``at_once`` trials at a time, taken seed by seed as ``run`` does."""
    free = [0.0] * at_once
    rounds = max((line.trials for line in lines), default=0)
    for seed in range(rounds):
        for line in lines:
            if seed < line.trials:
                heapq.heappush(free, heapq.heappop(free) + line.seconds)
    return max(free)


def scored_shapes(task: Task, data: Path) -> list[Shape] | None:
    """Return the shapes (Z, Y, X) of the test volumes: of the prepared file, or as published; else ``None``."""
    if _at_hand(task, data):
        with catalog.open_prepared(task.name, data) as prepared:
            return [volume.image.shape for volume in prepared.volumes("test")]
    published = catalog.TEST_SHAPES.get(task.name)
    return None if published is None else [published]


def windows(task: Task, shape: tuple[int, ...], inference: Inference) -> float:
    """Return how many windows (megapixels, where whole sections are predicted) predict a volume (Z, Y, X)."""
    total = 0.0
    for axis in task.scoring.axes if task.scoring.is_volume else (0,):
        sides = [side for number, side in enumerate(shape) if number != axis]
        total += shape[axis] * _windows_of_section(sides, inference, task.scoring.is_volume)
    return total


def _windows_of_section(sides: Sequence[int], inference: Inference, volume: bool) -> float:
    if not isinstance(inference, SlidingWindow):
        return math.prod(math.ceil(side / inference.multiple) * inference.multiple for side in sides) / MEGAPIXEL
    return math.prod(len(inference.starts(side, volume)) for side in sides)


def _kind(choice: ModelTask) -> tuple[Any, ...]:
    """Return what decides about the pace: choices equal in it are measured once."""
    task, scoring = choice.task, choice.task.scoring
    return (
        choice.spec,
        choice.recipe,
        task.outputs,
        (scoring.is_volume, scoring.match_instances, len(scoring.classes)),
        (task.crop_nonempty, task.noise_and_blur),
    )


def _line(choice: ModelTask, pace: Pace, shapes: Sequence[Shape] | None, seeds: int) -> Line:
    from embench.scoring.score import SIDE_FOR_THRESHOLD, TRAINING_IMAGES_FOR_THRESHOLD

    task, inference = choice.task, choice.recipe.inference
    scoring = None
    if shapes is not None:

        def of(shapes: Sequence[Shape]) -> float:
            return sum(
                windows(task, shape, inference) * pace.window + math.prod(shape) * pace.voxel for shape in shapes
            )

        part = choice.early_sections
        early = shapes if part is None else [(min(part, depth), height, width) for depth, height, width in shapes]
        every = of(shapes) + (len(choice.snapshots) - 1) * of(early)
        side = min(SIDE_FOR_THRESHOLD, *(side for shape in shapes for side in shape[1:]))
        chosen = _windows_of_section((side, side), inference, task.scoring.is_volume) * pace.window
        scoring = every + TRAINING_IMAGES_FOR_THRESHOLD * chosen
    return Line(
        model=choice.adapter.name,
        task=task.name,
        trials=seeds,
        iterations=choice.iterations,
        snapshots=len(choice.snapshots),
        pace=pace,
        training=pace.start + choice.iterations * pace.step,
        scoring=scoring,
    )


def _measure(
    part: tuple[str, Task, Recipe, str | None, tuple[str, ...]], *, data: Path, device: str, threads: int
) -> Pace:
    """Measure one kind of trial in this process."""
    import torch

    from embench.core.runtime import deterministic, freed_memory_kept
    from embench.scoring.score import score_split
    from embench.training.inference import predictor
    from embench.training.precision import place
    from embench.training.sampler import TrainingSections
    from embench.training.trainer import Training

    spec, task, recipe, recipe_from, changes = part
    torch.set_num_threads(threads)
    where = torch.device(device)
    adapter = find_model(spec)
    assert isinstance(adapter, TorchModel)
    recipe = revived(recipe, adapter, recipe_from, changes)
    with deterministic(where, False), freed_memory_kept(where), _sample(task, data) as sample:
        started = time.perf_counter()
        torch.manual_seed(0)
        network = place(_as_trained(adapter, task, recipe), where)
        training = partial(
            Training,
            network,
            TrainingSections(sample),  # type: ignore[arg-type]
            task,
            norms=(0.5, 0.1),
            iterations=10 * MOST_STEPS,
            entropy=[0],
            device=where,
        )
        training(recipe)
        start = time.perf_counter() - started

        def step_of(batch: int) -> float:
            return _seconds_per_step(training(replace(recipe, batch_size=batch)), where)

        assert recipe.batch_size is not None
        step = _extrapolated(step_of, recipe.batch_size)
        predict = predictor(network, task, recipe, (0.5, 0.1), where)
        image_YX = _section(sample, recipe.inference, task.scoring.is_volume)
        many = _windows_of_section(image_YX.shape, recipe.inference, task.scoring.is_volume)
        window = _seconds(lambda: predict(image_YX), where) / many
        scored = _cut(sample.volumes("test")[0], task.scoring.is_volume)
        seconds = _seconds(lambda: score_split(task, [scored], partial(_undecided, task.outputs), 1), where)
    return Pace(start, step, window, seconds / scored.image.size)


def _as_trained(adapter: TorchModel, task: Task, recipe: Recipe) -> Any:
    """Return the network, what a pre-trained model freezes frozen; the values of its weights take no time."""
    network = adapter.at(recipe.scale).network(task.outputs)
    if adapter.pretraining:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(not name.startswith(adapter.frozen))
    return network


def _extrapolated(step_of: Any, batch: int) -> float:
    """Return the seconds of a step, of a long one from a line through those on small batches."""
    small, larger = SMALL_BATCHES
    if batch <= larger:
        return step_of(batch)
    one = step_of(small)
    if one * batch / small < LONG_STEP:
        return step_of(batch)
    slope = max(0.0, step_of(larger) - one) / (larger - small)
    return one + slope * (batch - small)


def _seconds_per_step(training: Any, device: Any) -> float:
    started = time.perf_counter()
    for _ in range(WARM_UP):
        training.step()
        if time.perf_counter() - started > SECONDS:
            break
    _wait(device)
    started = time.perf_counter()
    done = 0
    while done < MOST_STEPS and time.perf_counter() - started < SECONDS:
        training.step()  # reads the loss back, so the device has finished
        done += 1
    return (time.perf_counter() - started) / done


def _seconds(work: Any, device: Any) -> float:
    """Return the mean seconds of a call, after one that is not timed."""
    work()
    _wait(device)
    started = time.perf_counter()
    done = 0
    while done < MOST_STEPS and time.perf_counter() - started < SECONDS / 3:
        work()
        _wait(device)
        done += 1
    return (time.perf_counter() - started) / done


def _wait(device: Any) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


class _Noise:
    """Stands for a prepared file of a task that is not prepared: grey noise with every class in its labels."""

    def __init__(self, task: Task) -> None:
        self.task = task
        depth, height, width = catalog.TEST_SHAPES.get(task.name, (1, 1024, 1024))
        rng = np.random.default_rng(0)
        shape = (min(depth, 2), height, width)
        image = rng.integers(0, 256, shape, np.uint8)
        # patches, not single pixels: as many objects as images have, for what labels them
        patches = rng.integers(0, len(task.classes), (shape[0], -(-height // 64), -(-width // 64)), np.uint8)
        labels = patches.repeat(64, 1).repeat(64, 2)[:, :height, :width]
        self._volume = Volume("noise", image, labels)

    def volumes(self, split: str) -> list[Volume]:
        return [self._volume]

    def __enter__(self) -> _Noise:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _sample(task: Task, data: Path) -> Prepared | _Noise:
    return catalog.open_prepared(task.name, data) if _at_hand(task, data) else _Noise(task)


def _at_hand(task: Task, data: Path) -> bool:
    """Whether the task is prepared, or generated on first use."""
    return prepared_path(task.name, data).exists() or catalog.find_dataset(task.dataset).generated


def _section(sample: Prepared | _Noise, inference: Inference, volume: bool) -> NDArray[np.uint8]:
    """Return a test section, cut to a batch of windows (or half a thousand pixels a side) at most."""
    image_YX = sample.volumes("test")[0].image[0]
    side = 512
    if isinstance(inference, SlidingWindow):  # two windows a side
        side = inference.window + inference.starts(2 * inference.window, volume)[1]
    return np.ascontiguousarray(image_YX[:side, :side])


def _cut(volume: Volume, deep: bool) -> Volume:
    """Return a part of a volume: a section of it, or a block that holds sections of every axis."""
    part = (slice(32), slice(128), slice(128)) if deep else (slice(1), slice(512), slice(512))
    assert volume.labels is not None
    return Volume(volume.name, volume.image[part], volume.labels[part])


def _undecided(channels: int, image_YX: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Predict nothing in particular, in no time."""
    return np.full((channels, *image_YX.shape), 0.5, np.float32)

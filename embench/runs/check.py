"""Whether a piece of one's own works, in seconds, before anything is spent on it: what was tried, and what to mend.

A model, recipe, data set, metric or pre-training method is used as the harness uses it, on small made-up data in a
temporary folder. Nothing else is written.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.core.paths import prepared_path
from embench.core.plugins import from_file
from embench.data import catalog, store
from embench.data.task import SPLITS, Dataset, Item, Scoring, Task, UnlabelledSet
from embench.models.base import SegmentationModel, TorchModel
from embench.models.registry import find_model
from embench.models.volume import VolumeModel
from embench.pretraining.method import Pretraining
from embench.runs.options import RunRequest
from embench.runs.plan import TrialSpec
from embench.scoring.counts import ScoreHistogram
from embench.scoring.metrics import Masks, Metric, checked
from embench.scoring.schema import TrialResult
from embench.training.recipe import Recipe

STEPS = 3
ODD = (75, 91)
"""Pixels of the test image: neither side is even."""

_SECTIONS = Task(
    name="check-sections",
    title="Discs",
    dataset="check",
    classes=("background", "disc"),
    scoring=Scoring("2d"),
    iterations=STEPS,
    batch_size=2,
    crop=64,
    pretraining="check-unlabelled",
    scale="tiny",
)
_CLASSES = replace(
    _SECTIONS, name="check-classes", classes=("background", "disc", "rim"), scoring=Scoring("2d", classes=(1, 2))
)
_VOLUME = replace(
    _CLASSES, name="check-volume", scoring=Scoring("stack", classes=(1, 2)), voxel_size=(20.0, 10.0, 10.0)
)


@dataclass(frozen=True)
class Finding:
    """One thing that was tried; ``fault`` is empty where it works, and else says what is wrong and what to mend."""

    what: str
    fault: str = ""


def check(spec: str, source: Path | None = None) -> Iterator[Finding]:
    """Try what ``spec`` names, and yield what was found, one thing after the other.

    Parameters
    ----------
    spec : str
        ``FILE.py:NAME`` of a model, recipe, data set, metric or pre-training method; or a model as ``embench run``
        takes it.
    source : Path, optional
        Files of a data set that is not generated.

    Raises
    ------
    BadInput
        Nothing of that name, or nothing that can be checked.
    """
    found = from_file(spec, "what is to be checked") if ".py:" in spec and "@" not in spec else None
    with tempfile.TemporaryDirectory(prefix="embench-check-") as name:
        folder = Path(name)
        if isinstance(found, Recipe):
            yield from _recipe(spec, found, folder)
        elif isinstance(found, Dataset | Task):
            yield from _dataset(spec, found, source, folder)
        elif isinstance(found, type) and issubclass(found, Metric):
            yield from _metric(spec, found)
        elif isinstance(found, type) and issubclass(found, Pretraining):
            yield from _pretraining(found, folder)
        elif found is None or (isinstance(found, type) and issubclass(found, SegmentationModel)):
            yield from _model(spec, folder)
        else:
            raise BadInput(
                f"{spec}: {type(found).__name__}, which is no model, recipe, data set, metric or pre-training method"
            )


# Models


def _model(spec: str, folder: Path) -> Iterator[Finding]:
    model = find_model(spec)
    kind = "a network" if isinstance(model, TorchModel) else "no torch network"
    yield Finding(f"{model.name}: {kind}, {model.title or 'without a title'}, licence {model.licence}")
    task = _VOLUME if isinstance(model, VolumeModel) else _SECTIONS
    _make(task, folder)
    if isinstance(model, TorchModel):
        what = "builds its network"
        with _told(what, "mend `network(self, outputs)`") as faults:
            yield from _network(model, task, folder)
        yield from faults
        if faults:
            return
    yield from _trials(partial(_planned, spec, task, folder), isinstance(model, TorchModel))
    if task is _SECTIONS:
        _make(_CLASSES, folder)
        what = f"takes a task of {len(_CLASSES.classes)} classes"
        with _told(what, "return one channel per class: `task.outputs`") as faults:
            _run(_planned(spec, _CLASSES, folder, folder / "classes", iterations=1))
            yield Finding(what)
        yield from faults


def _network(model: TorchModel, task: Task, folder: Path) -> Iterator[Finding]:
    """Build the network, and a checkpoint of random numbers where it starts from one."""
    import torch

    from embench.models.checkpoints import ImportedCard, save_weights
    from embench.pretraining.initial_checkpoint import start_path

    torch.manual_seed(0)
    network = model.network_for(task, "tiny")
    sizes = [parameter.numel() for parameter in network.parameters()]
    yield Finding(f"builds a network of {sum(sizes):,} parameters")
    if model.pretraining is None:
        return
    own = network.state_dict()
    given = {key: tensor for key, tensor in own.items() if key.startswith(model.transferred or ("\0",))}
    if not given:
        raise BadInput("no tensor of the network begins with what is `transferred`; give the beginning of its names")
    card = ImportedCard(
        method=model.pretraining,
        model=model.base.name,
        data=model.pretraining_data or task.pretraining,
        data_hash=None,
        scale="tiny",
        norms=(0.4, 0.2),
        synthetic=True,
        source="check",
        source_hash="0" * 64,
        kind="check",
    )
    save_weights(start_path(model, task.pretraining, "tiny", folder), given, card)
    started = model.prepared(task, "tiny", _start(model, task, folder))
    trained = sum(parameter.numel() for parameter in started.parameters() if parameter.requires_grad)
    yield Finding(f"starts from {model.pretraining}: {len(given)} tensors given, {trained:,} parameters trained")


def _start(model: TorchModel, task: Task, folder: Path) -> Any:
    from embench.pretraining.initial_checkpoint import find_start

    return find_start(model, model.name, task.pretraining, "tiny", folder=folder)


def _trials(plan: Callable[[Path], TrialSpec], is_trained: bool) -> Iterator[Finding]:
    """Run a trial, again, and again with a stop in it; the three must be one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        what = f"trains {STEPS} steps and predicts an image of {ODD[0]} x {ODD[1]} pixels"
        with _told(what, "the last line of the error says where") as faults:
            started = time.perf_counter()
            first = _run(plan(folder / "first"))
            took = time.perf_counter() - started
            losses = ", ".join(f"{loss:.3f}" for _, loss, _ in first.loss_curve)
            score = "" if first.score is None else f", score {first.score:.3f}"
            yield Finding(f"{what} in {took:.1f} s{f': losses {losses}' if losses else ''}{score}")
            if first.status == "diverged":
                raise BadInput(f"{first.message}; look at the learning rate, and at what divides by zero")
        yield from faults
        if faults:
            return
        yield _same(
            first,
            _run(plan(folder / "second")),
            "gives the same bytes again",
            "draw from torch or the rng that is given",
        )
        if is_trained:
            yield _same(
                first,
                _stopped_and_resumed(plan(folder / "third")),
                "resumes after a stop to the same bytes",
                "keep everything that changes in training in the network's state_dict",
            )


def _same(first: TrialResult, second: TrialResult, what: str, mend: str) -> Finding:
    return Finding(what) if _timeless(first) == _timeless(second) else Finding(what, f"it does not; {mend}")


def _timeless(result: TrialResult) -> Any:
    facts = result.model_dump(mode="json")
    snapshots = [{key: value for key, value in each.items() if key != "seconds"} for each in facts["snapshots"]]
    return snapshots, facts["loss_curve"], facts["status"]


def _run(trial: TrialSpec) -> TrialResult:
    from embench.runs.trial import run

    result = run(trial)
    assert result is not None
    return result


class _Stopped(Exception):
    """Ends a trial for the sake of resuming it."""


def _stopped_and_resumed(trial: TrialSpec) -> TrialResult:
    from embench.runs.trial import run

    def stop(stage: str, iteration: int, loss: float) -> None:
        if stage == "training" and iteration == STEPS - 1:
            raise _Stopped

    with suppress(_Stopped):
        run(replace(trial, save_every=0.0), stop)
    return _run(trial)


def _planned(spec: str, task: Task, data: Path, results: Path, **changes: Any) -> TrialSpec:
    from embench.runs.request import trials

    request = RunRequest(
        models=[spec],
        tasks=[task.name],
        seeds=1,
        evaluations=1,
        device="cpu",
        data=data,
        results=results,
        keep_weights=False,
        **changes,
    )
    return trials(request)[0]


# Recipes


def _recipe(spec: str, recipe: Recipe, folder: Path) -> Iterator[Finding]:
    yield Finding(f"{recipe.name}: {', '.join(f'{key} {value}' for key, value in _shown(recipe).items())}")
    deep = recipe.augmentation == "volume"
    task, model = (_VOLUME, "unet-3d") if deep else (_SECTIONS, "unet-resnet50")
    _make(task, folder)
    plan = partial(_planned, model, task, folder, recipe=spec)
    yield from _trials(plan, True)


def _shown(recipe: Recipe) -> dict[str, Any]:
    facts = recipe.facts()
    kept = ("loss", "optimiser", "learning_rate", "schedule", "augmentation", "crop", "batch_size")
    return {key: getattr(facts[key], "name", facts[key]) for key in kept if facts.get(key) is not None}


# Data sets


def _dataset(spec: str, found: Dataset | Task, source: Path | None, folder: Path) -> Iterator[Finding]:
    if isinstance(found, Task):
        raise BadInput(f"{spec}: a task alone; name the data set that it is prepared from, an embench.Dataset")
    faults = catalog.dataset_faults(found, found.name)
    yield Finding(f"{found.name}: {', '.join(each.name for each in found.specs)}", "; ".join(faults))
    if faults:
        return
    if not found.generated and source is None:
        yield Finding("reads its files", "not tried; add --source with their folder")
        return
    for task in found.specs:
        what = f"prepares {task.name}"
        with _told(what, f"mend what `read` yields for {task.name!r}") as told:
            store.write(prepared_path(task.name, folder), task, found.read(source, task.name), {"source": "check"})
            with store.Prepared(prepared_path(task.name, folder)) as prepared:
                prepared.verify()
                yield Finding(f"{what}: {_counted(prepared, task)}")
        yield from told
        if not told and isinstance(task, Task):
            what = f"{task.name} can be trained on and scored"
            with _told(what, "see the error") as told:
                _run(_planned("foreground", task, folder, folder / "results", iterations=1))
                yield Finding(what)
            yield from told


def _counted(prepared: store.Prepared, task: Task | UnlabelledSet) -> str:
    parts = []
    for split in SPLITS:
        volumes = prepared.volumes(split)
        if volumes:
            sections = sum(volume.image.shape[0] for volume in volumes)
            parts.append(f"{sections} sections in {len(volumes)} volumes to {split}")
    if isinstance(task, Task):
        seen = {int(value) for split in SPLITS for volume in prepared.volumes(split) for value in _values(volume)}
        if never := [name for value, name in enumerate(task.classes) if value not in seen]:
            parts.append(f"never seen: {', '.join(never)}")
    return ", ".join(parts)


def _values(volume: store.Volume) -> NDArray[np.uint8]:
    return np.unique(volume.labels[:]) if volume.labels is not None else np.empty(0, np.uint8)


# Metrics


def _metric(spec: str, found: type[Metric]) -> Iterator[Finding]:
    metric = checked(found, spec)
    direction = "higher" if metric.higher_is_better else "lower"
    yield Finding(f"{metric.name}: {metric.title}, {direction} is better, parts {', '.join(metric.parts)}")
    first, second = _masks(0), _masks(1)
    what = "gives finite evidence, and a score that follows from it"
    with _told(what, "return as many numbers as `parts` names, or None where it is undefined") as faults:
        for masks in (first, second, _masks(0, empty=True), _masks(0, perfect=True)):
            evidence = metric.evidence(masks)
            if evidence is None:
                continue
            if len(evidence) != len(metric.parts) or not all(math.isfinite(part) for part in evidence):
                raise BadInput(f"evidence {evidence!s:.120}, parts {metric.parts}")
            score = metric.score(tuple(evidence))
            if score is not None and not math.isfinite(score):
                raise BadInput(f"score {score} of evidence {evidence!s:.120}")
        yield Finding(what)
    yield from faults
    if faults:
        return
    perfect = metric(_masks(0, perfect=True))
    right = perfect is None or math.isclose(perfect, metric.best, abs_tol=1e-6)
    yield Finding(
        f"a perfect prediction scores {metric.best:g}", "" if right else f"it scores {perfect}; mend `best` or `score`"
    )
    same = metric.evidence(_masks(0)) == metric.evidence(first)
    yield Finding("gives the same evidence again", "" if same else "it does not; draw nothing at random")
    if metric.additive and (parts := [metric.evidence(each) for each in (first, second)]) and None not in parts:
        together = metric.evidence(_masks(0, 1))
        summed = tuple(map(sum, zip(*parts, strict=True)))
        agrees = together is not None and np.allclose(together, summed, rtol=1e-6)
        fault = f"two images together give {together}, added up {summed}; set `additive = False`"
        yield Finding("evidence of two images adds up", "" if agrees else fault)


def _masks(*seeds: int, empty: bool = False, perfect: bool = False) -> Masks:
    """Return masks of images side by side, with background at every border."""
    truth = np.concatenate([_discs(seed, (1, 64, 64))[1][0] > 0 for seed in seeds], axis=1)
    found = np.roll(truth, 2, axis=0)
    found = np.zeros_like(truth) if empty else truth.copy() if perfect else found
    histogram = ScoreHistogram()
    histogram.add(np.where(found, 0.9, 0.1).astype(np.float32).ravel(), truth.ravel())
    return Masks(found, truth, (5.0, 5.0), 10.0, histogram=histogram)


# Pre-training


def _pretraining(found: type[Pretraining], folder: Path) -> Iterator[Finding]:
    from embench.models.checkpoints import load_weights
    from embench.pretraining.loop import pretrain

    yield Finding(f"{found.name}: {found.title or 'without a title'}, trains {found.trains.name}")
    unlabelled = UnlabelledSet("check-unlabelled", "", "check", scale="tiny")
    path = prepared_path(unlabelled.name, folder)
    store.write(path, unlabelled, [Item("train", "a", _discs(3, (8, 96, 96))[0])])
    what = "pre-trains an epoch of 8 images"
    with _told(what, "the last line of the error says where") as faults, store.Prepared(path) as data:
        hashes = []
        for number in range(2):
            method = found()
            crop = max(32, 32 // method.crop_multiple * method.crop_multiple)
            settings = method.settings("tiny", epochs=1, batch_size=4, crop=crop)
            made = load_weights(pretrain(method, data, settings, folder / f"{number}.safetensors"))
            hashes.append(made.hash)
        own = method.model.at("tiny").network(1).state_dict()
        fitting = [key for key in made.tensors if key in own and own[key].shape == made.tensors[key].shape]
        yield Finding(
            f"{what}: writes {len(made.tensors)} tensors, {len(fitting)} of them under the network's own names"
        )
        same = hashes[0] == hashes[1]
        yield Finding(
            "gives the same bytes again", "" if same else "it does not; draw from torch or the rng that is given"
        )
    yield from faults


# What all share


@contextmanager
def _told(what: str, mend: str) -> Iterator[list[Finding]]:
    """Give a list that holds a fault afterwards, if anything went wrong within."""
    faults: list[Finding] = []
    try:
        yield faults
    except BadInput as error:
        faults.append(Finding(what, f"{error.lines[0]}; {mend}"))
    except Exception as error:  # of anybody's code
        said = " ".join(str(error).split())[:300]
        faults.append(Finding(what, f"{type(error).__name__}: {said} ({_where(error)}); {mend}"))


def _where(error: Exception) -> str:
    """Return file and line of the innermost frame."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}"


def _make(task: Task, folder: Path) -> None:
    if task.scoring.is_volume:
        train, test = (20, 48, 48), (9, 37, 43)
    else:
        train, test = (4, 96, 96), (1, *ODD)
    items = []
    for split, seed, shape in (("train", 1, train), ("test", 2, test)):
        image, labels = _discs(seed, shape)
        items.append(Item(split, split, image, labels if len(task.classes) > 2 else (labels > 0).astype(np.uint8)))  # type: ignore[arg-type]
    store.write(prepared_path(task.name, folder), task, items)


def _discs(seed: int, shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return grey images of bright discs (1) with dark rims (2), all within the borders, and their labels."""
    rng = np.random.default_rng(seed)
    image, labels = rng.normal(100, 12, shape), np.zeros(shape, np.uint8)
    y, x = np.mgrid[: shape[1], : shape[2]]
    for z in range(shape[0]):
        for cy, cx in rng.integers(14, np.array(shape[1:]) - 14, (3, 2)):
            distance = np.hypot(y - cy, x - cx)
            labels[z][distance < 10] = 2
            labels[z][distance < 8] = 1
    image = image + 60 * (labels == 1) - 50 * (labels == 2)
    return np.clip(image, 0, 255).astype(np.uint8), labels

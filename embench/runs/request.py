"""From what was asked on the command line to a list of trials, everything checked before any training starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from embench.core.errors import BadInput
from embench.core.files import check_writable
from embench.core.paths import data_folder, prepared_path
from embench.core.runtime import find_device
from embench.data import catalog
from embench.data.task import Task
from embench.models.base import SegmentationModel, TorchModel
from embench.models.checkpoints import Weights, load_weights
from embench.models.external import ExternalTool
from embench.models.registry import chosen_models, find_model
from embench.pretraining.initial_checkpoint import check_wanted, find_start, only_imported, start_command, start_path
from embench.runs.plan import TrialKey, TrialSpec
from embench.scoring.schema import fingerprint
from embench.training.recipe import OPEN, Recipe, SlidingWindow, checked, find_recipe, with_changes
from embench.training.registries import Own

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to run, as asked: see ``embench run --help`` for each."""

    models: Sequence[str]
    tasks: Sequence[str] = ()
    suite: str | None = None
    seeds: int = 6
    first_seed: int = 0
    iterations: int | None = None
    snapshots: int = 5
    recipe: str | None = None
    recipe_changes: Sequence[str] = ()
    crop: int | None = None
    batch_size: int | None = None
    overlap: float | None = None
    precision: Literal["fp32", "bf16"] | None = None
    weights: Sequence[Path] = ()
    device: str = "auto"
    threads: int = 1
    results: Path = Path("results")
    data: Path | None = None
    save_every: float = 60.0
    deterministic: bool = False
    keep_weights: bool = True


@dataclass(frozen=True)
class Choice:
    """A model on a task: what its trials have in common.

    Parameters
    ----------
    spec : str
        How the model was named.
    adapter : SegmentationModel
    task : Task
    recipe : Recipe
        Filled in for the task, with what was asked for in its place, and plain (:meth:`Recipe.plain`).
    pairing : str
        ``default`` when the recipe is the one the model is published with, else the recipe's name.
    track : {"published", "open"}
    iterations : int
    snapshots : tuple of int
    recipe_from : str or None
        What named the recipe; ``None``: it is the model's own.
    recipe_changes : tuple of str
    """

    spec: str
    adapter: SegmentationModel
    task: Task
    recipe: Recipe
    pairing: str
    track: Literal["published", "open"]
    iterations: int
    snapshots: tuple[int, ...]
    recipe_from: str | None = None
    recipe_changes: tuple[str, ...] = ()


def choices(request: Request, data: Path) -> list[Choice]:
    """Return every model on every task of a request; nothing needs to be prepared for it.

    Raises
    ------
    BadInput
        Numbers out of range, unknown names.
    """
    _check_numbers(request)
    chosen_tasks = choose_tasks(request, data)
    adapters = choose_models(request, chosen_tasks)
    found = []
    for task in chosen_tasks:
        for spec, adapter in adapters:
            own, pair = pairing(adapter, request.recipe)
            published = own.for_task(task).plain()
            recipe = overridden(own.for_task(task), request).plain()
            iterations = request.iterations or task.iterations
            same = pair == "default" and recipe == published and iterations == task.iterations
            same = same and not isinstance(adapter, ExternalTool)  # whose budget is what it says itself
            snapshots = snapshot_iterations(iterations, request.snapshots)
            track: Literal["published", "open"] = "published" if same else "open"
            changes = tuple(request.recipe_changes)
            found.append(
                Choice(spec, adapter, task, recipe, pair, track, iterations, snapshots, request.recipe, changes)
            )
    return found


def trials(request: Request, device: str | None = None) -> list[TrialSpec]:
    """Return every trial of a request, seed by seed, so that whatever is finished covers all models and tasks.

    Parameters
    ----------
    request : Request
    device : {"cpu", "cuda"}, optional
        What the trials run on where that is decided elsewhere; by default as asked, on this machine.

    Raises
    ------
    BadInput
        Before anything is trained: numbers out of range, unknown names, data not prepared, weights missing or
        of another method, a results folder that cannot be written.
    """
    data = request.data or data_folder()
    chosen = choices(request, data)
    check_writable(request.results)
    here = find_device(request.device if device is None else "auto")
    given = [load_weights(path) for path in request.weights]
    check_wanted(given, [choice.adapter for choice in chosen if isinstance(choice.adapter, TorchModel)])
    hashes: dict[str, str] = {}
    found = []
    for choice in chosen:
        task, adapter = choice.task, choice.adapter
        if task.name not in hashes:
            with catalog.open_prepared(task.name, data) as prepared:
                hashes[task.name] = prepared.hash
        weights = find_weights(
            adapter,
            task,
            choice.recipe,
            given,
            data,
            here,
            request.threads,
            choice.spec,
            deterministic=request.deterministic,
        )
        stamp = fingerprint(task, hashes[task.name], choice.iterations)
        weights_hash = weights.hash if weights else None
        for seed in range(request.first_seed, request.first_seed + request.seeds):
            found.append(
                TrialSpec(
                    model=choice.spec,
                    task=task.name,
                    seed=seed,
                    recipe=choice.recipe,
                    pairing=choice.pairing,
                    track=choice.track,
                    iterations=choice.iterations,
                    snapshots=choice.snapshots,
                    key=TrialKey(
                        adapter.name,
                        task.name,
                        choice.recipe,
                        stamp,
                        weights_hash,
                        seed,
                        source=adapter.source_hash,
                    ),
                    data=data,
                    results_folder=request.results,
                    weights=weights.path if weights else None,
                    device=device or here,
                    threads=request.threads,
                    save_every=request.save_every,
                    deterministic=request.deterministic,
                    keep_weights=request.keep_weights,
                    recipe_from=choice.recipe_from,
                    recipe_changes=choice.recipe_changes,
                )
            )
    return sorted(found, key=lambda trial: trial.seed)


def choose_models(request: Request, chosen_tasks: Sequence[Task]) -> list[tuple[str, SegmentationModel]]:
    """Return the models asked for, as they were named and built.

    Of those that only a group named, what cannot start on a reduced task is left out, and said.
    """
    named, grouped = chosen_models(request.models)
    found = [(spec, find_model(spec)) for spec in (*named, *grouped)]
    if not any(task.scale == "tiny" for task in chosen_tasks):
        return found
    without = [
        spec
        for spec, adapter in found
        if spec in grouped and isinstance(adapter, TorchModel) and only_imported(adapter)
    ]
    if without:
        log.info("left out, as their weights are published for the full-size network alone: %s", ", ".join(without))
    return [(spec, adapter) for spec, adapter in found if spec not in without]


def choose_tasks(request: Request, data: Path) -> list[Task]:
    """Return the tasks asked for; by default the published ones that are prepared, else the mini suite."""
    if request.tasks and request.suite:
        raise BadInput("give --task or --suite, not both")
    if request.tasks:
        return [catalog.find_task(name, data) for name in dict.fromkeys(request.tasks)]
    if request.suite:
        return catalog.find_suite(request.suite)
    return prepared_published(data) or catalog.find_suite("mini")


def prepared_published(data: Path) -> list[Task]:
    """Return the published tasks whose prepared file is in ``data``."""
    names = catalog.SUITES.get("published", ())
    return [catalog.find_task(name) for name in names if prepared_path(name, data).exists()]


def overridden(recipe: Recipe, request: Request) -> Recipe:
    """Return the recipe with the fields, crop, batch size, overlap and precision that were asked for."""
    recipe = with_changes(recipe, request.recipe_changes)
    recipe = recipe.resized(crop=request.crop, batch_size=request.batch_size)
    if request.overlap is not None and isinstance(recipe.inference, SlidingWindow):
        inference = replace(recipe.inference, overlap_2d=request.overlap, overlap_3d=request.overlap)
        recipe = replace(recipe, inference=inference)
    return replace(recipe, precision=request.precision) if request.precision else recipe


def snapshot_iterations(iterations: int, snapshots: int) -> tuple[int, ...]:
    """Return up to ``snapshots`` evenly spaced iterations, the budget last."""
    return tuple(sorted({max(1, round(iterations * (i + 1) / snapshots)) for i in range(snapshots)}))


def find_weights(
    adapter: SegmentationModel,
    task: Task,
    recipe: Recipe,
    given: Sequence[Weights],
    data: Path,
    device: str,
    threads: int,
    spec: str | None = None,
    *,
    deterministic: bool = False,
) -> Weights | None:
    """Return the checkpoint a trial starts from: one given that fits it, or the one made for the task's data.

    On generated data it is made here when it is not there; elsewhere its absence is an error that says what to
    run. A pre-trained model is never trained from random weights. ``spec`` is how the model was named.
    """
    if not isinstance(adapter, TorchModel) or adapter.pretraining is None:
        return None
    spec, scale = spec or adapter.name, recipe.scale
    if found := find_start(adapter, spec, task.pretraining, scale, given, data):
        return found
    if scale == "tiny" and (method := only_imported(adapter)):
        raise BadInput(f"{adapter.name} on {task.name}: {method} weights are published for the full-size network alone")
    if not task.synthetic:
        path = start_path(adapter, task.pretraining, scale, data)
        command = start_command(adapter, spec, task.pretraining, scale)
        raise BadInput(f"{adapter.name} on {task.name}: no pre-trained weights at {path}; run: {command}")
    from embench.pretraining import command as command_module

    made = command_module.run(
        adapter.pretraining,
        task.pretraining,
        model=spec,
        scale=scale,
        device=device,
        threads=threads,
        deterministic=deterministic,
        data_folder=data,
    )
    return load_weights(made)


def _check_numbers(request: Request) -> None:
    faults = [
        f"--{name} {value}: must be at least 1"
        for name, value in (
            ("seeds", request.seeds),
            ("iterations", request.iterations),
            ("snapshots", request.snapshots),
            ("crop", request.crop),
            ("batch-size", request.batch_size),
            ("threads", request.threads),
        )
        if value is not None and value < 1
    ]
    if request.first_seed < 0:
        faults.append(f"--first-seed {request.first_seed}: must not be negative")
    if request.overlap is not None and not 0 <= request.overlap < 1:
        faults.append(f"--overlap {request.overlap}: must be in 0..1, 1 excluded")
    if request.crop and request.crop % 32:
        faults.append(f"--crop {request.crop}: must be a multiple of 32")
    if faults:
        raise BadInput(faults)


def pairing(adapter: SegmentationModel, recipe_name: str | None) -> tuple[Recipe, str]:
    """Return the recipe to train ``adapter`` under, and ``default`` where it is the model's own, else its name.

    Parameters
    ----------
    adapter : SegmentationModel
    recipe_name : str or None
        As asked for (:func:`find_recipe`); ``None``: the model's own.
    """
    own = adapter.recipe if isinstance(adapter, TorchModel) else "retina"
    if recipe_name is None or recipe_name == own:
        return (checked(own, adapter.name) if not isinstance(own, str) else find_recipe(own)), "default"
    if not isinstance(adapter, TorchModel):
        raise BadInput(f"{adapter.name}: no torch network, so no recipe applies; leave out --recipe")
    recipe = find_recipe(recipe_name)
    return recipe, "default" if recipe == own else recipe.name


def revived(recipe: Recipe, adapter: SegmentationModel, recipe_from: str | None, changes: Sequence[str]) -> Recipe:
    """Return a plain recipe with its callables, found again where it came from.

    Raises
    ------
    BadInput
        One of them is another now than when the run was planned.
    """
    if not any(isinstance(getattr(recipe, name), Own) for name in OPEN):
        return recipe
    return recipe.revived(with_changes(pairing(adapter, recipe_from)[0], changes))

"""From a request to a list of trials: resolve (writes nothing), ensure (makes what may be made), plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from embench.models.volume import VolumeModel, check_task
from embench.pretraining.initial_checkpoint import check_wanted, find_start, only_imported, start_command, start_path
from embench.runs.options import RunRequest
from embench.runs.plan import TrialKey, TrialSpec
from embench.scoring.schema import fingerprint
from embench.training.recipe import OPEN, Recipe, SlidingWindow, checked, find_recipe, with_changes
from embench.training.registries import Own

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelTask:
    """A model on a task: what its trials have in common.

    Parameters
    ----------
    spec : str
        How the model was named.
    recipe : Recipe
        Filled in for the task, with what was asked for in its place, and plain (:meth:`Recipe.plain`).
    pairing : str
        ``default`` when the recipe is the one the model is published with, else the recipe's name.
    snapshots : tuple of int
        Iterations at which it is evaluated; the last is the budget.
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
    early_sections: int | None = None

    @property
    def pretrained(self) -> TorchModel | None:
        """The adapter, where it is initialised from a checkpoint."""
        adapter = self.adapter
        return adapter if isinstance(adapter, TorchModel) and adapter.pretraining is not None else None


@dataclass(frozen=True)
class Need:
    """Something that trials read: a prepared file or a checkpoint.

    Parameters
    ----------
    what : str
        As in ``data vnc-mito``.
    found : str
        Where it stands; or that it is made on first use; or the fault, with the command that mends it.
    state : {"ready", "made", "missing"}
        ``made``: :func:`ensure` makes it.
    make : callable, optional
        What makes it.
    """

    what: str
    found: str
    state: Literal["ready", "made", "missing"]
    make: Callable[[], object] | None = None


@dataclass(frozen=True)
class Resolution:
    """A request brought together with what is on this machine; nothing has been written for it."""

    request: RunRequest
    data: Path
    device: str
    pairs: tuple[ModelTask, ...]
    given: tuple[Weights, ...]
    needs: tuple[Need, ...]

    @property
    def faults(self) -> list[str]:
        """A line for each need that is missing."""
        return [need.found for need in self.needs if need.state == "missing"]

    def check(self) -> None:
        """Raise :class:`BadInput` with a line for each thing that is missing and that the user has to bring or make."""
        if self.faults:
            raise BadInput(self.faults)


def choices(request: RunRequest, data: Path) -> list[ModelTask]:
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
            snapshots = snapshot_iterations(iterations, request.evaluations)
            track: Literal["published", "open"] = "published" if same else "open"
            changes = tuple(request.recipe_changes)
            found.append(
                ModelTask(
                    spec,
                    adapter,
                    task,
                    recipe,
                    pair,
                    track,
                    iterations,
                    snapshots,
                    recipe_from=request.recipe,
                    recipe_changes=changes,
                    early_sections=request.early_sections,
                )
            )
    return found


def resolve(request: RunRequest, device: str | None = None) -> Resolution:
    """Find out what a request means here: models on tasks, and what they need. Nothing is written.

    Parameters
    ----------
    request : RunRequest
    device : {"cpu", "cuda"}, optional
        What the trials run on where that is decided elsewhere; by default as asked, on this machine.

    Raises
    ------
    BadInput
        Numbers out of range, unknown names, or given checkpoints that no model asked for is initialised from. What
        is missing on this machine is in ``faults`` of the resolution.
    """
    data = request.data or data_folder()
    pairs = choices(request, data)
    here = find_device(request.device if device is None else "auto")
    given = [load_weights(path) for path in request.init_from]
    check_wanted(given, [pair.adapter for pair in pairs if isinstance(pair.adapter, TorchModel)])
    needs = {(need.what, need.found): need for pair in pairs for need in _needs(pair, request, data, given, here)}
    return Resolution(request, data, device or here, tuple(pairs), tuple(given), tuple(needs.values()))


def ensure(resolved: Resolution) -> None:
    """Make what may be made: generated data, and pre-trained checkpoints on generated data."""
    resolved.check()
    for need in resolved.needs:
        if need.make:
            need.make()


def plan(resolved: Resolution) -> list[TrialSpec]:
    """Return every trial of a resolved request whose needs are there, seed by seed.

    So whatever is finished early covers all models and tasks.
    """
    request, data = resolved.request, resolved.data
    hashes: dict[str, str] = {}
    found = []
    for pair in resolved.pairs:
        task = pair.task
        if task.name not in hashes:
            with catalog.open_prepared(task.name, data) as prepared:
                hashes[task.name] = prepared.hash
        weights = None
        if model := pair.pretrained:
            weights = find_start(model, pair.spec, task.pretraining, pair.recipe.scale, resolved.given, data)
            if weights is None:
                raise BadInput(_checkpoint(pair, model, request, data, resolved.given, resolved.device).found)
        stamp = fingerprint(task, hashes[task.name], pair.iterations)
        weights_hash = weights.hash if weights else None
        found += [
            TrialSpec(
                model=pair.spec,
                task=task.name,
                seed=seed,
                recipe=pair.recipe,
                pairing=pair.pairing,
                track=pair.track,
                iterations=pair.iterations,
                snapshots=pair.snapshots,
                key=TrialKey(
                    pair.adapter.name,
                    task.name,
                    pair.recipe,
                    stamp,
                    weights_hash,
                    seed,
                    source=pair.adapter.source_hash,
                ),
                data=data,
                results_folder=request.results,
                weights=weights.path if weights else None,
                device=resolved.device,
                threads=request.threads,
                workers=request.workers,
                early_sections=request.early_sections,
                save_every=request.save_every,
                deterministic=request.deterministic,
                keep_weights=request.keep_weights,
                recipe_from=pair.recipe_from,
                recipe_changes=pair.recipe_changes,
            )
            for seed in range(
                request.first_seed, request.first_seed + (1 if pair.adapter.deterministic else request.seeds)
            )
        ]
    return sorted(found, key=lambda trial: trial.seed)


def trials(request: RunRequest, device: str | None = None) -> list[TrialSpec]:
    """Resolve a request, make what may be made, and return its trials: :func:`resolve`, :func:`ensure`, :func:`plan`.

    Raises
    ------
    BadInput
        Before anything is trained: numbers out of range, unknown names, data not prepared, checkpoints missing or
        of another method, a results folder that cannot be written.
    """
    resolved = resolve(request, device)
    resolved.check()
    check_writable(request.results)
    ensure(resolved)
    return plan(resolved)


def _needs(pair: ModelTask, request: RunRequest, data: Path, given: Sequence[Weights], device: str) -> Iterator[Need]:
    yield _prepared(pair.task, data)
    if model := pair.pretrained:
        yield _checkpoint(pair, model, request, data, given, device)


def _prepared(task: Task, data: Path) -> Need:
    what, path = f"data {task.name}", prepared_path(task.name, data)
    dataset = catalog.find_dataset(task.name) if catalog.is_registered(task.name) else None
    if dataset and dataset.generated and (not path.exists() or catalog.is_stale(path, task.name)):
        return Need(what, f"{path}: generated on first use", "made", partial(catalog.make, task.name, data))
    if path.exists():
        return Need(what, str(path), "ready")
    advice = f"; {catalog.how_to_prepare(dataset)}" if dataset else ""
    return Need(what, f"{task.name}: not prepared in {path.parent}{advice}", "missing")


def _checkpoint(
    pair: ModelTask, model: TorchModel, request: RunRequest, data: Path, given: Sequence[Weights], device: str
) -> Need:
    """What a pre-trained model is initialised from: never random weights.

    On generated data it is made where it is not there; elsewhere its absence is a fault that says what to run.
    """
    task, scale = pair.task, pair.recipe.scale
    place = start_path(model, task.pretraining, scale, data)
    what = f"checkpoint {model.name}"
    try:
        found = find_start(model, pair.spec, task.pretraining, scale, given, data)
    except BadInput as error:
        return Need(what, str(error), "missing")
    if found:
        return Need(what, f"{found.path}, sha256 {found.hash[:12]}", "ready")
    on = f"{model.name} on {task.name}"
    if scale == "tiny" and (method := only_imported(model)):
        return Need(what, f"{on}: {method} weights are published for the full-size network alone", "missing")
    if not task.synthetic:
        command = start_command(model, pair.spec, task.pretraining, scale)
        return Need(what, f"{on}: no pre-trained weights at {place}; run: {command}", "missing")

    def make() -> None:
        from embench.pretraining.command import run

        assert model.pretraining is not None
        if place.exists():  # made for another model, which shares it
            return
        run(
            model.pretraining,
            task.pretraining,
            model=pair.spec,
            scale=scale,
            device=device,
            threads=request.threads,
            deterministic=request.deterministic,
            data_folder=data,
        )

    return Need(what, f"{place}: pre-trained on first use", "made", make)


def choose_models(request: RunRequest, chosen_tasks: Sequence[Task]) -> list[tuple[str, SegmentationModel]]:
    """Return the models asked for, as they were named and built.

    Of those that only a group named, what cannot start on a reduced task, and models of volumes where a task's sections
    are scored one by one, are left out, and said.

    Raises
    ------
    BadInput
        A model of volumes that was named, on such a task.
    """
    named, grouped = chosen_models(request.models)
    if request.tune:
        named, grouped = [f"{spec}@{request.tune}" for spec in (*named, *grouped)], []
    found = [(spec, find_model(spec)) for spec in (*named, *grouped)]
    flat = [task for task in chosen_tasks if not task.scoring.is_volume]
    if deep := [spec for spec, adapter in found if flat and spec in grouped and isinstance(adapter, VolumeModel)]:
        log.info("left out, as sections of %s are scored one by one: %s", flat[0].name, ", ".join(deep))
        found = [(spec, adapter) for spec, adapter in found if spec not in deep]
    for _, adapter in found:
        for task in flat:
            check_task(adapter, task)
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


def choose_tasks(request: RunRequest, data: Path) -> list[Task]:
    """Return the tasks asked for; by default the published ones that are prepared; the mini suite where nothing is."""
    if request.tasks and request.suite:
        raise BadInput("give --task or --suite, not both")
    if request.tasks:
        named = [task for name in request.tasks for task in catalog.SUITES.get(name, (name,))]
        return [catalog.find_task(name, data) for name in dict.fromkeys(named)]
    if request.suite:
        return catalog.find_suite(request.suite)
    if published := prepared_published(data):
        return published
    if others := sorted(path.stem for path in data.glob("*.h5") if not path.stem.startswith("mini-")):
        raise BadInput(f"--task: say which; prepared here: {', '.join(others)} (or --suite mini, synthetic images)")
    return catalog.find_suite("mini")


def prepared_published(data: Path) -> list[Task]:
    """Return the published tasks whose prepared file is in ``data``."""
    names = catalog.SUITES.get("published", ())
    return [catalog.find_task(name) for name in names if prepared_path(name, data).exists()]


def overridden(recipe: Recipe, request: RunRequest) -> Recipe:
    """Return the recipe with the fields, crop, batch size, overlap and precision that were asked for."""
    recipe = with_changes(recipe, request.recipe_changes)
    recipe = recipe.resized(crop=request.crop, batch_size=request.batch_size)
    if request.overlap is not None and isinstance(recipe.inference, SlidingWindow):
        inference = replace(recipe.inference, overlap_2d=request.overlap, overlap_3d=request.overlap)
        recipe = replace(recipe, inference=inference)
    return replace(recipe, precision=request.precision) if request.precision else recipe  # type: ignore[arg-type]


def snapshot_iterations(iterations: int, snapshots: int) -> tuple[int, ...]:
    """Return up to ``snapshots`` evenly spaced iterations, the budget last."""
    return tuple(sorted({max(1, round(iterations * (i + 1) / snapshots)) for i in range(snapshots)}))


def _check_numbers(request: RunRequest) -> None:
    faults = [
        f"--{name} {value}: must be at least 1"
        for name, value in (
            ("seeds", request.seeds),
            ("iterations", request.iterations),
            ("evaluations", request.evaluations),
            ("crop", request.crop),
            ("batch-size", request.batch_size),
            ("threads", request.threads),
            ("early-sections", request.early_sections),
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

"""One trial, from prepared data to a result: fit, snapshots, predictions, scores (protocol 5)."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from embench.core import environment, locks, signals
from embench.core.environment import peak_memory
from embench.core.errors import BadInput, Diverged, is_out_of_memory
from embench.core.files import check_writable, remove
from embench.core.paths import prepared_path
from embench.core.runtime import deterministic, freed_memory_kept
from embench.data import duplicates
from embench.data.store import Prepared
from embench.data.task import Task
from embench.models.base import SegmentationModel, TorchModel
from embench.models.checkpoints import Weights, load_weights
from embench.models.external import ExternalTool
from embench.models.registry import find_model
from embench.models.volume import TorchVolumeModel, VolumeModel
from embench.runs.external import run_tool, work_folder
from embench.runs.keep import keep
from embench.runs.plan import Report, TrialSpec, is_done
from embench.runs.request import revived
from embench.scoring import results, schema
from embench.scoring.external import snapshot_of
from embench.scoring.schema import ModelCard, SnapshotScore, TrialResult
from embench.scoring.score import part_of, score_split
from embench.training.feeding import workers_for
from embench.training.inference import BlockPredict, Predict, predictor
from embench.training.loop import Loop
from embench.training.patches import TrainingPatches
from embench.training.precision import place
from embench.training.sampler import TrainingSections
from embench.training.state import load_state, save_state
from embench.training.trainer import Training

log = logging.getLogger(__name__)


def run(spec: TrialSpec, report: Report = lambda *_: None) -> TrialResult | None:
    """Run one trial, resuming where an earlier attempt stopped, and write its result.

    Returns
    -------
    TrialResult or None
        As written to ``spec.path``; ``diverged`` when the loss became non-finite. ``None`` when another process
        is running this very trial: see :func:`embench.core.locks.holder` of ``spec.claim_path``.

    Raises
    ------
    Interrupted
        The process was asked to stop; the trial goes on from where it was.
    TryAgain, BadInput
        A file could not be written; what was there before still is.
    """
    try:
        with locks.claimed(spec.claim_path, spec.results_folder), signals.deferred() as stop:
            if not is_done(spec):
                _run(spec, report, stop)
            remove(spec.state_path, spec.results_folder)
            shutil.rmtree(work_folder(spec), ignore_errors=True)
            remove(spec.claim_path, spec.results_folder)  # whoever locks it from now on finds the result
    except locks.Held:
        return None
    return results.load(spec.path, spec.results_folder)


def _run(spec: TrialSpec, report: Report, stop: signals.Interrupt) -> None:
    check_writable(spec.path.parent, spec.results_folder)
    torch.set_num_threads(spec.threads)
    device = torch.device(spec.device)
    data = Prepared(prepared_path(spec.task, spec.data))
    with deterministic(device, spec.deterministic), freed_memory_kept(device), data as prepared:
        if schema.fingerprint(prepared.task, prepared.hash, spec.iterations) != spec.key.fingerprint:
            raise BadInput(f"{prepared.path}: changed since the run was planned; start it again")
        adapter = find_model(spec.model)
        if adapter.source_hash != spec.key.source:
            raise BadInput(f"{spec.model}: changed since the run was planned; start it again: it is another model now")
        attempt = _attempt_of(adapter)
        if device.type == "cuda" and torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats(device)  # those of earlier trials of this process
        try:
            result = attempt(spec, adapter, prepared, device, report, stop)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise BadInput(
                f"out of memory ({device}): use --precision bf16, a smaller --batch-size or --crop, or fewer --jobs"
            ) from None
    results.save(result, spec.path, spec.results_folder)


def _attempt_of(adapter: SegmentationModel) -> Callable[..., TrialResult]:
    """Return what runs a trial of this kind of model."""
    if isinstance(adapter, TorchModel):
        return _torch_attempt
    return _tool_attempt if isinstance(adapter, ExternalTool) else _plain_attempt


def _torch_attempt(
    spec: TrialSpec,
    adapter: SegmentationModel,
    prepared: Prepared,
    device: torch.device,
    report: Report,
    stop: signals.Interrupt,
) -> TrialResult:
    assert isinstance(adapter, TorchModel)
    task = prepared.task
    recipe = revived(spec.recipe, adapter, spec.recipe_from, spec.recipe_changes)
    torch.manual_seed(np.random.SeedSequence(spec.entropy).generate_state(1, np.uint64)[0].item() >> 1)
    weights = load_weights(spec.weights) if spec.weights else None
    network = place(adapter.prepared(task, recipe.scale, weights), device)
    norms = adapter.norms(prepared.norms, weights)
    sections = TrainingSections(prepared)
    deep = adapter if isinstance(adapter, TorchVolumeModel) else None
    training = Training(
        network,
        TrainingPatches(prepared, deep.patch(task, recipe)) if deep else sections,
        task,
        recipe,
        norms=norms,
        iterations=spec.iterations,
        entropy=spec.entropy,
        device=device,
    )

    def checked(scores: NDArray[np.float32]) -> NDArray[np.float32]:
        stop.check()
        if len(scores) != task.outputs:
            raise BadInput(
                f"{adapter.name}: its network gives {len(scores)} channels; {task.name} needs {task.outputs}"
            )
        if not np.isfinite(scores).all():
            raise Diverged(training.iteration)
        return scores

    def present() -> Predict | BlockPredict:
        """What the present weights predict."""
        if deep is None:
            return predictor(training.best, task, recipe, norms, device).then(checked)
        return deep.predictor(training.best, task, recipe, norms, device).then(checked)

    scores: list[SnapshotScore] = []
    seconds = {"training": 0.0, "waiting": 0.0, "prediction": 0.0}
    snapshots = spec.snapshots
    if state := load_state(spec.state_path, spec.results_folder):
        snapshots = _begun(spec, state)
        training.resume(state["training"])
        scores = [SnapshotScore.model_validate_json(text) for text in state["scores"]]
        seconds |= state["seconds"]

    def save() -> None:
        seconds.update(training=loop.seconds, waiting=loop.waited)
        texts = [score.model_dump_json() for score in scores]
        state = {"training": training.state(), "scores": texts, "seconds": seconds, "trial": _identity(spec)}
        save_state(state | {"snapshots": list(snapshots)}, spec.state_path, spec.results_folder)

    def tell(losses: Sequence[float]) -> None:
        training.tell(losses)
        if losses:
            report("training", training.iteration, losses[-1])

    loop = Loop(
        training.take,
        training.batch,
        iteration=training.iteration,
        iterations=spec.iterations,
        tell=tell,
        save=save,
        stop=stop,
        device=device,
        workers=workers_for(spec.device, environment.cores()) if spec.workers is None else spec.workers,
        save_every=spec.save_every,
        before=(seconds["training"], seconds["waiting"]),
    )
    message = ""
    sections_kept: tuple[str, ...] = ()
    try:
        for end in snapshots[len(scores) :]:
            loop.run(end)
            loop.save()  # scoring may take long
            report("scoring", training.iteration, float("nan"))
            is_final = end == spec.iterations
            started = time.perf_counter()
            part = None if is_final else spec.early_sections
            volumes = prepared.volumes("test")
            scored = volumes if part is None else [part_of(task, volume, part) for volume in volumes]
            snapshot, sections_kept = score_split(
                task, scored, present(), end, sections if is_final else None, spec.path
            )
            snapshot = snapshot.model_copy(update={"sections": part})
            seconds["prediction"] += time.perf_counter() - started
            scores.append(snapshot)
            if not is_final:
                loop.save()
        status: Literal["done", "diverged"] = "done"
    except Diverged as error:
        status, message = "diverged", str(error)
    finally:
        loop.close()
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    card = ModelCard(
        name=spec.key.model,
        title=adapter.title,
        family=adapter.family,
        parameters=sum(size for size, _ in counts),
        trained_parameters=sum(size for size, trained in counts if trained),
        pretraining=adapter.pretraining or "none",
        pretraining_data=weights.card.data if weights else "none",
        weights_hash=weights.hash if weights else None,
        licence=adapter.licence,
        citation=adapter.citation,
    )
    result = _result(
        spec,
        task,
        card,
        status=status,
        message=message,
        iterations_done=training.iteration,
        snapshots=tuple(scores),
        loss_curve=_thinned(training.curve),
        seconds_training=loop.seconds,
        seconds_prediction=seconds["prediction"],
        seconds_waiting=loop.waited,
        weights=_weights_facts(weights),
        leakage=duplicates.of_trial(prepared, weights.card.data, weights.card.data_hash, spec.data)
        if weights
        else duplicates.of_trial(prepared),
        sections=sections_kept,
    )
    return keep(spec, task, training.best, norms, result) if spec.keep_weights and status == "done" else result


def _identity(spec: TrialSpec) -> str:
    return f"{spec.key.variant}, seed {spec.seed}"


def _begun(spec: TrialSpec, state: dict[str, Any]) -> tuple[int, ...]:
    """Return the iterations at which a trial is scored that goes on from a state: those that it began with.

    Raises
    ------
    BadInput
        The state is of another trial, or does not lead to the budget of this one.
    """
    begun = tuple(state.get("snapshots", spec.snapshots))
    scored = [SnapshotScore.model_validate_json(text).iteration for text in state["scores"]]
    fault = ""
    if state.get("trial", _identity(spec)) != _identity(spec):
        fault = f"the state of another trial ({state['trial']!s:.80})"
    elif begun[-1:] != (spec.iterations,) or scored != list(begun[: len(scored)]):
        fault = f"its trial was scored at iterations {scored!s:.80} on the way to another budget or other snapshots"
    if fault:
        raise BadInput(f"{spec.state_path}: {fault}; remove it to start again")
    if begun != spec.snapshots:
        log.info("%s: goes on as it began, scored at iterations %s", spec.label, ", ".join(map(str, begun)))
    return begun


def _plain_attempt(
    spec: TrialSpec,
    adapter: SegmentationModel,
    prepared: Prepared,
    device: torch.device,
    report: Report,
    stop: signals.Interrupt,
) -> TrialResult:
    """A model that is no torch network: fit once, predict once."""
    del device
    task, sections = prepared.task, TrainingSections(prepared)
    started = time.perf_counter()
    report("training", 0, float("nan"))
    adapter.fit(sections, task, spec.iterations, np.random.default_rng(spec.entropy))
    trained = time.perf_counter()
    report("scoring", spec.iterations, float("nan"))

    def predict(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        stop.check()
        return _checked(adapter, task, image)

    deep = BlockPredict(predict, adapter.block, adapter.halo) if isinstance(adapter, VolumeModel) else None
    volumes = prepared.volumes("test")
    snapshot, kept = score_split(task, volumes, deep or predict, spec.iterations, sections, spec.path)
    result = _result(
        spec,
        task,
        _card(spec, adapter),
        status="done",
        message="draws nothing at random: one result, compared over images" if adapter.deterministic else "",
        iterations_done=spec.iterations,
        snapshots=(snapshot,),
        seconds_training=trained - started,
        seconds_prediction=time.perf_counter() - trained,
        leakage=duplicates.of_trial(prepared),
        sections=kept,
    )
    return result.model_copy(update={"recipe": NO_RECIPE})  # what it does in fit is its own


def _card(spec: TrialSpec, adapter: SegmentationModel) -> ModelCard:
    """Who a model is that has no network to count parameters of."""
    return ModelCard(
        name=spec.key.model,
        title=adapter.title,
        family=adapter.family,
        licence=adapter.licence,
        citation=adapter.citation,
    )


NO_RECIPE = {"name": "none"}
"""Stands in the result of a model that the harness does not train."""


def _tool_attempt(
    spec: TrialSpec,
    adapter: SegmentationModel,
    prepared: Prepared,
    device: torch.device,
    report: Report,
    stop: signals.Interrupt,
) -> TrialResult:
    """A tool with an environment of its own: its label maps are scored, there are no scores of classes."""
    assert isinstance(adapter, ExternalTool)
    del device
    tool = adapter.tool
    outcome = run_tool(spec, adapter, prepared, report, stop)
    report("scoring", spec.iterations, float("nan"))
    snapshot, kept = snapshot_of(prepared, outcome.predictions, spec.iterations, spec.path)
    result = _result(
        spec,
        prepared.task,
        _card(spec, adapter),
        status="done",
        message=f"budget, as the tool states it: {tool.budget}",
        iterations_done=spec.iterations,
        snapshots=(snapshot,),
        seconds_training=outcome.training,
        seconds_prediction=outcome.prediction,
        leakage=duplicates.of_trial(prepared),
        sections=kept,
    )
    return result.model_copy(
        update={
            "recipe": NO_RECIPE | {"tool": tool.name, "budget": tool.budget},
            "peak_memory_bytes": outcome.memory_bytes,
            "environment": result.environment | outcome.facts,
        }
    )


def _checked(adapter: SegmentationModel, task: Task, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Predict a section, or a block of a volume, and check what comes."""
    what, axes = ("predict_volume", "C, Z, Y, X") if isinstance(adapter, VolumeModel) else ("predict", "C, Y, X")
    scores = np.asarray(getattr(adapter, what)(image, task), np.float32)
    expected = (task.outputs, *image.shape)
    if scores.shape != expected:
        raise BadInput(f"{adapter.name}: {what} returned {scores.shape}, expected ({axes}) = {expected}")
    if not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
        raise BadInput(f"{adapter.name}: {what} returned scores outside 0..1")
    return scores


def _result(spec: TrialSpec, task: Task, card: ModelCard, **found: Any) -> TrialResult:
    return TrialResult(
        model=card,
        task=task.name,
        seed=spec.seed,
        recipe=spec.recipe.facts(),
        pairing=spec.pairing,
        track=spec.track,
        synthetic=task.synthetic,
        fingerprint=spec.key.fingerprint,
        iterations_asked=spec.iterations,
        peak_memory_bytes=peak_memory(spec.device),
        environment=environment.environment(spec.device, spec.threads) | _source(spec),
        class_names=task.classes,
        **found,
    )


def _source(spec: TrialSpec) -> dict[str, Any]:
    """Return what the model is where it is no part of this package: its file, without the folder, and their hash."""
    if spec.key.source is None:
        return {}
    file, colon, name = spec.model.rpartition(":")
    named = f"{Path(file).name}:{name}" if ".py" in file and colon else spec.model.rpartition("/")[2]
    return {"model": named, "source": spec.key.source}


def _weights_facts(weights: Weights | None) -> dict[str, Any] | None:
    if weights is None:
        return None
    facts = weights.card.model_dump(mode="json", exclude={"loss_curve"})
    return {"hash": weights.hash, **facts}


def _thinned(curve: list[tuple[int, float, float]], points: int = 500) -> tuple[tuple[int, float, float], ...]:
    """Keep at most ``points`` of a loss curve, first and last included."""
    chosen = np.unique(np.linspace(0, len(curve) - 1, min(points, len(curve))).round().astype(int))
    return tuple(curve[int(i)] for i in chosen)

"""One trial, from prepared data to a result: fit, snapshots, predictions, scores (protocol 5)."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from embench import claim, interrupt, leakage, provenance, results, scoring
from embench.determinism import deterministic
from embench.errors import BadInput, Diverged, is_out_of_memory
from embench.files import check_writable, remove
from embench.heap import freed_memory_kept
from embench.inference import PlaneSum, labels_2d, predict_planes, predict_section
from embench.metrics import Counts, ScoreHistogram, count
from embench.model import SegmentationModel, TorchModel
from embench.plan import TrialSpec, is_done
from embench.precision import autocast, deployed, place
from embench.recipe import Recipe, find_recipe
from embench.registry import find_model
from embench.results import (
    Diagnostics,
    ImageCounts,
    ModelCard,
    SnapshotScore,
    TrialResult,
)
from embench.sections import TrainingSections
from embench.store import Prepared, Volume, prepared_path
from embench.task import Task
from embench.training import Training, load_state, save_state
from embench.weights import Weights, load_weights

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
Report = Callable[[str, int, float], None]
"""Called with what is going on, the iteration, and the loss (NaN outside training)."""

TRAINING_IMAGES_FOR_THRESHOLD = 4
"""Training sections, evenly spread, on which a trial chooses its diagnostic threshold."""
SIDE_FOR_THRESHOLD = 512
"""They are cut to at most this many pixels a side about their centre: bounded cost on any data."""


def run(spec: TrialSpec, report: Report = lambda *_: None) -> TrialResult | None:
    """Run one trial, resuming where an earlier attempt stopped, and write its result.

    Returns
    -------
    TrialResult or None
        As written to ``spec.path``; ``diverged`` when the loss became non-finite. ``None`` when another process
        is running this very trial: see :func:`embench.claim.holder` of ``spec.claim_path``.

    Raises
    ------
    Interrupted
        The process was asked to stop; the trial goes on from where it was.
    TryAgain, BadInput
        A file could not be written; what was there before still is.
    """
    try:
        with claim.claimed(spec.claim_path), interrupt.deferred() as stop:
            if not is_done(spec):
                _run(spec, report, stop)
            remove(spec.state_path)
            remove(spec.claim_path)  # whoever locks it from now on finds the result
    except claim.Held:
        return None
    return results.load(spec.path)


def _run(spec: TrialSpec, report: Report, stop: interrupt.Interrupt) -> None:
    check_writable(spec.path.parent)
    torch.set_num_threads(spec.threads)
    device = torch.device(spec.device)
    data = Prepared(prepared_path(spec.task, spec.data))
    with deterministic(device, spec.deterministic), freed_memory_kept(device), data as prepared:
        if prepared.hash != spec.key.fingerprint.data_hash:
            raise BadInput(f"{prepared.path}: changed since the run was planned; start it again")
        adapter = find_model(spec.model)
        attempt = _torch_attempt if isinstance(adapter, TorchModel) else _plain_attempt
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
    results.save(result, spec.path)


def _torch_attempt(
    spec: TrialSpec,
    adapter: SegmentationModel,
    prepared: Prepared,
    device: torch.device,
    report: Report,
    stop: interrupt.Interrupt,
) -> TrialResult:
    assert isinstance(adapter, TorchModel)
    task = prepared.task
    torch.manual_seed(np.random.SeedSequence(spec.entropy).generate_state(1, np.uint64)[0].item() >> 1)
    weights = load_weights(spec.weights) if spec.weights else None
    network = adapter.network(task.outputs, spec.recipe.scale)
    if weights:
        adapter.start(network, weights)
    network = place(network, device)
    norms = adapter.norms(prepared.norms, weights)
    sections = TrainingSections(prepared)
    training = Training(
        network,
        sections,
        task,
        spec.recipe,
        norms=norms,
        iterations=spec.iterations,
        entropy=spec.entropy,
        device=device,
    )

    def present() -> Predict:
        """What the present weights predict."""
        infer = predictor(network, task, spec.recipe, norms, device)

        def predict(image_YX: NDArray[np.uint8]) -> NDArray[np.float32]:
            stop.check()
            scores_CYX = infer(image_YX)
            if not np.isfinite(scores_CYX).all():
                raise Diverged(training.iteration)
            return scores_CYX

        return predict

    scores: list[SnapshotScore] = []
    seconds = {"training": 0.0, "prediction": 0.0}
    if state := load_state(spec.state_path):
        training.resume(state["training"])
        scores = [SnapshotScore.model_validate_json(text) for text in state["scores"]]
        seconds = state["seconds"]

    def save() -> None:
        texts = [score.model_dump_json() for score in scores]
        save_state({"training": training.state(), "scores": texts, "seconds": seconds}, spec.state_path)

    message = ""
    sections_kept: tuple[str, ...] = ()
    try:
        saved = time.monotonic()
        for end in spec.snapshots[len(scores) :]:
            while training.iteration < end:
                started = time.perf_counter()
                loss = training.step()
                seconds["training"] += time.perf_counter() - started
                report("training", training.iteration, loss)
                if stop.asked or time.monotonic() - saved > spec.save_every:
                    save()
                    saved = time.monotonic()
                    stop.check()
            save()  # scoring may take long
            report("scoring", training.iteration, float("nan"))
            is_final = end == spec.iterations
            started = time.perf_counter()
            snapshot, sections_kept = score_split(
                task, prepared.volumes("test"), present(), end, sections if is_final else None, spec.path
            )
            seconds["prediction"] += time.perf_counter() - started
            scores.append(snapshot)
            if not is_final:
                save()
                saved = time.monotonic()
        status: Literal["done", "diverged"] = "done"
    except Diverged as error:
        status, message = "diverged", str(error)
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
    return _result(
        spec,
        task,
        card,
        status=status,
        message=message,
        iterations_done=training.iteration,
        snapshots=tuple(scores),
        loss_curve=_thinned(training.curve),
        seconds_training=seconds["training"],
        seconds_prediction=seconds["prediction"],
        weights=_weights_facts(weights),
        leakage=leakage.of_trial(prepared, weights.card.data, weights.card.data_hash, spec.data)
        if weights
        else leakage.of_trial(prepared),
        sections=sections_kept,
    )


def predictor(
    network: nn.Module, task: Task, recipe: Recipe, norms: tuple[float, float], device: torch.device
) -> Predict:
    """Return what predicts a section under a recipe, with the network's weights at that time."""
    fixed = deployed(network)

    def predict(image_YX: NDArray[np.uint8]) -> NDArray[np.float32]:
        with autocast(recipe.precision, device):
            return predict_section(
                fixed,
                image_YX,
                inference=recipe.inference,
                norms=norms,
                device=device,
                volume=task.scoring.is_volume,
            )

    return predict


def _plain_attempt(
    spec: TrialSpec,
    adapter: SegmentationModel,
    prepared: Prepared,
    device: torch.device,
    report: Report,
    stop: interrupt.Interrupt,
) -> TrialResult:
    """A model that is no torch network: fit once, predict once."""
    del device
    task, sections = prepared.task, TrainingSections(prepared)
    started = time.perf_counter()
    report("training", 0, float("nan"))
    adapter.fit(sections, task, spec.iterations, np.random.default_rng(spec.entropy))
    trained = time.perf_counter()
    report("scoring", spec.iterations, float("nan"))

    def predict(image_YX: NDArray[np.uint8]) -> NDArray[np.float32]:
        stop.check()
        return _checked(adapter, task, image_YX)

    volumes = prepared.volumes("test")
    snapshot, kept = score_split(task, volumes, predict, spec.iterations, sections, spec.path)
    card = ModelCard(
        name=spec.key.model,
        title=adapter.title,
        family=adapter.family,
        licence=adapter.licence,
        citation=adapter.citation,
    )
    return _result(
        spec,
        task,
        card,
        status="done",
        iterations_done=spec.iterations,
        snapshots=(snapshot,),
        seconds_training=trained - started,
        seconds_prediction=time.perf_counter() - trained,
        leakage=leakage.of_trial(prepared),
        sections=kept,
    )


def _checked(adapter: SegmentationModel, task: Task, image_YX: NDArray[np.uint8]) -> NDArray[np.float32]:
    scores_CYX = np.asarray(adapter.predict(image_YX, task), np.float32)
    expected = (task.outputs, *image_YX.shape)
    if scores_CYX.shape != expected:
        raise BadInput(f"{adapter.name}: predict returned {scores_CYX.shape}, expected (C, Y, X) = {expected}")
    if not (np.isfinite(scores_CYX).all() and scores_CYX.min() >= 0 and scores_CYX.max() <= 1):
        raise BadInput(f"{adapter.name}: predict returned scores outside 0..1")
    return scores_CYX


def _result(spec: TrialSpec, task: Task, card: ModelCard, **found: Any) -> TrialResult:
    return TrialResult(
        model=card,
        task=task.name,
        seed=spec.seed,
        recipe=asdict(spec.recipe),
        pairing=spec.pairing,
        track=spec.track,
        synthetic=task.synthetic,
        fingerprint=spec.key.fingerprint,
        iterations_asked=spec.iterations,
        peak_memory_bytes=peak_memory(spec.device),
        environment=provenance.environment(spec.device, spec.threads),
        class_names=task.classes,
        **found,
    )


def _weights_facts(weights: Weights | None) -> dict[str, Any] | None:
    if weights is None:
        return None
    facts = weights.card.model_dump(mode="json", exclude={"loss_curve"})
    return {"hash": weights.hash, **facts}


def score_split(
    task: Task,
    volumes: Sequence[Volume],
    predict: Predict,
    iteration: int,
    sections: TrainingSections | None = None,
    result: Path | None = None,
) -> tuple[SnapshotScore, tuple[str, ...]]:
    """Score the present weights on a test split, section by section; a volume is summed over its planes first.

    Parameters
    ----------
    task : Task
    volumes : sequence of Volume
        With labels: what is scored.
    predict : callable
        From a section uint8 (Y, X) to scores float32 (C, Y, X) in 0..1.
    iteration : int
        Of the weights.
    sections : TrainingSections, optional
        Where to choose the diagnostic threshold, which is then applied too.
    result : Path, optional
        The result file beside which a few predicted sections are stored, with ``sections`` only.

    Returns
    -------
    snapshot : SnapshotScore
    kept : tuple of str
        The stored sections, relative to the folder of ``result``.
    """
    started = time.perf_counter()
    rule = task.scoring
    chosen = _thresholds(task, sections, predict) if sections else None
    thresholds = {value: threshold for value, threshold in (chosen or {}).items() if threshold is not None}
    pooled = {value: ScoreHistogram() for value in rule.classes}
    largest = dict.fromkeys(rule.classes, 0.0)
    images: list[ImageCounts] = []
    kept: list[str] = []
    keep = scoring.kept_sections(task, volumes) if sections and result else set()
    for volume in volumes:
        for name, first, scores_CZYX, labels_ZYX, truth_ZYX in _predictions(task, volume, predict):
            tuned = dict.fromkeys(thresholds, Counts())
            for z, truth_YX in enumerate(truth_ZYX):
                scores_CYX = scores_CZYX(z)
                counted = truth_YX > 0 if rule.ignore_unlabelled else np.ones(truth_YX.shape, bool)
                for value in rule.classes:
                    scores_YX = scores_CYX[0 if len(scores_CYX) == 1 else value]
                    largest[value] = max(largest[value], float(scores_YX.max()))
                    pooled[value].add(scores_YX[counted], truth_YX[counted] == value)
                    if value in tuned:
                        found = (scores_YX > thresholds[value]) & counted
                        tuned[value] += count(found, truth_YX == value, (1,))[1]
                if result and (volume.name, first + z) in keep:
                    kept.append(scoring.keep_section(result, volume.name, first + z, labels_ZYX[z]))
            images.append(scoring.image_counts(task, name, labels_ZYX, truth_ZYX, tuned if chosen else None))
    tuned_scores = [image.tuned for image in images if image.tuned is not None]
    diagnostics = Diagnostics(
        average_precision={value: histogram.average_precision() for value, histogram in pooled.items()},
        largest_score=largest,
        threshold=chosen,
        tuned_iou=results.tuned_iou(rule, tuned_scores) if chosen else None,
    )
    snapshot = scoring.snapshot(task, iteration, images, diagnostics, time.perf_counter() - started)
    return snapshot, tuple(kept)


def _predictions(
    task: Task, volume: Volume, predict: Predict
) -> Iterator[tuple[str, int, Callable[[int], NDArray[np.float32]], NDArray[np.uint8], Any]]:
    """Yield what is scored as one: (name, first section, scores of section z, label volume, truth volume)."""
    if task.scoring.is_volume:
        planes: PlaneSum = predict_planes(predict, volume.image, task.scoring.axes, task.outputs)
        yield volume.name, 0, planes.scores, planes.labels(), volume.labels
        return
    depth = volume.image.shape[0]
    for z in range(depth):
        image_YX, truth_YX = volume.section(0, z)
        assert truth_YX is not None
        scores_CYX = predict(image_YX)
        name = scoring.section_name(volume.name, depth, z)
        yield name, z, partial(_only_section, scores_CYX), labels_2d(scores_CYX)[None], truth_YX[None]


def _only_section(scores_CYX: NDArray[np.float32], z: int) -> NDArray[np.float32]:
    assert z == 0
    return scores_CYX


def _thresholds(task: Task, sections: TrainingSections, predict: Predict) -> dict[int, float | None]:
    """Choose per class, one against the rest, the threshold with the best IoU on training images.

    ``None`` for a class that those images do not show.
    """
    histograms = {value: ScoreHistogram() for value in task.scoring.classes}
    chosen = np.unique(np.linspace(0, len(sections) - 1, TRAINING_IMAGES_FOR_THRESHOLD).round().astype(int))
    for position in chosen:
        image_YX, labels_YX = (_centre(array, SIDE_FOR_THRESHOLD) for array in sections[int(position)])
        scores_CYX = predict(image_YX)
        counted = labels_YX > 0 if task.scoring.ignore_unlabelled else np.ones(labels_YX.shape, bool)
        for value, histogram in histograms.items():
            scores_YX = scores_CYX[0 if len(scores_CYX) == 1 else value]
            histogram.add(scores_YX[counted], labels_YX[counted] == value)
    return {
        value: None if histogram.average_precision() is None else histogram.best_threshold()[0]
        for value, histogram in histograms.items()
    }


def _centre(array_YX: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    starts = [max(0, (length - side) // 2) for length in array_YX.shape]
    return np.ascontiguousarray(array_YX[starts[0] : starts[0] + side, starts[1] : starts[1] + side])


def _thinned(curve: list[tuple[int, float, float]], points: int = 500) -> tuple[tuple[int, float, float], ...]:
    """Keep at most ``points`` of a loss curve, first and last included."""
    chosen = np.unique(np.linspace(0, len(curve) - 1, min(points, len(curve))).round().astype(int))
    return tuple(curve[int(i)] for i in chosen)


def peak_memory(device: str) -> int:
    """Return the peak memory of this process (on ``cuda``: of the device) in bytes."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    scale = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def pairing(adapter: SegmentationModel, recipe_name: str | None) -> tuple[Recipe, str]:
    """Return the recipe to train ``adapter`` under and whether it is the model's own.

    Parameters
    ----------
    adapter : SegmentationModel
    recipe_name : str or None
        As asked for; ``None``: the model's own.
    """
    own = adapter.recipe if isinstance(adapter, TorchModel) else "retina"
    if recipe_name is None or recipe_name == own:
        return find_recipe(own), "default"
    if not isinstance(adapter, TorchModel):
        raise BadInput(f"{adapter.name}: no torch network, so no recipe applies; leave out --recipe")
    return find_recipe(recipe_name), recipe_name

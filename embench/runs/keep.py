"""The final weights of a trial, kept beside the data, and the disk that they take."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from embench.core.errors import BadInput
from embench.data.task import Scale, Task
from embench.models import trained
from embench.models.base import TorchModel
from embench.models.registry import code_of, find_model
from embench.runs.plan import TrialSpec, is_done
from embench.scoring.schema import TrialResult

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


def keep(
    spec: TrialSpec, task: Task, network: nn.Module, norms: tuple[float, float], result: TrialResult
) -> TrialResult:
    """Write the network of a finished trial with its card, and return the result with the hash of its weights."""
    recipe, final = spec.recipe, result.final
    facts = {
        "model": result.model.name,
        "title": result.model.title,
        "adapter": spec.model.replace(f"{code.parent}/", "", 1) if (code := code_of(spec.model)) else spec.model,
        "pairing": result.pairing,
        "task": asdict(task),
        "data_hash": result.fingerprint.data_hash,
        "seed": result.seed,
        "scale": recipe.scale,
        "inference": trained.inference_facts(recipe.inference),
        "precision": recipe.precision,
        "norms": norms,
        "recipe": result.recipe,
        "iterations": result.iterations_done,
        "score": final.score if final else None,
        "class_iou": final.class_iou if final else {},
        "start": result.model.weights_hash,
        "pretraining": result.model.pretraining,
        "parameters": result.model.parameters,
        "licence": result.model.licence,
        "citation": result.model.citation,
        "threads": spec.threads,
        "environment": result.environment,
    }
    kept = trained.save(network.state_dict(), facts, spec.data)
    return result.model_copy(update={"trained": kept.card.hash})


def check_room(trials: Sequence[TrialSpec]) -> int:
    """Say how much disk the weights of the trials to come will take, and return it in bytes.

    Raises
    ------
    BadInput
        When there is less.
    """
    needed: dict[Path, int] = {}
    sizes: dict[tuple[str, int, Scale], int] = {}
    for trial in trials:
        if trial.keep_weights and not is_done(trial):
            classes = len(trial.key.fingerprint.classes)
            key = trial.model, 1 if classes == 2 else classes, trial.recipe.scale
            if key not in sizes:
                sizes[key] = weights_bytes(*key)
            needed[trial.data] = needed.get(trial.data, 0) + sizes[key]
    for data, size in needed.items():
        there = next(folder for folder in (data.absolute(), *data.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free
        if size > free:
            raise BadInput(
                f"{trained.folder_of(data)}: the final weights take {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
                "make room, or keep none with --no-keep-weights"
            )
        if size:
            log.info("final weights: %.2f GB in %s (none with --no-keep-weights)", size / 1e9, trained.folder_of(data))
    return sum(needed.values())


def weights_bytes(model: str, outputs: int, scale: Scale) -> int:
    """Return the bytes of a model's final weights; 0 for what is no torch network."""
    import torch

    adapter = find_model(model)
    if not isinstance(adapter, TorchModel):
        return 0
    state = torch.random.get_rng_state()
    try:
        with torch.device("meta"):
            network = adapter.at(scale).network(outputs)
    except Exception:  # an initialisation that looks at values, of which there are none yet
        network = adapter.at(scale).network(outputs)
    finally:
        torch.random.set_rng_state(state)
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())

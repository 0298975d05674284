"""The checkpoint that a pre-trained model starts from: where it stands, whether one fits, what makes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from embench.core.errors import BadInput
from embench.data.task import Scale
from embench.models.base import TorchModel
from embench.models.checkpoints import Weights, WeightsCard, load_weights, weights_path
from embench.pretraining.registry import find_pretraining, pretraining_names


def start_path(model: TorchModel, data: str, scale: Scale, folder: Path | None = None) -> Path:
    """Return where the checkpoint stands that ``model`` starts from, on tasks that name the unlabelled set ``data``."""
    assert model.pretraining is not None
    other = None if _is_own(model) else model.base.name
    return weights_path(model.pretraining, model.pretraining_data or data, scale, folder, other)


def start_command(model: TorchModel, spec: str, data: str, scale: Scale) -> str:
    """Return the command that makes that checkpoint; ``spec`` is how the model was named."""
    if model.pretraining not in pretraining_names():
        of = f" --model {spec}" if model.own_checkpoints else ""
        return f"embench checkpoint import FILE{of} --data {model.pretraining_data or data}"
    command = f"embench pretrain {model.pretraining}"
    if not _is_own(model):
        command += f" --model {spec}"
    command += f" --data {model.pretraining_data or data}"
    return command if scale == "full" else f"{command} --scale {scale}"


def find_start(
    model: TorchModel,
    spec: str,
    data: str,
    scale: Scale,
    given: Sequence[Weights] = (),
    folder: Path | None = None,
) -> Weights | None:
    """Return the checkpoint that ``model`` starts from: the given one that fits, or the one where it should stand.

    Parameters
    ----------
    model : TorchModel
        With a pre-training.
    spec : str
        How it was named on the command line.
    data : str
        The unlabelled set that the task names.
    scale : {"full", "tiny"}
    given : sequence of Weights
        What may be used in place of the default; of several that fit, that of the wanted set.
    folder : Path, optional
        The data folder.

    Returns
    -------
    Weights or None
        ``None`` when there is none.

    Raises
    ------
    BadInput
        Several that fit equally; one of another scale, method, model or set than its place says.
    """
    wanted = model.pretraining_data or data
    fitting = [weights for weights in given if fits(model, weights.card)]
    if len(fitting) > 1:
        fitting = [weights for weights in fitting if weights.card.data == wanted]
        if len(fitting) != 1:
            named = ", ".join(str(weights.path) for weights in given if fits(model, weights.card))
            raise BadInput(f"{model.name}: several checkpoints fit ({named}); give one, or one of {wanted}")
    for weights in fitting:
        if weights.card.scale != scale:
            raise BadInput(f"{weights.path}: scale {weights.card.scale}, but {model.name} is wanted at {scale}")
        return weights
    path = start_path(model, data, scale, folder)
    if not path.exists():
        return None
    weights = load_weights(path)
    card = weights.card
    if not fits(model, card) or (card.data, card.scale) != (wanted, scale):
        raise BadInput(f"{path}: {described(card)}, but {model.name} starts from {_wanted(model)} on {wanted}, {scale}")
    return weights


def fits(model: TorchModel, card: WeightsCard) -> bool:
    """Whether a checkpoint is of the pre-training, and of the network, that ``model`` starts from."""
    return card.method == model.pretraining and card.model in (None, model.base.name)


def check_wanted(given: Sequence[Weights], models: Sequence[TorchModel]) -> None:
    """Refuse given checkpoints that none of ``models`` starts from, saying what they are."""
    for weights in given:
        if not any(fits(model, weights.card) for model in models):
            of = "; ".join(f"{model.name} starts from {_wanted(model)}" for model in models)
            raise BadInput(f"{weights.path}: {described(weights.card)}, which no model asked for starts from ({of})")


def only_imported(model: TorchModel) -> str | None:
    """Return the method in a model's start whose weights can only be published ones; ``None`` where there is none."""
    if model.pretraining is None:
        return None
    if model.pretraining not in pretraining_names():
        return model.pretraining
    return only_imported(model.base()) if model.base.base is not model.base else None


def described(card: WeightsCard) -> str:
    """Return what a checkpoint is, in words."""
    of = f" of {card.model}" if card.model else ""
    return f"{card.method} weights{of} on {card.data}, {card.scale}"


def _wanted(model: TorchModel) -> str:
    return f"{model.pretraining} weights of {model.base.name}" if model.pretraining else "random weights"


def _is_own(model: TorchModel) -> bool:
    """Whether the pre-training of ``model`` trains this network unless another is asked for."""
    method = model.pretraining
    if model.own_checkpoints:
        return False
    return method not in pretraining_names() or find_pretraining(method).trains is model.base

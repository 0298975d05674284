"""Our own checkpoints: a safetensors file and, beside it, a JSON card of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from embench.core import confined
from embench.core.errors import BadInput
from embench.core.files import sha256, write_atomic
from embench.core.names import check_name
from embench.core.paths import data_folder
from embench.core.types import Count, Digest, Finite, Name
from embench.data.task import Scale

if TYPE_CHECKING:
    from torch import Tensor


class WeightsCard(BaseModel):
    """What is known of every checkpoint, whoever made it.

    ``method`` is the pre-training's registered name, ``model`` that of the model whose network it trained (``None``:
    not recorded), ``start`` the hash of the checkpoint that this model started from (``None``: random). ``data`` and
    ``data_hash`` are the set it learned from (``None``: not at hand to be hashed), ``norms`` the mean and standard
    deviation of 0..1 grey values used (``None``: not known).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Name
    model: Name | None = None
    start: Digest | None = None
    data: Name
    data_hash: Digest | None
    scale: Scale
    norms: tuple[Finite, Finite] | None
    synthetic: bool
    options: dict[str, Any] = {}


class PretrainingCard(WeightsCard):
    """What made a checkpoint of ``embench pretrain``; ``loss_curve`` are (epoch, mean loss) pairs."""

    data_hash: Digest
    epochs: Count
    iterations: Count
    images: Count
    crop: Count
    batch_size: Count
    norms: tuple[Finite, Finite]
    seed: Count
    loss_curve: tuple[tuple[Count, Finite], ...]
    seconds: Finite
    seconds_waiting: Finite | None = None
    environment: dict[str, Any]


class ImportedCard(WeightsCard):
    """Which published file a checkpoint was made from; ``left_out`` counts its entries that were not taken over."""

    source: str
    source_hash: Digest
    kind: str
    left_out: dict[str, Count] = {}


MAX_CARD = 16 * 2**20
_CARD: TypeAdapter[PretrainingCard | ImportedCard] = TypeAdapter(PretrainingCard | ImportedCard)


@dataclass(frozen=True)
class Weights:
    """A loaded checkpoint: tensors by state-dict name, its card, and the SHA-256 of the safetensors file."""

    tensors: dict[str, Tensor]
    card: WeightsCard
    hash: str
    path: Path


def weights_path(method: str, data: str, scale: Scale, folder: Path | None = None, model: str | None = None) -> Path:
    """Return where the checkpoint of ``method`` on the set ``data`` stands; raise :class:`BadInput` for no names.

    ``model`` names that whose network was trained, when it is not the method's own.
    """
    for name in (method, data, *((model,) if model else ())):
        check_name(name)
    what = f"{method}+{model}" if model else method
    return (folder or data_folder()) / "weights" / f"{what}-{data}-{scale}.safetensors"


def save_weights(path: Path, tensors: dict[str, Tensor], card: WeightsCard, below: Path | None = None) -> str:
    """Write a checkpoint and its card atomically (the card last) and return the hash of the former.

    ``below`` as in :func:`embench.core.files.replacing`.
    """
    from safetensors.torch import save

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    write_atomic(path, content, below=below)
    write_atomic(path.with_suffix(".json"), card.model_dump_json(indent=1) + "\n", below=below)
    return sha256(path)


def load_weights(path: Path) -> Weights:
    """Read a checkpoint written by :func:`save_weights`.

    Raises
    ------
    BadInput
        When the file or its card is absent or is not ours.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card = load_card(path)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise BadInput(f"{path}: not a safetensors file ({error})") from None
    return Weights(tensors, card, sha256(path), path)


def load_card(path: Path) -> WeightsCard:
    """Read the card of the checkpoint ``path``, which has to be there; raises as :func:`load_weights` does."""
    if not path.exists():
        raise BadInput(f"{path}: no such checkpoint; make one with: embench pretrain")
    if path.suffix != ".safetensors":
        raise BadInput(
            f"{path}: expected a .safetensors checkpoint made by embench pretrain; "
            "a published one is brought into it by: embench checkpoint import FILE"
        )
    if not path.is_file():  # a pipe or a device would never end
        raise BadInput(f"{path}: not a file; remove it")
    place = path.with_suffix(".json")
    try:
        return _CARD.validate_json(confined.read(place, path.parent, MAX_CARD, "a card"))
    except FileNotFoundError as error:
        raise BadInput(f"{place}: the checkpoint's card cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise BadInput(f"{place}: not a checkpoint card ({error.errors()[0]['msg']})") from None


def matched(
    where: object, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], left_out: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Return the given tensors that are wanted: all of them, none missing, none of another shape.

    Parameters
    ----------
    where : object
        What to call their source in an error.
    given : mapping of str to Tensor
    wanted : mapping of str to Tensor
        Of a state dict, or a part of it.
    left_out : tuple of str
        Beginnings of names that need no place.

    Raises
    ------
    BadInput
        One line for each name without a place, each that is lacking, and each whose shape differs.
    """
    faults = [f"{where}: no place for {key}" for key in given if key not in wanted and not key.startswith(left_out)]
    faults += [f"{where}: lacks {key}" for key in wanted if key not in given]
    faults += [
        f"{where}: {key} is {tuple(given[key].shape)}, the network's is {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in given and given[key].shape != tensor.shape
    ]
    if faults:
        raise BadInput(sorted(faults))
    return {key: given[key] for key in wanted}

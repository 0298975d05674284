"""Our own pre-training checkpoints: a safetensors file and, beside it, a JSON card of the same name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from embench.errors import BadInput
from embench.files import replacing, sha256, write_atomic
from embench.results import Count, Digest, Finite, Name
from embench.store import data_folder
from embench.task import Scale

if TYPE_CHECKING:
    from torch import Tensor


class PretrainingCard(BaseModel):
    """What made a checkpoint.

    ``method`` is the pre-training's registered name, ``data`` and ``data_hash`` the unlabelled set, ``norms`` the
    mean and standard deviation of 0..1 grey values used, ``loss_curve`` (epoch, mean loss) pairs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Name
    data: Name
    data_hash: Digest
    scale: Scale
    epochs: Count
    iterations: Count
    images: Count
    crop: Count
    batch_size: Count
    norms: tuple[Finite, Finite]
    seed: Count
    loss_curve: tuple[tuple[Count, Finite], ...]
    seconds: Finite
    synthetic: bool
    options: dict[str, Any] = {}
    environment: dict[str, Any]


@dataclass(frozen=True)
class Weights:
    """A loaded checkpoint: tensors by state-dict name, its card, and the SHA-256 of the safetensors file."""

    tensors: dict[str, Tensor]
    card: PretrainingCard
    hash: str
    path: Path


def weights_path(method: str, data: str, scale: Scale, folder: Path | None = None) -> Path:
    """Return where the checkpoint of ``method`` on the unlabelled set ``data`` stands."""
    return (folder or data_folder()) / "weights" / f"{method}-{data}-{scale}.safetensors"


def save_weights(path: Path, tensors: dict[str, Tensor], card: PretrainingCard) -> str:
    """Write a checkpoint and its card atomically (the card last) and return the hash of the former."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    write_atomic(path.with_suffix(".json"), card.model_dump_json(indent=1) + "\n")
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

    if path.suffix != ".safetensors":
        raise BadInput(f"{path}: expected a .safetensors checkpoint made by: embench pretrain")
    if not path.exists():
        raise BadInput(f"{path}: no such checkpoint; make one with: embench pretrain")
    try:
        card = PretrainingCard.model_validate_json(path.with_suffix(".json").read_bytes())
    except OSError as error:
        raise BadInput(
            f"{path.with_suffix('.json')}: the checkpoint's card cannot be read ({error.strerror})"
        ) from None
    except ValidationError as error:
        raise BadInput(f"{path.with_suffix('.json')}: not a checkpoint card ({error.errors()[0]['msg']})") from None
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise BadInput(f"{path}: not a safetensors file ({error})") from None
    return Weights(tensors, card, sha256(path), path)

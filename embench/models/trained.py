"""What a trial leaves of its network: the final weights and a card that says all that is needed to apply them.

A file ``trained/TASK/MODEL-seed-N-HASH.safetensors`` in the folder of prepared data, with a JSON card of the same name.
The result of the trial holds the hash, and so leads to both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from embench.core.errors import BadInput
from embench.core.files import sha256, write_atomic
from embench.core.paths import data_folder
from embench.core.types import Count, Digest, Finite, Name
from embench.data.task import Scale, Task
from embench.training.recipe import INFERENCES, Inference

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = "trained"


class TrainedCard(BaseModel):
    """What made a network, and how it is applied.

    ``adapter`` is how the model was named (``FILE.py:Class`` without a folder for one of the user's own), ``task`` the
    whole task as it was prepared, ``inference`` how a section is predicted, by name with its parameters, ``norms`` mean
    and standard deviation of 0..1 grey values, ``score`` the trial's, ``start`` the hash of the checkpoint that the
    network was initialised from (``None``: random), ``threads`` of the processor it was scored with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    format: Literal[1] = 1
    hash: Digest
    model: Name
    title: str = ""
    adapter: str
    pairing: Name = "default"
    task: dict[str, Any]
    data_hash: Digest
    seed: Count
    scale: Scale
    inference: dict[str, dict[str, Any]]
    precision: Literal["fp32", "bf16"]
    norms: tuple[Finite, Finite]
    recipe: dict[str, Any]
    iterations: Count
    score: Finite | None
    class_iou: dict[int, Finite] = {}
    start: Digest | None = None
    pretraining: str = "none"
    parameters: Count
    licence: str = "unknown"
    citation: str = ""
    threads: Count = 1
    environment: dict[str, Any] = {}

    @property
    def the_task(self) -> Task:
        """The task that the network was trained on."""
        return TypeAdapter(Task).validate_python(self.task)

    @property
    def the_inference(self) -> Inference:
        """How a section is predicted."""
        ((name, facts),) = self.inference.items()
        return INFERENCES[name](**facts)

    @property
    def row(self) -> str:
        """The leaderboard row of the trial."""
        return self.model if self.pairing == "default" else f"{self.model}+{self.pairing}"

    def described(self) -> str:
        """Return the network in a line."""
        return f"embench {self.row} on {self.task['name']}, seed {self.seed}, weights {self.hash[:12]}"


def inference_facts(inference: Inference) -> dict[str, dict[str, Any]]:
    """Return how a section is predicted as a card holds it."""
    name = next(name for name, kind in INFERENCES.items() if isinstance(inference, kind))
    return {name: asdict(inference)}


@dataclass(frozen=True)
class Trained:
    """A trained network's card and where its weights are."""

    card: TrainedCard
    path: Path

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by state-dict name.

        Raises
        ------
        BadInput
            When the file is absent, or not the one that the card describes.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be read ({error.strerror}); train again, or copy it here") from None
        import hashlib

        if (found := hashlib.sha256(content).hexdigest()) != self.card.hash:
            raise BadInput(
                f"{self.path}: its hash is {found[:12]}, its card says {self.card.hash[:12]}; "
                "one of them was changed or copied without the other: bring both from where they were made"
            )
        try:
            return load(content)
        except SafetensorError as error:
            raise BadInput(f"{self.path}: not a safetensors file ({error})") from None

    def load_into(self, network: nn.Module) -> nn.Module:
        """Load the weights into a network of the model's and return it.

        Raises
        ------
        BadInput
            As :meth:`tensors`; for tensors that do not fit, one line each.
        """
        from embench.models.checkpoints import matched

        network.load_state_dict(matched(self.path, self.tensors(), network.state_dict()))
        return network


def folder_of(data: Path | None = None) -> Path:
    """Return where trained networks are kept."""
    return (data or data_folder()) / FOLDER


def save(tensors: Mapping[str, Tensor], facts: Mapping[str, Any], data: Path | None = None) -> Trained:
    """Write final weights and their card atomically, the card last; the same weights again change nothing.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        A state dict.
    facts : mapping
        Of :class:`TrainedCard`, without the hash.
    data : Path, optional
        The folder of prepared data.
    """
    import hashlib

    from safetensors.torch import save as encoded

    # cloned: networks may share a tensor between two names, which safetensors does not write
    content = encoded({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    card = TrainedCard(hash=hashlib.sha256(content).hexdigest(), **facts)
    name = f"{card.row}-seed-{card.seed}-{card.hash[:12]}.safetensors"
    path = folder_of(data) / str(card.task["name"]) / name
    write_atomic(path, content)
    write_atomic(path.with_suffix(".json"), card.model_dump_json(indent=1) + "\n")
    return Trained(card, path)


def load(path: Path) -> Trained:
    """Read the card of a weights file; the weights themselves are read when they are wanted.

    Raises
    ------
    BadInput
        When the file or its card is absent or is not ours.
    """
    path = path.with_suffix(".safetensors") if path.suffix == ".json" else path
    if not path.exists():
        raise BadInput(f"{path}: no such file; what is there: embench list trained")
    try:
        return Trained(TrainedCard.model_validate_json(path.with_suffix(".json").read_bytes()), path)
    except OSError as error:
        raise BadInput(
            f"{path.with_suffix('.json')}: the card of these weights cannot be read ({error.strerror}); "
            "copy it from where they were made"
        ) from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise BadInput(
            f"{path.with_suffix('.json')}: not the card of a trained network ({where}: {fault['msg']})"
        ) from None


def find(digest: str, data: Path | None = None) -> Trained | None:
    """Return the trained network whose weights have this hash; ``None`` when it is not kept here."""
    for path in folder_of(data).glob(f"*/*-{digest[:12]}.safetensors"):
        found = load(path)
        if found.card.hash == digest:
            return found
    return None


def every(data: Path | None = None) -> Iterator[Trained]:
    """Yield the trained networks that are kept, by task and name; raises as :func:`load` does."""
    for path in sorted(folder_of(data).glob("*/*.safetensors")):
        yield load(path)


__all__ = ["Trained", "TrainedCard", "every", "find", "folder_of", "inference_facts", "load", "save", "sha256"]

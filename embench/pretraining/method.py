"""What a pre-training method is, and its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embench.data.task import Scale
from embench.models.base import TorchModel
from embench.models.checkpoints import Weights
from embench.training.optim import polynomial
from embench.training.precision import Precision

if TYPE_CHECKING:
    pass


CEM500K_NORMS = (0.57287007, 0.12740536)
"""Published mean and standard deviation of CEM500K's 0..1 grey values (protocol 4.3)."""

Views = tuple[NDArray[np.uint8], ...]
Augment = Callable[[NDArray[np.uint8], np.random.Generator], Views]


# What a method is


@dataclass(frozen=True)
class Settings:
    """How long, on what size, and from which seed a method is run.

    Parameters
    ----------
    epochs : int
        Passes over the tiles; the horizon of the learning-rate schedule (protocol 7.5).
    batch_size : int
        Global: of all devices together.
    crop : int
        Edge of the tiles and of the views made from them, pixels.
    scale : {"full", "tiny"}
    seed : int
    learning_rate : float
        At the start.
    precision : {"fp32", "bf16"}
    accumulate : int
        Parts into which a device's batch is cut to save memory; batch-norm sees the parts.
    ema : float
        Decay per step of the moving average of the parameters; with it the average is what is written. 0: none.
    compile : bool
        Whether torch compiles the network first.
    """

    epochs: int
    batch_size: int
    crop: int
    scale: Scale
    seed: int
    learning_rate: float
    precision: Precision = "fp32"
    accumulate: int = 1
    ema: float = 0.0
    compile: bool = False


class Pretraining:
    """A way to pre-train the network of a model. The loop does the rest.

    Parameters
    ----------
    model : TorchModel, optional
        Whose network is trained, by default that of ``trains``.
    start : Weights, optional
        The checkpoint that this model itself starts from.

    Attributes
    ----------
    name, title : str
        ``name`` as registered under the entry points ``embench.pretraining``.
    trains : type of TorchModel
        The model whose network is trained unless another is given.
    takes_any_model : bool
        Whether another can be given.
    epochs, batch_size, crop, learning_rate, momentum, weight_decay
        As published.
    tiny : dict
        The settings that replace them at scale ``tiny``.
    crop_multiple : int
        What must divide the crop.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    trains: ClassVar[type[TorchModel]] = TorchModel
    takes_any_model: ClassVar[bool] = False
    epochs: ClassVar[int] = 200
    batch_size: ClassVar[int]
    crop: ClassVar[int] = 224
    learning_rate: ClassVar[float]
    momentum: ClassVar[float] = 0.9
    weight_decay: ClassVar[float] = 1e-4
    tiny: ClassVar[dict[str, Any]] = {"epochs": 8, "batch_size": 16, "crop": 64}
    crop_multiple: int = 1

    def __init__(self, model: TorchModel | None = None, start: Weights | None = None) -> None:
        self.model, self.start = model or self.trains(), start

    @classmethod
    def takes(cls, model: TorchModel) -> bool:
        """Whether the network of ``model`` can be pre-trained in this way."""
        return type(model) is cls.trains or cls.takes_any_model

    def settings(self, scale: Scale = "full", **changes: Any) -> Settings:
        """Return the published settings (reduced at scale ``tiny``), with those ``changes`` that are not ``None``."""
        published = Settings(self.epochs, self.batch_size, self.crop, scale, 0, self.learning_rate)
        reduced = self.tiny if scale == "tiny" else {}
        return replace(published, **reduced | {key: value for key, value in changes.items() if value is not None})

    def rate(self, step: int, steps: int) -> float:
        """Return the factor on the learning rate used in ``step`` (from 0) of ``steps``; polynomial (protocol 4.2)."""
        return polynomial(step, steps)

    def optimiser(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """Return what trains ``parameters``; SGD with the method's momentum and weight decay."""
        return torch.optim.SGD(
            parameters, learning_rate, momentum=self.momentum, weight_decay=self.weight_decay, fused=True
        )

    def augmentation(self, crop: int) -> Augment:
        """Return what makes, from a uint8 tile (Y, X) and a generator, the uint8 views (crop, crop) of one sample."""
        raise NotImplementedError

    def module(self, settings: Settings, images: int) -> nn.Module:
        """Return the whole that is trained, freshly initialised from torch's generator; ``images`` in an epoch."""
        raise NotImplementedError

    def loss(self, module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the mean loss of a batch.

        Parameters
        ----------
        module : nn.Module
            In training mode; it must be called, not its parts, as it may be wrapped for several devices.
        batch : tuple of Tensor
            One normalised (B, 1, crop, crop) tensor per view. Whatever is drawn here comes from torch's own
            generator, which the loop seeds at every step.
        """
        raise NotImplementedError

    def stepped(self, module: nn.Module) -> None:
        """Do what follows the optimiser's step, once however many parts the batch had (momentum networks, queues).

        Buffers are not sent among processes: what the loss reads of them must come out the same in each.
        """

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the tensors to write, under the names that the adapters load."""
        return module.state_dict()

    def pictures(self, module: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the columns of the example grid by title, each (B, 1, Y, X) normalised; by default the views."""
        return {f"view {number}": view for number, view in enumerate(batch, start=1)}

    def options(self, settings: Settings, images: int) -> dict[str, Any]:
        """Return what else made the checkpoint, JSON-able, for its card."""
        return {}


def other_model(method: Pretraining) -> str | None:
    """Return the name of the model when its network is not the method's own."""
    return None if type(method.model) is method.trains else method.model.name

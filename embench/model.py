"""What a model adapter is: a network and the recipe it is published with, or just a ``predict``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from embench.task import Scale, Task

if TYPE_CHECKING:
    from torch import nn

    from embench.sections import TrainingSections
    from embench.weights import Weights


class SegmentationModel:
    """Anything that can label a section. The harness does the rest.

    Attributes
    ----------
    name : str
        Row in every table; from the class name when empty (``MyModel`` becomes ``my-model``).
    title, family, licence, citation : str
        For the model card; ``family`` is ``cnn``, ``transformer``, ``hybrid``, ``mamba`` or ``other``.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    family: ClassVar[str] = "other"
    licence: ClassVar[str] = "unknown"
    citation: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()

    def fit(self, sections: TrainingSections, task: Task, iterations: int, rng: np.random.Generator) -> None:
        """Learn from the training split, for at most ``iterations`` steps. By default nothing is learned."""

    def predict(self, image_YX: NDArray[np.uint8], task: Task) -> NDArray[np.float32]:
        """Return scores of a section.

        Parameters
        ----------
        image_YX : ndarray of uint8
        task : Task

        Returns
        -------
        scores_CYX : ndarray of float32
            In 0..1; one channel for a binary task, one per class otherwise (``task.outputs``).
        """
        raise NotImplementedError(f"{type(self).__name__} has no predict")


class TorchModel(SegmentationModel):
    """A network trained by the harness under a recipe.

    Attributes
    ----------
    recipe : str
        Name of the recipe it is published with (``unet`` or ``retina``).
    pretraining : str or None
        Name of the pre-training its start comes from (``embench pretrain NAME``); ``None``: random.
    """

    recipe: ClassVar[str] = "unet"
    pretraining: ClassVar[str | None] = None

    def network(self, outputs: int, scale: Scale) -> nn.Module:
        """Return a freshly initialised network from (B, 1, Y, X) to logits (B, ``outputs``, Y, X)."""
        raise NotImplementedError(f"{type(self).__name__} builds no network")

    def start(self, network: nn.Module, weights: Weights) -> None:
        """Load pre-trained ``weights`` into ``network`` and freeze what the method freezes.

        Raises
        ------
        BadInput
            Listing every key that has no place, or whose shape differs.
        """
        raise NotImplementedError(f"{type(self).__name__} declares a pre-training but does not load it")

    def norms(self, task_norms: tuple[float, float], weights: Weights | None) -> tuple[float, float]:
        """Return mean and standard deviation for normalising 0..1 grey values."""
        return task_norms

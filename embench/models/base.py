"""What a model adapter is: a network and the recipe it is published with, or just a ``predict``."""

from __future__ import annotations

import re
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from embench.data.task import Scale, Task

if TYPE_CHECKING:
    from torch import nn

    from embench.models.checkpoints import Weights
    from embench.training.recipe import Recipe
    from embench.training.sampler import TrainingSections


GROUPS = {
    "published": "compared in the papers",
    "start": "other starts of the same networks",
    "ablation": "RETINA without one operation of its corruption",
    "hybrid": "other networks, random and pre-trained",
    "encoder": "any encoder of a library under a decoder, as smp:ARCHITECTURE:ENCODER or vit:NAME",
    "volume": "3D networks, for tasks scored as volumes",
    "classical": "without a network: what a score is to be measured against",
    "tool": "other tools in environments of their own, as external:FILE.toml",
    "other": "further models",
}
"""Groups of models in the order in which they are listed; a group can be run by its name."""


class SegmentationModel:
    """Anything that can label a section. The harness does the rest.

    Attributes
    ----------
    name : str
        Row in every table; from the class name when empty (``MyModel`` becomes ``my-model``).
    group : str
        Under which it is listed; one of :data:`GROUPS`, not inherited.
    title, family, licence, citation : str
        For the model card; ``family`` is ``cnn``, ``transformer``, ``hybrid``, ``mamba`` or ``other``.
    deterministic : bool
        Whether it draws nothing at random: it has one result on a task, whatever number of seeds is asked for.
    source_hash : str or None
        SHA-256 of the file that says what the model is, or ``NAME==VERSION`` of the other package that it comes from:
        with another one it is another model, whose trials are others. Of that file alone, not of what it imports.
    """

    name: ClassVar[str] = ""
    group: ClassVar[str] = "other"
    title: ClassVar[str] = ""
    family: ClassVar[str] = "other"
    licence: ClassVar[str] = "unknown"
    citation: ClassVar[str] = ""
    deterministic: ClassVar[bool] = False
    source_hash: ClassVar[str | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()
        if "group" not in cls.__dict__:
            cls.group = "other"

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
    """A network trained by the harness under a recipe, from random weights or from a pre-training.

    Attributes
    ----------
    recipe : str or Recipe
        The recipe it is trained under unless another is asked for: a name, or one of its own.
    pretraining : str or None
        Name of the pre-training its start comes from (``embench pretrain NAME``); ``None``: random.
    pretraining_data : str or None
        The set it was pre-trained on; ``None``: the one that the task names.
    base : type of TorchModel
        The model whose network the pre-training trains, from that model's own start; models of one base share its
        checkpoints. By default the nearest ancestor that starts at random or builds a network of its own.
    transferred : tuple of str
        Beginnings of the names of the network's tensors that the pre-training gives.
    frozen : tuple of str
        Beginnings of the names of the parameters that are then trained no more.
    encoder_parts : tuple of str
        Beginnings of the names of the encoder's parameters, for ``--tune``; by default what is ``transferred``.
    own_checkpoints : bool
        Whether the files of its checkpoints are named after the model as well, as several models share a pre-training
        whose weights fit one of them.
    left_out : tuple of str
        Beginnings of the names that only the pre-training's network has.
    multiple : int
        What must divide the sides of an image given to the network.
    scale : {"full", "tiny"}
        Width of the network that is asked for (:meth:`at`): reduced tasks ask for ``tiny``. A model that knows one
        width alone need not look at it.
    """

    recipe: ClassVar[str | Recipe] = "unet"
    pretraining: ClassVar[str | None] = None
    pretraining_data: ClassVar[str | None] = None
    base: ClassVar[type[TorchModel]]
    transferred: ClassVar[tuple[str, ...]] = ()
    frozen: ClassVar[tuple[str, ...]] = ()
    encoder_parts: ClassVar[tuple[str, ...]] = ()
    own_checkpoints: ClassVar[bool] = False
    left_out: ClassVar[tuple[str, ...]] = ()
    multiple: ClassVar[int] = 32
    scale: Scale = "full"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "base" not in cls.__dict__ and (cls.pretraining is None or "network" in cls.__dict__):
            cls.base = cls

    @property
    def recipe_name(self) -> str:
        """Name of its own recipe."""
        return self.recipe if isinstance(self.recipe, str) else self.recipe.name

    def at(self, scale: Scale) -> Self:
        """Return the model at a width, for what its networks are built of from then on."""
        model = copy(self)
        model.scale = scale
        return model

    def network(self, outputs: int) -> nn.Module:
        """Return a freshly initialised network from (B, 1, Y, X) to logits (B, ``outputs``, Y, X)."""
        raise NotImplementedError(f"{type(self).__name__} builds no network")

    def reconstruction(self) -> nn.Module:
        """Return a freshly initialised network from images to images (B, 1, Y, X), for reconstruction pre-training.

        Its tensors carry the names of those of :meth:`network`. By default it is that network with one output.
        """
        return self.network(1)

    def prepared(self, task: Task, scale: Scale, weights: Weights | None) -> nn.Module:
        """Return the network as training on ``task`` begins: started from ``weights``, and frozen where it says so."""
        network = self.network_for(task, scale)
        if weights:
            self.start(network, weights)
        else:
            self.freeze(network)
        self.adapt(network)
        return network

    def network_for(self, task: Task, scale: Scale) -> nn.Module:
        """Return a freshly initialised network for ``task``; by default all that it depends on are its outputs."""
        return self.at(scale).network(task.outputs)

    def adapt(self, network: nn.Module) -> None:
        """Change what is trained of a started network; by default nothing (see :mod:`embench.models.tuning`)."""

    def freeze(self, network: nn.Module) -> None:
        """Freeze what is ``frozen``."""
        for name, parameter in network.named_parameters():
            if name.startswith(self.frozen):
                parameter.requires_grad_(False)

    def start(self, network: nn.Module, weights: Weights) -> None:
        """Load what is ``transferred`` from pre-trained ``weights`` into ``network``, and freeze what is ``frozen``.

        Raises
        ------
        BadInput
            Listing every tensor that has no place in the network, that is lacking, or whose shape differs; or what is
            declared and names nothing in the network.
        """
        from embench.core.errors import BadInput
        from embench.models.checkpoints import matched

        own = network.state_dict()
        if idle := [part for part in self.transferred + self.frozen if not any(key.startswith(part) for key in own)]:
            raise BadInput(f"{self.name}: no tensor of its network begins with {', '.join(idle)}")
        if not self.transferred:
            raise BadInput(f"{self.name}: starts from {self.pretraining}, but declares nothing as `transferred`")
        wanted = {key: tensor for key, tensor in own.items() if key.startswith(self.transferred)}
        given = {key: tensor for key, tensor in weights.tensors.items() if key in wanted or key not in own}
        network.load_state_dict({**own, **matched(weights.path, given, wanted, self.left_out)})
        self.freeze(network)

    def norms(self, task_norms: tuple[float, float], weights: Weights | None) -> tuple[float, float]:
        """Return mean and standard deviation for normalising 0..1 grey values."""
        return task_norms


TorchModel.base = TorchModel

"""Models that are given a volume in blocks instead of one section after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.task import Scale, Task
from embench.models.base import SegmentationModel, TorchModel
from embench.training.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import nn

    from embench.training.inference import BlockPredict

Shape = tuple[int, int, int]


RECIPE = Recipe(
    name="volume",
    loss="cross-entropy+dice",
    optimiser="sgd",
    learning_rate=0.01,
    weight_decay=3e-5,
    momentum=0.99,
    optimiser_options={"nesterov": True},
    schedule="polynomial",
    augmentation="volume",
    clip_gradient=12.0,
    crop=96,
    batch_size=2,
)
"""nnU-Net's: loss, optimiser, schedule, gradient norm and batch. The crop is the width of a patch."""


class VolumeModel(SegmentationModel):
    """Anything that can label a block of a volume. The harness cuts the volume and joins what it gets.

    Only tasks that are scored as volumes can be given to it.

    Attributes
    ----------
    block, halo : (int, int, int)
        (Z, Y, X) voxels: of a block, and of what is read beyond it at each end and then cut off. A block is smaller at
        the far ends of a volume, and so is its halo at the border.
    """

    block: ClassVar[Shape] = (32, 256, 256)
    halo: ClassVar[Shape] = (8, 32, 32)

    def predict_volume(self, image_ZYX: NDArray[np.uint8], task: Task) -> NDArray[np.float32]:
        """Return scores of a block with its halo.

        Parameters
        ----------
        image_ZYX : ndarray of uint8
            Of any size.
        task : Task

        Returns
        -------
        scores_CZYX : ndarray of float32
            In 0..1; one channel for a binary task, one per class otherwise (``task.outputs``).
        """
        raise NotImplementedError(f"{type(self).__name__} has no predict_volume")

    def predict(self, image_YX: NDArray[np.uint8], task: Task) -> NDArray[np.float32]:
        raise BadInput(f"{self.name}: labels volumes, not sections")


class TorchVolumeModel(VolumeModel, TorchModel):
    """A 3D network trained by the harness on 3D patches.

    :meth:`network` returns one from (B, 1, Z, Y, X) to logits (B, ``outputs``, Z, Y, X); a network that depends on the
    shape of the voxels overrides :meth:`network_for` and :meth:`multiples`. A recipe's crop is the width of a patch,
    which is as deep in nanometres as it is wide. Blocks are predicted at the size of a patch, of which an eighth at
    each end is halo.
    """

    recipe = RECIPE

    def network(self, outputs: int) -> nn.Module:
        raise NotImplementedError(f"{type(self).__name__} builds no network")

    def multiples(self, task: Task, scale: Scale) -> Shape:
        """Return what must divide the sides (Z, Y, X) of what the network gets."""
        return self.multiple, self.multiple, self.multiple

    def patch(self, task: Task, recipe: Recipe) -> Shape:
        """Return the size (Z, Y, X) of a training patch."""
        from embench.training.patches import patch_of, spacing_of

        assert recipe.crop is not None
        return patch_of(recipe.crop, spacing_of(task), self.multiples(task, recipe.scale))

    def blocks(self, task: Task, recipe: Recipe) -> tuple[Shape, Shape]:
        """Return block and halo with which a volume is predicted."""
        patch = self.patch(task, recipe)
        halo = patch[0] // 8, patch[1] // 8, patch[2] // 8
        return (patch[0] - 2 * halo[0], patch[1] - 2 * halo[1], patch[2] - 2 * halo[2]), halo

    def predictor(
        self, network: nn.Module, task: Task, recipe: Recipe, norms: tuple[float, float], device: torch.device
    ) -> BlockPredict:
        """Return what predicts a volume in blocks, with the network's weights at that time."""
        from embench.training.inference import block_predictor

        block, halo = self.blocks(task, recipe)
        multiple = self.multiples(task, recipe.scale)
        return block_predictor(network, recipe, norms, device, block=block, halo=halo, multiple=multiple)


def check_task(model: SegmentationModel, task: Task) -> None:
    """Refuse a model of volumes on a task whose sections are scored one by one."""
    if isinstance(model, VolumeModel) and not task.scoring.is_volume:
        raise BadInput(
            f"{model.name} on {task.name}: a model of volumes, but the task's sections are scored one by one; "
            "choose a task that is scored as a volume (cremi, guay, urocell and their mini ones)"
        )

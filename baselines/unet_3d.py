"""A residual 3D U-Net with nnU-Net's rule for anisotropic voxels: MONAI's DynUNet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embench.data.task import Scale, Task
from embench.models.volume import Shape, TorchVolumeModel

if TYPE_CHECKING:
    from torch import nn

_CITATION = """@article{isensee2021nnunet,
  title = {nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation},
  author = {Isensee, Fabian and others}, journal = {Nature Methods}, volume = {18}, pages = {203--211}, year = {2021}
}"""

FILTERS: dict[Scale, tuple[int, ...]] = {"full": (32, 64, 128, 256, 320), "tiny": (8, 16, 32, 64)}
"""Of each level, the finest first."""


class UNet3D(TorchVolumeModel):
    """MONAI's DynUNet with residual blocks and instance norm, all random, all trained.

    Kernels and strides follow the shape of the task's voxels as nnU-Net's do; five levels of up to 320 filters.
    """

    name = "unet-3d"
    group = "volume"
    title = "Residual 3D U-Net (random)"
    family = "cnn"
    licence = "Apache-2.0"
    citation = _CITATION

    def network(self, outputs: int) -> nn.Module:
        return build(outputs, (1.0, 1.0, 1.0), self.scale)

    def network_for(self, task: Task, scale: Scale) -> nn.Module:
        from embench.training.patches import spacing_of

        return build(task.outputs, spacing_of(task), scale)

    def multiples(self, task: Task, scale: Scale) -> Shape:
        from embench.training.patches import multiple_of, spacing_of

        return multiple_of(spacing_of(task), len(FILTERS[scale]))


def build(outputs: int, spacing: tuple[float, float, float], scale: Scale) -> nn.Module:
    """Return a freshly initialised network for voxels of a shape.

    Parameters
    ----------
    outputs : int
    spacing : (float, float, float)
        Size of a voxel (Z, Y, X), in any unit.
    scale : {"full", "tiny"}
    """
    from monai.networks.nets import DynUNet

    from embench.training.patches import levels_of

    kernels, strides = zip(*levels_of(spacing, len(FILTERS[scale])), strict=True)
    return DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=outputs,
        kernel_size=kernels,
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=FILTERS[scale],
        norm_name=("INSTANCE", {"affine": True}),
        res_block=True,
    )

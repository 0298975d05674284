"""SwinUNETR, a further hybrid that the paper names (protocol 4.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embench.models.base import TorchModel

if TYPE_CHECKING:
    from torch import nn

_CITATION = """@inproceedings{hatamizadeh2021swinunetr,
  title = {Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images},
  author = {Hatamizadeh, Ali and others}, booktitle = {BrainLes, MICCAI}, year = {2021}
}"""


class SwinUNETRModel(TorchModel):
    """MONAI's SwinUNETR in two dimensions with 48 features, all random, all trained.

    It runs under TransUNet's recipe, so that the network is all that differs; no source gives another for EM images.
    """

    name = "swin-unetr"
    group = "hybrid"
    title = "SwinUNETR (random)"
    family = "hybrid"
    licence = "Apache-2.0"
    citation = _CITATION
    recipe = "retina"
    multiple = 1

    def network(self, outputs: int) -> nn.Module:
        from baselines.swin_unetr_network import SwinUNETR

        if self.scale == "full":
            return SwinUNETR(outputs)
        return SwinUNETR(outputs, feature_size=12, depths=(1, 1, 1, 1))

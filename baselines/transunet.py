"""TransUNet from random weights (protocol 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embench.model import TorchModel
from embench.task import Scale

if TYPE_CHECKING:
    from torch import nn

CITATION = """@article{chen2021transunet,
  title = {TransUNet: Transformers make strong encoders for medical image segmentation},
  author = {Chen, Jieneng and others}, journal = {arXiv:2102.04306}, year = {2021}
}"""


def size(scale: Scale) -> dict[str, Any]:
    """Return the network's settings at a scale; the published fine-tuning size needs none."""
    if scale == "full":
        return {}
    return {
        "hidden": 48,
        "mlp": 96,
        "layers": 2,
        "heads": 4,
        "width": 8,
        "units": (1, 1, 1),
        "decoder_channels": (32, 16, 16, 8),
        "bridge_channels": 32,
        "image_size": 64,
    }


class TransUNetModel(TorchModel):
    """All parameters random, all trained."""

    name = "transunet"
    title = "TransUNet (random)"
    family = "hybrid"
    licence = "MIT"
    citation = CITATION
    recipe = "retina"

    def network(self, outputs: int, scale: Scale) -> nn.Module:
        from baselines.transunet_network import TransUNet

        return TransUNet(outputs, **size(scale))

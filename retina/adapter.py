"""RETINA: TransUNet that starts from reconstruction pre-training (protocol 4.2, 7.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from baselines.transunet import TransUNetModel
from embench.weights import matched

if TYPE_CHECKING:
    from torch import nn

    from embench.weights import Weights

_CITATION = """@article{retina2025,
  title = {RETINA: Reconstruction-based Pre-Trained Enhanced TransUNet for Electron Microscopy Segmentation on the
           CEM500K Dataset},
  journal = {bioRxiv}, year = {2025}, doi = {10.1101/2025.01.08.632030}
}"""
_ENCODER = "transformer."
_TRANSFORMER = "transformer.encoder."


class Retina(TransUNetModel):
    """The whole encoder is transferred and its transformer layers are frozen; all else is trained."""

    name = "retina"
    title = "RETINA"
    citation = _CITATION
    pretraining = "retina"
    transferred: ClassVar[str] = _ENCODER
    left_out: ClassVar[tuple[str, ...]] = ("decoder.", "FinalDecoder.", "segmentation_head.")

    def start(self, network: nn.Module, weights: Weights) -> None:
        from baselines.weights import check_size

        check_size(weights.path, weights.tensors, network)
        own = network.state_dict()
        wanted = {key: tensor for key, tensor in own.items() if key.startswith(self.transferred)}
        network.load_state_dict({**own, **matched(weights.path, weights.tensors, wanted, self.left_out)})
        for name, parameter in network.named_parameters():
            if name.startswith(_TRANSFORMER):
                parameter.requires_grad_(False)


class RetinaTransformerOnly(Retina):
    """The paper's wording: only the transformer layers are transferred (protocol 7.1)."""

    name = "retina-transformer-only"
    title = "RETINA, transformer layers only"
    transferred = _TRANSFORMER
    left_out = ("transformer.embeddings.", *Retina.left_out)

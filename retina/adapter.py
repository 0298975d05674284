"""RETINA: TransUNet that starts from reconstruction pre-training (protocol 4.2, 7.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from baselines.transunet import TransUNetModel
from embench.errors import BadInput

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
_HEADS = ("decoder.", "FinalDecoder.", "segmentation_head.")


class Retina(TransUNetModel):
    """The whole encoder is transferred and its transformer layers are frozen; all else is trained."""

    name = "retina"
    title = "RETINA"
    citation = _CITATION
    pretraining = "retina"
    transferred: ClassVar[str] = _ENCODER

    def start(self, network: nn.Module, weights: Weights) -> None:
        own = network.state_dict()
        wanted = {key for key in own if key.startswith(self.transferred)}
        given = {key for key in weights.tensors if key.startswith(self.transferred)}
        faults = [f"{weights.path}: no place for {key}" for key in given - wanted]
        faults += [f"{weights.path}: lacks {key}" for key in wanted - given]
        faults += [
            f"{weights.path}: no place for {key}" for key in weights.tensors if not key.startswith((_ENCODER, *_HEADS))
        ]
        faults += [
            f"{weights.path}: {key} is {tuple(weights.tensors[key].shape)}, the network's is {tuple(own[key].shape)}"
            for key in wanted & given
            if weights.tensors[key].shape != own[key].shape
        ]
        if faults:
            raise BadInput(sorted(faults))
        network.load_state_dict({**own, **{key: weights.tensors[key] for key in wanted}})
        for name, parameter in network.named_parameters():
            if name.startswith(_TRANSFORMER):
                parameter.requires_grad_(False)


class RetinaTransformerOnly(Retina):
    """The paper's wording: only the transformer layers are transferred (protocol 7.1)."""

    name = "retina-transformer-only"
    title = "RETINA, transformer layers only"
    transferred = _TRANSFORMER

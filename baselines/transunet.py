"""TransUNet from random weights and from pre-trainings of others or of parts of it (protocol 4.2, 4.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from embench.data.task import Scale
from embench.models.base import TorchModel

if TYPE_CHECKING:
    from torch import nn

    from embench.models.checkpoints import Weights


from collections.abc import Mapping

from torch import Tensor, nn

from embench.core.errors import BadInput

CITATION = """@article{chen2021transunet,
  title = {TransUNet: Transformers make strong encoders for medical image segmentation},
  author = {Chen, Jieneng and others}, journal = {arXiv:2102.04306}, year = {2021}
}"""


def size(scale: Scale, hidden: int = 192) -> dict[str, Any]:
    """Return the network's settings at a scale; the published fine-tuning size, 192, needs none (protocol 7.2)."""
    if scale == "full":
        return {} if hidden == 192 else {"hidden": hidden, "mlp": 4 * hidden}
    return {
        "hidden": hidden // 4,
        "mlp": hidden // 2,
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
    group = "published"
    title = "TransUNet (random)"
    family = "hybrid"
    licence = "MIT"
    citation = CITATION
    recipe = "retina"
    encoder_parts = ("transformer.",)
    left_out = ("FinalDecoder.",)
    multiple = 16
    hidden: ClassVar[int] = 192

    def network(self, outputs: int) -> nn.Module:
        from baselines.transunet_network import TransUNet

        return TransUNet(outputs, **size(self.scale, self.hidden))

    def reconstruction(self) -> nn.Module:
        from baselines.transunet_network import ReconstructionTransUNet

        return ReconstructionTransUNet(**size(self.scale, self.hidden))

    def start(self, network: nn.Module, weights: Weights) -> None:

        check_size(weights.path, weights.tensors, network)
        super().start(network, weights)


class TransUNet768(TransUNetModel):
    """Of the size of the ImageNet weights and of the published pre-training script (protocol 7.2)."""

    name = "transunet-768"
    group = "start"
    title = "TransUNet, hidden size 768 (random)"
    hidden = 768


class TransUNetImageNet(TransUNet768):
    """Encoder from supervised ImageNet training, its transformer layers frozen (protocol 4.5, 7.9).

    The weights are ``R50+ViT-B_16.npz``, brought in by ``embench checkpoint import``.
    """

    name = "transunet-imagenet"
    group = "start"
    title = "TransUNet (ImageNet)"
    pretraining = "imagenet"
    pretraining_data = "imagenet"
    transferred = ("transformer.",)
    frozen: ClassVar[tuple[str, ...]] = ("transformer.encoder.",)


class ImageNetStart(TransUNetImageNet):
    """What a further pre-training begins with: the same weights, all of which it trains."""

    name = TransUNetImageNet.name
    group = "start"
    frozen = ()


class TransUNetSimCLR(TransUNetModel):
    """Convolutional part from SimCLR (protocol 4.5); nothing is frozen, as no source says otherwise.

    The paper reports no improvement over random weights.
    """

    name = "transunet-simclr"
    group = "start"
    title = "TransUNet (SimCLR of the convolutional part)"
    pretraining = "simclr"
    transferred = ("transformer.embeddings.hybrid_model.",)


class TransUNetMAE(TransUNetModel):
    """Transformer layers from masked autoencoding (protocol 4.5); nothing is frozen, as no source says otherwise.

    The paper reports poor outcomes.
    """

    name = "transunet-mae"
    group = "start"
    title = "TransUNet (masked autoencoder of the transformer part)"
    pretraining = "mae"
    transferred = ("transformer.encoder.",)


_FINAL_NORM = "transformer.encoder.encoder_norm.weight"


# Fitting into a network


def hidden_size(tensors: Mapping[str, Tensor]) -> int | None:
    """Return the width of the tokens of a TransUNet's state dict; ``None`` when it has no transformer."""
    norm = tensors.get(_FINAL_NORM)
    return None if norm is None else norm.numel()


def check_size(where: object, tensors: Mapping[str, Tensor], network: nn.Module) -> None:
    """Refuse, in one line, TransUNet weights whose hidden size is not the network's (protocol 7.2).

    Raises
    ------
    BadInput
        Naming both sizes.
    """
    given, own = hidden_size(tensors), hidden_size(network.state_dict())
    if given and own and given != own:
        raise BadInput(f"{where}: hidden size {given}, but the network's is {own}; use weights and network of one size")

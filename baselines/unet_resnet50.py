"""UNet-ResNet50, from random weights and from MoCoV2 pre-training (protocol 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from embench.core.errors import BadInput
from embench.data.task import Scale
from embench.models.base import TorchModel

if TYPE_CHECKING:
    from torch import nn

    from embench.models.checkpoints import Weights

_CITATION = """@article{conrad2021cem500k,
  title = {CEM500K, a large-scale heterogeneous unlabeled cellular electron microscopy image dataset for deep learning},
  author = {Conrad, Ryan and Narayan, Kedar},
  journal = {eLife}, volume = {10}, pages = {e65894}, year = {2021}
}"""


def unet(outputs: int, scale: Scale) -> nn.Module:
    """Return a randomly initialised UNet whose encoder is a ResNet50 with one input channel.

    At scale ``tiny`` the encoder has one bottleneck per stage and an eighth of the channels.
    """
    from baselines.unet_network import UNet

    return _sized(UNet, outputs, scale)


def rgb_unet(outputs: int, scale: Scale) -> nn.Module:
    """Return the same with an encoder of three channels, which is given grey values of 0..1."""
    from baselines.unet_network import RGBUNet

    return _sized(RGBUNet, outputs, scale)


def _sized(network: Callable[..., nn.Module], outputs: int, scale: Scale) -> nn.Module:
    if scale == "full":
        return network("resnet50", outputs)
    return network(
        "tu-resnet50",
        outputs,
        decoder_channels=(32, 16, 16, 8, 8),
        layers=(1, 1, 1, 1),
        channels=(8, 16, 32, 64),
        stem_width=8,
    )


class UNetResNet50(TorchModel):
    """All parameters random, all trained."""

    name = "unet-resnet50"
    group = "published"
    title = "UNet-ResNet50 (random)"
    family = "cnn"
    licence = "MIT"
    citation = _CITATION
    recipe = "unet"
    encoder_parts = ("encoder.",)

    def network(self, outputs: int) -> nn.Module:
        return unet(outputs, self.scale)


class UNetResNet50MoCoV2(UNetResNet50):
    """Encoder from MoCoV2 pre-training and frozen; its batch-norm statistics still update (protocol 4.1)."""

    name = "unet-resnet50-mocov2"
    group = "published"
    title = "UNet-ResNet50 (MoCoV2)"
    pretraining = "mocov2"
    transferred = ("encoder.",)
    frozen = ("encoder.",)

    def start(self, network: nn.Module, weights: Weights) -> None:
        """Load the encoder, whose checkpoint has the names of the published one."""
        named = {f"encoder.{key}": tensor for key, tensor in weights.tensors.items()}
        super().start(network, replace(weights, tensors=named))

    def norms(self, task_norms: tuple[float, float], weights: Weights | None) -> tuple[float, float]:
        if weights is None:
            return task_norms
        if weights.card.norms is None:
            raise BadInput(f"{weights.path.with_suffix('.json')}: no norms; import the checkpoint again with --norms")
        return weights.card.norms


class UNetResNet50SwAV(UNetResNet50MoCoV2):
    """Encoder from SwAV pre-training on CEM1.5M and frozen, as the MoCoV2 one is.

    The weights are brought in by ``embench checkpoint import FILE --data cem1.5m``; no score of this row is published.
    """

    name = "unet-resnet50-swav"
    group = "start"
    title = "UNet-ResNet50 (SwAV on CEM1.5M)"
    pretraining = "swav"
    pretraining_data = "cem1.5m"


class UNetResNet50RGB(UNetResNet50):
    """The network of the ImageNet rows: an encoder for colours, which is given the grey image three times."""

    name = "unet-resnet50-rgb"
    group = "start"
    title = "UNet-ResNet50 for colours (random)"

    def network(self, outputs: int) -> nn.Module:
        return rgb_unet(outputs, self.scale)

    def norms(self, task_norms: tuple[float, float], weights: Weights | None) -> tuple[float, float]:
        """Return what leaves grey values as they are: the network itself normalises each channel."""
        return 0.0, 1.0


class UNetResNet50ImageNet(UNetResNet50RGB):
    """Encoder from supervised ImageNet training and frozen; its batch-norm statistics still update.

    As CEM500K's code has it for its Table 2: three grey channels, normalised as ImageNet's. The weights are
    torchvision's (``embench checkpoint fetch imagenet-resnet50``).
    """

    name = "unet-resnet50-imagenet"
    group = "start"
    title = "UNet-ResNet50 (ImageNet, supervised)"
    pretraining = "imagenet-supervised"
    pretraining_data = "imagenet"
    transferred = ("encoder.",)
    frozen = ("encoder.",)

    def start(self, network: nn.Module, weights: Weights) -> None:
        """Load the encoder, whose checkpoint has the names of the published one."""
        named = {f"encoder.{key}": tensor for key, tensor in weights.tensors.items()}
        super().start(network, replace(weights, tensors=named))


class UNetResNet50ImageNetMoCoV2(UNetResNet50ImageNet):
    """Encoder from MoCoV2 pre-training on ImageNet and frozen, otherwise as the supervised one.

    The weights are those of MoCo's authors (``embench checkpoint fetch imagenet-resnet50-mocov2``).
    """

    name = "unet-resnet50-imagenet-mocov2"
    group = "start"
    title = "UNet-ResNet50 (ImageNet, MoCoV2)"
    pretraining = "imagenet-mocov2"

"""Any decoder of segmentation_models_pytorch over any of its encoders or of timm's: ``smp:ARCHITECTURE:ENCODER``."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from embench.core.errors import BadInput
from embench.core.names import unknown
from embench.models.base import TorchModel

if TYPE_CHECKING:
    from torch import nn

_CITATION = """@misc{iakubovskii2019smp,
  title = {Segmentation Models Pytorch}, author = {Iakubovskii, Pavel}, year = {2019},
  howpublished = {\\url{https://github.com/qubvel-org/segmentation_models.pytorch}}
}"""


LIBRARY = ("imagenet", "timm")
"""What stands for the library's own weights, as start and as the set they are from."""
_SIDE = 64
"""Pixels; the smallest crop of a recipe."""


class SMPModel(TorchModel):
    """A network of the library with one input channel; its size is that of its encoder at every scale.

    Attributes
    ----------
    architecture, encoder : str
        As the library calls them.
    """

    citation = _CITATION
    licence = "MIT"
    family = "cnn"
    recipe = "unet"
    encoder_parts = ("encoder.",)
    own_checkpoints = True
    architecture: ClassVar[str]
    encoder: ClassVar[str]

    def network(self, outputs: int) -> nn.Module:
        return build(self.architecture, self.encoder, outputs)


@cache
def model(words: str) -> type[TorchModel]:
    """Return the model called ``smp:ARCHITECTURE:ENCODER`` or ``smp:ARCHITECTURE:ENCODER:START``.

    Parameters
    ----------
    words : str
        Without ``smp:``. START is the pre-training of the encoder: a method of ``embench list pretraining``, or what
        ``embench checkpoint import --method START`` brought in; ``imagenet`` stands for the library's own weights.

    Raises
    ------
    BadInput
        An unknown architecture or encoder, with near names; a pair that the library refuses; one that takes no grey
        images, or images of one size alone.
    """
    import segmentation_models_pytorch as smp

    architecture, encoder, start = _parts(words)
    known = {name.lower(): kind for name, kind in smp.MODEL_ARCHITECTURES_MAPPING.items()}
    if architecture.lower() not in known:
        names = [kind.__name__ for kind in known.values()]
        near = next((name for name in names if name.lower() == architecture.lower()), architecture)
        raise unknown("architecture of smp", near, names)
    architecture = known[architecture.lower()].__name__
    _check_encoder(encoder)
    _try(architecture, encoder)
    name = re.sub("[^a-z0-9._-]", "-", "-".join(["smp", architecture, encoder, *([start] if start else [])]).lower())
    facts: dict[str, Any] = {
        "name": name,
        "group": "encoder",
        "__doc__": f"{architecture} over the encoder {encoder}, all trained.",
        "__module__": __name__,
        "title": f"{architecture}, {encoder} ({start or 'random'})",
        "architecture": architecture,
        "encoder": encoder,
    }
    if not start:
        return type(f"SMP{architecture}", (SMPModel,), facts)
    random = model(f"{architecture}:{encoder}")
    return type(f"SMP{architecture}", (random,), facts | started(start))


def started(start: str) -> dict[str, Any]:
    """Return the attributes of a model whose encoder comes from the pre-training ``start``."""
    facts: dict[str, Any] = {"pretraining": start, "transferred": ("encoder.",)}
    return facts | {"pretraining_data": start} if start in LIBRARY else facts


def build(architecture: str, encoder: str, outputs: int) -> nn.Module:
    """Return a freshly initialised network of the library for grey images.

    Raises
    ------
    BadInput
        In one line: what the library says of a pair that it does not have.
    """
    import segmentation_models_pytorch as smp

    settings = {"dynamic_img_size": True} if architecture == "DPT" else {}
    try:
        return smp.create_model(architecture, encoder, encoder_weights=None, in_channels=1, classes=outputs, **settings)
    except Exception as error:  # each encoder refuses in its own way
        said = _said(error)
        if "in_channels" in said or "in_chans" in said:
            raise BadInput(
                f"smp:{architecture}:{encoder}: the encoder takes no grey images ({said}); choose another"
            ) from None
        raise BadInput(f"smp:{architecture}:{encoder}: the library refuses this pair: {said}") from None


def _try(architecture: str, encoder: str) -> None:
    """Build the network and give it two images as small as the harness gives any, before anything is trained."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        network = build(architecture, encoder, 1).train()
        try:
            logits = network(torch.zeros(2, 1, _SIDE, _SIDE))
        except Exception as error:  # as above
            raise BadInput(
                f"smp:{architecture}:{encoder}: fails on images of {_SIDE} x {_SIDE} pixels: {_said(error)}"
            ) from None
    if logits.shape != (2, 1, _SIDE, _SIDE):
        raise BadInput(f"smp:{architecture}:{encoder}: returns {tuple(logits.shape)} for two images of {_SIDE} pixels")


def _said(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def _parts(words: str) -> tuple[str, str, str]:
    architecture, _, rest = words.partition(":")
    encoder, _, start = rest.partition(":")
    if not (architecture and encoder) or ":" in start:
        raise BadInput(f"smp:{words}: give smp:ARCHITECTURE:ENCODER or smp:ARCHITECTURE:ENCODER:START")
    return architecture, encoder, start


def _check_encoder(encoder: str) -> None:
    import segmentation_models_pytorch as smp
    import timm

    own = [*smp.encoders.encoders]
    if encoder in own:
        return
    base = encoder.removeprefix("tu-").partition(".")[0]
    if encoder.startswith("tu-") and timm.is_model(base):
        return
    raise unknown("encoder of smp", encoder, [*own, *(f"tu-{name}" for name in timm.list_models())])

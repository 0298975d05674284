"""Plain vision transformers of timm, foundation models among them, under a light decoder: ``vit:NAME``."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from baselines.smp_models import started
from embench.core.errors import BadInput
from embench.core.names import unknown
from embench.models.base import TorchModel
from embench.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from embench.models.checkpoints import Weights

_CITATION = """@misc{wightman2019timm,
  title = {PyTorch Image Models}, author = {Wightman, Ross}, year = {2019}, doi = {10.5281/zenodo.4414861}
}"""

_SIDE = 64
"""Pixels; the smallest crop of a recipe."""


RECIPE = Recipe(
    name="vit",
    loss="cross-entropy+dice",
    optimiser="adamw",
    learning_rate=3e-4,
    weight_decay=0.05,
    schedule="warm-cosine",
    clip_gradient=1.0,
    crop=224,
)
"""As transformers are commonly fine-tuned; no source gives one for EM images."""


class ViTModel(TorchModel):
    """A transformer of timm with one input channel and a UNet's decoder; its size is that of its name at every scale.

    Attributes
    ----------
    encoder : str
        As timm calls it.
    """

    family = "transformer"
    licence = "Apache-2.0"
    citation = _CITATION
    recipe = RECIPE
    encoder_parts = ("encoder.",)
    own_checkpoints = True
    encoder: ClassVar[str]

    def network(self, outputs: int) -> nn.Module:
        from baselines.vit_network import ViTUNet, encoder_of

        return ViTUNet(encoder_of(self.encoder), outputs)

    def norms(self, task_norms: tuple[float, float], weights: Weights | None) -> tuple[float, float]:
        """Return those of the pre-training, where the network has one that says them."""
        return weights.card.norms or task_norms if weights else task_norms


@cache
def model(words: str) -> type[TorchModel]:
    """Return the model called ``vit:NAME`` or ``vit:NAME:START``.

    Parameters
    ----------
    words : str
        Without ``vit:``. START is the pre-training of the encoder: a method of ``embench list pretraining``, as in
        ``vit:vit_tiny_patch16_224:mae``, or what ``embench checkpoint import --method START`` brought in.

    Raises
    ------
    BadInput
        An unknown name, with near ones; one that is no plain vision transformer or takes no such images.
    """
    import timm

    encoder, _, start = words.partition(":")
    if not encoder or ":" in start:
        raise BadInput(f"vit:{words}: give vit:NAME or vit:NAME:START")
    if not timm.is_model(encoder.partition(".")[0]):
        raise unknown("vision transformer of timm", encoder, timm.list_models(["*vit*", "*eva*", "*beit*", "*deit*"]))
    _try(encoder)
    facts: dict[str, Any] = {
        "name": re.sub("[^a-z0-9._-]", "-", "-".join(["vit", encoder, *([start] if start else [])]).lower()),
        "__doc__": f"The transformer {encoder} under a light UNet decoder, all trained.",
        "__module__": __name__,
        "title": f"ViT-UNet, {encoder} ({start or 'random'})",
        "encoder": encoder,
        "group": "encoder",
    }
    if not start:
        return type("ViT", (ViTModel,), facts)
    random = model(encoder)
    return type("ViT", (random,), facts | started(start))


@cache
def _encoder(name: str) -> Any:
    import torch

    from baselines.vit_network import encoder_of

    with torch.random.fork_rng(devices=[]):
        return encoder_of(name)


def patch_of(encoder: str) -> int:
    """Return the edge of a patch of timm's transformer, pixels."""
    return _encoder(encoder).patch_embed.patch_size[0]


def is_maskable(encoder: str) -> bool:
    """Whether timm's transformer can be given some of its tokens alone: positions are added to them, not rotated."""
    from timm.models import VisionTransformer

    return type(_encoder(encoder)) is VisionTransformer


def _try(encoder: str) -> None:
    """Build the network and give it images as small as the harness gives any, before anything is trained."""
    import torch

    from baselines.vit_network import ViTUNet, encoder_of

    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        try:
            logits = ViTUNet(encoder_of(encoder), 1).train()(torch.zeros(2, 1, _SIDE, _SIDE))
        except Exception as error:  # each transformer refuses in its own way
            said = (" ".join(str(error).split()) or type(error).__name__)[:200]
            raise BadInput(f"vit:{encoder}: no plain vision transformer for grey images of any size ({said})") from None
    assert logits.shape == (2, 1, _SIDE, _SIDE)

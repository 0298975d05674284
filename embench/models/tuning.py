"""Which part of a model is trained: everything, all but the encoder, or low-rank matrices within it besides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embench.core.errors import BadInput
from embench.core.names import unknown
from embench.models.base import SegmentationModel, TorchModel

if TYPE_CHECKING:
    from torch import nn

TUNINGS = {
    "full": "every parameter is trained",
    "frozen": "the encoder's parameters stay as they start",
    "lora": "they stay, and low-rank matrices beside its attention are trained",
}


def tuned(adapter: type[SegmentationModel], how: str) -> type[TorchModel]:
    """Return the model with another part of it trained, as a row of its own.

    Parameters
    ----------
    adapter : type of SegmentationModel
    how : {"full", "frozen", "lora"}

    Raises
    ------
    BadInput
        An unknown way; no torch network; a model that does not say which part is its encoder.
    """
    if how not in TUNINGS:
        raise unknown("way to tune a model", how, TUNINGS)
    if not issubclass(adapter, TorchModel):
        raise BadInput(f"{adapter.name}: no torch network, so nothing is tuned; leave out --tune")
    if how == "full" and not adapter.frozen:
        return adapter
    parts = adapter.encoder_parts or adapter.transferred
    if how != "full" and not parts:
        raise BadInput(f"{adapter.name}: declares no `encoder_parts`, so --tune {how} cannot tell its encoder")
    facts: dict[str, Any] = {
        "name": f"{adapter.name}-{how}",
        "group": adapter.group,
        "title": f"{adapter.title or adapter.name}, {how}",
        "base": adapter.base,
        "frozen": () if how == "full" else parts,
        "__doc__": f"`{adapter.name}`, but {TUNINGS[how]}.",
        "__module__": adapter.__module__,
    }
    if how == "lora":
        facts["adapt"] = _adapt
    return type(f"{adapter.__name__}{how.capitalize()}", (adapter,), facts)


def _adapt(self: TorchModel, network: nn.Module) -> None:
    from embench.models.lora import add_lora

    add_lora(network, self.frozen)

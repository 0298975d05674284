"""Pre-training methods by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embench.core.names import unknown
from embench.core.plugins import registered_under

if TYPE_CHECKING:
    from embench.pretraining.method import Pretraining


PRETRAINING = "embench.pretraining"


def pretraining_names() -> list[str]:
    """Return the names of the registered pre-training methods; none is imported."""
    return list(registered_under(PRETRAINING))


def find_pretraining(name: str) -> type[Pretraining]:
    """Return the pre-training method registered as ``name``."""
    registered = registered_under(PRETRAINING)
    if name not in registered:
        raise unknown("pre-training", name, registered)
    return registered[name].load()

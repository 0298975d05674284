"""A trained network for others: as a bioimage.io model, as a folder for Hugging Face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from embench.models.trained import Trained


@dataclass(frozen=True)
class About:
    """What a card of a trial does not know of the package.

    Parameters
    ----------
    authors : tuple of str
        Who made it.
    licence : str or None
        SPDX name of the weights' licence; ``None``: the model's, where that is one.
    name : str or None
    model : str or None
        ``FILE.py:Class`` of a model of one's own.
    data : Path or None
        The folder of prepared data, from which a test image is taken.
    """

    authors: tuple[str, ...] = ()
    licence: str | None = None
    name: str | None = None
    model: str | None = None
    data: Path | None = None


Pack = Callable[[Trained, Path, About], None]

FORMATS: Sequence[str] = ("bioimageio", "huggingface")


def pack(network: Trained, out: Path, about: About, form: str) -> None:
    """Write a package.

    Parameters
    ----------
    network : Trained
    out : Path
        A ``.zip`` file for ``bioimageio``, a folder for ``huggingface``; must not be there.
    about : About
    form : {"bioimageio", "huggingface"}

    Raises
    ------
    BadInput
        Unknown format, an output that exists, a licence that is none, weights that do not fit their card.
    """
    from embench.core.errors import BadInput
    from embench.core.names import unknown

    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    if out.exists():
        raise BadInput(f"{out}: exists; choose another --out")
    if form == "bioimageio":
        from embench.prediction.packages import bioimageio

        bioimageio.write(network, out, about)
    else:
        from embench.prediction.packages import huggingface

        huggingface.write(network, out, about)

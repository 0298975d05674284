"""The few predicted sections that are stored beside a result."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embench.core import confined, sandbox
from embench.core.errors import BadInput
from embench.core.files import replacing
from embench.data.store import Volume
from embench.data.task import Task
from embench.scoring import results

SECTIONS_KEPT, SECTIONS_KEPT_OF_VOLUMES = 8, 24
"""Predicted test sections stored beside a result, evenly spread, for the eye; more where volumes are looked through."""

_SECTION = re.compile(r"seed-[0-9]{1,16}\.sections/(?P<item>[^/\\\x00]{1,200})-z(?P<index>[0-9]{1,6})\.png")
_MOST_PIXELS = 64 * 2**20


def kept_sections(task: Task, volumes: Sequence[Volume]) -> set[tuple[str, int]]:
    """Return volume and index of the test sections whose prediction is stored beside a result."""
    every = [(volume.name, z) for volume in volumes for z in range(volume.image.shape[0])]
    count = SECTIONS_KEPT_OF_VOLUMES if task.scoring.is_volume else SECTIONS_KEPT
    return {every[int(i)] for i in np.linspace(0, len(every) - 1, count).round()}


def keep_section(result: Path, volume: str, z: int, labels_YX: NDArray[np.uint8]) -> str:
    """Store a predicted section beside a result file and return its path relative to the result's folder."""
    from PIL import Image

    name = f"{result.stem}.sections/{volume}-z{z}.png"
    with replacing(result.parent / name, below=result.parent) as temporary:
        Image.fromarray(labels_YX).save(temporary, "png")
    return name


def section_place(name: str, result: Path) -> tuple[str, int]:
    """Return volume and index of a section that :func:`keep_section` named.

    Raises
    ------
    BadInput
        Any other name, or one that leads out of the result's folder.
    """
    match = _SECTION.fullmatch(name)
    if match is None or ".." in Path(name).parts:
        raise BadInput(f"{result}: section {name[:120]!r}: expected seed-N.sections/ITEM-zINDEX.png beside it")
    return match["item"], int(match["index"])


def read_section(path: Path, below: Path | None = None) -> NDArray[np.uint8]:
    """Return the label values (Y, X) of a stored section; no link from ``below`` on leads to it.

    Raises
    ------
    BadInput
        Not a PNG of 8-bit labels, or too large.
    """
    content = section_bytes(path, below)
    found: NDArray[np.uint8] = sandbox.call(_section, str(path), content, where=path, size=len(content))
    return found


def section_bytes(path: Path, below: Path | None = None) -> bytes:
    """Return the bytes of a stored section, whatever they are; raises as :func:`read_section` does."""
    try:
        return confined.read(path, below or path.parent.parent, results.MAX_BYTES, "a label map")
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not a label map ({type(error).__name__}); run the trial again") from None


def _section(path: str, content: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if picture.mode not in ("L", "P") or picture.width * picture.height > _MOST_PIXELS:
                raise BadInput(f"{path}: mode {picture.mode}, {picture.size}; expected an 8-bit label map")
            return np.asarray(picture, np.uint8)
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # its parser raises anything on a broken file
        raise BadInput(f"{path}: not a label map ({type(error).__name__}); run the trial again") from None

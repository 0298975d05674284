"""The few predicted sections that are stored beside a result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embench.core import sandbox
from embench.core.errors import BadInput
from embench.core.files import replacing
from embench.data.store import Volume
from embench.data.task import Task
from embench.scoring import results

SECTIONS_KEPT, SECTIONS_KEPT_OF_VOLUMES = 8, 24
"""Predicted test sections stored beside a result, evenly spread, for the eye; more where volumes are looked through."""

_SECTION = re.compile(r"seed-\d+\.sections/(?P<item>[^/\\\x00]{1,200})-z(?P<index>\d{1,6})\.png")
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
    with replacing(result.parent / name) as temporary:
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
    path = result.parent / name
    if match is None or ".." in Path(name).parts or not path.resolve().is_relative_to(result.parent.resolve()):
        raise BadInput(f"{result}: section {name[:120]!r}: expected seed-N.sections/ITEM-zINDEX.png beside it")
    return match["item"], int(match["index"])


def read_section(path: Path) -> NDArray[np.uint8]:
    """Return the label values (Y, X) of a stored section.

    Raises
    ------
    BadInput
        Not a PNG of 8-bit labels, or too large.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BadInput(f"{path}: not a label map ({type(error).__name__}); run the trial again") from None
    if size > results.MAX_BYTES or not path.is_file():
        raise BadInput(f"{path}: {size} bytes; a label map is a file of at most {results.MAX_BYTES}")
    found: NDArray[np.uint8] = sandbox.call(_section, str(path), where=path, size=size)
    return found


def _section(path: str) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.mode not in ("L", "P") or picture.width * picture.height > _MOST_PIXELS:
                raise BadInput(f"{path}: mode {picture.mode}, {picture.size}; expected an 8-bit label map")
            return np.asarray(picture, np.uint8)
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # its parser raises anything on a broken file
        raise BadInput(f"{path}: not a label map ({type(error).__name__}); run the trial again") from None

"""Images without labels: registered sets, folders of image files, and the tiles that pre-training is fed with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embench.core import paths
from embench.core.errors import BadInput
from embench.core.names import is_name, unknown
from embench.data import catalog
from embench.data.patches import spans
from embench.data.store import Prepared
from embench.data.task import UnlabelledSet


class Tiles:
    """The images of an unlabelled set, cut into squares without overlap along every section.

    A remainder at the end of an axis is a tile of its own when it has at least half of the side; a section shorter
    than the side is taken whole. Tiles are read when asked for.

    Parameters
    ----------
    data : Prepared
        An unlabelled set.
    side : int
        Pixels.

    Raises
    ------
    BadInput
        When ``data`` is a task: its test images must not be learned from.
    """

    def __init__(self, data: Prepared, side: int) -> None:
        if not isinstance(data.spec, UnlabelledSet):
            known = ", ".join(spec.name for spec in catalog.all_unlabelled())
            raise BadInput(f"{data.spec.name}: a task, not an unlabelled set; choose {known}")
        self.path = data.path
        volumes = data.volumes("train")
        rows = []
        for number, volume in enumerate(volumes):
            depth, height, width = volume.image.shape
            grid = [(y, x, h, w) for y, h in spans(height, side) for x, w in spans(width, side)]
            rows.append(np.array([(number, z, *tile) for z in range(depth) for tile in grid], np.int32))
        self.index = np.concatenate(rows)
        self._volumes = volumes

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        """Return one tile, uint8 (Y, X), at most side x side."""
        item, z, y, x, height, width = self.index[number]
        return self._volumes[item].image[z, y : y + height, x : x + width]

    def read(self, numbers: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return several tiles, read from the file in the order in which they lie there."""
        found = {number: self[number] for number in sorted(numbers)}
        return [found[number] for number in numbers]


def open_unlabelled(data: str, folder: Path | None = None) -> Prepared:
    """Open an unlabelled set by name; generated data are made on first use.

    Parameters
    ----------
    data : str
        Name of an unlabelled set.
    folder : Path, optional
        Of prepared files.

    Raises
    ------
    BadInput
        Unknown name; a folder of images, which has to be prepared first.
    """
    names = [spec.name for spec in catalog.all_unlabelled()]
    if not is_name(data) or not (data in names or paths.prepared_path(data, folder).exists()):
        if Path(data).is_dir():
            raise BadInput(f"{data}: a folder; make a set of it first, as in: embench prepare NAME --tiles {data}")
        raise unknown("unlabelled set", data, names)
    return catalog.open_prepared(data, folder)


def _is_registered(name: str) -> bool:
    return any(spec.name == name for spec in catalog.all_unlabelled())

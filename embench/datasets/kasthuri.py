"""Kasthuri++: mitochondria of mouse neocortex, ssSEM (protocol 1, 3); and the layout it shares with Lucchi++."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.convert import grey
from embench.data.listing import Listing, pair_folders
from embench.data.readers.base import Computed
from embench.data.readers.open import open_volume
from embench.data.task import Dataset, Download, Item, Measurement, Scoring, Sections, Split, Task

CITATION = """@inproceedings{casser2020fast,
  title = {Fast Mitochondria Detection for Connectomics},
  author = {Casser, Vincent and Kang, Kai and Pfister, Hanspeter and Haehn, Daniel},
  booktitle = {Medical Imaging with Deep Learning}, year = {2020}
}"""

_FOLDERS: tuple[tuple[Split, str], ...] = (("train", "Train"), ("test", "Test"))
_PADDING = 2
_FOREGROUND = 255


def reader(folder: str) -> Callable[[Path | None, str], Iterator[Item]]:
    """Return the reader of ``{folder}/{Train,Test}_{In,Out}/*.png``: every section is an item of its own.

    Images and masks are paired by the number that ends their names, which otherwise differ. Masks are pictures whose
    foreground is white and whose padding is (2, 2, 2): channel 0 divided by 255, the rest cut off (protocol 3). What is
    neither is noted.

    The reader raises ``BadInput`` naming every missing folder and every file without partner.
    """

    def read(source: Path | None, name: str) -> Iterator[Item]:
        del name
        assert source is not None
        folders = [
            (split, (f"{folder}/{prefix}_In", f"{prefix}_In"), (f"{folder}/{prefix}_Out", f"{prefix}_Out"))
            for split, prefix in _FOLDERS
        ]
        for split, image, mask in pair_folders(Listing(source), folders, key=_number):
            yield _item(split, image, mask)

    return read


def _item(split: Split, image: Path, mask: Path) -> Item:
    notes: list[str] = []
    return Item(split, f"{int(_number(image)):04d}", grey(open_volume(image)), _mask(mask, notes), str(image), notes)


def _number(file: Path) -> str:
    digits = re.search(r"(\d+)\D*$", file.stem)
    if digits is None:
        raise BadInput(f"{file}: no section number in its name; keep the published names")
    return str(int(digits[1]))


def _mask(file: Path, notes: list[str]) -> Sections:
    stored = open_volume(file)

    def section(z: int) -> NDArray[np.uint8]:
        picture = stored[z]
        if picture.dtype != np.uint8:
            raise BadInput(f"{file}: {picture.dtype}; expected an 8-bit picture")
        channel = picture if picture.ndim == 2 else picture[..., 0]
        odd = int((~np.isin(channel, (0, _PADDING, _FOREGROUND))).sum())
        if odd:
            values = np.unique(channel[~np.isin(channel, (0, _PADDING, _FOREGROUND))])
            notes.append(f"{file.name}: {odd} mask voxels of value {values[0]}..{values[-1]} became background")
        if picture.ndim == 3 and (picture[..., :3] != channel[..., None]).any():
            notes.append(f"{file.name}: the channels of the mask differ; the first was taken")
        return channel // _FOREGROUND

    return Computed(stored.shape, section)


DATASET = Dataset(
    name="kasthuri",
    tasks=(
        Task(
            name="kasthuri",
            title="Kasthuri++ mitochondria",
            dataset="kasthuri",
            classes=("background", "mitochondria"),
            scoring=Scoring("2d"),
            measurement=Measurement(structures=("blob",)),
            iterations=10000,
            norms=(0.27342241, 0.26917548),
            crop_nonempty=True,
            modality="ssSEM, mouse neocortex",
            citation=CITATION,
            homepage="https://casser.io/connectomics",
        ),
    ),
    read=reader("Kasthuri++"),
    downloads=(
        Download(
            "http://www.casser.io/files/kasthuri_pp.zip",
            "kasthuri_pp.zip",
            "bbb78fd205ec9b57feb8f93ebbdf1666261cbc3e0305e7f11583ab5157a3d792",
        ),
    ),
)

"""CREMI: synaptic clefts in the adult fly brain, ssTEM. Volumes A and B train, C tests (protocol 1, 3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.convert import grey
from embench.data.listing import Listing
from embench.data.readers.base import Computed, Stored
from embench.data.readers.open import open_volume
from embench.data.task import Dataset, Download, Item, Measurement, Scoring, Split, Task

_BACKGROUND = 0xFFFFFFFFFFFFFFFF
_VOLUMES: tuple[tuple[Split, str], ...] = (("train", "A"), ("train", "B"), ("test", "C"))


def read(source: Path | None, name: str) -> Iterator[Item]:
    """Yield the volumes from ``sample_{A,B,C}_20160501.hdf`` (``volumes/raw``, ``volumes/labels/clefts``).

    Raises
    ------
    BadInput
        Naming every file that is missing, unreadable or of another type.
    """
    del name
    assert source is not None
    listing = Listing(source)
    found = {letter: listing.find(f"sample_{letter}_20160501.hdf") for _, letter in _VOLUMES}
    if missing := [f"{source}: no sample_{letter}_20160501.hdf" for letter, file in found.items() if file is None]:
        raise BadInput(missing)
    items, faults = [], []
    for split, letter in _VOLUMES:
        file = str(found[letter])
        try:
            raw = open_volume(Path(f"{file}:volumes/raw"))
            clefts = open_volume(Path(f"{file}:volumes/labels/clefts"))
            if clefts.dtype != np.uint64:
                raise BadInput(f"{file}: volumes/labels/clefts is {clefts.dtype}, expected uint64")
            items.append(Item(split, letter, grey(raw), _clefts(clefts), origin=file))
        except BadInput as error:
            faults += error.lines
    if faults:
        raise BadInput(faults)
    yield from items


def _clefts(stored: Stored) -> Computed:
    """Every identifier is cleft; the greatest 64-bit number is background."""

    def section(z: int) -> NDArray[np.uint8]:
        return (stored[z] != np.uint64(_BACKGROUND)).astype(np.uint8)

    return Computed(stored.shape, section)


def _download(letter: str, sha256: str) -> Download:
    filename = f"sample_{letter}_20160501.hdf"
    return Download(f"https://cremi.org/static/data/{filename}", filename, sha256)


DATASET = Dataset(
    name="cremi",
    tasks=(
        Task(
            name="cremi",
            title="CREMI synaptic clefts",
            dataset="cremi",
            classes=("background", "synaptic cleft"),
            scoring=Scoring("stack"),
            measurement=Measurement(
                structures=("sheet",),
                tolerance=16.0,
                reason="four pixels of 4 nm: a cleft is about 20 nm wide, and annotators differ by less than that",
                voxel_size=(40.0, 4.0, 4.0),
            ),
            iterations=5000,
            norms=(0.50387249, 0.10911144),
            crop_nonempty=True,
            modality="ssTEM, adult Drosophila brain",
            citation="""@misc{cremi2016,
  title = {CREMI: MICCAI Challenge on Circuit Reconstruction from Electron Microscopy Images},
  author = {Funke, Jan and Saalfeld, Stephan and Bock, Davi and Turaga, Srinivas and Perlman, Eric},
  year = {2016}, url = {https://cremi.org}
}""",
            homepage="https://cremi.org",
        ),
    ),
    read=read,
    downloads=(
        _download("A", "4c563d1b78acb2bcfb3ea958b6fe1533422f7f4a19f3e05b600bfa11430b510d"),
        _download("B", "887e85521e00deead18c94a21ad71f278d88a5214c7edeed943130a1f4bb48b8"),
        _download("C", "2874496f224d222ebc29d0e4753e8c458093e1d37bc53acd1b69b19ed1ae7052"),
    ),
)

"""UroCell: endolysosomes and mitochondria of mouse urothelium, FIB-SEM (protocol 1, 3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.convert import check_finite
from embench.data.listing import Listing
from embench.data.readers.base import Computed, Stored
from embench.data.readers.open import open_volume
from embench.data.task import Dataset, Download, Item, Measurement, Scoring, Split, Task

_VOLUMES: tuple[tuple[Split, str, int], ...] = (
    ("train", "fib1-1-0-3", 54),
    ("train", "fib1-3-2-1", 0),
    ("train", "fib1-3-3-0", 0),
    ("train", "fib1-4-3-0", 0),
    ("test", "fib1-0-0-0", 12),
)
"""Split, name, and the first y voxels to leave out: they hold no image."""

_LAYOUTS = {
    "image": ("data/{}.nii.gz", "data/{}.nii"),
    "endolysosomes": ("lyso/binary/{}.nii.gz", "lyso/{}.nii.gz", "lyso/binary/{}.nii", "lyso/{}.nii"),
    "mitochondria": ("mito/binary/{}.nii.gz", "mito/{}.nii.gz", "mito/binary/{}.nii", "mito/{}.nii"),
}
"""Where each file is in the present layout, and where it was (commit 0452374 of its repository)."""


def read(source: Path | None, name: str) -> Iterator[Item]:
    """Yield the volumes from ``data``, ``lyso[/binary]`` and ``mito[/binary]``.

    Images are floats, cut to uint8. A label is 1 for endolysosomes and 2 for mitochondria; where a voxel is both,
    mitochondria win and the number of such voxels is noted. So is anything that the cropped rows did hold.

    Raises
    ------
    BadInput
        Naming every file that is missing, unreadable or of another shape than its partners.
    """
    del name
    assert source is not None
    listing = Listing(source)
    items, faults = [], []
    for split, volume, first_y in _VOLUMES:
        found = {what: listing.find(*(tail.format(volume) for tail in tails)) for what, tails in _LAYOUTS.items()}
        faults += [
            f"{source}: no {_LAYOUTS[what][0].format(volume)} ({what})" for what, file in found.items() if file is None
        ]
        parts: dict[str, Stored] = {}
        for what, file in found.items():
            try:
                if file is not None:
                    parts[what] = open_volume(file)
            except BadInput as error:
                faults += error.lines
        if len(parts) < len(_LAYOUTS):
            continue
        shapes = {what: part.shape for what, part in parts.items()}
        if len(set(shapes.values())) > 1 or shapes["image"][1] <= first_y:
            listed = ", ".join(f"{what} {shape}" for what, shape in shapes.items())
            faults.append(f"{source}: {volume} has {listed} (ZYX); all must agree and have over {first_y} rows")
            continue
        notes: list[str] = []
        image = _image(parts["image"], first_y, notes)
        labels = _labels(parts["endolysosomes"], parts["mitochondria"], first_y, notes)
        items.append(Item(split, volume, image, labels, origin=f"{source.name}/{volume}", notes=notes))
    if faults:
        raise BadInput(faults)
    yield from items


def _image(stored: Stored, first_y: int, notes: list[str]) -> Computed:
    depth, height, width = stored.shape
    cropped_values: set[float] = set()

    def section(z: int) -> NDArray[np.uint8]:
        values = stored[z]
        check_finite(values, f"{stored.origin}, section {z}")
        if values.min() < 0 or values.max() >= 256:
            found = f"{values.min():g}..{values.max():g}"
            raise BadInput(f"{stored.origin}, section {z}: grey values {found}; expected 0..255")
        if first_y and len(cropped_values) < 2:
            cropped_values.update(np.unique(values[:first_y])[:2].tolist())
        if z == depth - 1 and len(cropped_values) > 1:
            notes.append(f"{stored.origin}: the first {first_y} y rows, left out as missing data, are not empty")
        return values[first_y:].astype(np.uint8)

    return Computed((depth, height - first_y, width), section)


def _labels(lyso: Stored, mito: Stored, first_y: int, notes: list[str]) -> Computed:
    depth, height, width = lyso.shape
    overlap = _Tally()
    cropped = _Tally()

    def section(z: int) -> NDArray[np.uint8]:
        is_lyso, is_mito = _binary(lyso, z), _binary(mito, z)
        either = is_lyso | is_mito
        overlap.add(z, is_lyso[first_y:] & is_mito[first_y:])
        cropped.add(z, either[:first_y])
        if z == depth - 1:
            if count := overlap.total():
                notes.append(f"{lyso.origin}: {count} voxels are also mitochondria; taken as mitochondria")
            if count := cropped.total():
                notes.append(f"{lyso.origin}: {count} labelled voxels are in the first {first_y} y rows, left out")
        return np.where(is_mito, np.uint8(2), is_lyso.astype(np.uint8))[first_y:]

    return Computed((depth, height - first_y, width), section)


class _Tally:
    """Voxels counted per section, so that reading one twice counts once."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, z: int, mask: NDArray[np.bool_]) -> None:
        self._counts[z] = int(mask.sum())

    def total(self) -> int:
        return sum(self._counts.values())


def _binary(stored: Stored, z: int) -> NDArray[np.bool_]:
    values = stored[z]
    strange = np.unique(values[(values != 0) & (values != 1)])
    if strange.size:
        raise BadInput(f"{stored.origin}, section {z}: values {strange[:5].tolist()} in a mask; expected 0 and 1")
    return values == 1


DATASET = Dataset(
    name="urocell",
    tasks=(
        Task(
            name="urocell",
            title="UroCell endolysosomes and mitochondria",
            dataset="urocell",
            classes=("background", "endolysosomes", "mitochondria"),
            scoring=Scoring("orthoplane", classes=(1, 2)),
            measurement=Measurement(
                structures=("blob", "blob"),
                tolerance=32.0,
                reason="two voxels of 16 nm, which are nearly cubes",
            ),
            iterations=2500,
            crop=224,
            norms=(0.76752738, 0.10404078),
            class_weights=(0.1, 1.0, 1.0),
            training_axes=(0, 1, 2),
            modality="FIB-SEM, mouse urinary bladder",
            voxel_size=(15.0, 16.0, 16.0),
            licence="CC BY-NC-SA 4.0",
            citation="""@article{mekuc2020automatic,
  title = {Automatic segmentation of mitochondria and endolysosomes in volumetric electron microscopy data},
  author = {{\\v Z}erovnik Meku{\\v c}, Manca and Bohak, Ciril and Hudoklin, Samo and Kim, Byeong Hak and
            Romih, Rok and Kim, Min Young and Marolt, Matija},
  journal = {Computers in Biology and Medicine}, volume = {119}, year = {2020},
  doi = {10.1016/j.compbiomed.2020.103693}
}""",
            homepage="https://github.com/MancaZerovnikMekuc/UroCell",
        ),
    ),
    read=read,
    downloads=(
        Download(
            "https://github.com/MancaZerovnikMekuc/UroCell/archive/refs/heads/master.zip",
            "UroCell-master.zip",
            "a48cf31b06114d7def642742b4fcbe76103483c069122abe10f377d71a1acabc",
        ),
    ),
)

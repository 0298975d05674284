"""Drosophila ventral nerve cord, ssTEM: mitochondria and synapses of stack 1; stack 2 for pre-training.

Gerhard et al. 2013, doi 10.6084/m9.figshare.856713. Sections 0..15 train, 16..19 test: contiguous, because
neighbouring sections show the same objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.readers.open import open_volume
from embench.data.task import Dataset, Item, Measurement, Scoring, Split, Task, UnlabelledSet

_VOXEL = (50.0, 4.6, 4.6)
_LICENCE = "CC BY-NC-SA 3.0"
_HOMEPAGE = "https://doi.org/10.6084/m9.figshare.856713"
_MODALITY = "ssTEM, Drosophila larva ventral nerve cord"
_CITATION = """@misc{gerhard2013vnc,
  title = {Segmented anisotropic ssTEM dataset of neural tissue},
  author = {Gerhard, Stephan and Funke, Jan and Martel, Julien and Cardona, Albert and Fetter, Richard},
  year = {2013}, publisher = {figshare}, doi = {10.6084/m9.figshare.856713}
}"""
_THRESHOLD = 127
_SPLITS: tuple[tuple[Split, range], ...] = (("train", range(16)), ("test", range(16, 20)))
_MASKS = {"vnc-mito": "mitochondria", "vnc-synapse": "synapses"}


_MEASUREMENT = {
    "vnc-mito": Measurement(
        structures=("blob",),
        tolerance=9.2,
        reason="two pixels of 4.6 nm: the drawings were smoothed by about one when they were exported",
    ),
    "vnc-synapse": Measurement(
        structures=("small and many",),
        tolerance=13.8,
        reason="three pixels of 4.6 nm: where a synapse ends is less sharp than a membrane",
    ),
}


def _task(name: str, title: str, label: str) -> Task:
    return Task(
        name=name,
        title=title,
        dataset="vnc",
        classes=("background", label),
        scoring=Scoring("2d"),
        measurement=_MEASUREMENT[name],
        iterations=1000,
        crop_nonempty=True,  # sparse structures in large sections, as in cremi and kasthuri (protocol 4.1)
        modality=_MODALITY,
        voxel_size=_VOXEL,
        licence=_LICENCE,
        citation=_CITATION,
        homepage=_HOMEPAGE,
        pretraining="vnc-unlabelled",
    )


def read(source: Path | None, name: str) -> Iterator[Item]:
    """Yield the items of ``name`` from the published folder layout ``stack{1,2}/{raw,mitochondria,synapses}``.

    Images are 8-bit .tif. Masks are .png, most of them antialiased 8-bit (foreground is above 127: binary drawings
    that were smoothed on export), some 1-bit.

    Raises
    ------
    BadInput
        Naming every file that is missing, unpaired, or not an 8-bit grey picture.
    """
    assert source is not None
    if name == "vnc-unlabelled":
        images = _files(source / "stack2" / "raw", "*.tif")
        yield Item("train", "stack2", _Stack(images), origin=str(source / "stack2" / "raw"))
        return
    images = _files(source / "stack1" / "raw", "*.tif")
    masks = _files(source / "stack1" / _MASKS[name], "*.png")
    _check_pairs(images, masks)
    for split, sections in _SPLITS:
        chosen = [z for z in sections if z < len(images)]
        if not chosen:
            continue
        yield Item(
            split,
            f"stack1-{chosen[0]:02d}-{chosen[-1]:02d}",
            _Stack([images[z] for z in chosen]),
            _Stack([masks[z] for z in chosen], threshold=_THRESHOLD),
            origin=str(source / "stack1"),
        )


class _Stack:
    """Section files as a volume, read one at a time; all must have one size."""

    def __init__(self, files: Sequence[Path], threshold: int | None = None) -> None:
        self.files, self.threshold = files, threshold
        sizes = {file: _read(file).shape for file in files}
        expected = next(iter(sizes.values()))
        if odd := [
            f"{file}: {size}, the first section is {expected}" for file, size in sizes.items() if size != expected
        ]:
            raise BadInput(odd)
        self.shape = (len(files), *expected)

    def __getitem__(self, z: int) -> NDArray[np.uint8]:
        section = _read(self.files[z])
        return section if self.threshold is None else (section > self.threshold).astype(np.uint8)


def _read(file: Path) -> NDArray[np.uint8]:
    stored = open_volume(file)
    if stored.is_indexed or stored.shape[0] > 1:
        found = "a palette of colours" if stored.is_indexed else f"{stored.shape[0]} pages"
        raise BadInput(f"{file}: {found}; expected an 8-bit grey picture")
    section = stored[0]
    if section.dtype == np.bool_:
        section = section.astype(np.uint8) * 255
    if section.ndim != 2 or section.dtype != np.uint8:
        raise BadInput(f"{file}: {section.dtype} of shape {section.shape}; expected an 8-bit grey picture")
    return section


def _files(folder: Path, pattern: str) -> list[Path]:
    files = sorted(folder.glob(pattern))
    if not files:
        raise BadInput(f"{folder}: no {pattern} files; --source must hold stack1/ and stack2/ of the VNC data set")
    return files


def _check_pairs(images: Sequence[Path], masks: Sequence[Path]) -> None:
    names, mask_names = {file.stem: file for file in images}, {file.stem: file for file in masks}
    faults = [f"{names[stem]}: no mask {stem}.png in {masks[0].parent}" for stem in sorted(names.keys() - mask_names)]
    faults += [
        f"{mask_names[stem]}: no image {stem}.tif in {images[0].parent}" for stem in sorted(mask_names.keys() - names)
    ]
    if faults:
        raise BadInput(faults)


DATASET = Dataset(
    name="vnc",
    tasks=(
        _task("vnc-mito", "Drosophila VNC mitochondria", "mitochondrion"),
        _task("vnc-synapse", "Drosophila VNC synapses", "synapse"),
    ),
    unlabelled=(
        UnlabelledSet(
            name="vnc-unlabelled",
            title="Drosophila VNC, stack 2 without labels",
            dataset="vnc",
            modality=_MODALITY,
            voxel_size=_VOXEL,
            licence=_LICENCE,
            citation=_CITATION,
            homepage=_HOMEPAGE,
        ),
    ),
    read=read,
)

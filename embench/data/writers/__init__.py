"""Writers: a volume of labels, probabilities or objects in the format that the end of a file's name says.

Here is what makes files for other programs from arrays; what reads theirs is in :mod:`embench.data.readers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from embench.core.errors import BadInput
from embench.data.writers import stacks
from embench.data.writers.base import Array, Layer

Write = Callable[[Path, Layer, Array], None]

WRITERS: dict[str, Write] = {
    ".png": stacks.write_png,
    ".tif": stacks.write_tiff,
    ".tiff": stacks.write_tiff,
    ".nii": stacks.write_nifti,
    ".nii.gz": stacks.write_nifti,
    ".h5": stacks.write_hdf5,
    ".hdf5": stacks.write_hdf5,
    ".mrc": stacks.write_mrc,
}
"""Formats that are one file, by the end of its name."""

SUFFIXES = (*WRITERS, ".zarr")


def is_zarr(path: Path) -> bool:
    """Whether a path names an OME-Zarr folder, which is written block by block (:mod:`.ome_zarr`)."""
    return path.name.lower().endswith(".zarr")


def suffix(path: Path) -> str:
    """Return the end of a file's name that says its format; empty for a folder of pictures.

    Raises
    ------
    BadInput
        For a format that is not written.
    """
    name = path.name.lower()
    for each in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(each):
            return each
    if path.suffix:
        raise BadInput(f"{path}: not a format that is written; use {', '.join(SUFFIXES)}, or a folder without suffix")
    return ""


def write(path: Path, layer: Layer, array: Array) -> None:
    """Write values that are all there into one file, section by section, atomically.

    Raises
    ------
    BadInput, TryAgain
        For what the format cannot hold; when the file cannot be written.
    """
    WRITERS[suffix(path)](path, layer, array)


def write_folder(folder: Path, layer: Layer, array: Array, names: Sequence[str] = ()) -> None:
    """Write one picture a section, called ``names`` or by its number: PNG for labels, TIFF for the rest."""
    depth = layer.shape[-3]
    ending, digits = ".png" if layer.kind == "labels" else ".tif", len(str(depth - 1))
    one = replace(layer, shape=(*layer.shape[:-3], 1, *layer.shape[-2:]))
    for z, name in enumerate(names or [f"{z:0{digits}d}" for z in range(depth)]):
        lead = (slice(None),) * (len(layer.shape) - 3)
        write(folder / f"{name}{ending}", one, array[(*lead, slice(z, z + 1))])

"""A task's images for other tools: nnU-Net's raw layout, or plain folders. Test labels are never among them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.core.files import check_writable
from embench.data.store import Prepared, Volume
from embench.data.task import SPLITS, Split, Task
from embench.scoring.external import expected, file_name
from embench.scoring.score import section_name

FORMATS = ("nnunet", "folder")


def export(prepared: Prepared, layout: str, out: Path) -> int:
    """Write the training images and masks, and the test images, of a task.

    - ``nnunet``: nnU-Net v2's raw layout: ``dataset.json``, ``imagesTr``, ``labelsTr``, ``imagesTs``; gzipped NIfTI, X
      first as nnU-Net reads it, spacing in micrometres (1 where the voxel size is not known). Training split only: it
      makes its own validation folds.
    - ``folder``: ``train/{images,masks}``, ``valid/{images,masks}`` where the task has them, ``test/images``; PNG for
      single sections, multi-page TIFF for volumes.

    One file per volume where a volume is scored as one, one per section otherwise. A README says how predictions must
    be called to be scored.

    Parameters
    ----------
    prepared : Prepared
        A task.
    layout : {"nnunet", "folder"}
    out : Path
        A new or empty folder; it appears whole or not at all.

    Returns
    -------
    int
        Files of images and masks written.

    Raises
    ------
    BadInput
        An unknown layout, a folder that is not empty, or an unlabelled set.
    """
    if layout not in FORMATS:
        raise BadInput(f"--format {layout}: use {' or '.join(FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}: not an empty folder; give a new one")
    if layout == "nnunet" and (odd := sorted({"background", "ignore"} & set(prepared.task.classes[1:]))):
        raise BadInput(
            f"{prepared.task.name}: a class is called {odd[0]!r}, which nnU-Net takes for a label of its own; "
            "prepare it under another name"
        )
    check_writable(out.resolve().parent)
    with tempfile.TemporaryDirectory(dir=out.resolve().parent, prefix=f".{out.name}.") as name:
        folder = Path(name) / "out"
        folder.mkdir()
        count = _nnunet(prepared, folder) if layout == "nnunet" else _folders(prepared, folder)
        (folder / "README.md").write_text(_readme(prepared, layout))
        if out.exists():
            out.rmdir()
        os.replace(folder, out)
    return count


def _nnunet(prepared: Prepared, folder: Path) -> int:
    task, count = prepared.task, 0
    for split, images, labels in (("train", "imagesTr", "labelsTr"), ("test", "imagesTs", None)):
        (folder / images).mkdir()
        if labels:
            (folder / labels).mkdir()
        for name, image, mask in _cases(prepared, split):  # type: ignore[arg-type]
            _nifti(folder / images / f"{name}_0000.nii.gz", image, task)
            count += 1
            if labels:
                assert mask is not None
                _nifti(folder / labels / f"{name}.nii.gz", mask, task)
                count += 1
    facts = {
        "channel_names": {"0": "EM"},
        "labels": {"background": 0, **{name: value for value, name in enumerate(task.classes) if value}},
        "numTraining": len(list((folder / "labelsTr").iterdir())),
        "file_ending": ".nii.gz",
        "name": task.name,
        "description": task.title,
        "reference": task.homepage,
        "licence": task.licence,
    }
    (folder / "dataset.json").write_text(json.dumps(facts, indent=1) + "\n")
    return count


def _folders(prepared: Prepared, folder: Path) -> int:
    count = 0
    for split in SPLITS:
        for name, image, mask in _cases(prepared, split):
            for kind, volume in (("images", image), ("masks", mask)):
                if volume is not None:
                    (folder / split / kind).mkdir(parents=True, exist_ok=True)
                    _picture(folder / split / kind / name, volume)
                    count += 1
    return count


def _cases(prepared: Prepared, split: Split) -> Iterator[tuple[str, Any, Any]]:
    """Yield file name, image and mask (``None`` for test images) of everything that is a file of its own: ZYX or YX."""
    if split == "test":
        for part in expected(prepared):
            whole = prepared.task.scoring.is_volume
            yield part.file, part.volume.image if whole else part.volume.image[part.sections.start], None
        return
    for volume in prepared.volumes(split):
        yield from _labelled(prepared.task, volume)


def _labelled(task: Task, volume: Volume) -> Iterator[tuple[str, Any, Any]]:
    depth = volume.image.shape[0]
    if task.scoring.is_volume:
        yield file_name(volume.name), volume.image, volume.labels
        return
    for z in range(depth):
        image_YX, labels_YX = volume.section(0, z)
        yield file_name(section_name(volume.name, depth, z)), image_YX, labels_YX


def _nifti(path: Path, volume: Any, task: Task) -> None:
    """Write a volume (Z, Y, X) or a section (Y, X) with X first."""
    import nibabel

    voxels: NDArray[np.uint8] = np.asarray(volume[:])
    size_XYZ = [length / 1000 for length in task.voxel_size[::-1]] if task.voxel_size else [1.0, 1.0, 1.0]
    image = nibabel.Nifti1Image(voxels.T, np.diag([*size_XYZ, 1.0]))
    image.header.set_xyzt_units("micron" if task.voxel_size else "unknown")
    nibabel.save(image, path)


def _picture(path: Path, volume: Any) -> None:
    """Write a section (Y, X), or a volume (Z, Y, X) page by page, as ``path`` with the suffix of its format."""
    import tifffile
    from PIL import Image

    if len(volume.shape) == 2:
        Image.fromarray(volume).save(path.parent / f"{path.name}.png")
        return
    tifffile.imwrite(
        path.parent / f"{path.name}.tif",
        iter(volume),
        shape=volume.shape,
        dtype=np.uint8,
        compression="deflate",
        photometric="minisblack",
    )


_FOLDS = 5
"""Of nnU-Net's cross-validation, unless it is told otherwise."""


def _readme(prepared: Prepared, layout: str) -> str:
    task = prepared.task
    parts = expected(prepared)
    classes = ", ".join(f"{value} {name}" for value, name in enumerate(task.classes))
    size = f"{task.voxel_size} nm (ZYX)" if task.voxel_size else "unknown"
    place = "Put this folder into `nnUNet_raw` under a name of the form `Dataset501_NAME`.\n\n"
    nnunet = place if layout == "nnunet" else ""
    cases = sum(1 for _ in _cases(prepared, "train")) if layout == "nnunet" else _FOLDS
    if cases < _FOLDS:
        nnunet += (
            f"There {'is' if cases == 1 else 'are'} {cases} training case{'s' if cases > 1 else ''}, fewer than "
            "nnU-Net's five folds: train on all of them (`nnUNetv2_train 501 3d_fullres all`), or write a "
            "`splits_final.json`.\n\n"
        )
    listed = "\n".join(f"- `{part.file}`: {' x '.join(map(str, part.shape))} (ZYX)" for part in parts)
    return (
        f"# {task.title}\n\n"
        f"Prepared data {prepared.hash}. Licence: {task.licence}. Voxel size: {size}. Classes: {classes}.\n\n{nnunet}"
        "Write one label map per test image, of the same size, with these values and no others (PNG, TIFF, NIfTI, "
        "NRRD or HDF5), called as below, and score them with\n\n"
        f"    embench score --task {task.name} --predictions DIR --name MODEL\n\n{listed}\n"
    )

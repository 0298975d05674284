"""Small files in the formats of the published data sets, quirks included (protocol 3)."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import nibabel
import numpy as np
import tifffile
from PIL import Image

ORGANELLES = ("lysosomes", "mitochondria", "nuclei", "nucleoli")
UROCELL = ("fib1-0-0-0", "fib1-1-0-3", "fib1-3-2-1", "fib1-3-3-0", "fib1-4-3-0")
BACKGROUND = 0xFFFFFFFFFFFFFFFF


def grey(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(1, 256, shape, np.uint8)


def cremi(folder: Path, rng: np.random.Generator, shape: tuple[int, int, int] = (5, 40, 48)) -> dict[str, tuple]:
    """Chunked, compressed HDF5 with 64-bit cleft identifiers and a resolution attribute."""
    made = {}
    folder.mkdir(parents=True, exist_ok=True)
    for letter in "ABC":
        raw = grey(rng, shape)
        clefts = np.full(shape, BACKGROUND, np.uint64)
        clefts[1:3, 4:9, 5:30] = 0  # an identifier like any other
        clefts[2:4, 20:24, 5:30] = 7_000_000_123
        with h5py.File(folder / f"sample_{letter}_20160501.hdf", "w") as file:
            options = {"chunks": (2, 16, 16), "compression": "gzip"}
            file.create_dataset("volumes/raw", data=raw, **options).attrs["resolution"] = (40.0, 4.0, 4.0)
            file.create_dataset("volumes/labels/clefts", data=clefts, **options)
            file.create_dataset("volumes/labels/neuron_ids", data=clefts, **options)
        made[letter] = raw, clefts != BACKGROUND
    return made


def guay(folder: Path, rng: np.random.Generator) -> dict[str, tuple]:
    """Signed 16-bit multipage TIFF with negative values, unsigned 16-bit labels; compressed each in another way."""
    made = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape, compression in (
        ("train", (4, 40, 40), "lzw"),
        ("eval", (2, 40, 40), "deflate"),
        ("test", (6, 24, 32), None),
    ):
        image = rng.integers(-3000, 9000, shape).astype(np.int16)
        labels = rng.integers(0, 7, shape).astype(np.uint16)
        for kind, volume in (("images", image), ("labels", labels)):
            with tifffile.TiffWriter(folder / f"{name}-{kind}.tif") as tiff:
                for page in volume:
                    tiff.write(page, compression=compression, contiguous=False, metadata=None)
        made[name] = image, labels
    tifffile.imwrite(folder / "train-error-weights.tif", rng.random((4, 40, 40), np.float32), photometric="minisblack")
    return made


def plusplus(
    folder: Path, rng: np.random.Generator, mask_name: str, size: tuple[int, int] = (40, 48)
) -> dict[str, list]:
    """PNG folders; masks are RGB, white on black with (2, 2, 2) padding; nine, ten, eleven to tell number order."""
    made: dict[str, list] = {"Train": [], "Test": []}
    for split, numbers in (("Train", range(12)), ("Test", range(3))):
        for side in ("In", "Out"):
            (folder / f"{split}_{side}").mkdir(parents=True, exist_ok=True)
        for number in numbers:
            image, mask = grey(rng, size), np.zeros((*size, 3), np.uint8)
            mask[5:20, 5 : 10 + number] = 255
            mask[:, -4:], image[:, -4:] = 2, 0
            Image.fromarray(image).save(folder / f"{split}_In" / f"mask{number:04d}.png")
            Image.fromarray(mask).save(folder / f"{split}_Out" / mask_name.format(number))
            made[split].append((image, mask[..., 0] == 255))
    return made


def perez(folder: Path, rng: np.random.Generator) -> dict[str, list]:
    """Folders of 8-bit pictures and 0/1 masks whose names differ before the first dot."""
    made: dict[str, list] = {}
    for organelle in ORGANELLES:
        for split, images, masks in (
            ("train", "training_images", "training_labels"),
            ("test", "test_images", "ground_truth"),
        ):
            for side in (images, masks):
                (folder / side / organelle).mkdir(parents=True, exist_ok=True)
            for number in range(3 if split == "train" else 2):
                image, mask = grey(rng, (40 + number, 44)), np.zeros((40 + number, 44), np.uint8)
                mask[3 : 10 + number, 4:9] = 1
                Image.fromarray(image).save(folder / images / organelle / f"{organelle}_{split}_orig.{number:03d}.png")
                Image.fromarray(mask).save(folder / masks / organelle / f"{organelle}_seg.{number:03d}.png")
                made.setdefault(f"{organelle}/{split}", []).append((image, mask))
    return made


def nifti(file: Path, volume_ZYX: np.ndarray) -> None:
    """Write float32, X first, with the nonsense spacing and flips of the published files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-5.7594925e7, -5.7594925e7, 5.7594925e7, 1])
    image = nibabel.Nifti1Image(volume_ZYX.transpose(2, 1, 0).astype(np.float32), affine)
    image.header.set_xyzt_units(2)
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(image.to_bytes(), 1))
    else:
        file.write_bytes(image.to_bytes())


def urocell(
    folder: Path, rng: np.random.Generator, *, old: bool, shape: tuple[int, int, int] = (10, 70, 14)
) -> dict[str, tuple]:
    """Gzipped NIfTI in the present layout (``mito/binary``) or the old one (``mito``)."""
    made = {}
    for name in UROCELL:
        image = rng.integers(1, 256, shape).astype(np.float32)
        if name in ("fib1-0-0-0", "fib1-1-0-3"):
            image[:, : 12 if name == "fib1-0-0-0" else 54] = 0
        lyso, mito = np.zeros((2, *shape), np.uint8)
        lyso[2:5, 55:62, 1:6], mito[5:8, 60:66, 3:9] = 1, 1
        middle = "" if old else "binary/"
        nifti(folder / f"data/{name}.nii.gz", image)
        nifti(folder / f"lyso/{middle}{name}.nii.gz", lyso)
        nifti(folder / f"mito/{middle}{name}.nii.gz", mito)
        if not old:
            nifti(folder / f"mito/instance/{name}.nii.gz", mito * 9)
        made[name] = image, lyso, mito
    return made

"""What is written is read back, value for value and with its meaning."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from embench.core.errors import BadInput
from embench.data import writers
from embench.data.writers import ome_zarr
from embench.data.writers.base import Layer, colour

CLASSES = ("background", "mitochondrion", "synapse")
SIZE = (45.0, 4.6, 4.5)


def labels(shape: tuple[int, ...] = (3, 20, 30)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, len(CLASSES), shape, dtype=np.uint8)


def layer(kind: str = "labels", shape: tuple[int, ...] = (3, 20, 30)) -> Layer:
    return Layer(kind, shape, CLASSES, SIZE, "made by a test")  # type: ignore[arg-type]


def read_back(path: Path) -> np.ndarray:
    from embench.data.readers.open import open_volume

    return np.stack(list(open_volume(path)))


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.nii", "a.nii.gz", "a.h5"])
def test_labels_come_back_from_every_format(tmp_path: Path, name: str) -> None:
    values = labels()
    writers.write(tmp_path / name, layer(), values)
    np.testing.assert_array_equal(read_back(tmp_path / name), values)
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_section_comes_back_from_a_png(tmp_path: Path) -> None:
    values = labels((1, 20, 30))
    writers.write(tmp_path / "a.png", layer(shape=(1, 20, 30)), values)
    np.testing.assert_array_equal(read_back(tmp_path / "a.png"), values)


def test_an_mrc_file_holds_labels_and_their_voxel_size(tmp_path: Path) -> None:
    import mrcfile

    values = labels()
    writers.write(tmp_path / "a.mrc", layer(), values)
    with mrcfile.open(tmp_path / "a.mrc") as file:
        np.testing.assert_array_equal(file.data, values)
        assert [round(float(file.voxel_size[axis]), 3) for axis in "zyx"] == [450, 46, 45]
    assert mrcfile.validate(str(tmp_path / "a.mrc"))


def test_nifti_states_micrometres_with_x_first(tmp_path: Path) -> None:
    import nibabel

    values = np.random.default_rng(0).random((2, 3, 20, 30), np.float32)
    writers.write(tmp_path / "a.nii.gz", layer("probabilities", values.shape), values)
    image = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, values)
    np.testing.assert_allclose(image.header.get_zooms()[:3], (0.0045, 0.0046, 0.045), rtol=1e-6)
    assert image.header.get_xyzt_units()[0] == "micron"


def test_ome_tiff_states_voxel_size_and_channels(tmp_path: Path) -> None:
    import tifffile

    values = np.random.default_rng(0).random((3, 2, 20, 30), np.float32)
    writers.write(tmp_path / "a.ome.tif", layer("probabilities", values.shape), values)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        np.testing.assert_array_equal(file.asarray(), values)
        assert file.series[0].axes == "CZYX"
        assert file.ome_metadata is not None
        for said in ('PhysicalSizeZ="45.0"', 'PhysicalSizeXUnit="nm"', 'Name="synapse"'):
            assert said in file.ome_metadata


@pytest.mark.parametrize("version", ome_zarr.VERSIONS)
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_ome_zarr_is_valid_and_read_back(tmp_path: Path, version: ome_zarr.Version, kind: str) -> None:
    shape = (5, 700, 600) if kind == "labels" else (3, 5, 70, 60)
    what = layer(kind, shape)
    values = labels(shape) if kind == "labels" else np.random.default_rng(0).random(shape, np.float32)
    path = tmp_path / "a.zarr"
    array = ome_zarr.create(path, what, (2, 64, 64) if kind == "labels" else (3, 2, 64, 64), version)
    for z in range(0, 5, 2):
        array[..., z : z + 2, :, :] = values[..., z : z + 2, :, :]
    ome_zarr.add_pyramid(path, what)
    import zarr

    group = zarr.open_group(str(path), mode="r")
    np.testing.assert_array_equal(group["0"][:], values)
    facts = group.attrs["ome"] if version == "0.5" else group.attrs.asdict()
    models = importlib.import_module(f"ome_zarr_models.v{version.replace('.', '')}")
    attributes = models.image_label.ImageLabelAttrs if kind == "labels" else models.image.ImageAttrs
    attributes.model_validate(facts)
    multiscale = facts["multiscales"][0]
    assert [axis["name"] for axis in multiscale["axes"]] == list("czyx"[-len(shape) :])
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"][-3:] == list(SIZE)
    if kind == "labels":
        np.testing.assert_array_equal(group["1"][:], values[:, ::2, ::2])
        assert multiscale["datasets"][1]["coordinateTransformations"][0]["scale"] == [45, 9.2, 9]
        assert [each["name"] for each in facts["image-label"]["properties"]] == list(CLASSES)
        assert facts["image-label"]["colors"][1]["rgba"] == [*colour(1), 255]
        np.testing.assert_array_equal(read_back(path), values)
    else:
        assert [each["label"] for each in facts["omero"]["channels"]] == list(CLASSES)


@pytest.mark.parametrize(
    ("name", "kind", "shape", "said"),
    [
        ("a.png", "labels", (2, 4, 4), "a PNG holds one section"),
        ("a.mrc", "probabilities", (3, 2, 4, 4), "one channel"),
        ("a.jpg", "labels", (1, 4, 4), "not a format that is written"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, name: str, kind: str, shape: tuple, said: str) -> None:
    what = layer(kind, shape)
    with pytest.raises(BadInput, match=said):
        writers.write(tmp_path / name, what, np.zeros(shape, what.dtype))
    assert not list(tmp_path.iterdir())

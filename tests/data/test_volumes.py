"""Files are read as they are stored, a few sections at a time, and hostile ones are refused."""

from __future__ import annotations

import tracemalloc
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from embench.core.errors import BadInput
from embench.data.convert import labels, scaled
from embench.data.listing import Listing, natural, pair, stem
from embench.data.readers.base import Stored
from embench.data.readers.open import open_volume


def in_memory(array: np.ndarray, together: int = 1) -> Stored:
    return Stored("memory", array.shape, array.dtype, lambda start, stop: array[start:stop], together)


@pytest.mark.parametrize("together", [1, 2, 3, 7])
def test_sections_come_in_any_order_whatever_is_read_together(together: int) -> None:
    array = np.arange(7 * 2 * 3).reshape(7, 2, 3)
    volume = in_memory(array, together)
    for z in (0, 6, 3, 2, 6, 5, 0):
        np.testing.assert_array_equal(volume[z], array[z])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-32768, 32767), min_size=2, max_size=40, unique=True))
def test_scaling_follows_the_published_arithmetic(values: list[int]) -> None:
    array = np.array(values, np.int16).reshape(1, 1, -1)
    expected = array.astype(float)
    expected -= expected.min()
    expected /= expected.max()
    expected *= 255
    np.testing.assert_array_equal(scaled(in_memory(array))[0], expected.astype(np.uint8)[0])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-5, 300), min_size=1, max_size=30), st.booleans())
def test_labels_are_exact_or_refused(values: list[int], as_float: bool) -> None:
    array = np.array(values, np.float32 if as_float else np.int16).reshape(1, 1, -1)
    if min(values) >= 0 and max(values) <= 255:
        np.testing.assert_array_equal(labels(in_memory(array))[0], array[0].astype(np.uint8))
    else:
        with pytest.raises(BadInput, match=r"expected 0\.\.255"):
            labels(in_memory(array))[0]


def test_a_volume_of_one_grey_value_cannot_be_scaled() -> None:
    with pytest.raises(BadInput, match="nothing to scale"):
        scaled(in_memory(np.full((2, 3, 3), 7, np.int16)))[0]


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_what_a_large_section_is_turned_into_takes_little_memory_on_the_way(dtype: str) -> None:
    """A file of a few kB may declare a section of 256 MB: eight bytes for each voxel, some times over, are too many."""
    array = np.random.default_rng(0).integers(0, 200, (1, 3000, 5001)).astype(dtype)
    for convert, expected in (
        (labels, array[0].astype("u1")),
        (partial(labels, values=range(199, -1, -1)), (199 - array[0]).astype("u1")),
        (partial(scaled, low=0, high=510), (array[0].astype("f8") / 510 * 255).astype("u1")),
    ):
        sections = convert(in_memory(array))
        tracemalloc.start()
        made = sections[0]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        np.testing.assert_array_equal(made, expected)
        assert peak < 5 * made.size


@pytest.mark.parametrize("how", ["pages", "one by one", "one block", "imagej", "big-endian"])
def test_every_way_to_write_a_tiff_stack_reads_alike(how: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 60000, (5, 12, 14), np.uint16)
    path = tmp_path / "a.tif"
    if how == "one block":
        tifffile.imwrite(path, array, volumetric=True, tile=(16, 16, 16), compression="deflate")
    elif how == "imagej":
        tifffile.imwrite(path, array, imagej=True)
    else:
        metadata = {} if how == "one by one" else None
        with tifffile.TiffWriter(path, byteorder=">" if how == "big-endian" else "<") as tiff:
            for page in array:
                tiff.write(page, contiguous=False, metadata=metadata)
    volume = open_volume(path)
    assert volume.shape == array.shape
    np.testing.assert_array_equal(np.stack(list(volume)), array)


def test_tiff_pages_of_different_sizes_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for size in ((8, 8), (8, 9)):
            tiff.write(np.zeros(size, np.uint8))
    with pytest.raises(BadInput, match="different kinds"):
        open_volume(tmp_path / "a.tif")


def test_one_bit_pictures_are_labels(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((9, 11)) > 0.5
    Image.fromarray(mask).save(tmp_path / "m.png")
    np.testing.assert_array_equal(labels(open_volume(tmp_path / "m.png"))[0], mask.astype(np.uint8))


def test_an_hdf5_file_of_several_volumes_asks_for_a_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x/raw"], file["x/labels"] = np.zeros((2, 3, 3)), np.zeros((2, 3, 3))
    with pytest.raises(BadInput, match=r"x/labels.*name it: a\.h5:"):
        open_volume(tmp_path / "a.h5")
    assert open_volume(tmp_path / "a.h5:x/raw").shape == (2, 3, 3)


def test_hdf5_voxels_kept_elsewhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(18))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", (2, 3, 3), np.uint8, external=[(str(tmp_path / "secret.bin"), 0, 18)])
    with pytest.raises(BadInput, match="in other files"):
        open_volume(tmp_path / "a.h5:raw")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.nii.gz", "a.nrrd", "a.h5"])
def test_broken_files_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not an image at all")
    with pytest.raises(BadInput, match=f"{name}.*cannot be read"):
        open_volume(tmp_path / name)


def test_unknown_formats_and_absent_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.bmp").write_bytes(b"x")
    with pytest.raises(BadInput, match="not a known image format"):
        open_volume(tmp_path / "a.bmp")
    with pytest.raises(BadInput, match="no such file"):
        open_volume(tmp_path / "b.png")


def test_names_sort_and_shorten_as_people_expect() -> None:
    names = [Path(name) for name in ("s10.png", "s2.png", "s1.nii.gz")]
    assert [stem(path) for path in sorted(names, key=natural)] == ["s1", "s2", "s10"]


def test_two_files_of_one_name_cannot_be_paired() -> None:
    with pytest.raises(BadInput, match="a second image"):
        pair([Path("a/x.png"), Path("b/x.tif")], [Path("m/x.png")])


def test_a_listing_refuses_to_choose(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.tif").write_bytes(b"")
    with pytest.raises(BadInput, match=r"several x\.tif"):
        Listing(tmp_path).find("x.tif")
    assert Listing(tmp_path).find("a/x.tif") == tmp_path / "a" / "x.tif"

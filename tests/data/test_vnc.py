"""The Drosophila VNC set: what is really in its folders, and what may be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embench.core.errors import BadInput
from embench.data import catalog, store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder laid out as published, 20 sections of 24x20, antialiased and 1-bit masks among them."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "vnc"
    for stack, kinds in (("stack1", ("raw", "mitochondria", "synapses")), ("stack2", ("raw",))):
        for kind in kinds:
            (folder / stack / kind).mkdir(parents=True)
            for z in range(20):
                pixels = rng.integers(0, 256, (24, 20)).astype(np.uint8)
                picture = Image.fromarray(pixels)
                if kind == "synapses" and z % 2:
                    picture = Image.fromarray(pixels > 127).convert("1")
                picture.save(folder / stack / kind / f"{z:02d}.{'tif' if kind == 'raw' else 'png'}")
    return folder


def prepared(name: str, source: Path, tmp_path: Path) -> store.Prepared:
    ((_, path, fresh),) = catalog.prepare(name, source, tmp_path / "data")
    assert fresh
    return store.Prepared(path)


def test_sections_are_split_into_contiguous_blocks(source: Path, tmp_path: Path) -> None:
    with prepared("vnc-mito", source, tmp_path) as found:
        (train,), (test,) = found.volumes("train"), found.volumes("test")
        assert train.image.shape == (16, 24, 20)
        assert test.image.shape == (4, 24, 20)
        assert np.array_equal(test.image[0], np.asarray(Image.open(source / "stack1/raw/16.tif")))
        assert found.verify()


@pytest.mark.parametrize(("task", "folder"), [("vnc-mito", "mitochondria"), ("vnc-synapse", "synapses")])
def test_antialiased_masks_are_foreground_above_127_and_1_bit_masks_as_they_are(
    task: str, folder: str, source: Path, tmp_path: Path
) -> None:
    with prepared(task, source, tmp_path) as found:
        labels = found.volumes("train")[0].labels
        assert labels is not None
        for z in (0, 1):
            mask = np.asarray(Image.open(source / f"stack1/{folder}/{z:02d}.png")).astype(int)
            expected = mask > 127 if mask.max() > 1 else mask == 1
            assert np.array_equal(labels[z], expected)


def test_norms_are_those_of_the_training_sections(source: Path, tmp_path: Path) -> None:
    with prepared("vnc-mito", source, tmp_path) as found:
        grey = np.stack([np.asarray(Image.open(source / f"stack1/raw/{z:02d}.tif")) for z in range(16)]) / 255
        assert found.norms == pytest.approx((grey.mean(), grey.std()), abs=1e-12)


def test_stack_2_is_for_pretraining_only(source: Path, tmp_path: Path) -> None:
    with prepared("vnc-unlabelled", source, tmp_path) as found:
        assert found.volumes("train")[0].labels is None
        assert not found.volumes("test")
        with pytest.raises(BadInput, match="an unlabelled set, not a task"):
            _ = found.task


def refused(source: Path, tmp_path: Path) -> list[str]:
    with pytest.raises(BadInput) as error:
        catalog.prepare("vnc-mito", source, tmp_path / "data")
    assert not list((tmp_path / "data").glob("*"))
    return error.value.lines


def test_every_unpaired_file_is_named(source: Path, tmp_path: Path) -> None:
    (source / "stack1/mitochondria/03.png").unlink()
    (source / "stack1/raw/07.tif").unlink()
    lines = refused(source, tmp_path)
    assert len(lines) == 2
    assert "raw/03.tif: no mask 03.png" in lines[0]
    assert "mitochondria/07.png: no image 07.tif" in lines[1]


def test_every_section_of_another_size_is_named(source: Path, tmp_path: Path) -> None:
    for z in (4, 9):
        Image.fromarray(np.zeros((24, 21), np.uint8)).save(source / f"stack1/raw/{z:02d}.tif")
    lines = refused(source, tmp_path)
    assert [line.split(":")[0].rsplit("/", 1)[1] for line in lines] == ["04.tif", "09.tif"]


def test_masks_of_another_shape_than_the_images_are_refused(source: Path, tmp_path: Path) -> None:
    for mask in (source / "stack1/mitochondria").iterdir():
        Image.fromarray(np.zeros((20, 24), np.uint8)).save(mask)
    assert any("image is (16, 24, 20), labels are (16, 20, 24)" in line for line in refused(source, tmp_path))


def test_a_colour_mask_and_a_broken_file_are_named(source: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 24)).save(source / "stack1/mitochondria/05.png")
    assert "05.png: uint8 of shape (24, 20, 3); expected an 8-bit grey picture" in refused(source, tmp_path)[0]
    (source / "stack1/mitochondria/05.png").write_bytes(b"<html>gone</html>")
    assert "05.png: cannot be read" in refused(source, tmp_path)[0]


def test_too_few_sections_leave_an_empty_test_split_which_is_refused(source: Path, tmp_path: Path) -> None:
    for z in range(16, 20):
        (source / f"stack1/raw/{z:02d}.tif").unlink()
        (source / f"stack1/mitochondria/{z:02d}.png").unlink()
    assert "vnc-mito: no test images" in refused(source, tmp_path)[0]


def test_without_a_source_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--source DIR"):
        catalog.prepare("vnc-mito", None, tmp_path)


def test_the_real_set_prepares_to_its_known_hash(shared: Path, tmp_path: Path) -> None:
    with prepared("vnc-mito", shared / "data/vnc", tmp_path) as found:
        assert found.volumes("train")[0].image.shape == (16, 1024, 1024)
        assert found.norms == pytest.approx((0.50443883, 0.21446179), abs=1e-8)
        assert found.hash.startswith("e25453e2b7a3")

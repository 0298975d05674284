"""The prepared format: what goes in comes out, hashed, or nothing is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from embench.core.errors import BadInput
from embench.data.readers.base import Computed
from embench.data.store import Prepared, write
from embench.data.task import Item, Scoring, Task

TASK = Task("toy", "Toy", "toy", ("background", "thing"), Scoring("2d"), 10)


def items(image: np.ndarray, labels: np.ndarray) -> list[Item]:
    return [Item(split, "a", image, labels) for split in ("train", "test")]  # type: ignore[arg-type]


@pytest.fixture
def volume() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (5, 20, 22), np.uint8), rng.integers(0, 2, (5, 20, 22), np.uint8)


@pytest.mark.parametrize("planes", ["2d", "stack", "orthoplane"])
def test_what_goes_in_comes_out(planes: str, tmp_path: Path, volume) -> None:
    task = replace(TASK, scoring=Scoring(planes))  # type: ignore[arg-type]
    digest = write(tmp_path / "toy.h5", task, items(*volume))
    with Prepared(tmp_path / "toy.h5") as file:
        (found,) = file.volumes("train")
        assert file.task == task
        np.testing.assert_array_equal(found.image[:], volume[0])
        np.testing.assert_array_equal(found.section(2, 7)[1], volume[1][:, :, 7])
        assert file.hash == digest
        assert file.verify()
        assert file.norms == pytest.approx((volume[0].mean() / 255, volume[0].std() / 255))


@pytest.mark.parametrize("kind", [0, 1], ids=["image", "labels"])
def test_the_hash_depends_on_every_voxel_and_not_on_storage(kind: int, tmp_path: Path, volume) -> None:
    path = tmp_path / "toy.h5"
    first = write(path, TASK, items(*volume))
    assert write(path, replace(TASK, scoring=Scoring("orthoplane")), items(*volume)) == first
    volume[kind][4, 19, 21] ^= 1
    assert write(path, TASK, items(*volume)) != first


def test_a_changed_voxel_is_found(tmp_path: Path, volume) -> None:
    write(tmp_path / "toy.h5", TASK, items(*volume))
    with h5py.File(tmp_path / "toy.h5", "r+") as file:
        file["test/a/labels"][1, 2, 3] ^= 1
    with pytest.raises(BadInput, match="do not have the recorded hash"):
        Prepared(tmp_path / "toy.h5")


def test_every_fault_is_named_and_nothing_is_written(tmp_path: Path, volume) -> None:
    image, labels = volume
    strange = labels.copy()
    strange[3, 0, 0] = 9

    def broken(z: int) -> np.ndarray:
        raise BadInput(f"section {z} is broken")

    found = [
        Item("train", "a", image, labels[:4], origin="one"),
        Item("train", "b", image, strange, origin="two"),
        Item("train", "b", image, labels, origin="three"),
        Item("test", "c", Computed((2, 20, 22), broken), labels[:2], origin="four"),
    ]
    with pytest.raises(BadInput) as caught:
        write(tmp_path / "toy.h5", TASK, found)
    assert [line.split(":")[0] for line in caught.value.lines] == [
        "one", "two", "three", "section 0 is broken", "section 1 is broken",
    ]  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_task_needs_a_test_split(tmp_path: Path, volume) -> None:
    with pytest.raises(BadInput, match="no test images"):
        write(tmp_path / "toy.h5", TASK, items(*volume)[:1])


def test_notes_of_items_are_kept_in_the_card(tmp_path: Path, volume) -> None:
    noted = [replace(item, notes=["resolved"]) for item in items(*volume)]
    write(tmp_path / "toy.h5", TASK, noted, {"source": "here"})
    with Prepared(tmp_path / "toy.h5") as file:
        assert file.card["notes"] == ["resolved"]
        assert file.card["source"] == "here"


@pytest.mark.parametrize("content", [b"", b"not hdf5"])
def test_what_is_not_a_prepared_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "toy.h5").write_bytes(content)
    with pytest.raises(BadInput, match=r"toy\.h5: not a prepared file"):
        Prepared(tmp_path / "toy.h5")

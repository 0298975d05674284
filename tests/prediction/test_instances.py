"""Objects are numbered as a labelling of the whole numbers them, and measured in nanometres."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from embench.prediction import instances

CLASSES = ("background", "mitochondrion", "synapse")


@pytest.mark.parametrize("slab", [1, 5000, 2**24])
def test_components_are_those_of_the_whole_however_it_is_cut(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "_SLAB", slab)
    rng = np.random.default_rng(0)
    labels = (rng.random((12, 40, 50)) < 0.12).astype(np.uint8)
    labels[:, :, 25:] *= 2
    objects = np.zeros(labels.shape, np.uint32)
    table = instances.number(labels, objects, CLASSES)
    expected = 0
    for value in (1, 2):
        whole, count = ndimage.label(labels == value, np.ones((3, 3, 3)))
        expected += count
        pairs = np.unique(np.stack([whole[labels == value], objects[labels == value]]), axis=1)
        assert pairs.shape[1] == count  # one of ours for each of theirs
    assert len(table) == expected == objects.max()
    assert (objects[labels == 0] == 0).all()
    np.testing.assert_array_equal([row["voxels"] for row in table], np.bincount(objects.ravel())[1:])
    first = [np.flatnonzero(objects.ravel() == row["id"])[0] for row in table]
    assert first == sorted(first)


def test_sizes_and_centres_are_in_nanometres(tmp_path: Path) -> None:
    labels = np.zeros((6, 20, 20), np.uint8)
    labels[2:4, 5:10, 5:15] = 1
    labels[0, 0, 0] = 2
    objects = np.zeros(labels.shape, np.uint32)
    table = instances.number(labels, objects, CLASSES, voxel_size=(50, 5, 4))
    speck, box = table
    assert box["volume_nm3"] == 2 * 5 * 10 * 1000
    assert (box["z"], box["y"], box["x"]) == (150, 37.5, 40)
    assert not box["touches_border"]
    assert speck["touches_border"]
    assert speck["name"] == "synapse"
    big = instances.number(labels, objects, CLASSES, voxel_size=(50, 5, 4), smallest=2000)
    assert [row["id"] for row in big] == [1]
    assert set(np.unique(objects)) == {0, 1}
    instances.write_table(tmp_path / "a.csv", table)
    with (tmp_path / "a.csv").open() as file:
        assert [row["voxels"] for row in csv.DictReader(file)] == ["1", "100"]


def test_a_single_section_has_areas() -> None:
    labels = np.zeros((1, 20, 20), np.uint8)
    labels[0, 3:5, 3:6] = 1
    (row,) = instances.number(labels, np.zeros(labels.shape, np.uint32), CLASSES, voxel_size=(50, 5, 4))
    assert row["area_nm2"] == 6 * 20
    assert not row["touches_border"]


def test_a_watershed_parts_two_balls_that_touch_and_leaves_one_alone() -> None:
    z, y, x = np.indices((20, 60, 90))

    def ball(cx: int, cy: int) -> np.ndarray:
        return ((z - 10) * 4) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 14**2

    labels = (ball(20, 20) | ball(44, 20) | ball(70, 40)).astype(np.uint8)
    objects = np.zeros(labels.shape, np.uint32)
    assert len(instances.number(labels, objects, CLASSES[:2], voxel_size=(40, 10, 10))) == 2
    table = instances.number(labels, objects, CLASSES[:2], method="watershed", voxel_size=(40, 10, 10))
    assert len(table) == 3
    assert len({objects[10, 20, 20], objects[10, 20, 44], objects[10, 40, 70]}) == 3
    assert (objects > 0).sum() == labels.sum()
    sizes = sorted(row["voxels"] for row in table)
    assert sizes[0] > 0.9 * sizes[-1]


def test_a_watershed_of_probabilities_parts_where_the_network_doubts() -> None:
    labels = np.zeros((1, 30, 60), np.uint8)
    labels[0, 10:20, 5:55] = 1
    probabilities = np.where(labels, 0.95, 0.0).astype(np.float32)[None]
    probabilities[..., 28:32] = 0.55
    objects = np.zeros(labels.shape, np.uint32)
    table = instances.number(
        labels, objects, CLASSES[:2], method="watershed", probabilities_CZYX=probabilities, voxel_size=(1, 1, 1)
    )
    assert len(table) >= 2
    assert objects[0, 15, 10] != objects[0, 15, 50]


def test_an_empty_volume_has_no_objects(tmp_path: Path) -> None:
    labels = np.zeros((2, 5, 5), np.uint8)
    assert instances.number(labels, np.zeros(labels.shape, np.uint32), CLASSES) == []
    instances.write_table(tmp_path / "a.csv", [])
    assert (tmp_path / "a.csv").read_text().startswith("id,class")

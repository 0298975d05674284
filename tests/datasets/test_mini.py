"""The built-in synthetic suite: the same each time, of the kind of its counterparts, and not solved by a threshold."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from embench.data.store import Prepared, write
from embench.data.task import Item, Task, UnlabelledSet
from embench.datasets.mini import DATASET, read, some_instances
from embench.datasets.synthetic_tissue import VERSION

# Of generator 1. A change of any needs another VERSION: results on the old voxels are not comparable.
HASHES: dict[str, str] = {
    "mini-cremi": "0686c374bd02a8b6859f0f2ba7e366c8eed4c86ec4524b112fd3e6cf9bb094a0",
    "mini-guay": "c4fd5706cdbc7621e71532725503a813e1ddcbc4139f675308d7ec00643e4d47",
    "mini-kasthuri": "14050cad9067a7832d26aa3d0f43c6ba915e2281f4ee4b4ed6c41d669a28f8de",
    "mini-perez-lyso": "8d64aaea84f5e6ac16c51a0c3614c4b74c6e7fb4a4dce68848a7966f17395493",
    "mini-perez-mito": "97334d9b606222b5870e222b0e0a2cc0fdb6b5823d5bc879440ed0c937318afa",
    "mini-perez-nuclei": "4cfa69ba84656262aad98ef618085df94bc5d4de5cb01e3592e4d949256aed50",
    "mini-perez-nucleoli": "cdf5f297d0f6b09c5d08405d22212d55fc43d687fa2aba2a14cb683643eb0c63",
    "mini-urocell": "1c8a356078af989c84999785c127e0ad8126bca4da60507c8a27780eb976996c",
    "mini-cem": "7d718087aaeb1aa59005e4f301ba99010227711e7d21590919b14215760364d5",
}

SPECS = {spec.name: spec for spec in (*DATASET.tasks, *DATASET.unlabelled)}
TASKS = {task.name: task for task in DATASET.tasks}
SECONDS = 60
"""Of processor time for everything; some 13 on a 2020s core."""


@pytest.fixture(scope="module")
def generated() -> tuple[dict[str, list[Item]], float]:
    start = time.process_time()
    items = {name: list(read(None, name)) for name in SPECS}
    return items, time.process_time() - start


@pytest.fixture(scope="module")
def items(generated: tuple[dict[str, list[Item]], float]) -> dict[str, list[Item]]:
    return generated[0]


def frequencies(items: list[Item], split: str, classes: int) -> np.ndarray:
    counts = sum(
        np.bincount(np.asarray(item.labels).ravel(), minlength=classes) for item in items if item.split == split
    )
    return counts / np.sum(counts)


def best_threshold_iou(items: list[Item], label: int, ignore_unlabelled: bool) -> float:
    """IoU of the best global threshold, from either side, over all training images."""
    trained = [item for item in items if item.split == "train"]
    image = np.concatenate([np.asarray(item.image).ravel() for item in trained])
    truth = np.concatenate([np.asarray(item.labels).ravel() for item in trained])
    counted = truth > 0 if ignore_unlabelled else np.ones(truth.shape, bool)
    inside = np.bincount(image[truth == label], minlength=256)
    outside = np.bincount(image[counted & (truth != label)], minlength=256)
    best = 0.0
    for order in (slice(None), slice(None, None, -1)):
        found, false = inside[order].cumsum(), outside[order].cumsum()
        best = max(best, float((found / (inside.sum() + false)).max()))
    return best


@pytest.mark.parametrize("name", SPECS)
def test_content_is_that_of_this_generator_version(name: str, items: dict[str, list[Item]], tmp_path: Path) -> None:
    assert write(tmp_path / f"{name}.h5", SPECS[name], items[name]) == HASHES[name]


def test_generating_again_gives_the_same_voxels(items: dict[str, list[Item]]) -> None:
    for first, again in zip(items["mini-urocell"], read(None, "mini-urocell"), strict=True):
        assert np.array_equal(first.image, again.image)
        assert np.array_equal(first.labels, again.labels)


def test_all_sets_are_generated_in_time(generated: tuple[dict[str, list[Item]], float]) -> None:
    assert generated[1] < SECONDS


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_set_says_that_it_is_synthetic_and_by_which_generator(spec: Task | UnlabelledSet) -> None:
    assert spec.synthetic
    assert spec.scale == "tiny"
    assert spec.title.startswith("Synthetic")
    assert f"generator {VERSION}" in spec.title


@pytest.mark.parametrize("name", TASKS)
def test_training_and_test_images_differ(name: str, items: dict[str, list[Item]]) -> None:
    corners = [np.asarray(item.image)[0, :48, :48].tobytes() for item in items[name]]
    assert len(set(corners)) == len(corners)


@pytest.mark.parametrize("name", TASKS)
def test_prepared_file_holds_what_the_scoring_needs(name: str, items: dict[str, list[Item]], tmp_path: Path) -> None:
    task = TASKS[name]
    write(tmp_path / "mini.h5", task, items[name])
    with Prepared(tmp_path / "mini.h5") as prepared:
        shapes = [volume.image.shape for split in ("train", "test") for volume in prepared.volumes(split)]
        assert all((shape[0] > 1) == task.scoring.is_volume for shape in shapes)
        assert all(min(shape[1:]) >= 48 for shape in shapes)
        assert max(task.scoring.classes) < len(task.classes)
        assert prepared.norms[1] > 0.02


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_class_is_there_and_none_fills_the_picture(name: str, split: str, items: dict[str, list[Item]]) -> None:
    share = frequencies(items[name], split, len(TASKS[name].classes))
    assert share.min() > 0.002
    assert share.max() < 0.995
    assert share[list(TASKS[name].scoring.classes)].max() < 0.3


def test_clefts_are_sparse_and_thin(items: dict[str, list[Item]]) -> None:
    assert frequencies(items["mini-cremi"], "train", 2)[1] < 0.04
    for item in items["mini-cremi"]:
        thickness = [ndimage.distance_transform_edt(section).max() for section in np.asarray(item.labels)]
        assert np.median(thickness) < 6


def test_only_some_platelets_are_labelled(items: dict[str, list[Item]]) -> None:
    for item in items["mini-guay"]:
        image, labels = np.asarray(item.image), np.asarray(item.labels)
        smooth = ndimage.uniform_filter(image.astype(float), (1, 9, 9))
        away = ndimage.distance_transform_edt(labels == 0, sampling=(4, 1, 1)) > 6
        unlabelled = away & (smooth < np.median(image[labels == 1]) + 10)
        assert unlabelled.mean() > 0.03  # 0.08 to 0.10; 0 were every platelet labelled
        assert (labels > 0).mean() > 0.2


def test_padding_is_black_ragged_and_never_labelled(items: dict[str, list[Item]]) -> None:
    for item in items["mini-kasthuri"]:
        image, labels = np.asarray(item.image)[0], np.asarray(item.labels)[0]
        edge = np.zeros(image.shape, bool)
        edge[[0, -1]] = edge[:, [0, -1]] = True
        regions, _ = ndimage.label(image == 0)
        padding = np.isin(regions, np.setdiff1d(regions[edge], 0))
        assert 0.02 < padding.mean() < 0.6
        assert not labels[padding].any()
        assert len(np.unique(padding.sum(0))) > 4


@pytest.mark.parametrize("name", [name for name in TASKS if "perez" in name])
def test_test_masks_label_some_instances_and_at_least_one(name: str, items: dict[str, list[Item]]) -> None:
    for item in items[name]:
        assert np.any(item.labels)
    trained, tested = (frequencies(items[name], split, 2)[1] for split in ("train", "test"))
    assert tested < 0.75 * trained


def test_some_instances_keeps_whole_objects() -> None:
    mask = np.zeros((1, 9, 9), np.uint8)
    mask[0, 1:3, 1:3] = mask[0, 6:8, 1:3] = mask[0, 1:3, 6:8] = 1
    kept = some_instances(np.random.default_rng(0), mask)
    assert kept.sum() == 8  # two of three objects of four pixels
    assert set(np.unique(ndimage.label(kept[0])[0])) == {0, 1, 2}
    alone = (mask * (np.arange(9) > 5)).astype(np.uint8)
    assert np.array_equal(some_instances(np.random.default_rng(0), alone), alone)


@pytest.mark.parametrize("name", TASKS)
def test_no_threshold_solves_a_task(name: str, items: dict[str, list[Item]]) -> None:
    scoring = TASKS[name].scoring
    reached = [best_threshold_iou(items[name], label, scoring.ignore_unlabelled) for label in scoring.classes]
    assert np.mean(reached) < 0.33


def test_patches_are_many_and_various(items: dict[str, list[Item]]) -> None:
    patches = items["mini-cem"]
    assert len(patches) == 300
    assert all(item.labels is None and min(item.image.shape[1:]) >= 64 for item in patches)
    means, spreads = zip(*((np.mean(item.image), np.std(item.image)) for item in patches), strict=True)
    assert np.std(means) > 15
    assert max(spreads) > 2 * min(spreads)


def test_items_come_one_at_a_time() -> None:
    stream = read(None, "mini-cem")
    assert next(stream).name == "000"

"""Models of volumes: patches, blocks, a 3D network trained by the harness, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy
from torch import nn

from embench.core.errors import BadInput, Interrupted
from embench.core.paths import prepared_path
from embench.data import store
from embench.data.task import Item, Scoring
from embench.models.registry import find_model
from embench.models.volume import RECIPE, TorchVolumeModel, VolumeModel, check_task
from embench.runs.trial import run
from embench.training import patches
from embench.training.inference import BlockPredict, PlaneSum, predict_block, predict_planes
from embench.training.patches import TrainingPatches, augmented, levels_of, multiple_of, patch_of, spacing_of

BALLS = replace(
    toy.TOY,
    name="balls",
    classes=("background", "ball", "shell"),
    scoring=Scoring("stack", classes=(1, 2)),
    voxel_size=(20.0, 10.0, 10.0),
    iterations=3,
)


def balls(seed: int, shape: tuple[int, int, int] = (20, 48, 48)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image, labels = rng.normal(90, 10, shape), np.zeros(shape, np.uint8)
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]]
    for cz, cy, cx in rng.integers([4, 10, 10], np.array(shape) - [4, 10, 10], (5, 3)):
        distance = np.sqrt((2 * (z - cz)) ** 2 + (y - cy) ** 2 + (x - cx) ** 2)
        labels[distance < 8] = 2
        labels[distance < 6] = 1
    return np.clip(image + 60 * (labels == 1) - 50 * (labels == 2), 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("balls")
    items = [Item("train", "a", *balls(1)), Item("train", "b", *balls(2)), Item("test", "c", *balls(3, (10, 30, 34)))]
    store.write(prepared_path("balls", folder), BALLS, items)
    return folder


def planned(data: Path, folder: Path, model: str = "unet-3d", **changes: object):
    settings = {"tasks": ["balls"], "crop": 32, "batch_size": 1, "evaluations": 1}
    return toy.planned(data, folder, model, **(settings | changes))


# Patches


@pytest.mark.parametrize(
    ("spacing", "kernels", "strides", "patch"),
    [
        ((1, 1, 1), [(3, 3, 3)] * 4, [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)], (64, 64, 64)),
        ((2, 1, 1), [(1, 3, 3), *[(3, 3, 3)] * 3], [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)], (32, 64, 64)),
        ((10, 1, 1), [*[(1, 3, 3)] * 3, (3, 3, 3)], [(1, 1, 1), *[(1, 2, 2)] * 3], (6, 64, 64)),
    ],
)
def test_an_axis_is_halved_when_its_voxels_are_less_than_twice_as_long_as_the_shortest(
    spacing, kernels, strides, patch
):
    levels = levels_of(spacing, 4)
    assert [kernel for kernel, _ in levels] == kernels
    assert [stride for _, stride in levels] == strides
    multiple = multiple_of(spacing, 4)
    found = patch_of(64, spacing, multiple)
    assert all(side % step == 0 for side, step in zip(found, multiple, strict=True))
    assert found == patch


def test_a_task_without_voxel_size_is_deep_only_where_it_is_a_stack():
    assert spacing_of(replace(BALLS, voxel_size=None)) == (patches.DEEP, 1.0, 1.0)
    assert spacing_of(replace(BALLS, voxel_size=None, scoring=Scoring("orthoplane"))) == (1.0, 1.0, 1.0)
    assert spacing_of(BALLS) == (2.0, 1.0, 1.0)


def test_patches_depend_on_their_number_alone_and_show_their_volume(data):
    with store.Prepared(prepared_path("balls", data)) as prepared:
        drawn = TrainingPatches(prepared, (8, 16, 16))
        whole = TrainingPatches(prepared, (32, 64, 64))
        alone = lambda image, labels, rng: (image, labels)  # noqa: E731
        images, labels = drawn.batch(3, 2, [1, 2], alone)
        again = drawn.batch(7, 1, [1, 2], alone)
        assert np.array_equal(images[1], again[0][0])
        assert images.shape == labels.shape == (2, 8, 16, 16)
        volumes = [volume.image[:] for volume in prepared.volumes("train")]
        windows = [np.lib.stride_tricks.sliding_window_view(volume, (8, 16, 16)) for volume in volumes]
        assert any((window == images[0]).all(axis=(3, 4, 5)).any() for window in windows)
        shown = np.mean([drawn.sample(number, [0], alone)[1].any() for number in range(60)])
        assert shown > 0.4
        padded, _ = whole.sample(0, [0], alone)
        assert padded.shape == (32, 64, 64)
        assert any(np.array_equal(padded[6:26, 8:56, 8:56], volume) for volume in volumes)
        with pytest.raises(BadInput, match="returns the image as uint8"):
            drawn.batch(0, 1, [0], lambda image, labels, rng: (image[1:], labels))
        with pytest.raises(ValueError, match="test split"):
            TrainingPatches(prepared, (8, 8, 8), "test")


@pytest.mark.parametrize("seed", range(8))
def test_augmentation_moves_image_and_labels_together_and_keeps_thin_axes_in_place(seed):
    image = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6)
    moved, labels = augmented(image, image, (1.0, 1.0, 1.0), np.random.default_rng(seed))
    assert moved.shape == labels.shape == image.shape
    assert sorted(labels.ravel()) == sorted(image.ravel())
    cube = np.arange(6**3).reshape(6, 6, 6).astype(np.uint8)
    _, thick = augmented(cube, cube, (8.0, 1.0, 1.0), np.random.default_rng(seed))
    planes = {frozenset(plane.ravel().tolist()) for plane in cube}
    assert {frozenset(plane.ravel().tolist()) for plane in thick} == planes


def test_augmentations_of_sections_are_refused_for_volumes():
    for value in ("published", "flips"):
        with pytest.raises(BadInput, match="made for sections"):
            patches.augmentation_of(replace(RECIPE, augmentation=value), BALLS)
    own = lambda image, labels, rng: (image, labels)  # noqa: E731
    assert patches.augmentation_of(replace(RECIPE, augmentation=own), BALLS) is own


# Blocks


class Shift(nn.Module):
    """Logits from a voxel and its neighbour along Z: a field of view of one voxel."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, outputs, 3, padding=1, padding_mode="replicate")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def test_blocks_are_joined_without_a_seam():
    torch.manual_seed(0)
    network, (volume, _) = Shift(3).eval(), balls(5, (13, 30, 27))

    def predict(image):
        return predict_block(network, image, least=(1, 1, 1), multiple=(1, 1, 1), norms=(0.4, 0.2), device="cpu")

    whole = PlaneSum(volume.shape, 3, (0,))
    for z, scores in enumerate(np.moveaxis(predict(volume), 1, 0)):
        whole.add(0, z, scores)
    for block in ((4, 8, 8), (13, 30, 27), (5, 64, 3)):
        planes = predict_planes(BlockPredict(predict, block, (1, 1, 1)), volume, (0,), 3)
        assert np.abs(planes.scores() - whole.scores()).max() <= 1 / 255
        assert np.mean(planes.labels() == whole.labels()) > 0.999


def test_scores_have_the_size_of_the_block_whatever_the_network_needs():
    class Halving(nn.Module):
        def forward(self, x):
            assert all(side % 8 == 0 and side >= 16 for side in x.shape[2:])
            return x

    for shape in ((3, 9, 17), (16, 16, 16), (17, 5, 1)):
        image = np.full(shape, 255, np.uint8)
        scores = predict_block(Halving(), image, least=(16,) * 3, multiple=(8,) * 3, norms=(0.0, 1.0), device="cpu")
        assert scores.shape == (1, *shape)
        np.testing.assert_allclose(scores, torch.sigmoid(torch.ones(1)).item(), rtol=1e-6)
    with pytest.raises(BadInput, match=r"must return logits \(batch, classes, Z, Y, X\)"):
        predict_block(
            nn.Flatten(), np.zeros((2, 2, 2), np.uint8), least=(1,) * 3, multiple=(1,) * 3, norms=(0, 1), device="cpu"
        )


def test_a_block_is_put_once_and_only_where_one_axis_is_predicted():
    from embench.data.blocks import blocks

    (block,) = blocks((2, 3, 4), (9, 9, 9), (0, 0, 0))
    planes = PlaneSum((2, 3, 4), 1, (0,))
    planes.put(block, np.ones((1, 2, 3, 4), np.float32))
    assert planes.labels().all()
    with pytest.raises(ValueError, match="expected scores"):
        planes.put(block, np.ones((2, 2, 3, 4), np.float32))
    with pytest.raises(ValueError, match="axes"):
        PlaneSum((2, 3, 4), 1, (0, 1, 2)).put(block, np.ones((1, 2, 3, 4), np.float32))


# Trials


@pytest.mark.slow
def test_a_network_of_volumes_is_trained_cut_short_resumed_to_the_same_bytes_and_scored(data, tmp_path):
    whole = run(planned(data, tmp_path / "whole"))
    assert whole.status == "done"
    assert whole.recipe["name"] == "volume"
    assert set(whole.final.class_iou) == {1, 2}
    assert whole.model.parameters == whole.model.trained_parameters > 10_000
    cut = planned(data, tmp_path / "cut", save_every=0.0)

    def stop(stage: str, iteration: int, loss: float) -> None:
        if stage == "training" and iteration == 2:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        run(cut, stop)
    assert toy.comparable(run(cut)) == toy.comparable(whole)


@pytest.mark.slow
def test_a_network_of_volumes_learns(data, tmp_path):
    result = run(planned(data, tmp_path, iterations=60))
    assert result.score > 0.6


OWN = """
import numpy as np
from embench import TorchVolumeModel, VolumeModel
from torch import nn

class Threshold(VolumeModel):
    block = (4, 16, 16)
    halo = (1, 2, 2)

    def fit(self, sections, task, iterations, rng):
        volume = sections.volumes[0]
        self.level = volume.image[:][volume.labels[:] == 1].mean() - 20

    def predict_volume(self, image_ZYX, task):
        assert all(side <= most for side, most in zip(image_ZYX.shape, (6, 20, 20)))
        scores = np.zeros((task.outputs, *image_ZYX.shape), np.float32)
        scores[1] = image_ZYX > self.level
        return scores

class Thin(TorchVolumeModel):
    multiple = 1

    def network(self, outputs):
        return nn.Conv3d(1, outputs, 3, padding=1)

class Wrong(VolumeModel):
    def predict_volume(self, image_ZYX, task):
        return np.zeros(image_ZYX.shape, np.float32)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def test_anything_that_labels_blocks_can_compete(data, own, tmp_path):
    result = run(planned(data, tmp_path, f"{own}:Threshold"))
    assert result.final.class_iou[1] > 0.8


def test_a_network_of_one_s_own_is_trained_on_patches(data, own, tmp_path):
    result = run(planned(data, tmp_path, f"{own}:Thin", iterations=2))
    assert result.status == "done"


def test_scores_of_the_wrong_shape_are_refused(data, own, tmp_path):
    with pytest.raises(BadInput, match=r"wrong: predict_volume returned .* expected \(C, Z, Y, X\)"):
        run(planned(data, tmp_path, f"{own}:Wrong"))


def test_a_model_of_volumes_is_refused_in_one_line_where_sections_are_scored(toy_data, tmp_path):
    with pytest.raises(BadInput, match="unet-3d on toy: a model of volumes, but the task's sections are") as refused:
        toy.planned(toy_data, tmp_path, "unet-3d")
    assert len(refused.value.lines) == 1
    with pytest.raises(BadInput, match="labels volumes, not sections"):
        find_model("unet-3d").predict(np.zeros((4, 4), np.uint8), toy.TOY)
    check_task(find_model("unet-3d"), BALLS)


def test_the_network_follows_the_voxels():
    model = find_model("unet-3d")
    assert isinstance(model, TorchVolumeModel)
    assert isinstance(model, VolumeModel)
    for voxels, multiple in (((10.0, 10.0, 10.0), (8, 8, 8)), ((40.0, 4.0, 4.0), (1, 8, 8))):
        task = replace(BALLS, voxel_size=voxels)
        assert model.multiples(task, "tiny") == multiple
        patch = model.patch(task, RECIPE.for_task(task))
        block, halo = model.blocks(task, RECIPE.for_task(task))
        assert tuple(side + 2 * margin for side, margin in zip(block, halo, strict=True)) == patch
        network = model.network_for(task, "tiny")
        small = tuple(16 if step > 1 else 3 for step in multiple)
        assert network(torch.zeros(1, 1, *small)).shape == (1, 3, *small)

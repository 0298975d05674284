"""Sections of any size get scores of their own size, and volumes add up as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from skimage.transform import resize
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from embench.core.errors import BadInput
from embench.scoring.counts import count
from embench.training import inference
from embench.training.inference import PlaneSum, labels_2d, predict_planes, predict_section, predict_volume
from embench.training.recipe import Inference, SlidingWindow, WholeImage

NORMS = (0.5, 0.1)
WAYS = [WholeImage(32), SlidingWindow(window=32)]


class Pixelwise(nn.Module):
    """A network whose logits are a multiple of each pixel's own value; records the shapes it is given."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 1)
        with torch.no_grad():
            self.conv.weight[:, 0, 0, 0] = torch.linspace(0.5, 1.5, channels)
        self.norm = nn.BatchNorm2d(channels)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(image.shape))
        return self.norm(self.conv(image))


def expected_scores(image: NDArray[np.uint8], network: Pixelwise) -> NDArray[np.float32]:
    grey = torch.tensor((image / 255 - NORMS[0]) / NORMS[1], dtype=torch.float32)[None, None]
    with torch.inference_mode():
        logits = network.eval()(grey)[0]
    return (logits.sigmoid() if len(logits) == 1 else logits.softmax(0)).numpy()


def predict(network: nn.Module, image: NDArray[Any], way: Inference, volume: bool) -> NDArray[np.float32]:
    return predict_section(network, image, inference=way, norms=NORMS, device="cpu", volume=volume)


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ---- sections


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (7, 33), (31, 31), (32, 64), (45, 70)])
def test_scores_have_the_size_of_the_section_and_are_fractions(
    way: Inference, volume: bool, channels: int, shape: tuple[int, int]
) -> None:
    scores = predict(Pixelwise(channels), noise(*shape), way, volume)
    assert (scores.shape, scores.dtype) == ((channels, *shape), np.float32)
    assert scores.min() >= 0
    assert scores.max() <= 1
    if channels > 1:
        assert scores.sum(0) == pytest.approx(np.ones(shape), abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("way", "volume", "shape"),
    [
        (SlidingWindow(window=32), False, (45, 70)),
        (SlidingWindow(window=32), True, (20, 33)),
        (WholeImage(32), True, (45, 70)),
        (WholeImage(32), True, (3, 5)),
        (WholeImage(32), False, (64, 96)),
    ],
)
def test_padding_windows_and_cropping_leave_a_pixelwise_network_unchanged(
    way: Inference, volume: bool, shape: tuple[int, int], channels: int
) -> None:
    image, network = noise(*shape), Pixelwise(channels)
    assert predict(network, image, way, volume) == pytest.approx(expected_scores(image, network), abs=1e-6)


def test_a_2d_section_is_resized_down_and_its_labels_back_as_published() -> None:
    image, network = noise(75, 101), Pixelwise()
    scores = predict(network, image, WholeImage(32), volume=False)
    assert network.seen == [(1, 1, 64, 96)]
    small = cv2.resize(image, (96, 64), interpolation=cv2.INTER_LINEAR)
    labels = labels_2d(expected_scores(small, network))
    assert np.array_equal(labels_2d(scores), resize(labels, image.shape, preserve_range=True, order=0))


def test_a_section_smaller_than_the_multiple_is_resized_up_to_it() -> None:
    network = Pixelwise()
    predict(network, noise(7, 50), WholeImage(32), volume=False)
    assert network.seen == [(1, 1, 32, 32)]


def test_a_section_of_a_volume_is_reflected_at_the_bottom_and_right() -> None:
    class Keep(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.image = image
            return image

    image, network = noise(40, 33), Keep()
    predict(network, image, WholeImage(32), volume=True)
    published = nn.ReflectionPad2d((0, 31, 0, 24))(torch.tensor((image / 255 - NORMS[0]) / NORMS[1])[None, None])
    assert torch.allclose(network.image.double(), published, atol=1e-5)


@pytest.mark.parametrize("source", [32, 64, 224, 992])
def test_scores_go_back_to_size_as_by_order_0_of_scikit_image(source: int) -> None:
    image = np.arange(source, dtype=np.float32)[:, None]
    for target in range(source, source + 32):
        ours = inference._resize_nearest(image[None], (target, 1))[0]
        theirs = resize(image, (target, 1), order=0, preserve_range=True, anti_aliasing=False)
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(("volume", "windows"), [(False, 9), (True, 25)])
def test_windows_overlap_by_the_published_share_in_2d_and_3d(volume: bool, windows: int) -> None:
    network = Pixelwise()
    predict(network, noise(448, 448), SlidingWindow(224), volume)
    assert sum(shape[0] for shape in network.seen) == windows
    assert {shape[1:] for shape in network.seen} == {(1, 224, 224)}
    assert max(shape[0] for shape in network.seen) <= 4


def test_windows_average_logits_not_probabilities() -> None:
    class PositionInWindow(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.linspace(-6, 2, image.shape[-1]).repeat(*image.shape[:-1], 1)

    scores = predict(PositionInWindow(), noise(32, 48), SlidingWindow(window=32), volume=False)
    ramp = torch.linspace(-6, 2, 32)
    expected = torch.cat([ramp[:16], (ramp[16:] + ramp[:16]) / 2, ramp[16:]]).sigmoid()
    assert scores[0, 0] == pytest.approx(expected.numpy(), abs=1e-6)


@given(
    shape=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.99]),
    batch=st.integers(1, 5),
)
def test_windows_are_those_of_monai(shape: tuple[int, int], overlap: float, batch: int) -> None:
    from monai.inferers import sliding_window_inference

    class Ramp(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.cat((image.cumsum(2) / 32, image.cumsum(3) / 32), dim=1)

    way, image = SlidingWindow(window=32, overlap_2d=overlap, batch=batch), noise(*shape)
    grey = torch.tensor((image / 255 - NORMS[0]) / NORMS[1], dtype=torch.float32)[None, None]
    expected = sliding_window_inference(grey, (32, 32), batch, Ramp(), overlap=overlap, mode="constant")
    found = predict(Ramp(), image, way, volume=False)
    np.testing.assert_allclose(found, expected[0].softmax(0).numpy(), atol=1e-5)


def test_no_tensor_grows_with_the_height_of_a_section() -> None:
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                self.elements = max(self.elements, made.numel())
            return made

    found = []
    for height in (64, 640):
        with Largest() as largest:
            predict(Pixelwise(3), noise(height, 96), SlidingWindow(window=32), volume=False)
        found.append(largest.elements)
    assert found[0] == found[1]


def test_a_network_predicts_in_evaluation_mode_and_keeps_its_own_modes() -> None:
    network = Pixelwise()
    network.train()
    network.norm.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    predict(network, noise(32, 32), WholeImage(32), volume=False)
    assert network.training
    assert network.conv.training
    assert not network.norm.training
    network.train()
    predict(network, noise(32, 32), WholeImage(32), volume=False)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("way", WAYS)
def test_a_network_with_outputs_of_another_shape_is_named(way: Inference) -> None:
    class Flat(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.mean((2, 3)) if isinstance(way, WholeImage) else image[..., ::2, ::2]

    with pytest.raises(BadInput, match=r"Flat: .*\(batch, classes, Y, X\)"):
        predict(Flat(), noise(32, 64), way, volume=False)


@pytest.mark.parametrize("image", [noise(3, 4, 5), noise(4, 5).astype(np.float32), noise(0, 5)])
def test_only_8_bit_sections_are_accepted(image: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        predict(Pixelwise(), image, WholeImage(32), volume=False)


def test_labels_are_above_one_half_or_the_first_highest() -> None:
    half = np.array([[[0.5, np.nextafter(np.float32(0.5), np.float32(1))]]], np.float32)
    assert labels_2d(half).tolist() == [[0, 1]]
    tied = np.array([[[0.2, 0.4]], [[0.4, 0.2]], [[0.4, 0.4]]], np.float32)
    assert labels_2d(tied).tolist() == [[1, 0]]


# ---- volumes


def published_volume(scores: NDArray[np.float32], axes: tuple[int, ...]) -> NDArray[np.uint8]:
    """The protocol's own words on (planes, C, Z, Y, X)."""
    total = np.zeros(scores.shape[1:], np.uint8)
    for axis in axes:
        total += (scores[axis] * (255 / len(axes))).astype(np.uint8)
    return (total[0] > 127).astype(np.uint8) if len(total) == 1 else total.argmax(0).astype(np.uint8)


plane_scores = array_shapes(min_dims=3, max_dims=3, max_side=5).flatmap(
    lambda shape: st.integers(1, 4).flatmap(
        lambda channels: arrays(np.float32, (3, channels, *shape), elements=st.floats(0, 1, width=32))
    )
)


@given(plane_scores, st.sampled_from([(0,), (0, 1, 2)]))
def test_sums_of_planes_equal_the_published_bytes(scores: NDArray[np.float32], axes: tuple[int, ...]) -> None:
    planes = PlaneSum(scores.shape[2:], scores.shape[1], axes)
    for axis in axes:
        for index, section in enumerate(np.moveaxis(scores[axis], axis + 1, 0)):
            planes.add(axis, index, section)
    labels = planes.labels()
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, published_volume(scores, axes))
    if scores.shape[1] == 1:
        assert np.array_equal(planes.scores()[0] > 0.5, labels == 1)
    assert np.array_equal(planes.scores(0), planes.scores()[:, 0])


def test_sections_may_come_in_any_order_and_be_looked_at_half_way() -> None:
    rng = np.random.default_rng(5)
    scores = rng.random((3, 2, 3, 4, 150), np.float32)
    planes = PlaneSum((3, 4, 150), 2, (0, 1, 2))
    sections = [(axis, index) for axis, length in enumerate(scores.shape[2:]) for index in range(length)]
    in_order = [section for section in sections if section[0] == 2 and section[1] < 130]
    shuffled = rng.permutation([section for section in sections if section not in in_order]).tolist()
    for step, (axis, index) in enumerate(in_order + shuffled):
        planes.add(axis, index, scores[axis].take(index, axis + 1))
        if step == 20:
            planes.scores()
    assert np.array_equal(planes.labels(), published_volume(scores, (0, 1, 2)))


@pytest.mark.parametrize("axes", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("channels", [1, 4])
def test_a_volume_gets_each_section_along_each_axis_once(axes: tuple[int, ...], channels: int) -> None:
    volume = noise(5, 7, 9)

    def scores_of(section: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.stack([(section // (c + 1)) / np.float32(255) for c in range(channels)]).astype(np.float32)

    calls: list[tuple[int, int]] = []
    labels = predict_volume(scores_of, volume, axes, channels, lambda done, total: calls.append((done, total)))
    total = sum(volume.shape[axis] for axis in axes)
    assert calls == [(done, total) for done in range(1, total + 1)]
    everything = np.stack([scores_of(volume)] * 3)
    assert np.array_equal(labels, published_volume(everything, axes))


def test_a_file_is_read_in_slabs_and_gives_the_same_as_an_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = noise(6, 10, 14)
    monkeypatch.setattr(inference, "_SLAB_BYTES", 200)

    class Watched:
        """An HDF5 dataset that notes how much is read at a time."""

        def __init__(self, data: h5py.Dataset) -> None:
            self.data, self.shape, self.dtype = data, data.shape, data.dtype
            self.read: list[int] = []

        def __getitem__(self, key: Any) -> NDArray[np.uint8]:
            part = self.data[key]
            self.read.append(part.size)
            return part

    def scores_of(section: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.divide(section[None], np.float32(255), dtype=np.float32)

    with h5py.File(tmp_path / "v.h5", "w") as file:
        watched = Watched(file.create_dataset("v", data=volume, chunks=(2, 4, 4)))
        from_file = predict_planes(scores_of, watched, (0, 1, 2), 1)
    assert max(watched.read) <= 200
    assert sum(watched.read) == 3 * volume.size
    assert np.array_equal(from_file.scores(), predict_planes(scores_of, volume, (0, 1, 2), 1).scores())


def test_a_network_segments_a_volume_end_to_end() -> None:
    volume = np.where(noise(4, 40, 40, seed=3) > 127, np.uint8(180), np.uint8(60))
    network = Pixelwise()

    def scores_of(section: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict(network, section, WholeImage(32), volume=True)

    labels = predict_volume(scores_of, volume, (0, 1, 2), 1)
    assert count(labels, (volume == 180).astype(np.uint8), [1])[1].iou() == 1


def test_sections_of_a_wrong_axis_or_shape_are_refused() -> None:
    planes = PlaneSum((2, 3, 4), 1, (0,))
    with pytest.raises(ValueError, match="axis 1"):
        planes.add(1, 0, np.zeros((1, 2, 4), np.float32))
    for index in (-1, 2):
        with pytest.raises(ValueError, match=f"section {index} of axis 0"):
            planes.add(0, index, np.zeros((1, 3, 4), np.float32))
    with pytest.raises(ValueError, match=r"expected scores \(1, 3, 4\)"):
        planes.add(0, 0, np.zeros((1, 4, 3), np.float32))
    with pytest.raises(ValueError, match="axes"):
        PlaneSum((2, 3, 4), 1, (0, 0))

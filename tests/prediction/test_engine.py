"""A volume predicted piece by piece has the labels of the volume predicted whole, however it is cut and interrupted."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from embench.core.errors import Interrupted
from embench.core.signals import Interrupt
from embench.data.writers.base import Kind
from embench.prediction import engine
from embench.prediction.engine import Outputs, Prediction
from embench.prediction.networks import Network, VolumeNetwork, entropy, flipped
from embench.prediction.source import Source, from_array
from embench.prediction.work import Work
from embench.training.inference import BlockPredict, labels_2d, predict_planes, predict_section
from embench.training.recipe import Inference, SlidingWindow, WholeImage

WINDOWS = SlidingWindow(32, 0.5, 0.7, 3)
CLASSES = ("background", "mitochondrion", "synapse")


def network(inference: Inference, outputs: int, volume: bool, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.Conv2d(6, outputs, 3, padding=1)).eval()

    def predict(section: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict_section(net, section, inference=inference, norms=(0.5, 0.1), device="cpu", volume=volume)

    return Network(predict, inference, volume)


def image(shape: tuple[int, ...] = (9, 70, 90)) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def predicted(
    source: Source,
    networks: list[Network] | list[VolumeNetwork],
    axes: tuple[int, ...],
    kinds: tuple[Kind, ...] = ("labels",),
    classes: tuple[str, ...] = CLASSES[:2],
    **options: object,
) -> dict[Kind, NDArray]:
    outputs = Outputs(kinds, classes)
    prediction = Prediction(source, networks, axes, outputs, Work(None, Interrupt()), **options)  # type: ignore[arg-type]
    prediction.run()
    return {kind: prediction.array(kind)[:] for kind in kinds}


def whole(net: Network, volume: NDArray[np.uint8], axes: tuple[int, ...], outputs: int) -> NDArray[np.uint8]:
    if not axes:
        return np.stack([labels_2d(net.predict(section)) for section in volume])
    return predict_planes(net.predict, volume, axes, outputs).labels()


@pytest.mark.parametrize("axes", [(), (0,), (0, 1, 2)], ids=["2d", "stack", "orthoplane"])
@pytest.mark.parametrize("inference", [WINDOWS, WholeImage(32)], ids=["windows", "whole"])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("memory", [2**28, 40_000])
def test_labels_are_those_of_the_whole(
    axes: tuple[int, ...], inference: Inference, outputs: int, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MEMORY", memory)
    monkeypatch.setattr(engine, "_BAND", 16)
    monkeypatch.setattr(engine, "_SIDE", 16)
    monkeypatch.setattr(engine, "_CUBE", (4, 16, 16))
    net = network(inference, outputs, bool(axes))
    classes = CLASSES[: max(outputs, 2)]
    found = predicted(from_array(image()), [net], axes, ("labels", "probabilities"), classes)
    expected = whole(net, image(), axes, outputs)
    assert expected.min() < expected.max()
    np.testing.assert_array_equal(found["labels"], expected)
    if axes:
        planes = predict_planes(net.predict, image(), axes, outputs)
        np.testing.assert_array_equal(found["probabilities"], planes.scores())
    else:
        scores = np.stack([net.predict(section) for section in image()], 1)
        np.testing.assert_array_equal(found["probabilities"], scores)


def test_rows_of_a_band_are_bit_equal_to_those_of_the_whole() -> None:
    (section,) = image((1, 203, 71))
    for volume in (False, True):
        net = network(WINDOWS, 3, volume)
        all_rows = net.predict(section)
        for start, stop in [(0, 203), (0, 1), (16, 17), (31, 100), (100, 203), (202, 203)]:
            np.testing.assert_array_equal(net.rows(section, start, stop), all_rows[:, start:stop])


def test_an_ensemble_is_the_mean_of_probabilities_and_doubt_where_its_members_differ() -> None:
    nets = [network(WINDOWS, 1, False, seed) for seed in range(3)]
    source = from_array(image())
    found = predicted(source, nets, (), ("probabilities", "doubt"), doubt="spread")
    every = np.stack([[net.predict(section)[0] for section in image()] for net in nets])
    np.testing.assert_allclose(found["probabilities"][0], every.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["doubt"], 2 * every.std(0), atol=1e-6)
    alike = predicted(source, [nets[0], nets[0]], (), ("doubt",), doubt="spread")
    assert alike["doubt"].max() < 1e-6


def test_entropy_is_0_when_sure_and_1_when_torn() -> None:
    np.testing.assert_allclose(entropy(np.array([[0, 0.5, 1]], np.float32)), [0, 1, 0], atol=1e-6)
    thirds = np.full((3, 1), 1 / 3, np.float32)
    np.testing.assert_allclose(entropy(thirds), [1], atol=1e-6)
    np.testing.assert_allclose(entropy(np.eye(3, dtype=np.float32)), 0, atol=1e-6)


def test_spread_of_a_volume_is_a_mean_over_its_planes() -> None:
    nets = [network(WINDOWS, 1, True, seed) for seed in range(2)]
    found = predicted(from_array(image()), nets, (0, 1, 2), ("doubt",), doubt="spread")["doubt"]
    assert 0 < found.max() <= 1
    assert found.shape == image().shape


def test_mirrored_images_have_mirrored_scores() -> None:
    torch.manual_seed(0)
    net = flipped(nn.Conv2d(1, 2, 3, padding=1))
    x = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(net(x.flip(3)).flip(3), net(x))
    torch.testing.assert_close(net(x.flip(2)).flip(2), net(x))


class _Stopping(Interrupt):
    """Asks to stop after some looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def check(self) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise Interrupted(signal.SIGTERM)


def _run(folder: Path, out: Path, stop: Interrupt) -> int:
    """Predict on disk; return the sections that were predicted."""
    net = network(WINDOWS, 1, True)
    count = 0

    def counted(section: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal count
        count += 1
        return net.predict(section)

    outputs = Outputs(("labels",), CLASSES[:2], {"labels": out})
    work = Work(folder, stop)
    work.begin("one request")
    with contextlib.suppress(Interrupted):
        Prediction(from_array(image()), [Network(counted, WINDOWS, True)], (0, 1, 2), outputs, work).run()
    return count


def read_zarr(path: Path) -> NDArray[np.uint8]:
    import zarr

    return zarr.open_group(str(path), mode="r")["0"][:]


def test_a_stopped_prediction_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_DEEPEST_PLANES", 4)
    out = tmp_path / "out.zarr"
    counts = [_run(tmp_path / "work", out, _Stopping(60)) for _ in range(20)]
    expected = whole(network(WINDOWS, 1, True), image(), (0, 1, 2), 1)
    np.testing.assert_array_equal(read_zarr(out), expected)
    sections = sum(image().shape)
    assert 0 < counts[0] < sections
    assert counts[-1] == 0
    assert sections <= sum(counts) <= sections + 4 * np.count_nonzero(counts)


def _process(folder: Path, out: Path) -> None:
    engine._DEEPEST_PLANES = 4
    torch.set_num_threads(1)
    _run(folder, out, Interrupt())


def test_processes_share_a_prediction_and_give_what_one_gives(tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_process, args=(tmp_path / "work", out)) for _ in range(2)]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
        assert each.exitcode == 0
    np.testing.assert_array_equal(read_zarr(out), whole(network(WINDOWS, 1, True), image(), (0, 1, 2), 1))


def test_blocks_of_a_network_of_volumes_are_joined_as_a_trial_joins_them() -> None:
    torch.manual_seed(0)
    net = nn.Conv3d(1, 3, 3, padding=1).eval()

    def predict(image_ZYX: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return net(torch.tensor(image_ZYX)[None, None].float() / 255)[0].softmax(0).numpy()

    block, halo = (4, 32, 20), (1, 3, 2)
    found = predicted(
        from_array(image()), [VolumeNetwork(predict, block, halo)], (0, 1, 2), ("labels", "probabilities"), CLASSES
    )
    expected = predict_planes(BlockPredict(predict, block, halo), image(), (0, 1, 2), 3)
    np.testing.assert_array_equal(found["labels"], expected.labels())
    np.testing.assert_array_equal(found["probabilities"], expected.scores())

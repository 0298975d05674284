"""Windows of several sections in one batch give the scores of each section alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda, why_not
from torch import Tensor, nn

from embench.data.task import Scoring, Task
from embench.training.inference import each, predict_section, predictor
from embench.training.recipe import RETINA, SlidingWindow
from embench.training.sliding import slide

CPU, NORMS = torch.device("cpu"), (0.5, 0.2)
WINDOW = SlidingWindow(32, overlap_2d=0.5, overlap_3d=0.7)


class Counting(nn.Module):
    """A network that notes how many windows it was given at a time."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, outputs, 3, padding=1))
        self.given: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(len(x))
        return self.layers(x)


def images(sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, np.uint8) for size in sizes]


@pytest.mark.parametrize("batch", [1, 5, 64])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("volume", [False, True])
def test_sections_together_score_as_each_alone(batch: int, outputs: int, volume: bool) -> None:
    network, given = Counting(outputs).eval(), images([(70, 50), (20, 90), (70, 50), (32, 32)])
    together = list(slide(network, given, WINDOW, norms=NORMS, device=CPU, volume=volume, batch=batch))
    assert len(together) == len(given)
    assert set(network.given[:-1]) == {batch} if len(network.given) > 1 else network.given[0] <= batch
    for image, found in zip(given, together, strict=True):
        alone = predict_section(network, image, inference=WINDOW, norms=NORMS, device=CPU, volume=volume)
        np.testing.assert_allclose(found, alone, atol=1e-6)


def test_a_section_is_read_when_it_is_wanted_and_given_back_when_it_is_done() -> None:
    read: list[int] = []

    def reading() -> Iterator[np.ndarray]:
        for number, image in enumerate(images([(64, 64)] * 6)):
            read.append(number)
            yield image

    found = slide(Counting(1).eval(), reading(), WINDOW, norms=NORMS, device=CPU, volume=False, batch=4)
    next(found)
    assert len(read) <= 3
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert len(list(found)) == 5
    assert not list(slide(Counting(1), [], WINDOW, norms=NORMS, device=CPU, volume=False))


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_on_a_gpu_sections_share_batches_and_are_copied_without_waiting() -> None:
    task, network = Task("t", "", "", ("background", "a"), Scoring("stack"), 1), Counting(1)
    with fake_cuda() as seen:
        predict = predictor(network.to("cuda"), task, RETINA.resized(crop=32), NORMS, torch.device("cuda"))
        found = list(each(predict, images([(64, 64)] * 3)))
        assert not any(name.startswith("copied to the host") for name in seen)
    assert [scores.shape for scores in found] == [(1, 64, 64)] * 3

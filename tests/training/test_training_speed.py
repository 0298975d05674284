"""What the speed of a training step is measured against is the published network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import golden
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the plain network."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import plain_transunet

    return plain_transunet


def test_the_plain_network_equals_the_published_one(plain: Any) -> None:
    network = plain.VisionTransformer(1).eval()
    network.load_state_dict(golden.state("transunet_h192_c1"))
    with torch.inference_mode():
        output = network(golden.image())[:, :, ::4, ::4]
    expected = torch.from_numpy(golden.outputs("transunet_h192_c1")[0])
    assert (output - expected).abs().max() < 1e-4 * expected.abs().max()


def test_both_steps_of_the_benchmark_take_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import training_step

    recipe, make_plain, make_ours, _ = training_step.CASES["unet"]
    images, labels = training_step.batch(2, 64)
    losses = []
    for make, step_of in (
        (make_plain, lambda network: training_step.plain_step(network, recipe, images, labels)),
        (make_ours, lambda network: training_step.our_step(network, recipe, "fp32", images, labels)),
    ):
        step = step_of(training_step.started(make, "unet").train())
        losses.append([step() for _ in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)

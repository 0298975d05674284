"""SwinUNETR and U-Mamba, and the selective scan beneath the latter."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from baselines.padding import padded
from baselines.selective_scan import linear_recurrence, selective_scan
from baselines.u_mamba_network import Mamba, MambaLayer
from embench.models.base import TorchModel
from embench.models.registry import chosen_models, find_model

HYBRIDS = [name for name in chosen_models(["hybrid"])[1] if getattr(find_model(name), "pretraining", None) is None]


def one_by_one(decay: Tensor, drive: Tensor) -> Tensor:
    """The recurrence as it is written down."""
    states = [torch.zeros_like(drive[:, 0])]
    for n in range(drive.shape[1]):
        states.append(decay[:, n] * states[-1] + drive[:, n])
    return torch.stack(states[1:], dim=1)


@given(length=st.integers(1, 60), seed=st.integers(0, 1000), largest=st.sampled_from([0.0, 0.5, 1.0, 1.1]))
@settings(max_examples=20)
def test_scan_equals_the_recurrence_step_by_step_and_so_do_its_gradients(
    length: int, seed: int, largest: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, length, 3, 2)
    decay = (torch.rand(shape, generator=generator, dtype=torch.float64) * largest).requires_grad_()
    drive = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    asked = torch.randn(shape, generator=generator, dtype=torch.float64)
    found, expected = linear_recurrence(decay, drive), one_by_one(decay, drive)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((states * asked).sum(), (decay, drive)) for states in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_scan_of_strong_decay_neither_overflows_nor_loses_what_is_near() -> None:
    """A logarithmic form would divide by exp(-1000)."""
    decay, drive = torch.full((1, 1000, 1), math.exp(-50.0)), torch.ones(1, 1000, 1)
    torch.testing.assert_close(linear_recurrence(decay, drive), torch.ones(1, 1000, 1))


def test_selective_scan_is_the_state_space_model_of_its_formula() -> None:
    torch.manual_seed(0)
    x, step = torch.randn(2, 7, 3), torch.rand(2, 7, 3)
    rate, skip = -torch.rand(3, 4), torch.randn(3)
    enter, leave = torch.randn(2, 2, 7, 4)
    expected = torch.zeros(2, 7, 3)
    for b in range(2):
        for d in range(3):
            state = torch.zeros(4)
            for t in range(7):
                state = (step[b, t, d] * rate[d]).exp() * state + step[b, t, d] * enter[b, t] * x[b, t, d]
                expected[b, t, d] = leave[b, t] @ state + skip[d] * x[b, t, d]
    torch.testing.assert_close(selective_scan(x, step, rate, enter, leave, skip), expected)


def test_mamba_sees_what_came_before_however_far_and_nothing_that_comes_after() -> None:
    torch.manual_seed(0)
    mamba = Mamba(8)
    tokens = torch.randn(1, 40, 8)
    changed = tokens.clone()
    changed[:, 20] += 1
    difference = (mamba(changed) - mamba(tokens)).abs().amax(dim=(0, 2))
    assert difference[:20].max() == 0
    assert difference[20:].min() > 0


def test_mamba_starts_with_the_published_steps_and_rates() -> None:
    mamba = Mamba(64)
    steps = nn.functional.softplus(mamba.dt_proj.bias)
    assert 0.001 <= steps.min() < 0.003
    assert 0.03 < steps.max() <= 0.1001
    torch.testing.assert_close(mamba.A_log.exp()[5], torch.arange(1.0, 17))
    # As many parameters as mamba-ssm's Mamba(64): 6 * 64^2 for the projections of 128 inner channels, and the rest
    assert sum(p.numel() for p in mamba.parameters()) == 3 * 64 * 128 + 128 * (4 + 1) + 128 * 36 + 128 * 5 + 128 * 17


def test_mamba_computes_in_float32_under_autocast() -> None:
    layer = MambaLayer(8, 4)
    x = torch.randn(1, 8, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer.float()(x))


@pytest.mark.parametrize(("side", "expected"), [(32, 64), (64, 64), (65, 96), (1, 64), (224, 224)])
def test_padding_repeats_the_border_to_twice_the_coarsest_pixel(side: int, expected: int) -> None:
    image = torch.arange(side).float().expand(1, 1, 40, side)
    wide = padded(image, 32)
    assert wide.shape == (1, 1, 64, expected)
    assert torch.equal(wide[..., :40, :side], image)
    assert (wide[..., side:] == side - 1).all()


@pytest.mark.parametrize("name", HYBRIDS)
@pytest.mark.parametrize(("classes", "size"), [(1, (64, 64)), (7, (48, 80)), (3, (33, 50))])
def test_hybrids_take_any_size_and_train_every_parameter(name: str, classes: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = hybrid(name).at("tiny").network(classes)
    logits = network(torch.randn(2, 1, *size))
    assert logits.shape == (2, classes, *size)
    logits.square().mean().backward()
    assert [key for key, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", HYBRIDS)
def test_images_of_a_batch_do_not_see_one_another(name: str) -> None:
    torch.manual_seed(0)
    network = hybrid(name).at("tiny").network(2).eval()
    images = torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "parameters"), [("swin-unetr", 25_137_931), ("u-mamba", 29_227_361)])
def test_full_size_is_that_of_the_published_settings(name: str, parameters: int) -> None:
    network = hybrid(name).at("full").network(1)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def hybrid(name: str) -> TorchModel:
    model: Any = find_model(name)
    assert isinstance(model, TorchModel)
    return model

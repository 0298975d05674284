"""A decoder block that multiplies by its filters before it interpolates gives what the published order gives."""

from __future__ import annotations

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from baselines import upsampling
from baselines.transunet_network import TransUNet
from baselines.unet_network import DecoderBlock, UNet
from baselines.unet_resnet50 import unet
from baselines.upsampling import convolve_upsampled
from embench.training.precision import deployed, has_bf16

BILINEAR = {"mode": "bilinear", "align_corners": True}
NEAREST = {"mode": "nearest"}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layers(inputs: int, outputs: int, bias: bool = False) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias, dtype=torch.float64)
    conv.weight.data = noise(*conv.weight.shape, seed=1)
    return nn.Sequential(conv, nn.ReLU())


def as_published(
    made: nn.Sequential, x: Tensor, skip: Tensor | None, size: tuple[int, int], interpolation: dict[str, Any]
) -> Tensor:
    x = F.interpolate(x, size, **interpolation)
    return made(x if skip is None else torch.cat((x, skip), dim=1))


@pytest.fixture
def filtered_first(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the maps that were filtered before they were interpolated."""
    seen: list[tuple[int, ...]] = []
    way = upsampling._filtered_first

    def seeing(conv: nn.Conv2d, x: Tensor, *others: Any) -> Tensor:
        seen.append(tuple(x.shape))
        return way(conv, x, *others)

    monkeypatch.setattr(upsampling, "_filtered_first", seeing)
    return seen


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    skipped=st.integers(0, 4),
    outputs=st.integers(1, 4),
    bias=st.booleans(),
    interpolation=st.sampled_from([BILINEAR, NEAREST]),
    memory_format=st.sampled_from([torch.channels_last, torch.contiguous_format]),
    band=st.sampled_from([1, 2, 5, 64]),
)
@settings(deadline=None, max_examples=80)
def test_output_and_all_gradients_are_those_of_the_published_order(
    rows: int,
    columns: int,
    batch: int,
    channels: int,
    skipped: int,
    outputs: int,
    bias: bool,
    interpolation: dict[str, Any],
    memory_format: torch.memory_format,
    band: int,
) -> None:
    made = layers(channels + skipped, outputs, bias).to(memory_format=memory_format)  # type: ignore[call-overload]
    x = noise(batch, channels, rows, columns).contiguous(memory_format=memory_format).requires_grad_()
    skip = noise(batch, skipped, 2 * rows, 2 * columns, seed=2).requires_grad_() if skipped else None
    inputs = [x, *([] if skip is None else [skip]), *made.parameters()]
    expected = as_published(made, x, skip, (2 * rows, 2 * columns), interpolation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampling, "_FEWEST_CHANNELS", 1)
        patch.setattr(upsampling, "_BAND", band)
        found = convolve_upsampled(made, x, skip, (2 * rows, 2 * columns), **interpolation)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(each.square().sum(), inputs) for each in (expected, found)]
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("channels", "first"), [(64, True), (63, False)])
@pytest.mark.parametrize("skipped", [0, 2])
def test_filters_come_first_from_64_channels_on(
    filtered_first: list[tuple[int, ...]], channels: int, first: bool, skipped: int
) -> None:
    made, x = layers(channels + skipped, 3, bias=True), noise(1, channels, 8, 5)
    skip = noise(1, skipped, 16, 10, seed=2) if skipped else None
    found = convolve_upsampled(made, x, skip, (16, 10), **NEAREST)
    torch.testing.assert_close(found, as_published(made, x, skip, (16, 10), NEAREST))
    assert filtered_first == ([(1, channels, 8, 5)] if first else [])


@pytest.mark.parametrize(
    ("network", "maps"),
    [
        (lambda: TransUNet(1), [(1, 512, 4, 4), (1, 256, 8, 8), (1, 128, 16, 16), (1, 64, 32, 32)]),
        (lambda: unet(1, "full"), [(1, 2048, 2, 2), (1, 256, 4, 4), (1, 128, 8, 8), (1, 64, 16, 16)]),
    ],
    ids=["TransUNet", "UNet"],
)
@pytest.mark.parametrize("prepared", [lambda network: network.eval(), deployed], ids=["as trained", "deployed"])
def test_the_networks_take_this_way_and_give_what_they_gave(
    network: Any,
    maps: list[tuple[int, ...]],
    prepared: Any,
    filtered_first: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    made, image = prepared(network()).double(), noise(1, 1, 64, 64)
    with torch.inference_mode():
        found = made(image)
        assert filtered_first == maps
        monkeypatch.setattr(upsampling, "_FEWEST_CHANNELS", 10_000)
        torch.testing.assert_close(found, made(image))
    assert filtered_first == maps


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="no bf16 instructions: emulated, it takes minutes")
def test_in_bf16_the_error_is_at_most_twice_that_of_the_published_order() -> None:
    made = layers(128 + 64, 64, bias=True).float().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, skip = noise(2, 128, 28, 28).float(), noise(2, 64, 56, 56, seed=2).float()
    with torch.inference_mode():
        exact = as_published(made.double(), x.double(), skip.double(), (56, 56), BILINEAR)
        made.float()
        errors = []
        for way in (as_published, lambda made, x, skip, size, kw: convolve_upsampled(made, x, skip, size, **kw)):
            with torch.autocast("cpu", torch.bfloat16):
                found = way(made, x.bfloat16(), skip.bfloat16(), (56, 56), BILINEAR)
            assert found.dtype == torch.bfloat16
            errors.append((found.double() - exact).abs().mean() / exact.abs().mean())
    assert errors[1] < 2 * errors[0] < 0.02


def test_the_decoder_of_the_unet_is_the_librarys_by_name_and_by_value() -> None:
    torch.manual_seed(0)
    theirs = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=2).eval()
    torch.manual_seed(0)
    ours = UNet("resnet18", 2).eval()
    assert all(isinstance(block, DecoderBlock) for block in ours.decoder.blocks)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    image = noise(1, 1, 64, 96).float()
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-5)

"""A decoder block that multiplies by its filters before it interpolates gives what the published order gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from baselines import upsampling
from baselines.transunet import size
from baselines.transunet_network import TransUNet
from baselines.unet_network import DecoderBlock
from baselines.unet_resnet50 import unet
from baselines.upsampling import convolve_upsampled
from embench.precision import deployed

BILINEAR = {"mode": "bilinear", "align_corners": True}
NEAREST = {"mode": "nearest"}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layers(inputs: int, outputs: int, bias: bool = False) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias, dtype=torch.float64)
    conv.weight.data = noise(*conv.weight.shape, seed=1)
    return nn.Sequential(conv, nn.ReLU())


def as_published(made: nn.Sequential, x: Tensor, skip: Tensor, interpolation: dict[str, Any]) -> Tensor:
    return made(torch.cat((F.interpolate(x, skip.shape[2:], **interpolation), skip), dim=1))


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
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    batch=st.integers(1, 3),
    skipped=st.integers(1, 4),
    outputs=st.integers(1, 4),
    bias=st.booleans(),
    interpolation=st.sampled_from([BILINEAR, NEAREST]),
    last=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_output_and_all_gradients_are_those_of_the_published_order(
    rows: int,
    columns: int,
    batch: int,
    skipped: int,
    outputs: int,
    bias: bool,
    interpolation: dict[str, Any],
    last: bool,
) -> None:
    channels = max(rows, columns)  # the fewest with which filters come first
    memory_format = torch.channels_last if last else torch.contiguous_format
    made = layers(channels + skipped, outputs, bias).to(memory_format=memory_format)  # type: ignore[call-overload]
    given_ = [
        noise(batch, channels, rows, columns).contiguous(memory_format=memory_format).requires_grad_(),
        noise(batch, skipped, 2 * rows, 2 * columns, seed=2).requires_grad_(),
        *made.parameters(),
    ]
    x, skip = given_[:2]
    expected = as_published(made, x, skip, interpolation)
    found = convolve_upsampled(made, x, skip, (2 * rows, 2 * columns), **interpolation)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(each.square().sum(), given_) for each in (expected, found)]
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("channels", "first"), [(8, True), (7, False)])
def test_filters_come_first_where_a_map_has_as_many_channels_as_pixels_a_side(
    filtered_first: list[tuple[int, ...]], channels: int, first: bool
) -> None:
    made, x, skip = layers(channels + 2, 3), noise(1, channels, 8, 5), noise(1, 2, 16, 10, seed=2)
    found = convolve_upsampled(made, x, skip, (16, 10), **NEAREST)
    torch.testing.assert_close(found, as_published(made, x, skip, NEAREST))
    assert filtered_first == ([(1, channels, 8, 5)] if first else [])


def test_without_a_skip_the_map_alone_is_convolved(filtered_first: list[tuple[int, ...]]) -> None:
    made, x = layers(8, 3), noise(1, 8, 4, 4)
    found = convolve_upsampled(made, x, None, (8, 8), **BILINEAR)
    torch.testing.assert_close(found, made(F.interpolate(x, (8, 8), **BILINEAR)))
    assert not filtered_first


@pytest.mark.parametrize(
    ("network", "maps"),
    [
        (lambda: TransUNet(1, **size("tiny")), [(2, 32, 4, 4), (2, 32, 8, 8), (2, 16, 16, 16)]),
        (lambda: unet(1, "tiny"), [(2, 256, 2, 2), (2, 32, 4, 4), (2, 16, 8, 8), (2, 16, 16, 16)]),
    ],
)
@pytest.mark.parametrize("prepared", [lambda network: network.eval(), deployed])
def test_the_networks_take_this_way_and_give_what_they_gave(
    network: Any,
    maps: list[tuple[int, ...]],
    prepared: Any,
    filtered_first: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    made, image = prepared(network()).double(), noise(2, 1, 64, 64)
    with torch.inference_mode():
        found = made(image)
        assert filtered_first == maps
        monkeypatch.setattr(
            upsampling,
            "_filtered_first",
            lambda conv, x, skip, interpolation: as_published(nn.Sequential(conv), x, skip, interpolation),
        )
        torch.testing.assert_close(found, made(image))


def test_the_decoder_of_the_unet_is_the_librarys_by_name_and_by_value() -> None:
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    theirs = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=2).eval()
    from baselines.unet_network import UNet

    torch.manual_seed(0)
    ours = UNet("resnet18", 2).eval()
    assert all(isinstance(block, DecoderBlock) for block in ours.decoder.blocks)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    image = noise(1, 1, 64, 96).float()
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-5)

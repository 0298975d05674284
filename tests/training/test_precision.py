"""What is computed once for prediction changes no score; bf16 is chosen where there are instructions for it."""

from __future__ import annotations

from types import MappingProxyType

import pytest
import torch
from torch import nn

from embench.cli import run
from embench.core.errors import BadInput
from embench.models.base import TorchModel
from embench.models.registry import chosen_models, find_model
from embench.training import precision
from embench.training.precision import deployed, fastest, place, training_format

CPU = torch.device("cpu")


def networks() -> dict[str, nn.Module]:
    """One network for each class of network that a registered model builds, with running statistics of some batches."""
    found: dict[str, nn.Module] = {}
    for name in chosen_models(["all"])[1]:
        model = find_model(name)
        if isinstance(model, TorchModel):
            torch.manual_seed(0)
            network = model.at("tiny").network(2)
            found.setdefault(type(network).__name__, network)
    return found


@pytest.mark.parametrize("name", networks())
def test_a_deployed_network_gives_the_same_logits_and_leaves_the_trained_one_alone(name: str) -> None:
    network = networks()[name]
    in_3d = any(isinstance(module, nn.Conv3d) for module in network.modules())
    image = torch.randn(2, 1, *([32] if in_3d else []), 64, 64)
    for _ in range(3):
        network.train()(image)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    copy = deployed(network)
    network.eval()
    with torch.inference_mode():
        expected, found = network(image), copy(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_batch_norm_after_a_convolution_becomes_part_of_it_and_another_stays() -> None:
    class Twice(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self[0](x)

    parts = [nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)]
    plain, twice = nn.Sequential(*parts), Twice(*parts)
    with torch.no_grad():
        plain.train()(torch.randn(4, 1, 8, 8))
    assert not [module for module in deployed(plain).modules() if isinstance(module, nn.BatchNorm2d)]
    image = torch.randn(1, 1, 8, 8)
    for network in (plain, twice):
        torch.testing.assert_close(deployed(network)(image), network.eval()(image))


def test_a_network_that_remembers_its_last_step_can_be_deployed() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.last = self.conv(x)
            return self.last

    network = Remembers()
    image = torch.randn(1, 1, 4, 4)
    torch.testing.assert_close(network(image), deployed(network)(image))


@pytest.mark.parametrize(("instructions", "expected"), [((), "fp32"), (("amx_bf16",), "bf16"), (("avx2",), "fp32")])
def test_bf16_is_chosen_where_the_processor_has_it(
    instructions: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = MappingProxyType(dict.fromkeys(instructions, True))
    monkeypatch.setattr(precision.torch.cpu, "get_capabilities", lambda: found)
    assert fastest(CPU) == expected


def test_processors_without_avx512_train_in_the_default_format(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, expected in (("AVX2", torch.contiguous_format), ("AVX512", torch.channels_last)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        network = nn.Conv2d(4, 4, 3)
        assert training_format(network, CPU) == expected
        assert place(network, CPU).weight.is_contiguous(memory_format=expected)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("channels", "groups", "kernel", "stride", "narrow"),
    [(8, 1, 1, 2, True), (32, 4, 1, (1, 2), True), (16, 1, 1, 2, False), (8, 1, 1, 1, False), (8, 1, 3, 2, False)],
)
def test_a_network_whose_gradient_would_be_written_past_its_buffer_trains_in_the_default_format(
    channels: int, groups: int, kernel: int, stride: int, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    network = nn.Sequential(nn.Conv2d(1, channels, 3), nn.Conv2d(channels, 16, kernel, stride, groups=groups))
    expected = torch.contiguous_format if narrow else torch.channels_last
    assert training_format(network, CPU) == expected
    assert training_format(network, torch.device("cuda")) == torch.channels_last


def test_the_faster_precision_is_not_guessed_for_other_machines() -> None:
    class Elsewhere:
        def device(self, asked: str) -> str:
            return "cpu"

    with pytest.raises(BadInput, match="other machines"):
        run.settled_precision("auto", Elsewhere(), "cpu")  # type: ignore[arg-type]

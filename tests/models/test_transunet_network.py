"""TransUNet equals the published network, and takes what the published one cannot."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import golden
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from baselines.transunet_network import (
    Attention,
    Dropout,
    FeedForward,
    ReconstructionTransUNet,
    StandardisedConv2d,
    TransUNet,
    attend,
)
from embench.core.errors import BadInput
from embench.training.losses import cross_entropy_and_dice
from embench.training.precision import deployed

NETWORKS: dict[str, Callable[..., TransUNet]] = {
    "transunet_h192_c1": lambda **more: TransUNet(1, **more),
    "transunet_h192_c7": lambda **more: TransUNet(7, **more),
    "transunet_h768_c1": lambda **more: TransUNet(1, hidden=768, mlp=3072, **more),
    "reconstruct_h192": lambda **more: ReconstructionTransUNet(**more),
}
EXPECTED = golden.expected()
STEPS = [name for name in NETWORKS if f"{name}.train_step" in EXPECTED]
TINY: dict[str, Any] = {
    "hidden": 48,
    "mlp": 96,
    "layers": 2,
    "heads": 4,
    "width": 16,
    "units": (1, 1, 1),
    "decoder_channels": (32, 16, 16, 8),
    "bridge_channels": 64,
}


def published(name: str, **more: Any) -> TransUNet:
    """Return network `name` with the golden parameters."""
    with torch.device("meta"):
        network = NETWORKS[name](**more)
    network.load_state_dict(golden.state(name), assign=True)
    return network


def tiny(cls: type[TransUNet] = TransUNet, *classes: int, **more: Any) -> TransUNet:
    """Return a narrow random network, the same on every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls(*classes, **{**TINY, **more})


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative(found: Tensor, truth: Tensor) -> float:
    """Return the greatest difference as a fraction of the greatest true value."""
    return float((found - truth).abs().max() / truth.abs().max())


def loss_of(name: str, network: TransUNet, image: Tensor) -> Tensor:
    """Return the published loss of a training step; in float32 whatever the network computes in."""
    output = network(image).float()
    if name.startswith("reconstruct"):
        return F.mse_loss(output, golden.image(salt=3))
    classes = output.shape[1]
    weights = golden.CLASS_WEIGHTS if classes > 1 else None
    return cross_entropy_and_dice(output, golden.target(classes), weights)


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_has_the_published_names_shapes_and_parameter_count(name: str) -> None:
    with torch.device("meta"):
        network = NETWORKS[name]()
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == golden.shapes(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == EXPECTED[name]["params"]


@pytest.mark.parametrize("name", NETWORKS)
def test_output_and_tokens_equal_the_published_network(name: str) -> None:
    network = published(name).eval()
    output_true, tokens_true = map(torch.from_numpy, golden.outputs(name))
    with torch.inference_mode():
        output = network(golden.image())
        tokens, _ = network.encode(golden.image())
    assert relative(output[:, :, ::4, ::4], output_true) < 1e-4
    assert relative(tokens[:, ::7, ::8], tokens_true) < 1e-4
    assert output.mean().item() == pytest.approx(EXPECTED[name]["output_mean"], rel=1e-4)
    assert output.std().item() == pytest.approx(EXPECTED[name]["output_std"], rel=1e-4)


@pytest.mark.parametrize("name", STEPS)
def test_training_step_loss_equals_the_published_one(name: str) -> None:
    network = published(name, dropout=0.0).train()
    with torch.no_grad():
        loss = loss_of(name, network, golden.image())
    assert loss.item() == pytest.approx(EXPECTED[f"{name}.train_step"]["loss"], rel=1e-5)


@pytest.mark.parametrize("name", STEPS)
def test_gradient_norms_equal_the_published_ones(name: str) -> None:
    # In float64, because the norms of the smallest gradients move by 1e-3 with the order of float32 sums
    # (a relative change of 1e-7 in the parameters does as much, in the published arithmetic too).
    network = published(name, dropout=0.0).train().double()
    loss_of(name, network, golden.image().double()).backward()
    norms = EXPECTED[f"{name}.train_step"]["grad_norm"]
    found = {key: network.get_parameter(key).grad.norm().item() for key in norms}  # type: ignore[union-attr]
    assert found == pytest.approx(norms, rel=1e-3)


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_filters_are_standardised_with_biased_variance(kernel: int) -> None:
    conv = StandardisedConv2d(8, 5, kernel)
    weight = conv.weight.double()
    variance, mean = torch.var_mean(weight, dim=(1, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(conv.standardised_weight().double(), (weight - mean) / (variance + 1e-5).sqrt())


def test_grey_image_gives_what_three_equal_channels_give() -> None:
    conv, grey = StandardisedConv2d(3, 8, 7, stride=2), noise(2, 1, 32, 48)
    torch.testing.assert_close(conv(grey), conv(grey.expand(-1, 3, -1, -1)), rtol=1e-5, atol=1e-5)


@settings(max_examples=8, deadline=None)
@given(rows=st.integers(1, 6), columns=st.integers(1, 6), batch=st.integers(1, 2))
def test_any_size_divisible_by_16_gives_logits_of_that_size(rows: int, columns: int, batch: int) -> None:
    network = tiny(TransUNet, 3).eval()
    image = noise(batch, 1, 16 * rows, 16 * columns)
    with torch.inference_mode():
        tokens, (eighth, quarter, half) = network.encode(image)
        logits = network(image)
    assert logits.shape == (batch, 3, 16 * rows, 16 * columns)
    assert logits.isfinite().all()
    assert tokens.shape == (batch, rows * columns, 48)
    assert [skip.shape[1:] for skip in (eighth, quarter, half)] == [
        (128, 2 * rows, 2 * columns),
        (64, 4 * rows, 4 * columns),
        (16, 8 * rows, 8 * columns),
    ]


@pytest.mark.parametrize("side", [64, 224])
def test_quarter_skip_is_padded_with_zeros_on_the_right_and_bottom_only(side: int) -> None:
    _, (_, quarter, _) = tiny(TransUNet, 1).encode(noise(1, 1, side, side))
    assert not quarter[:, :, -1].any()
    assert not quarter[:, :, :, -1].any()
    assert quarter[:, :, 0].any()
    assert quarter[:, :, :-1, -2].any()


@pytest.mark.parametrize("shape", [(1, 1, 100, 96), (1, 1, 96, 100), (1, 1, 0, 16), (1, 3, 96, 96), (1, 96, 96)])
def test_other_shapes_are_refused_by_name(shape: tuple[int, ...]) -> None:
    named = f"{shape[2]}x{shape[3]}" if shape[1] == 1 else str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(BadInput, match=named):
        tiny(TransUNet, 1)(torch.zeros(shape))


@pytest.mark.parametrize("setting", [{"heads": 5}, {"image_size": 100}, {"image_size": 0}, {"width": 40}])
def test_impossible_settings_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(setting.values())))):
        tiny(TransUNet, 1, **setting)


def test_position_embedding_is_used_as_stored_on_its_own_grid() -> None:
    embeddings = tiny(TransUNet, 1).transformer.embeddings
    assert embeddings.positions(14, 14) is embeddings.position_embeddings


@pytest.mark.parametrize("axis", [0, 1])
def test_position_embedding_keeps_a_ramp_on_another_grid(axis: int) -> None:
    embeddings = tiny(TransUNet, 1).transformer.embeddings
    pixel = 1 / 14
    ramp = (torch.arange(14) + 0.5) * pixel  # position of the middle of each token, in images
    along_axis = torch.meshgrid(ramp, ramp, indexing="ij")[axis]
    with torch.no_grad():
        embeddings.position_embeddings.copy_(along_axis.reshape(1, 196, 1).expand(-1, -1, 48))
    rows, columns = 28, 7
    found = embeddings.positions(rows, columns).detach().unflatten(1, (rows, columns))[0, :, :, 0]
    sides = ((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns)
    torch.testing.assert_close(found, torch.meshgrid(*sides, indexing="ij")[axis], rtol=0, atol=0.25 * pixel)


def test_position_embedding_of_another_grid_is_trained() -> None:
    network = tiny(TransUNet, 1)
    network(noise(2, 1, 48, 32)).sum().backward()
    gradient = network.transformer.embeddings.position_embeddings.grad
    assert gradient is not None
    assert gradient.count_nonzero() > 0


def test_attention_equals_the_library_one() -> None:
    query, key, value = (noise(2, 3, 10, 16, seed=seed) for seed in range(3))
    expected = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attend(query, key, value, 0.0), expected)


def test_dropout_stands_after_embeddings_and_mlp_layers_and_not_in_attention() -> None:
    network = tiny(TransUNet, 1)
    rates = {name: module.p for name, module in network.named_modules() if isinstance(module, nn.Dropout)}
    assert rates == {
        "transformer.embeddings.dropout": 0.1,
        "transformer.encoder.layer.0.ffn.dropout": 0.1,
        "transformer.encoder.layer.0.attn.dropout": 0.0,
        "transformer.encoder.layer.1.ffn.dropout": 0.1,
        "transformer.encoder.layer.1.attn.dropout": 0.0,
    }


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(999, 1001, dtype=dtype, requires_grad=True)
    y = Dropout(rate)(x)
    assert y.dtype == dtype
    assert (y == 0).double().mean().item() == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / x.numel()))
    zero, kept = y.double().unique().tolist()
    assert (zero, kept) == (0.0, pytest.approx(1 / (1 - rate), rel=1e-4 if dtype == torch.float32 else 4e-3))
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())
    neighbours = (y[:, 1:] == 0) & (y[:, :-1] == 0)
    assert neighbours.double().mean().item() == pytest.approx(rate**2, rel=0.05)


def test_dropout_acts_in_training_only() -> None:
    network, image = tiny(TransUNet, 1), noise(2, 1, 64, 64)

    def tokens() -> Tensor:
        with torch.no_grad():
            return network.encode(image)[0]

    assert not torch.equal(network.train() and tokens(), tokens())
    assert torch.equal(network.eval() and tokens(), tokens())
    for module in (FeedForward(48, 96, 1.0), Attention(48, 4, 1.0)):
        assert not module(noise(1, 9, 48)).any(), "a rate of 1 must drop everything"


def test_random_parameters_follow_the_published_program() -> None:
    network = tiny(TransUNet, 1)
    assert not network.transformer.embeddings.position_embeddings.any()
    for layer in network.transformer.encoder.layer:
        for linear in (layer.ffn.fc1, layer.ffn.fc2):
            bound = math.sqrt(6 / (48 + 96))
            assert 0.98 * bound < linear.weight.abs().max() <= bound
            assert linear.bias.std().item() == pytest.approx(1e-6, rel=0.4)


def test_every_parameter_of_a_narrow_network_learns() -> None:
    network = tiny(TransUNet, 1)
    network(noise(2, 1, 64, 64)).square().mean().backward()
    still = {
        name
        for name, parameter in network.named_parameters()
        if not (parameter.grad != 0).any()  # type: ignore[union-attr]
    }
    assert not still


def test_reconstruction_learns_everything_but_the_unused_segmentation_head() -> None:
    network = tiny(ReconstructionTransUNet)
    image = noise(2, 1, 64, 48)
    output = network(image)
    assert output.shape == image.shape
    F.mse_loss(output, image).backward()
    without = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert without == {"segmentation_head.0.weight", "segmentation_head.0.bias"}


def test_segmentation_and_reconstruction_share_everything_before_the_head() -> None:
    segmentation, reconstruction = tiny(TransUNet, 1).eval(), tiny(ReconstructionTransUNet).eval()
    assert segmentation.state_dict().keys() < reconstruction.state_dict().keys()
    image = noise(1, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(segmentation.decode(image), reconstruction.decode(image))


def test_channels_last_changes_neither_output_nor_gradients() -> None:
    image = noise(2, 1, 64, 96)
    plain = tiny(TransUNet, 2, dropout=0.0).double()
    last = tiny(TransUNet, 2, dropout=0.0).double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    expected, found = plain(image.double()), last(image.double().to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)
    expected.square().mean().backward()
    found.square().mean().backward()
    for (name, ours), theirs in zip(last.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("prepared", [lambda network: network.to(memory_format=torch.channels_last), deployed])
def test_group_norms_get_maps_in_the_default_format_and_the_decoder_in_channels_last(
    prepared: Callable[[nn.Module], nn.Module],
) -> None:
    network, seen = prepared(tiny(TransUNet, 1)), {"default": 0, "last": 0}

    def see(kind: str, memory_format: torch.memory_format) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert inputs[0].is_contiguous(memory_format=memory_format)
            seen[kind] += 1

        return hook

    for name, module in network.named_modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(see("default", torch.contiguous_format))
        elif isinstance(module, nn.ReLU) and name.startswith("decoder.blocks"):
            module.register_forward_pre_hook(see("last", torch.channels_last))
    network(noise(2, 1, 64, 96))
    assert seen == {"default": 13, "last": 8}


@pytest.mark.gpu
@pytest.mark.parametrize("name", STEPS)
def test_cuda_equals_the_published_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network = published(name).cuda().eval()
    with torch.inference_mode():
        output = network(golden.image().cuda()).cpu()
    assert relative(output[:, :, ::4, ::4], torch.from_numpy(golden.outputs(name)[0])) < 1e-4

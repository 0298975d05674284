"""Networks of any encoder, named by a word: what is built, what is refused, what tuning trains."""

from __future__ import annotations

import pytest
import torch
import toy

from embench.core.errors import BadInput
from embench.core.names import is_name
from embench.models.base import TorchModel
from embench.models.lora import ALPHA, RANK, LoRALinear, add_lora
from embench.models.registry import absolute, code_of, find_model
from embench.runs.trial import run

SMP = "smp:Unet:tu-mobilenetv3_small_050"
VIT = "vit:test_vit"
"""timm's transformer for tests: 6 layers of 64 numbers."""


def network(spec: str, seed: int = 0) -> torch.nn.Module:
    model = find_model(spec)
    assert isinstance(model, TorchModel)
    torch.manual_seed(seed)
    return model.prepared(toy.TOY, "tiny", None)


def trained(module: torch.nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (SMP, "smp-unet-tu-mobilenetv3_small_050"),
        ("smp:unet:resnet18", "smp-unet-resnet18"),
        (VIT, "vit-test_vit"),
        (f"{VIT}:mae", "vit-test_vit-mae"),
        (f"{VIT}@lora", "vit-test_vit-lora"),
        ("retina@full", "retina-full"),
        ("unet-resnet50@full", "unet-resnet50"),
    ],
)
def test_a_model_named_by_words_has_a_row_name(spec, name):
    model = find_model(spec)
    assert model.name == name
    assert is_name(model.name)
    assert model.group in ("encoder", "published")


@pytest.mark.parametrize("spec", [SMP, VIT])
@pytest.mark.parametrize("shape", [(64, 64), (96, 160)])
def test_logits_have_the_size_of_the_image(spec, shape):
    logits = network(spec).eval()(torch.zeros(1, 1, *shape))
    assert logits.shape == (1, 1, *shape)


@pytest.mark.parametrize("patch", ["vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch16_dinov3"])
def test_transformers_of_every_patch_give_maps_at_the_size_of_the_image(patch):
    from baselines.vit_network import ViTUNet, encoder_of

    small = {"depth": 2, "embed_dim": 48, "num_heads": 4}
    built = ViTUNet(encoder_of(patch, **small), 3).eval()
    assert built(torch.zeros(1, 1, 64, 96)).shape == (1, 3, 64, 96)
    built.train()(torch.randn(2, 1, 64, 64)).mean().backward()
    assert [name for name, parameter in built.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("smp:Unet:resnt18", r"unknown encoder of smp 'resnt18': did you mean resnet18"),
        ("smp:Unt:resnet18", r"unknown architecture of smp 'Unt': did you mean Unet"),
        ("smp:Unet", "give smp:ARCHITECTURE:ENCODER"),
        ("smp:Linknet:mit_b0", "the library refuses this pair"),
        ("smp:PAN:resnet18", "fails on images of 64 x 64"),
        ("vit:vit_tny_patch16_224", "did you mean .*vit_tiny_patch16_224"),
        ("vit:test_resnet", "no plain vision transformer"),
        ("vit:", "give vit:NAME"),
        (f"{VIT}@locked", "unknown way to tune a model 'locked'"),
        (f"{SMP}@lora", "no linear layer of attention"),
        ("transunet@frozn", "did you mean frozen"),
        ("background@full", "no torch network"),
        ("ufo:x", "unknown model"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(spec, said):
    with pytest.raises(BadInput, match=said) as refused:
        network(spec)
    assert len(refused.value.lines) == 1


def test_a_name_that_differs_from_a_known_one_only_in_case_is_the_same_model():
    assert find_model("smp:uNET:resnet18").name == find_model("smp:Unet:resnet18").name


def test_tuning_trains_what_it_declares_and_nothing_else():
    full, frozen, lora = (network(f"{VIT}@{how}") for how in ("full", "frozen", "lora"))
    encoder = {name for name, _ in full.named_parameters() if name.startswith("encoder.")}
    assert trained(full) == {name for name, _ in full.named_parameters()}
    assert trained(frozen) == trained(full) - encoder
    added = trained(lora) - trained(frozen)
    assert added
    assert all(name.startswith("encoder.") and name.endswith(("lora_down", "lora_up")) for name in added)
    assert trained(frozen) < trained(lora)


@pytest.mark.parametrize("spec", ["retina", "transunet-mae"])
def test_models_of_our_own_can_be_tuned_too(spec, toy_data):
    from embench.pretraining.initial_checkpoint import find_start

    toy.make_start(spec, toy_data)
    for how, is_trained in (("full", True), ("frozen", False)):
        model = find_model(f"{spec}@{how}")
        weights = find_start(model, f"{spec}@{how}", "toy-unlabelled", "tiny", folder=toy_data)
        assert weights is not None
        parts = model.encoder_parts
        for name, parameter in model.prepared(toy.TOY, "tiny", weights).named_parameters():
            assert parameter.requires_grad == (is_trained or not name.startswith(parts))


def test_low_rank_adaptation_starts_as_the_frozen_network_exactly():
    image = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    frozen, lora = network(f"{VIT}@frozen").eval(), network(f"{VIT}@lora").eval()
    with torch.inference_mode():
        assert torch.equal(frozen(image), lora(image))


def test_what_low_rank_adaptation_learned_is_folded_into_one_layer():
    torch.manual_seed(0)
    adapted = LoRALinear(torch.nn.Linear(12, 20))
    torch.nn.init.normal_(adapted.lora_up)
    x = torch.randn(5, 12)
    plain = adapted.folded()
    assert type(plain) is torch.nn.Linear
    torch.testing.assert_close(plain(x), adapted(x))
    expected = ALPHA / RANK * adapted.lora_up @ adapted.lora_down
    torch.testing.assert_close(plain.weight, adapted.weight + expected)


def test_nothing_outside_the_named_part_is_adapted():
    net = network("transunet")
    assert add_lora(net, ("transformer.encoder.layer.0.",)) == 3
    adapted = {name for name, module in net.named_modules() if isinstance(module, LoRALinear)}
    assert adapted == {f"transformer.encoder.layer.0.attn.{part}" for part in ("query", "key", "value")}


@pytest.mark.parametrize("how", ["frozen", "lora"])
def test_a_tuned_trial_changes_what_is_trained_counts_it_and_resumes_to_the_same_bytes(how, toy_data, tmp_path):
    from embench.core.errors import Interrupted

    spec = f"{VIT}@{how}"
    whole = run(toy.planned(toy_data, tmp_path / "whole", spec, iterations=3, evaluations=1))
    assert whole is not None
    net = network(spec)
    counts = [(each.numel(), each.requires_grad) for each in net.parameters()]
    assert whole.model.parameters == sum(size for size, _ in counts)
    assert whole.model.trained_parameters == sum(size for size, is_trained in counts if is_trained)
    assert whole.model.trained_parameters < whole.model.parameters

    cut = toy.planned(toy_data, tmp_path / "cut", spec, iterations=3, evaluations=1, save_every=0.0)

    def stop_at_two(stage: str, iteration: int, loss: float) -> None:
        if stage == "training" and iteration == 2:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        run(cut, stop_at_two)
    assert toy.comparable(run(cut)) == toy.comparable(whole)


def test_a_plan_names_the_file_that_a_model_comes_from_by_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("own.py:Own@lora") == f"{tmp_path}/own.py:Own@lora"
    assert absolute("external:tools/x.toml") == f"external:{tmp_path}/tools/x.toml"
    for spec in ("retina", SMP, f"{VIT}@lora", "external:nnunet"):
        assert absolute(spec) == spec
        assert code_of(spec) is None

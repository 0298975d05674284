"""Weights of encoders: published ResNets by their own names, anybody's transformer, our own masked autoencoding."""

from __future__ import annotations

import pytest
import torch
import toy
from safetensors.torch import save_file

from baselines import encoder_weights, published_weights
from baselines.published_formats import IMAGENET_MOCOV2, MOCOV2, SUPERVISED, SWAV
from baselines.unet_network import IMAGENET_DEVIATION, IMAGENET_MEAN
from baselines.unet_resnet50 import rgb_unet, unet
from embench.core.errors import BadInput
from embench.data import catalog
from embench.models.base import TorchModel
from embench.models.checkpoints import load_weights
from embench.models.registry import find_model
from embench.pretraining.initial_checkpoint import find_start, start_command, start_path

VIT = "vit:test_vit"


@pytest.fixture(scope="module")
def resnets() -> dict[int, dict[str, torch.Tensor]]:
    """Random ResNet50s by input channels, under torchvision's names."""
    torch.manual_seed(0)
    return {1: dict(unet(1, "full").encoder.state_dict()), 3: dict(rgb_unet(1, "full").encoder.state_dict())}


def layout(kind, encoder: dict[str, torch.Tensor]):
    """Return a file's content as the published one of a kind is laid out."""
    head = torch.zeros(2, 2048)
    if kind is SUPERVISED:
        return {**encoder, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    if kind is SWAV:
        state = {f"module.{name}": tensor for name, tensor in encoder.items()}
        state |= {"module.projection_head.0.weight": head, "module.prototypes.weight": head}
        return {"epoch": 200, "state_dict": state, "norms": [0.58, 0.1]}
    state = {f"module.encoder_q.{name}": tensor for name, tensor in encoder.items()}
    state |= {
        "module.encoder_q.fc.0.weight": head,
        "module.queue": torch.zeros(128, 8),
        "module.queue_ptr": head[:1, 0],
    }
    return {"epoch": 200, "arch": "resnet50", "state_dict": state} | ({"norms": [0.57, 0.13]} if kind is MOCOV2 else {})


@pytest.mark.parametrize(
    ("kind", "channels", "data", "row"),
    [
        (SUPERVISED, 3, None, "unet-resnet50-imagenet"),
        (IMAGENET_MOCOV2, 3, None, "unet-resnet50-imagenet-mocov2"),
        pytest.param(MOCOV2, 1, "cem500k", "unet-resnet50-mocov2", marks=pytest.mark.slow),
        pytest.param(SWAV, 1, "cem1.5m", "unet-resnet50-swav", marks=pytest.mark.slow),
    ],
)
def test_a_published_resnet_is_recognised_and_starts_its_row(kind, channels, data, row, resnets, tmp_path):
    file = tmp_path / "theirs.pth"
    torch.save(layout(kind, resnets[channels]), file)
    assert published_weights.read(file).kind is kind
    assert published_weights.inspect(file).left_out
    made = published_weights.import_published(file, data, folder=tmp_path)
    model = find_model(row)
    assert isinstance(model, TorchModel)
    assert made == start_path(model, "cem500k", "full", tmp_path)
    weights = find_start(model, row, "cem500k", "full", folder=tmp_path)
    network = model.prepared(catalog.find_task("vnc-mito"), "full", weights)
    for name, tensor in network.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(tensor, resnets[channels][name.removeprefix("encoder.")])
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained
    assert not any(name.startswith("encoder.") for name in trained)


def test_the_network_for_colours_sees_the_grey_image_three_times_as_imagenet_is_normalised():
    torch.manual_seed(0)
    network = rgb_unet(1, "tiny").eval()
    grey = torch.rand(2, 1, 64, 64)
    colours = torch.cat(
        [(grey - mean) / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)], dim=1
    )
    features = network.encoder(colours)
    expected = network.segmentation_head(network.decoder(features))
    assert torch.equal(network(grey), expected)
    assert find_model("unet-resnet50-imagenet").norms((0.4, 0.2), None) == (0.0, 1.0)


def vit_encoder(channels: int = 1, seed: int = 3) -> torch.nn.Module:
    import timm

    torch.manual_seed(seed)
    return timm.create_model("test_vit", in_chans=channels, num_classes=10)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_anybodys_transformer_is_brought_in_by_stated_names(suffix, prefix, tmp_path):
    theirs = vit_encoder(3)
    state = {f"{prefix}{name}": tensor for name, tensor in theirs.state_dict().items()}
    file = tmp_path / f"dino{suffix}"
    if suffix == ".pth":
        torch.save({"teacher": state | ({"module.projector.0.weight": torch.zeros(3)} if prefix else {})}, file)
    else:
        save_file(state, file)
    spec = f"{VIT}:dino"
    made = encoder_weights.import_encoder(
        file, spec, "lvd142m", prefixes=[f"{prefix}="] if prefix else [], folder=tmp_path
    )
    model = find_model(spec)
    weights = load_weights(made)
    assert (weights.card.method, weights.card.model, weights.card.data) == ("dino", "vit-test_vit", "lvd142m")
    network = model.prepared(toy.TOY, "full", weights)
    embedding = theirs.state_dict()["patch_embed.proj.weight"]
    assert torch.allclose(network.encoder.patch_embed.proj.weight, embedding.sum(1, keepdim=True))
    assert torch.equal(network.encoder.blocks[1].attn.qkv.weight, theirs.blocks[1].attn.qkv.weight)
    assert model.norms((0.4, 0.2), weights) == encoder_weights.GREY_OF_IMAGENET
    assert made == start_path(model, "lvd142m", "full", tmp_path)
    assert (
        start_command(model, spec, "lvd142m", "full") == f"embench checkpoint import FILE --model {spec} --data lvd142m"
    )


def test_a_grey_image_three_times_gives_what_the_summed_first_layer_gives():
    colour, grey = vit_encoder(3).eval(), vit_encoder(1).eval()
    fitted = encoder_weights.fitted(colour.state_dict(), grey, "x")
    grey.load_state_dict({name.removeprefix("encoder."): tensor for name, tensor in fitted.items()}, strict=False)
    image = torch.rand(1, 1, 160, 160)
    torch.testing.assert_close(grey.forward_features(image), colour.forward_features(image.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("blocks.0.attn.qkv.weight"), r"1 lack \(blocks.0.attn.qkv.weight\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 have no place \(extra\)"),
        (lambda state: state.update({"norm.weight": torch.zeros(7)}), r"norm.weight \(7,\) for \(64,\)"),
    ],
)
def test_weights_of_another_encoder_are_refused_in_one_line_with_the_names(change, said, tmp_path):
    state = dict(vit_encoder().state_dict())
    change(state)
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(BadInput, match=said) as refused:
        encoder_weights.import_encoder(tmp_path / "x.safetensors", f"{VIT}:dino", "x", folder=tmp_path)
    assert len(refused.value.lines) == 1
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("spec", "prefixes", "said"),
    [
        ("retina", (), "give vit:NAME:START"),
        (VIT, (), "give vit:NAME:START"),
        (f"{VIT}:dino", ("backbone.=",), "give THEIRS=OURS, where .* has names such as blocks"),
        (f"{VIT}:dino", ("backbone",), "give THEIRS=OURS"),
    ],
)
def test_what_names_no_encoder_is_refused(spec, prefixes, said, tmp_path):
    save_file(dict(vit_encoder().state_dict()), tmp_path / "x.safetensors")
    with pytest.raises(BadInput, match=said):
        encoder_weights.import_encoder(tmp_path / "x.safetensors", spec, "x", prefixes=prefixes, folder=tmp_path)


def test_a_file_that_holds_code_or_nothing_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"\0" * 40)
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "code.pth")
    for name, said in (("empty.pth", "no tensors"), ("bad.safetensors", "cannot be read"), ("code.pth", "refused")):
        with pytest.raises(BadInput, match=said):
            encoder_weights.import_encoder(tmp_path / name, f"{VIT}:dino", "x", folder=tmp_path)


def test_the_library_s_own_weights_become_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_weights, "_downloaded", lambda model: model.network(1).encoder)
    made = encoder_weights.fetch_encoder("smp:Unet:resnet18:imagenet", folder=tmp_path)
    model = find_model("smp:Unet:resnet18:imagenet")
    weights = find_start(model, "smp:Unet:resnet18:imagenet", "cem500k", "full", folder=tmp_path)
    assert weights.path == made
    assert (weights.card.method, weights.card.data) == ("imagenet", "imagenet")
    model.prepared(toy.TOY, "full", weights)


def test_a_library_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    def unreachable(model):
        raise OSError("no route to host")

    monkeypatch.setattr(encoder_weights, "_downloaded", unreachable)
    with pytest.raises(BadInput, match=r"cannot be had .no route to host.; bring in a file"):
        encoder_weights.fetch_encoder("vit:test_vit:timm", folder=tmp_path)


def test_our_masked_autoencoding_pretrains_a_transformer_that_then_starts_from_it(toy_data, tmp_path, monkeypatch):
    from embench.pretraining import command
    from embench.runs.trial import run

    spec = f"{VIT}:mae"
    made = command.run(
        "mae", "toy-unlabelled", model=spec, scale="tiny", epochs=1, batch_size=2, device="cpu", data_folder=toy_data
    )
    weights = load_weights(made)
    assert (weights.card.method, weights.card.model) == ("mae", "vit-test_vit")
    results = {
        how: run(toy.planned(toy_data, tmp_path, f"{spec}@{how}", iterations=2, evaluations=1))
        for how in ("full", "frozen", "lora")
    }
    assert {result.model.weights_hash for result in results.values()} == {weights.hash}
    assert {result.row for result in results.values()} == {
        "vit-test_vit-mae", "vit-test_vit-mae-frozen", "vit-test_vit-mae-lora"
    }  # fmt: skip


def test_masked_autoencoding_refuses_transformers_whose_positions_are_rotated():
    from baselines.mae import MAE

    assert MAE.takes(find_model(VIT))
    assert MAE.takes(find_model("transunet"))
    assert not MAE.takes(find_model("unet-resnet50"))
    assert not MAE.takes(find_model("vit:vit_tiny_patch16_dinov3_qkvb"))

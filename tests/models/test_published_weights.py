"""Published checkpoints are recognised, loaded whole or refused by name, and never run (protocol 8)."""

from __future__ import annotations

import http.server
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner

from baselines import published_formats, published_weights, transunet
from baselines.published_weights import load_published, read
from baselines.transunet_network import ReconstructionTransUNet, TransUNet
from baselines.unet_resnet50 import UNetResNet50MoCoV2, unet
from embench.cli.app import app
from embench.core.errors import BadInput
from embench.data.catalog import find_task
from embench.data.task import Download
from embench.models.checkpoints import load_weights, weights_path
from embench.pretraining.initial_checkpoint import find_start
from embench.training.recipe import find_recipe
from retina.adapter import Retina, RetinaTransformerOnly

NORMS = (0.57287007, 0.12740536)
TINY: dict[str, Any] = {
    "hidden": 48,
    "mlp": 96,
    "layers": 2,
    "heads": 4,
    "width": 16,
    "units": (1, 2, 1),
    "decoder_channels": (32, 16, 16, 8),
    "bridge_channels": 64,
    "image_size": 64,
}


def empty(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a network without numbers: enough to be refused by."""
    with torch.device("meta"):
        return make()


def blank(make: Callable[[], nn.Module]) -> Any:
    """Return a network of zeros, which takes no time to fill."""
    network = empty(make).to_empty(device="cpu")
    for tensor in network.state_dict().values():
        tensor.zero_()
    return network.eval()


def shapes_only(name: str) -> dict[str, Tensor]:
    """Return a state dict of the published names and shapes whose every tensor is one number on disk."""
    return {key: torch.zeros(()).expand(shape) for key, shape in golden.shapes(name).items()}


def moco(**more: Any) -> dict[str, Any]:
    """Return a MoCoV2 checkpoint: random root, everything else one number on disk."""
    resnet = {key: torch.zeros(()).expand(value.shape) for key, value in encoder_shapes().items()}
    resnet["conv1.weight"] = torch.randn(64, 1, 7, 7, generator=torch.Generator().manual_seed(1))
    resnet["bn1.num_batches_tracked"] = torch.tensor(7)
    head = {f"fc.{layer}.{leaf}": torch.zeros(()) for layer in (0, 2) for leaf in ("weight", "bias")}
    state = {f"module.encoder_{which}.{key}": value for which in "qk" for key, value in (resnet | head).items()}
    state |= {"module.queue": torch.zeros(128, 4), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}, "norms": NORMS} | more


@cache
def encoder_shapes() -> dict[str, Tensor]:
    network: Any = empty(lambda: unet(1, "full"))
    return network.encoder.state_dict()


def flax(state: dict[str, Tensor], heads: int) -> dict[str, np.ndarray]:
    """Return the encoder of a TransUNet's state dict as the Vision Transformer release would store it."""
    arrays: dict[str, np.ndarray] = {
        "cls": np.zeros((1, 1, 2), np.float32),
        "head/kernel": np.zeros((2, 5), np.float32),
        "head/bias": np.zeros(5, np.float32),
        "pre_logits/kernel": np.zeros((2, 2), np.float32),
        "pre_logits/bias": np.zeros(2, np.float32),
    }
    names = (
        (r"transformer\.embeddings\.position_embeddings", "Transformer/posembed_input/pos_embedding"),
        (r"transformer\.embeddings\.patch_embeddings", "embedding"),
        (r"transformer\.embeddings\.hybrid_model\.root\.(conv|gn)", r"\1_root"),
        (r"transformer\.embeddings\.hybrid_model\.body\.", ""),
        (r"transformer\.encoder\.layer\.", "Transformer/encoderblock_"),
        (r"transformer\.encoder\.encoder_norm", "Transformer/encoder_norm"),
        ("attention_norm", "LayerNorm_0"),
        ("ffn_norm", "LayerNorm_2"),
        (r"attn\.", "MultiHeadDotProductAttention_1."),
        (r"ffn\.fc1", "MlpBlock_3/Dense_0"),
        (r"ffn\.fc2", "MlpBlock_3/Dense_1"),
        ("downsample", "conv_proj"),
        (r"\.", "/"),
    )
    for key, tensor in state.items():
        if not key.startswith("transformer."):
            continue
        name, array = key, tensor.numpy()
        for ours, theirs in names:
            name = re.sub(ours, theirs, name)
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif "attn.out" in key and array.ndim == 2:
            array = array.T.reshape(heads, -1, len(array))
        elif "attn." in key and "attn.out" not in key:
            array = array.T.reshape(*array.T.shape[:-1], heads, -1)
        elif array.ndim == 2:
            array = array.T
        elif array.ndim == 3:
            array = np.concatenate((np.full_like(array[:, :1], 9), array), axis=1)
        elif "hybrid_model" in key:
            array = array.reshape(1, 1, 1, -1)
        is_norm = "norm" in key or "gn" in key
        arrays[name.replace("weight", "scale" if is_norm else "kernel")] = array
    return arrays


@pytest.fixture(scope="module")
def reconstruction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden pre-training network as RETINA's program writes it from several GPUs."""
    path = tmp_path_factory.mktemp("published") / "retina.pth"
    torch.save({f"module.{key}": tensor for key, tensor in golden.state("reconstruct_h192").items()}, path)
    return path


@pytest.fixture(scope="module")
def mocov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "mocov2.pth.tar"
    torch.save(moco(), path)
    return path


# What is loaded


def test_pretrained_encoder_gives_the_published_tokens_in_a_segmentation_network(reconstruction: Path) -> None:
    network = blank(lambda: TransUNet(3))
    report = load_published(reconstruction, network)
    with torch.inference_mode():
        tokens, _ = network.encode(golden.image())
    truth = torch.from_numpy(golden.outputs("reconstruct_h192")[1])
    assert (tokens[:, ::7, ::8] - truth).abs().max() < 1e-4 * truth.abs().max()
    assert all(key.startswith("transformer.") for key in report.loaded)
    own = network.state_dict()
    assert not any(own[key].any() for key in report.kept)
    assert set(report.loaded) | set(report.kept) == own.keys()
    assert {key.partition(".")[0] for key in report.left_out["not of the encoder"]} == {
        "decoder",
        "FinalDecoder",
        "segmentation_head",
    }


@pytest.mark.parametrize("prefix", ["", "module."])
def test_fine_tuned_network_is_loaded_whole(prefix: str) -> None:
    state = shapes_only("transunet_h192_c7")
    state["segmentation_head.0.bias"] = torch.arange(7.0)
    network = blank(lambda: TransUNet(7))
    report = load_published({prefix + key: tensor for key, tensor in state.items()}, network)
    assert report.kept == ()
    assert report.left_out == {}
    assert report.published.description == "fine-tuned TransUNet, hidden size 192, classes 7"
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())


def test_pretraining_goes_whole_into_the_reconstruction_network() -> None:
    state = shapes_only("reconstruct_h192")
    state["FinalDecoder.conv1.bias"] = torch.tensor([3.0])
    network = blank(ReconstructionTransUNet)
    assert load_published(state, network).kept == ()
    assert network.FinalDecoder.conv1.bias.item() == 3.0


def test_mocov2_goes_into_the_encoder_with_its_norms_and_leaves_out_what_it_says(mocov2: Path) -> None:
    network = blank(lambda: unet(2, "full"))
    report = load_published(mocov2, network)
    torch.testing.assert_close(
        network.encoder.conv1.weight, moco()["state_dict"]["module.encoder_q.conv1.weight"], rtol=0, atol=0
    )
    assert network.encoder.bn1.num_batches_tracked == 7
    assert not network.encoder.layer4[2].conv3.weight.any()
    assert report.published.norms == NORMS
    assert all(not key.startswith("encoder.") for key in report.kept)
    assert {words: len(keys) for words, keys in report.left_out.items()} == {
        "projection head": 4,
        "momentum encoder": len(encoder_shapes()) + 4,
        "queue": 2,
        "beside the weights": 3,
    }


def test_kind_is_recognised_by_content_whatever_the_name(mocov2: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "R50+ViT-B_16.npz"
    renamed.symlink_to(mocov2)
    assert read(renamed).kind is published_formats.MOCOV2


@pytest.fixture
def archive() -> tuple[dict[str, np.ndarray], TransUNet]:
    """Random encoder in the release's layout, and the network it was loaded into."""
    arrays = flax(
        {key: golden.parameter(key, tuple(t.shape)) for key, t in TransUNet(2, **TINY).state_dict().items()}, 4
    )
    network = TransUNet(2, **TINY)
    load_published(arrays, network)
    return arrays, network


def test_linear_kernels_of_the_release_act_as_they_do_there(archive: tuple[dict[str, np.ndarray], TransUNet]) -> None:
    arrays, network = archive
    tokens = np.random.default_rng(0).standard_normal((5, 48)).astype(np.float32)
    block, layer = "Transformer/encoderblock_1", network.transformer.encoder.layer[1]
    attention = f"{block}/MultiHeadDotProductAttention_1"
    with torch.no_grad():
        for name in ("query", "key", "value"):
            heads = np.einsum("td,dhk->thk", tokens, arrays[f"{attention}/{name}/kernel"])
            heads += arrays[f"{attention}/{name}/bias"]
            found = layer.attn.get_submodule(name)(torch.from_numpy(tokens)).unflatten(-1, (4, -1))
            np.testing.assert_allclose(found, heads, rtol=1e-4, atol=1e-5)
        out = np.einsum("thk,hkd->td", heads, arrays[f"{attention}/out/kernel"]) + arrays[f"{attention}/out/bias"]
        found = layer.attn.out(torch.from_numpy(heads).flatten(1))
        np.testing.assert_allclose(found, out, rtol=1e-4, atol=1e-5)
        dense = tokens @ arrays[f"{block}/MlpBlock_3/Dense_0/kernel"] + arrays[f"{block}/MlpBlock_3/Dense_0/bias"]
        np.testing.assert_allclose(layer.ffn.fc1(torch.from_numpy(tokens)), dense, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(layer.ffn_norm.weight, arrays[f"{block}/LayerNorm_2/scale"])
        np.testing.assert_array_equal(layer.attention_norm.bias, arrays[f"{block}/LayerNorm_0/bias"])


def test_filters_of_the_release_act_as_they_do_there(archive: tuple[dict[str, np.ndarray], TransUNet]) -> None:
    arrays, network = archive
    resnet = network.transformer.embeddings.hybrid_model
    for name, conv in (
        ("conv_root/kernel", resnet.root.conv),
        ("block2/unit2/conv2/kernel", resnet.body["block2"].unit2.conv2),
        ("block3/unit1/conv_proj/kernel", resnet.body["block3"].unit1.downsample),
    ):
        kernel = arrays[name]
        patch = np.random.default_rng(0).standard_normal(kernel.shape[:3]).astype(np.float32)
        found = F.conv2d(torch.from_numpy(patch.transpose(2, 0, 1))[None], conv.weight).flatten()
        np.testing.assert_allclose(found.detach(), np.einsum("yxi,yxio->o", patch, kernel), rtol=1e-4, atol=1e-5)
    assert resnet.root.conv.weight.shape[1] == 3
    np.testing.assert_array_equal(
        resnet.body["block2"].unit1.gn_proj.weight.detach(), arrays["block2/unit1/gn_proj/scale"].ravel()
    )


def test_class_token_is_dropped_from_the_position_embedding(archive: tuple[dict[str, np.ndarray], TransUNet]) -> None:
    arrays, network = archive
    stored = arrays["Transformer/posembed_input/pos_embedding"]
    assert stored.shape == (1, 17, 48)
    np.testing.assert_array_equal(network.transformer.embeddings.position_embeddings.detach(), stored[:, 1:])


def test_position_embedding_of_another_grid_is_interpolated_as_the_network_does(
    archive: tuple[dict[str, np.ndarray], TransUNet],
) -> None:
    arrays, network = archive
    larger = TransUNet(2, **(TINY | {"image_size": 96}))
    load_published(arrays, larger)
    torch.testing.assert_close(
        larger.transformer.embeddings.position_embeddings, network.transformer.embeddings.positions(6, 6)
    )


def test_archive_report_names_what_is_not_taken_over(archive: tuple[dict[str, np.ndarray], TransUNet]) -> None:
    arrays, network = archive
    report = load_published(arrays, network)
    assert {key for keys in report.left_out.values() for key in keys} == {
        "cls",
        "head/kernel",
        "head/bias",
        "pre_logits/kernel",
        "pre_logits/bias",
    }
    assert {key.partition(".")[0] for key in report.kept} == {"decoder", "segmentation_head"}


@pytest.mark.slow
def test_full_archive_gives_the_published_output_and_is_imported(tmp_path: Path) -> None:
    state = golden.state("transunet_h768_c1")
    path = tmp_path / "R50+ViT-B_16.npz"
    np.savez(path, **flax(state, 12))
    with torch.device("meta"):
        network = TransUNet(1, hidden=768, mlp=3072)
    rest = {
        key: torch.zeros_like(tensor) if key.startswith("transformer.") else tensor for key, tensor in state.items()
    }
    network.load_state_dict(rest, assign=True)
    load_published(path, network.eval())
    with torch.inference_mode():
        output = network(golden.image())[:, :, ::4, ::4]
    truth = torch.from_numpy(golden.outputs("transunet_h768_c1")[0])
    assert (output - truth).abs().max() < 1e-4 * truth.abs().max()
    card = load_weights(published_weights.import_published(path, "imagenet21k", folder=tmp_path)).card
    assert (card.method, card.options) == ("imagenet", {"hidden": 768})


# What is refused


def lines(source: Any, network: nn.Module | None = None) -> list[str]:
    with pytest.raises(BadInput) as caught:
        read(source) if network is None else load_published(source, network)
    return caught.value.lines


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("transunet_h768_c1", lambda: TransUNet(1), "hidden size 768, but the network's is 192"),
        ("transunet_h192_c1", lambda: TransUNet(1, hidden=768, mlp=3072), "hidden size 192, but the network's is 768"),
        ("reconstruct_h192", lambda: TransUNet(1, **TINY), "hidden size 192, but the network's is 48"),
        (
            "transunet_h192_c7",
            lambda: TransUNet(1),
            "fine-tuned TransUNet, hidden size 192, classes 7; the network has 1",
        ),
        ("transunet_h192_c1", lambda: unet(1, "full"), "goes into a TransUNet, not into a UNet"),
    ],
)
def test_another_size_class_count_or_network_is_said_in_one_line(
    name: str, make: Callable[[], nn.Module], said: str
) -> None:
    [line] = lines(shapes_only(name), empty(make))
    assert said in line


def test_mocov2_into_a_transunet_is_said_in_one_line(mocov2: Path) -> None:
    [line] = lines(mocov2, empty(lambda: TransUNet(1)))
    assert line == f"{mocov2}: ResNet50 from MoCoV2 pre-training; it goes into a UNet-ResNet50, not into a TransUNet"


def test_every_entry_without_a_place_lacking_or_of_another_shape_is_listed() -> None:
    state = empty_cpu_tiny()
    del state["decoder.conv_more.0.weight"], state["transformer.encoder.encoder_norm.bias"]
    state["decoder.extra.weight"] = torch.zeros(1)
    state["transformer.embeddings.position_embeddings"] = torch.zeros(1, 4, 48)
    network = TransUNet(1, **TINY)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    where = "the given dictionary"
    assert lines(state, network) == [
        f"{where}: lacks decoder.conv_more.0.weight",
        f"{where}: lacks transformer.encoder.encoder_norm.bias",
        f"{where}: no place for decoder.extra.weight",
        f"{where}: transformer.embeddings.position_embeddings is (1, 4, 48), the network's is (1, 16, 48)",
    ]
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_entries_that_no_map_knows_are_listed_on_reading() -> None:
    state = shapes_only("transunet_h192_c1") | {
        "ema.decay": torch.zeros(1),
        "teacher.weight": torch.zeros(1),
        "step": 3,
    }
    assert lines(state) == [
        "the given dictionary: no place for ema.decay",
        "the given dictionary: no place for teacher.weight",
        "the given dictionary: step is a int, not a tensor",
    ]


def test_mocov2_entries_lacking_or_unknown_are_listed() -> None:
    checkpoint = moco()
    del checkpoint["state_dict"]["module.encoder_q.layer1.0.conv1.weight"]
    assert lines(checkpoint, empty(lambda: unet(1, "full"))) == ["the given dictionary: lacks layer1.0.conv1.weight"]
    checkpoint["state_dict"]["module.encoder_q.attention.weight"] = torch.zeros(1)
    assert lines(checkpoint) == ["the given dictionary: no place for module.encoder_q.attention.weight"]


def test_entries_of_an_archive_that_cannot_be_what_they_are_called_are_named() -> None:
    arrays = flax(empty_cpu_tiny(), 4) | {"conv_root/kernel": np.zeros((7, 7), np.float32)}
    [line] = lines(arrays)
    assert "conv_root/kernel is (7, 7) of float32" in line


def empty_cpu_tiny() -> dict[str, Tensor]:
    network = empty(lambda: TransUNet(1, **TINY))
    return {key: torch.zeros(tensor.shape) for key, tensor in network.state_dict().items()}


class Payload:
    """Unpickled without care, this makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (f"open({str(self.target)!r}, 'w').close()",))


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "npz"])
def test_code_in_a_checkpoint_is_refused_and_not_run(form: str, tmp_path: Path) -> None:
    target, path = tmp_path / "ran", tmp_path / "checkpoint"
    state = {"transformer.encoder.encoder_norm.weight": torch.zeros(192), "more": Payload(target)}
    if form == "npz":
        path = path.with_suffix(".npz")
        np.savez(path, conv_root=np.array([Payload(target)], dtype=object))
    elif form == "pickle":
        path.write_bytes(pickle.dumps(state["more"], protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    [line] = lines(path)
    assert "refused" in line
    assert ("Object arrays" if form == "npz" else "asks for eval") in line
    assert not target.exists()


def test_what_a_checkpoint_asks_for_is_named(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "module.pt")
    assert "asks for torch.nn.modules.linear.Linear" in lines(tmp_path / "module.pt")[0]
    torch.save(moco(norms=(np.float64(0.5), np.float64(0.1))), tmp_path / "numpy.pth.tar")
    assert re.search(r"asks for numpy\S*\.scalar", lines(tmp_path / "numpy.pth.tar")[0])


@pytest.mark.parametrize("form", ["zip", "legacy", "npz"])
@pytest.mark.parametrize("kept", [0.3, 0.98])
def test_truncated_file_is_refused_in_one_line(form: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / ("whole.npz" if form == "npz" else "whole.pt")
    if form == "npz":
        np.savez(path, **flax(empty_cpu_tiny(), 4))
    else:
        torch.save(empty_cpu_tiny(), path, _use_new_zipfile_serialization=form == "zip")
    read(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    [line] = lines(path)
    assert re.search("cut short|a damaged one", line)
    assert "fetch it again" in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty, so not a checkpoint"),
        (b"<!DOCTYPE html><html>", "it starts with b'<!DOCTYP'"),
        (b"\x80\x02not a pickle", "not a torch checkpoint, or a damaged one"),
        (b"\x89HDF\r\n\x1a\n", "not a published checkpoint"),
    ],
)
def test_what_is_not_a_checkpoint_is_refused_in_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    [line] = lines(tmp_path / "file.pt")
    assert line.startswith(f"{tmp_path / 'file.pt'}: ")
    assert said in line


def test_absent_file_is_refused(tmp_path: Path) -> None:
    assert lines(tmp_path / "none.pt") == [f"{tmp_path / 'none.pt'}: cannot be read (No such file or directory)"]


def test_checkpoints_of_other_programs_are_refused_with_what_they_hold(tmp_path: Path) -> None:
    for content, said in (
        ({"backbone.weight": torch.zeros(1)}, "none of the known checkpoints: 1 entries (backbone.weight"),
        ({1: torch.zeros(1)}, "keys are no names"),
        ([torch.zeros(1)], "holds a list"),
    ):
        torch.save(content, tmp_path / "other.pt")
        [line] = lines(tmp_path / "other.pt")
        assert said in line


@pytest.mark.parametrize("norms", [(0.5,), "nonsense", (float("nan"), 1.0), (0.5, 0.0)])
def test_norms_that_are_none_are_refused(norms: Any) -> None:
    [line] = lines(moco(norms=norms))
    assert "the given dictionary: norms are" in line


# Ours, made from them


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["checkpoint", *map(str, arguments)], catch_exceptions=True)
    if done.exception:
        raise done.exception
    return done.output


def test_imported_retina_is_found_by_default_and_started_from(reconstruction: Path, tmp_path: Path) -> None:
    invoke("import", reconstruction, "--data", "cem500k", "--data-dir", tmp_path)
    task, recipe = find_task("urocell"), find_recipe("retina")
    found = find_start(Retina(), "retina", task.pretraining, recipe.scale, [], tmp_path)
    assert found is not None
    assert found.path == weights_path("retina", "cem500k", "full", tmp_path)
    assert found.card.norms == NORMS
    published = torch.load(reconstruction, weights_only=True)
    network = blank(lambda: Retina().at("full").network(3))
    Retina().start(network, found)
    own = network.state_dict()
    assert all(torch.equal(own[key], published[f"module.{key}"]) for key in own if key.startswith("transformer."))
    assert not network.get_parameter("transformer.encoder.layer.11.ffn.fc1.weight").requires_grad
    partly = blank(lambda: Retina().at("full").network(3))
    RetinaTransformerOnly().start(partly, found)
    changed = {key for key, tensor in partly.state_dict().items() if tensor.any()}
    assert changed == {key for key in own if key.startswith("transformer.encoder.")}


def test_imported_mocov2_is_started_from_with_its_own_norms(mocov2: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    assert str(out) in invoke("import", mocov2, "--out", out)
    found = load_weights(out)
    assert (found.card.method, found.card.data, found.card.data_hash) == ("mocov2", "unknown", None)
    adapter, network = UNetResNet50MoCoV2(), blank(lambda: unet(1, "full"))
    adapter.start(network, found)
    assert adapter.norms((0.1, 0.2), found) == NORMS
    assert torch.equal(
        network.get_parameter("encoder.conv1.weight"), moco()["state_dict"]["module.encoder_q.conv1.weight"]
    )
    assert "source: mocov2.pth.tar" in invoke("inspect", out)


def test_import_asks_for_norms_and_keeps_what_is_there_unless_forced(tmp_path: Path) -> None:
    bare, out = tmp_path / "bare.pth.tar", tmp_path / "out.safetensors"
    torch.save({key: value for key, value in moco().items() if key != "norms"}, bare)
    with pytest.raises(BadInput, match=r"holds no norms.*--norms MEAN,STD"):
        published_weights.import_published(bare, out=out)
    with pytest.raises(BadInput, match="give MEAN,STD"):
        invoke("import", bare, "--out", out, "--norms", "half")
    assert not out.exists()
    invoke("import", bare, "--out", out, "--norms", "0.5,0.25")
    assert load_weights(out).card.norms == (0.5, 0.25)
    written = out.stat().st_mtime_ns
    invoke("import", bare, "--out", out, "--norms", "0.5,0.25")
    assert out.stat().st_mtime_ns == written
    with pytest.raises(BadInput, match="another checkpoint is there"):
        invoke("import", bare, "--out", out, "--data", "cem500k")
    invoke("import", bare, "--out", out, "--data", "cem500k", "--force")
    assert (load_weights(out).card.data, load_weights(out).card.norms) == ("cem500k", NORMS)


def test_fine_tuned_and_incomplete_networks_are_not_imported(tmp_path: Path) -> None:
    torch.save(shapes_only("transunet_h192_c7"), tmp_path / "tuned.pt")
    with pytest.raises(BadInput, match="hidden size 192, classes 7: already trained for a task"):
        published_weights.import_published(tmp_path / "tuned.pt", folder=tmp_path)
    partial_state = shapes_only("reconstruct_h192")
    del partial_state["FinalDecoder.conv1.bias"]
    torch.save(partial_state, tmp_path / "partial.pt")
    with pytest.raises(BadInput, match=r"lacks FinalDecoder\.conv1\.bias"):
        published_weights.import_published(tmp_path / "partial.pt", folder=tmp_path)


def test_imported_weights_of_another_size_are_refused_in_one_line_by_the_model(tmp_path: Path) -> None:
    state = {key: torch.zeros(()).expand(value.shape) for key, value in reconstruction_768().items()}
    torch.save(state, tmp_path / "large.pt")
    with pytest.raises(BadInput) as caught:
        transunet.check_size("large.pt", state, empty(lambda: Retina().at("tiny").network(1)))
    assert caught.value.lines == [
        "large.pt: hidden size 768, but the network's is 48; use weights and network of one size"
    ]
    assert published_weights.inspect(tmp_path / "large.pt").hidden == 768


def reconstruction_768() -> dict[str, Tensor]:
    return empty(lambda: ReconstructionTransUNet(hidden=768, mlp=3072)).state_dict()


def test_inspect_says_what_a_file_is(mocov2: Path, reconstruction: Path) -> None:
    said = invoke("inspect", mocov2)
    assert "ResNet50 from MoCoV2 pre-training, 318 tensors" in said
    assert "norms: 0.57287007 0.12740536" in said
    assert "not taken over: projection head (4: module.encoder_q.fc.0.weight" in said
    said = invoke("inspect", reconstruction)
    assert "TransUNet from reconstruction pre-training, hidden size 192" in said
    assert "norms: not in the file" in said


# Fetching


@pytest.fixture
def site(mocov2: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(mocov2.parent))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_fetched_checkpoint_of_unknown_hash_is_recorded_as_unverified(
    site: str, mocov2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        published_weights.DOWNLOADS, "mocov2-cem500k", Download(f"{site}/mocov2.pth.tar", "mocov2.pth.tar")
    )
    said = invoke("fetch", "mocov2-cem500k", "--data-dir", tmp_path)
    assert "fetched, sha256 " in said
    assert "(unverified)" in said
    assert "embench checkpoint import" in said
    assert (tmp_path / "downloads" / "mocov2.pth.tar").read_bytes() == mocov2.read_bytes()


def test_unreachable_checkpoint_is_refused_with_what_to_do(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(published_weights.DOWNLOADS, "mocov2-cem500k", Download(f"{site}/gone", "mocov2.pth.tar"))
    with pytest.raises(BadInput, match="by hand and run: embench checkpoint import FILE"):
        invoke("fetch", "mocov2-cem500k", "--data-dir", tmp_path)
    with pytest.raises(BadInput, match="did you mean"):
        invoke("fetch", "mocov2", "--data-dir", tmp_path)

"""Every registered model, and models of a user's own: what they start from, what they transfer and freeze."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_run import _Killed, killed_at
from toy import TOY, discs, make_start, request

from embench.cli import modeldocs, models
from embench.core.errors import BadInput
from embench.core.paths import prepared_path
from embench.data import store
from embench.data.task import Item, UnlabelledSet
from embench.models.base import GROUPS, TorchModel
from embench.models.checkpoints import load_weights, save_weights
from embench.models.registry import chosen_models, find_model, model_names
from embench.models.volume import VolumeModel
from embench.pretraining.command import run as pretrain
from embench.pretraining.initial_checkpoint import only_imported, start_command, start_path
from embench.pretraining.registry import find_pretraining, pretraining_names
from embench.runs import trial
from embench.runs.request import choose_models, trials
from embench.scoring import results

FLAT = [name for name in model_names() if not isinstance(find_model(name), VolumeModel)]
PRETRAINED = [name for name in model_names() if getattr(find_model(name), "pretraining", None)]


def torch_model(spec: str) -> TorchModel:
    model = find_model(spec)
    assert isinstance(model, TorchModel)
    return model


STARTS: dict[tuple[str, str], list[str]] = {}
"""The rows that share a pre-training: by its method and the model whose network it trains."""
for _name in PRETRAINED:
    _model = torch_model(_name)
    if _model.pretraining in pretraining_names():
        STARTS.setdefault((_model.pretraining, _model.base.name), []).append(_name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy task, its unlabelled set, and a checkpoint for every model that starts from one."""
    folder = tmp_path_factory.mktemp("toy")
    items = [Item(split, split, *discs(seed, depth)) for split, seed, depth in (("train", 1, 4), ("test", 2, 1))]  # type: ignore[arg-type]
    store.write(prepared_path("toy", folder), replace(TOY, iterations=2), items)
    unlabelled = UnlabelledSet("toy-unlabelled", "", "toy", scale="tiny")
    store.write(prepared_path("toy-unlabelled", folder), unlabelled, [Item("train", "a", discs(3, 8)[0])])
    for name in model_names():
        make_start(name, folder)
    return folder


@pytest.mark.parametrize("model", FLAT)
def test_every_model_trains_is_cut_short_resumes_and_is_scored(model: str, data: Path, tmp_path: Path) -> None:
    (spec,) = trials(request(data, tmp_path, [model], evaluations=1, save_every=0.0, batch_size=2))
    if isinstance(find_model(model), TorchModel):
        with pytest.raises(_Killed):
            trial.run(spec, killed_at(2))
        assert spec.state_path.exists()
    result = trial.run(spec)
    assert result is not None
    assert (result.status, result.iterations_done, result.model.name) == ("done", 2, model)
    assert results.load(spec.path) == result


@pytest.mark.parametrize("name", PRETRAINED)
def test_what_is_declared_is_transferred_and_frozen_and_nothing_else(name: str, data: Path) -> None:
    model = torch_model(name)
    weights = load_weights(start_path(model, "toy-unlabelled", "tiny", data))
    torch.manual_seed(1)
    network = model.at("tiny").network(3)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    model.start(network, weights)
    after = network.state_dict()
    for key, tensor in after.items():
        if key.startswith(model.transferred):  # the MoCoV2 checkpoint carries the encoder's names alone, as published
            assert torch.equal(tensor, weights.tensors[key if key in weights.tensors else key.removeprefix("encoder.")])
        else:
            assert torch.equal(tensor, before[key])
    for key, parameter in network.named_parameters():
        assert parameter.requires_grad != key.startswith(model.frozen or ("nothing",)), key


@pytest.mark.parametrize(("method", "base"), STARTS)
def test_every_start_is_pretrained_a_step_and_loads_in_every_row_that_has_it(
    method: str, base: str, data: Path, tmp_path: Path
) -> None:
    asked = {"epochs": 1, "batch_size": 32, "crop": 32, "threads": 1, "device": "cpu", "data_folder": data}
    model = base if find_pretraining(method).takes_any_model else None
    made = load_weights(pretrain(method, "toy-unlabelled", model=model, out=tmp_path / "w.safetensors", **asked))  # type: ignore[arg-type]
    assert (made.card.method, made.card.model) == (method, base)
    assert (made.card.start is None) == (torch_model(base).pretraining is None)
    for name in STARTS[method, base]:
        row = torch_model(name)
        network = row.at("tiny").network(3)
        row.start(network, made)
        given = {key: tensor for key, tensor in network.state_dict().items() if key.startswith(row.transferred)}
        assert given
        for key, tensor in given.items():
            assert torch.equal(tensor, made.tensors[key if key in made.tensors else key.removeprefix("encoder.")])


def test_every_method_has_a_row() -> None:
    assert {method for method, _ in STARTS} == set(pretraining_names())


def test_all_and_groups_name_every_model_once_and_those_named_come_first() -> None:
    assert chosen_models(["all"]) == ([], model_names())
    assert sorted(name for group in GROUPS for name in chosen_models([group])[1]) == sorted(model_names())
    named, grouped = chosen_models(["retina", "published"])
    assert named == ["retina"]
    assert set(grouped) == {"transunet", "unet-resnet50", "unet-resnet50-mocov2"}


def test_models_of_published_weights_are_left_out_of_a_group_on_a_reduced_task_and_refused_by_name(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    chosen = [spec for spec, _ in choose_models(request(data, tmp_path, ["all"]), [TOY])]
    left_out = {
        "transunet-imagenet": "imagenet",
        "retina-imagenet-cem": "imagenet",
        "unet-resnet50-imagenet": "imagenet-supervised",
        "unet-resnet50-imagenet-mocov2": "imagenet-mocov2",
        "unet-resnet50-swav": "swav",
    }
    assert set(chosen) == set(model_names()) - set(left_out) - {"unet-3d"}
    assert all(name in caplog.text for name in (*left_out, "unet-3d"))
    bare = tmp_path / "bare"
    items = [Item(split, split, *discs(1, 2)) for split in ("train", "test")]  # type: ignore[arg-type]
    store.write(prepared_path("toy", bare), TOY, items)
    for name, method in left_out.items():
        assert only_imported(torch_model(name)) == method
        with pytest.raises(BadInput, match=f"{method} weights are published for the full-size network alone"):
            trials(request(bare, tmp_path / "r", [name]))


def test_missing_weights_name_the_command_that_makes_them() -> None:
    said = {name: start_command(torch_model(name), name, "cem500k", "full") for name in PRETRAINED}
    assert said["retina"] == said["retina-transformer-only"] == "embench pretrain retina --data cem500k"
    assert said["retina-768"] == "embench pretrain retina --model retina-768 --data cem500k"
    assert said["retina-no-noise"] == "embench pretrain retina-no-noise --data cem500k"
    assert said["transunet-imagenet"] == "embench checkpoint import FILE --data imagenet"


def test_a_checkpoint_of_another_size_is_refused_in_one_line(data: Path, tmp_path: Path) -> None:
    large = start_path(torch_model("retina-768"), "toy-unlabelled", "tiny", data)
    with pytest.raises(
        BadInput, match=r"of transunet-768 .*retina starts from retina weights of transunet\)"
    ) as caught:
        trials(request(data, tmp_path, ["retina"], init_from=[large]))
    assert len(caught.value.lines) == 1
    loaded = load_weights(large)
    unnamed = tmp_path / "unnamed.safetensors"  # as of a time when cards did not name the model
    save_weights(unnamed, loaded.tensors, loaded.card.model_copy(update={"model": None}))
    (spec,) = trials(request(data, tmp_path, ["retina"], init_from=[unnamed]))
    with pytest.raises(BadInput, match="hidden size 192, but the network's is 48") as caught:
        trial.run(spec)
    assert len(caught.value.lines) == 1


def test_of_two_given_checkpoints_that_of_the_task_s_data_is_taken(data: Path, tmp_path: Path) -> None:
    ours = load_weights(start_path(torch_model("retina"), "toy-unlabelled", "tiny", data))
    paths = []
    for name in ("toy-unlabelled", "elsewhere", "nowhere"):
        paths.append(tmp_path / f"{name}.safetensors")
        save_weights(paths[-1], ours.tensors, ours.card.model_copy(update={"data": name}))
    (spec,) = trials(request(data, tmp_path, ["retina"], init_from=paths))
    assert spec.weights == paths[0]
    with pytest.raises(BadInput, match="several checkpoints fit"):
        trials(request(data, tmp_path, ["retina"], init_from=paths[1:]))


def test_a_checkpoint_that_is_not_what_its_place_says_is_refused(data: Path, tmp_path: Path) -> None:
    model = torch_model("retina")
    ours = load_weights(start_path(model, "toy-unlabelled", "tiny", data))
    folder = tmp_path / "moved"
    items = [Item(split, split, *discs(1, 2)) for split in ("train", "test")]  # type: ignore[arg-type]
    store.write(prepared_path("toy", folder), TOY, items)
    moved = start_path(model, "toy-unlabelled", "tiny", folder)
    save_weights(moved, ours.tensors, ours.card.model_copy(update={"model": "transunet-768"}))
    with pytest.raises(BadInput, match="retina weights of transunet-768 on toy-unlabelled, tiny, but retina starts"):
        trials(request(folder, tmp_path, ["retina"]))


# A reconstruction that starts from other weights


def test_reconstruction_of_a_started_model_begins_with_its_weights_and_records_them(data: Path, tmp_path: Path) -> None:
    imagenet = load_weights(start_path(torch_model("transunet-imagenet"), "toy-unlabelled", "tiny", data))
    asked = {"epochs": 1, "batch_size": 8, "crop": 32, "threads": 1, "device": "cpu", "data_folder": data}
    made = [
        load_weights(
            pretrain(
                "retina",
                "toy-unlabelled",
                model=model,
                out=tmp_path / f"{n}.safetensors",
                **asked | {"learning_rate": 1e-12},
            )
        )  # type: ignore[arg-type]
        for n, model in enumerate(("retina-imagenet-cem", "transunet-imagenet"))
    ]
    for weights in made:
        assert (weights.card.model, weights.card.start) == ("transunet-imagenet", imagenet.hash)
        assert all(torch.allclose(weights.tensors[key], tensor) for key, tensor in imagenet.tensors.items())
    with pytest.raises(BadInput, match=r"starts from random weights; leave out --init-from"):
        pretrain("retina", "toy-unlabelled", init_from=imagenet.path, **asked)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"retina weights of .*, which no model asked for starts from"):
        pretrain("retina", "toy-unlabelled", model="retina-imagenet-cem", init_from=tmp_path / "0.safetensors", **asked)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"imagenet-imagenet-tiny.*embench checkpoint import FILE --data imagenet"):
        pretrain(
            "retina", "toy-unlabelled", model="retina-imagenet-cem", **asked | {"data_folder": bare(data, tmp_path)}
        )  # type: ignore[arg-type]


def bare(data: Path, tmp_path: Path) -> Path:
    """A data folder with the unlabelled set and no weights."""
    folder = tmp_path / "bare"
    folder.mkdir()
    name = prepared_path("toy-unlabelled", folder).name
    (folder / name).symlink_to(data / name)
    return folder


# A model of a user's own

MINE = """
from collections import OrderedDict
from torch import nn
from embench import TorchModel

class MyNet(TorchModel):
    recipe = "retina"
    pretraining = "retina"
    transferred = ("encoder.",)
    frozen = ("encoder.0.",)

    def network(self, outputs):
        encoder = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        return nn.Sequential(OrderedDict(encoder=encoder, head=nn.Conv2d(8, outputs, 1)))

class Misspelt(MyNet):
    transferred = ("encodr.",)

class Silent(MyNet):
    transferred = ()
    frozen = ()
"""


def test_a_user_s_own_network_is_pretrained_by_reconstruction_and_starts_from_it(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "mymodel.py"
    file.write_text(MINE)
    spec = f"{file}:MyNet"
    folder = bare(data, tmp_path)
    name = prepared_path("toy", folder).name
    (folder / name).symlink_to(data / name)
    asked = request(folder, tmp_path / "r", [spec], evaluations=1)
    with pytest.raises(BadInput, match=r"pretrain retina --model .*mymodel.py:MyNet --data toy-unlabelled"):
        trials(asked)
    made = pretrain(
        "retina",
        "toy-unlabelled",
        model=spec,
        epochs=1,
        batch_size=8,
        crop=32,
        threads=1,
        device="cpu",
        data_folder=folder,
    )
    weights = load_weights(made)
    assert (weights.card.method, weights.card.model) == ("retina", "my-net")
    (planned,) = trials(asked)
    assert planned.weights == made
    result = trial.run(planned)
    assert result is not None
    assert (result.model.name, result.model.weights_hash) == ("my-net", weights.hash)
    assert result.model.parameters - result.model.trained_parameters == 80  # 8 filters of 3x3 and their biases
    for wrong, message in (
        ("Misspelt", "no tensor of its network begins with encodr."),
        ("Silent", "declares nothing"),
    ):
        model = torch_model(f"{file}:{wrong}")
        with pytest.raises(BadInput, match=message):
            model.start(model.at("tiny").network(1), weights)


def test_methods_of_one_network_alone_refuse_another(data: Path) -> None:
    with pytest.raises(BadInput, match="mocov2 pre-trains unet-resnet50 alone"):
        pretrain("mocov2", "toy-unlabelled", model="retina", data_folder=data)


def test_lists_show_every_model_and_method(capsys: pytest.CaptureFixture[str]) -> None:
    models.list_models()
    models.list_pretraining()
    shown = {row.split("\t")[1] for row in capsys.readouterr().out.splitlines() if "\t" in row}
    assert set(model_names()) <= shown


def test_the_page_of_models_is_written_from_the_registry_as_it_is_now() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    assert page == modeldocs.markdown(), "run: python -m embench.cli.modeldocs > docs/models.md"
    assert all(f"| `{name}` |" in page for name in [*model_names(), *pretraining_names()])

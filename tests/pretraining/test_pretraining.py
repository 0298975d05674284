"""Pre-training: the loop, its two methods, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from baselines.mocov2 import GROUP, MomentumContrast, Projection, queue_size
from baselines.unet_resnet50 import unet
from embench.core.errors import BadInput, Diverged
from embench.data import store
from embench.data.store import Prepared
from embench.data.task import Item, Scoring, Task, UnlabelledSet
from embench.data.unlabelled import Tiles, open_unlabelled
from embench.models import checkpoints
from embench.models.checkpoints import load_weights
from embench.models.registry import find_model
from embench.pretraining import command as command_module
from embench.pretraining import loop, pictures
from embench.pretraining.distributed import ALONE, World
from embench.pretraining.loop import pretrain
from embench.pretraining.method import Pretraining, Settings
from embench.pretraining.registry import find_pretraining
from embench.pretraining.samples import Samples
from retina.corruption import Corruption

METHODS = ("retina", "mocov2")
TOY = UnlabelledSet(name="toy", title="Toy", dataset="toy", synthetic=True, scale="tiny")


class Toy(Pretraining):
    """Everything that could break a resume (batch norm, dropout, momentum) in a network of a thousand parameters."""

    name = "toy"
    batch_size = 8
    learning_rate = 0.02
    crop_multiple = 8
    tiny: ClassVar[dict[str, Any]] = {"epochs": 3, "batch_size": 8, "crop": 32}

    def augmentation(self, crop: int) -> Corruption:
        return Corruption(crop)

    def module(self, settings: Settings, images: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 1, 3, padding=1)
        )

    def loss(self, module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        corrupted, clean = batch
        return (module(corrupted) - clean).square().mean()


class Plain(Toy):
    """No batch norm and no dropout, which see the parts into which a batch is cut."""

    name = "plain"

    def module(self, settings: Settings, images: int) -> nn.Module:
        return nn.Conv2d(1, 1, 3, padding=1)


def method(name: str) -> Pretraining:
    ours = {"toy": Toy, "plain": Plain}
    return ours[name]() if name in ours else find_pretraining(name)()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Three stacks of blurred noise, each with a grain of its own: 45 tiles of 32 pixels."""
    rng = np.random.default_rng(0)
    items = []
    for number, grain in enumerate((1.0, 2.0, 4.0)):
        noise = gaussian_filter(rng.standard_normal((3, 80, 80)), (0, grain, grain))
        stack = np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)
        items.append(Item("train", f"stack{number}", stack[:, :, : 64 + 16 * (number == 0)]))
    path = tmp_path_factory.mktemp("prepared") / "toy.h5"
    store.write(path, TOY, items)
    return Prepared(path)


def short(name: str, **changes: Any) -> Settings:
    return method(name).settings("tiny", **{"epochs": 2, "batch_size": 8, "crop": 32} | changes)


class Killed(Exception):
    pass


def killed_after(iterations: int) -> loop.Report:
    def report(progress: loop.Progress) -> None:
        if progress.iteration > iterations:
            raise Killed

    return report


# The images


@given(depth=st.integers(1, 3), height=st.integers(1, 150), width=st.integers(1, 150), side=st.integers(32, 64))
def test_tiles_are_disjoint_and_leave_out_only_thin_remainders(
    tmp_path_factory: pytest.TempPathFactory, depth: int, height: int, width: int, side: int
) -> None:
    class Fake:
        path, spec = Path("fake"), TOY

        def volumes(self, split: str) -> list[Any]:
            return [store.Volume("a", np.zeros((depth, height, width), np.uint8), None)]  # type: ignore[arg-type]

    covered = np.zeros((depth, height, width), int)
    for _, z, y, x, h, w in Tiles(Fake(), side).index:  # type: ignore[arg-type]
        assert h <= side
        assert w <= side
        covered[z, y : y + h, x : x + w] += 1
    assert covered.max() == 1
    for axis, length in ((1, height), (2, width)):
        left_out = length - (covered.max(axis=(0, 3 - axis)) > 0).sum()
        assert 2 * left_out < side
        assert left_out < length


def test_tiles_give_the_stored_pixels(data: Prepared) -> None:
    tiles = Tiles(data, 32)
    _, z, y, x, h, w = tiles.index[7]
    expected = data.volumes("train")[0].image[z, y : y + h, x : x + w]
    np.testing.assert_array_equal(tiles[7], expected)


def samples_of(data: Prepared, settings: Settings, world: World = ALONE) -> Samples:
    return Samples(Tiles(data, 32), Toy(), settings, [1, 0], torch.device("cpu"), world)


def test_every_epoch_visits_each_tile_at_most_once_in_another_order(data: Prepared) -> None:
    samples = samples_of(data, short("toy"))
    steps = samples.steps
    orders = [[tile for step in range(steps) for *_, tile in samples.places(steps * epoch + step)] for epoch in (0, 1)]
    for order in orders:
        assert len(set(order)) == len(order) == len(samples.tiles) // 8 * 8
    assert orders[0] != orders[1]


def test_processes_share_every_batch(data: Prepared) -> None:
    settings = short("toy")
    whole, *ranks = [samples_of(data, settings, world) for world in (ALONE, World(0, 2), World(1, 2))]
    for iteration in (3, 7):
        assert sorted(ranks[0].places(iteration) + ranks[1].places(iteration)) == whole.places(iteration)


def test_samples_do_not_depend_on_how_many_processes_share_them(data: Prepared) -> None:
    settings = short("toy")
    whole = samples_of(data, settings).batch(2)
    ranks = [samples_of(data, settings, World(rank, 4)).batch(2) for rank in range(4)]
    for view, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(view, torch.stack(parts, dim=1).flatten(0, 1))


def test_unknown_data_and_folders_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="mini-cem"):
        open_unlabelled("mini-cm", tmp_path)
    with pytest.raises(BadInput, match=rf"{tmp_path}: a folder; .* embench prepare NAME --tiles {tmp_path}"):
        open_unlabelled(str(tmp_path), tmp_path)


def test_tasks_are_not_pretrained_on(tmp_path: Path) -> None:
    image = np.zeros((1, 64, 64), np.uint8)
    task = Task("t", "T", "t", ("background", "a"), Scoring("2d"), 10)
    store.write(tmp_path / "t.h5", task, [Item(s, "a", image, image) for s in ("train", "test")])  # type: ignore[arg-type]
    with Prepared(tmp_path / "t.h5") as prepared, pytest.raises(BadInput, match="not an unlabelled set"):
        pretrain(Toy(), prepared, short("toy"), tmp_path / "out.safetensors")


# The loop


def test_loss_falls_well_below_that_of_a_constant_picture(data: Prepared, tmp_path: Path) -> None:
    out = pretrain(Toy(), data, short("toy", epochs=12), tmp_path / "toy.safetensors")
    losses = [loss for _, loss in load_weights(out).card.loss_curve]
    assert losses[-1] < 0.75 < losses[0]  # images have variance 1 after normalisation: the best constant loses 1


@pytest.mark.parametrize("name", ["toy", *METHODS])
def test_killed_and_resumed_equals_uninterrupted(data: Prepared, tmp_path: Path, name: str) -> None:
    whole = pretrain(method(name), data, short(name), tmp_path / "whole.safetensors")
    out = tmp_path / "resumed.safetensors"
    for kill in (2, 6):  # in the middle of either epoch; the last step before each kill is not in the state file
        with pytest.raises(Killed):
            pretrain(method(name), data, short(name), out, save_every_seconds=0, report=killed_after(kill))
        assert not out.exists()
        assert out.with_suffix(".state").exists()
    pretrain(method(name), data, short(name), out)
    assert out.read_bytes() == whole.read_bytes()
    assert load_weights(out).card.loss_curve == load_weights(whole).card.loss_curve
    assert not out.with_suffix(".state").exists()


@pytest.mark.parametrize("written", ["checkpoint", "card", "state removed"])
def test_killed_at_its_very_end_it_is_finished_by_the_same_command(
    data: Prepared, tmp_path: Path, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(Toy(), data, short("toy"), tmp_path / "whole.safetensors")
    out = tmp_path / "killed" / "toy.safetensors"

    def killed_before(number: int, function: Any) -> Any:
        calls = iter(range(1, 100))

        def call(*args: Any, **options: Any) -> Any:
            if next(calls) == number:
                raise Killed
            return function(*args, **options)

        return call

    with monkeypatch.context() as patched:
        if written == "checkpoint":  # the card is the second file that is written so
            patched.setattr(checkpoints, "write_atomic", killed_before(2, checkpoints.write_atomic))
        else:  # the state is the first to be removed, the claim the second
            patched.setattr(loop, "remove", killed_before(1 + (written == "state removed"), loop.remove))
        with pytest.raises(Killed):
            pretrain(Toy(), data, short("toy"), out)
    assert out.exists()
    pretrain(Toy(), data, short("toy"), out)
    assert out.read_bytes() == whole.read_bytes()
    assert load_weights(out).card.loss_curve == load_weights(whole).card.loss_curve
    assert {path.name for path in out.parent.iterdir()} == {"toy", "toy.json", "toy.safetensors"}


@pytest.mark.parametrize("changes", [{"ema": 0.9}, {"accumulate": 2}], ids=str)
@pytest.mark.parametrize("name", ["toy", "mocov2"])
def test_every_way_of_running_resumes_exactly(
    data: Prepared, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    settings = short(name, batch_size=16, **changes)
    whole = pretrain(method(name), data, settings, tmp_path / "whole.safetensors", workers=1)
    out = tmp_path / "resumed.safetensors"
    with pytest.raises(Killed):
        pretrain(method(name), data, settings, out, save_every_seconds=0, report=killed_after(3))
    pretrain(method(name), data, settings, out)
    assert out.read_bytes() == whole.read_bytes()
    assert load_weights(out).card.options | changes == load_weights(out).card.options


def test_moving_average_is_what_is_written(data: Prepared, tmp_path: Path) -> None:
    class Watched(Toy):
        def stepped(self, module: nn.Module) -> None:
            self.seen = [*getattr(self, "seen", []), {k: v.clone() for k, v in module.state_dict().items()}]

    watched = Watched()
    weights = load_weights(pretrain(watched, data, short("toy", ema=0.75), tmp_path / "toy.safetensors"))
    assert len(watched.seen) == weights.card.iterations
    for name, found in weights.tensors.items():
        expected = watched.seen[0][name]
        for after in watched.seen[1:]:
            expected = after[name] if "running" in name or "num" in name else 0.75 * expected + 0.25 * after[name]
        torch.testing.assert_close(found, expected)
    plain = load_weights(pretrain(Toy(), data, short("toy"), tmp_path / "plain.safetensors"))
    assert "ema" not in plain.card.options
    assert not torch.equal(plain.tensors["0.weight"], weights.tensors["0.weight"])
    torch.testing.assert_close(plain.tensors["0.weight"], watched.seen[-1]["0.weight"])


def test_workers_do_not_change_the_result_and_seeds_do(data: Prepared, tmp_path: Path) -> None:
    made = [
        pretrain(Toy(), data, short("toy", seed=seed), tmp_path / f"{n}.safetensors", workers=workers).read_bytes()
        for n, (seed, workers) in enumerate(((1, 0), (1, 2), (2, 0)))
    ]
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_torch_is_left_as_it_was(data: Prepared, tmp_path: Path) -> None:
    threads, before = torch.get_num_threads(), torch.get_rng_state()
    pretrain(Toy(), data, short("toy", epochs=1), tmp_path / "toy.safetensors", threads=1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), before)


def test_card_says_what_was_done(data: Prepared, tmp_path: Path) -> None:
    out = pretrain(Toy(), data, short("toy", seed=3), tmp_path / "toy.safetensors")
    card = load_weights(out).card
    tiles = len(Tiles(data, 32))
    assert (card.method, card.data, card.data_hash, card.scale) == ("toy", "toy", data.hash, "tiny")
    assert (card.epochs, card.images, card.iterations) == (2, tiles, 2 * (tiles // 8))
    assert (card.crop, card.batch_size, card.seed, card.norms, card.synthetic) == (32, 8, 3, data.norms, True)
    assert [epoch for epoch, _ in card.loss_curve] == [1, 2]
    assert card.options == {"learning_rate": 0.02, "precision": "fp32"}
    assert card.seconds > 0
    assert "commit" in card.environment


def test_published_norms_are_used_for_cem500k(data: Prepared, tmp_path: Path) -> None:
    store.write(
        tmp_path / "cem500k.h5", replace(TOY, name="cem500k"), [Item("train", "a", np.zeros((9, 32, 32), np.uint8))]
    )
    with Prepared(tmp_path / "cem500k.h5") as cem:
        out = pretrain(Toy(), cem, short("toy", epochs=1), tmp_path / "toy.safetensors")
    assert load_weights(out).card.norms == (0.57287007, 0.12740536)


def test_finished_checkpoint_is_kept_unless_forced(
    data: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pretrain(Toy(), data, short("toy"), tmp_path / "toy.safetensors")
    written = out.stat().st_mtime_ns
    assert pretrain(Toy(), data, short("toy"), out) == out
    assert out.stat().st_mtime_ns == written
    assert "already made" in capsys.readouterr().err
    with pytest.raises(BadInput, match=r"seed 0 \(now 1\).*--force"):
        pretrain(Toy(), data, short("toy", seed=1), out)
    pretrain(Toy(), data, short("toy", seed=1), out, force=True)
    assert load_weights(out).card.seed == 1


def test_unfinished_run_with_other_settings_is_not_continued(data: Prepared, tmp_path: Path) -> None:
    out = tmp_path / "toy.safetensors"
    with pytest.raises(Killed):
        pretrain(Toy(), data, short("toy"), out, save_every_seconds=0, report=killed_after(2))
    with pytest.raises(BadInput, match=r"epochs 2 \(now 3\).*--force"):
        pretrain(Toy(), data, short("toy", epochs=3), out)


def test_non_finite_loss_stops_and_keeps_the_last_good_state(data: Prepared, tmp_path: Path) -> None:
    class Diverging(Toy):
        def loss(self, module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            return super().loss(module, batch) * (math.inf if self.calls == 4 else 1)

    out = tmp_path / "toy.safetensors"
    with pytest.raises(Diverged) as caught:
        pretrain(Diverging(), data, short("toy"), out, save_every_seconds=0)
    assert caught.value.iteration == 4
    assert not out.exists()
    state = torch.load(out.with_suffix(".state"), weights_only=True)
    assert state["done"]["iteration"] == 3
    assert all(tensor.isfinite().all() for tensor in state["module"].values())


def test_weights_that_stop_being_finite_in_the_last_step_are_not_written(data: Prepared, tmp_path: Path) -> None:
    class Breaking(Toy):
        def stepped(self, module: nn.Module) -> None:
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps == 10:
                next(module.parameters()).data.fill_(math.nan)

    out = tmp_path / "toy.safetensors"
    with pytest.raises(Diverged):
        pretrain(Breaking(), data, short("toy"), out, save_every_seconds=0)
    assert not out.exists()
    assert torch.load(out.with_suffix(".state"), weights_only=True)["done"]["iteration"] == 9


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_out_of_memory_says_which_settings_reduce_it(data: Prepared, tmp_path: Path, device: str) -> None:
    class Hungry(Toy):
        def loss(self, module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
            return batch[0].new_empty(2**45).mean()

    with pytest.raises(BadInput, match=r"out of memory.*--precision bf16.*--grad-accum.*--batch-size") as caught:
        pretrain(Hungry(), data, short("toy"), tmp_path / "toy.safetensors", device=device)
    assert len(caught.value.lines) == 1
    assert not (tmp_path / "toy.safetensors").exists()


def test_other_faults_are_not_taken_for_lack_of_memory(data: Prepared, tmp_path: Path) -> None:
    class Faulty(Toy):
        def loss(self, module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
            raise NotImplementedError("a bug")

    with pytest.raises(NotImplementedError, match="a bug"):
        pretrain(Faulty(), data, short("toy"), tmp_path / "toy.safetensors")


def test_accumulated_parts_give_the_gradient_of_the_batch(data: Prepared, tmp_path: Path) -> None:
    made = []
    for parts in (1, 4):
        out = pretrain(Plain(), data, short("toy", accumulate=parts), tmp_path / f"{parts}.safetensors")
        made.append(load_weights(out))
    torch.testing.assert_close(made[0].tensors, made[1].tensors)
    assert made[1].card.options["accumulate"] == 4


def test_pictures_curve_and_checkpoints_are_kept_on_the_way(data: Prepared, tmp_path: Path) -> None:
    out = pretrain(method("retina"), data, short("retina", epochs=3), tmp_path / "r.safetensors", keep_every=2)
    folder = tmp_path / "r"
    assert sorted(path.name for path in folder.iterdir()) == [
        "epoch-0002.json", "epoch-0002.png", "epoch-0002.safetensors", "epoch-0003.png", "loss.json", "loss.png",
    ]  # fmt: skip
    assert list(method("retina").pictures(nn.Identity(), (torch.zeros(1), torch.ones(1))).items()) == [
        ("input", torch.ones(1)), ("corrupted", torch.zeros(1)), ("reconstructed", torch.zeros(1)),
    ]  # fmt: skip
    with Image.open(folder / "epoch-0003.png") as grid:
        assert grid.size == (3 * 34 - 2, pictures.TITLE + 8 * 34 - 2)  # three columns, eight samples
    assert load_weights(folder / "epoch-0002.safetensors").card.epochs == 2
    assert json.loads((folder / "loss.json").read_text()) == [list(p) for p in load_weights(out).card.loss_curve]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs 0"),
        ({"batch_size": -1}, "--batch-size -1"),
        ({"batch_size": 64}, "fewer than one batch of 64"),
        ({"crop": 0}, "--crop 0"),
        ({"crop": 36}, "multiples of 8"),
        ({"accumulate": 3}, "multiple of 3"),
        ({"seed": -1}, "--seed -1"),
        ({"learning_rate": math.nan}, "--learning-rate nan"),
        ({"precision": "fp8"}, "fp32 or bf16"),
        ({"ema": 1.0}, "--ema 1.0"),
        ({"ema": math.nan}, "--ema nan"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(
    data: Prepared, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        pretrain(Toy(), data, short("toy", **changes), tmp_path / "new" / "toy.safetensors")
    assert not list(tmp_path.iterdir())


def test_batch_that_the_processes_cannot_share_is_refused(data: Prepared, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="3 devices"):
        pretrain(Toy(), data, short("toy"), tmp_path / "toy.safetensors", world=World(0, 3))


def test_command_takes_the_scale_of_the_data_and_names_unknown_methods(
    data: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadInput, match="mocov2"):
        command_module.run("mocov3", "toy", data_folder=data.path.parent)
    with pytest.raises(BadInput, match="safetensors"):
        command_module.run("retina", "toy", out=tmp_path / "x.pt", data_folder=data.path.parent)
    out = command_module.run(
        "mocov2",
        "toy",
        epochs=1,
        batch_size=16,
        crop=32,
        threads=1,
        data_folder=data.path.parent,
        out=tmp_path / "m.safetensors",
    )
    assert load_weights(out).card.scale == "tiny"
    assert "iteration 3 of 3" in capsys.readouterr().err


# The methods


@pytest.mark.parametrize(("model", "name"), [("retina", "retina"), ("unet-resnet50-mocov2", "mocov2")])
def test_checkpoint_starts_its_model(data: Prepared, tmp_path: Path, model: str, name: str) -> None:
    adapter: Any = find_model(model)
    assert adapter.pretraining == name
    weights = load_weights(pretrain(method(name), data, short(name, epochs=1), tmp_path / f"{name}.safetensors"))
    network = adapter.at("tiny").network(1)
    adapter.start(network, weights)
    own = {key.removeprefix("encoder."): tensor for key, tensor in network.state_dict().items()}
    shared = [key for key in weights.tensors if key in own and not key.startswith(("decoder.", "segmentation_head."))]
    assert shared
    assert all(torch.equal(own[key], weights.tensors[key]) for key in shared)


def test_published_settings_are_the_defaults() -> None:
    retina, mocov2 = (method(name).settings("full") for name in METHODS)
    assert (retina.epochs, retina.batch_size, retina.crop, retina.learning_rate) == (200, 256, 224, 0.003)
    assert (mocov2.epochs, mocov2.batch_size, mocov2.crop, mocov2.learning_rate) == (200, 128, 224, 0.015)
    assert queue_size(mocov2, 500_000) == 65536


def test_mocov2_rate_falls_at_epochs_120_and_160_of_200() -> None:
    rates = [method("mocov2").rate(epoch * 7, 200 * 7) for epoch in (0, 119, 120, 159, 160, 199)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_retina_rate_is_polynomial_and_lags_one_step() -> None:
    rates = [method("retina").rate(step, 10) for step in (0, 1, 2, 9)]
    assert rates == pytest.approx([1, 1, 0.9**0.9, 0.2**0.9])


def test_mocov2_names_its_tensors_like_the_published_encoder() -> None:
    from torchvision.models import resnet50

    module = MomentumContrast(Projection(unet(1, "full").encoder, 2048), 8)  # type: ignore[arg-type, union-attr]
    published = {key for key in resnet50().state_dict() if not key.startswith("fc.")}
    assert set(method("mocov2").weights(module)) == published


@pytest.fixture
def contrast() -> MomentumContrast:
    torch.manual_seed(0)
    encoder: Any = unet(1, "tiny").encoder
    return MomentumContrast(Projection(encoder, encoder.out_channels[-1]), 24)


def test_shuffled_keys_return_to_their_queries(contrast: MomentumContrast) -> None:
    views = torch.randn(8, 1, 32, 32)
    logits = contrast.eval()(views, views)  # equal networks, no batch statistics: each key equals its query
    assert logits.shape == (8, 25)
    torch.testing.assert_close(logits[:, 0], torch.full((8,), 1 / 0.2))


def test_queue_holds_the_latest_keys_and_the_key_network_follows_slowly(contrast: MomentumContrast) -> None:
    contrast.eval()
    before = contrast.queue.clone()
    views = torch.randn(8, 1, 32, 32)
    keys = contrast.key(views).T
    contrast(views, views)
    assert torch.equal(contrast.queue, before)  # until the optimiser's step
    contrast.advance()
    torch.testing.assert_close(contrast.queue[:, :8], keys)
    assert torch.equal(contrast.queue[:, 8:], before[:, 8:])
    for _ in range(3):
        contrast(views, views)
        contrast.advance()
    assert int(contrast.head) == 8  # 32 keys into 24 places

    weight, average = contrast.query.head[0].weight, contrast.key.head[0].weight
    with torch.no_grad():
        weight += 1
    old = average.clone()
    contrast(views, views)
    contrast.advance()
    torch.testing.assert_close(average, old + 0.001 * (weight - old))
    assert not any(parameter.requires_grad for parameter in contrast.key.parameters())


def test_parts_of_a_batch_see_the_queue_of_the_step_before(contrast: MomentumContrast) -> None:
    contrast.eval()
    views = torch.randn(2, 8, 1, 32, 32)
    whole, parts = contrast, deepcopy(contrast)
    logits = whole(*views)
    whole.advance()
    halves = torch.cat([parts(*views[:, :4]), parts(*views[:, 4:])])
    parts.advance()
    torch.testing.assert_close(halves, logits)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict())


def test_batch_statistics_do_not_give_the_own_key_away(contrast: MomentumContrast) -> None:
    """In training mode a key is normalised with other images than its query, for nearly every image."""
    seen: list[Tensor] = []
    contrast.key.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][:, 0, 0, 0]))
    views = torch.randn(4 * GROUP, 1, 1, 1).expand(-1, -1, 32, 32).contiguous()
    torch.manual_seed(1)
    contrast.train()(views, views)
    query_groups = [set(part.tolist()) for part in views[:, 0, 0, 0].chunk(4)]
    key_groups = [set(part.tolist()) for part in seen]
    assert len(key_groups) == 4
    assert max(len(a & b) for a in query_groups for b in key_groups) < 0.6 * GROUP


def test_queue_never_exceeds_the_images() -> None:
    settings = method("mocov2").settings("full", batch_size=16)
    assert queue_size(settings, 100) == 96
    assert queue_size(settings, 16) == 16
    assert method("mocov2").options(settings, 100)["queue"] == 96


# Several processes


TOGETHER = """
import sys
from pathlib import Path

from embench import pretraining
from embench.data.store import Prepared

tests, name, data, out, last, accumulate, seed = sys.argv[1:]
sys.path.insert(0, tests)
from test_pretraining import method

def stop(progress):
    if progress.iteration > int(last):
        raise KeyboardInterrupt

with pretraining.joined_world("cpu") as world, Prepared(Path(data)) as prepared:
    seed = world.rank if seed == "rank" else int(seed)
    settings = method(name).settings("tiny", epochs=3, batch_size=16, crop=32, accumulate=int(accumulate), seed=seed)
    pretraining.pretrain(
        method(name), prepared, settings, Path(out), save_every_seconds=0, world=world, report=stop
    )
"""


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run something in two processes."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        *map(str, arguments),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture
def together(data: Prepared, tmp_path: Path) -> Any:
    """Train in two processes until an iteration."""
    (tmp_path / "together.py").write_text(TOGETHER)

    def run(name: str, out: Path, last: int = 100, accumulate: int = 1, seed: str = "0") -> Any:
        tests = Path(__file__).parents[1]
        return torchrun(tmp_path / "together.py", tests, name, data.path, out, str(last), str(accumulate), seed)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_like_one_and_one_continues_what_two_began(
    data: Prepared, tmp_path: Path, together: Any, name: str
) -> None:
    settings = method(name).settings("tiny", epochs=3, batch_size=16, crop=32)
    alone, two, mixed = (tmp_path / f"{kind}.safetensors" for kind in ("alone", "two", "mixed"))
    pretrain(method(name), data, settings, alone)
    command = ("pretrain", name, "--data", "toy", "--data-dir", data.path.parent, "--out", two, "--device", "cpu")
    sizes = ("--epochs", "3", "--batch-size", "16", "--crop", "32", "--threads", "1")
    made = torchrun("-m", "embench", *command, *sizes)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("checkpoint:") == 2
    assert together(name, mixed, last=5).returncode != 0
    assert not mixed.exists()
    pretrain(method(name), data, settings, mixed)
    cards = [load_weights(out).card for out in (alone, two, mixed)]
    assert len({card.iterations for card in cards}) == 1
    losses = np.array([[loss for _, loss in card.loss_curve] for card in cards])
    assert losses[2, 0] == losses[1, 0]  # the first epoch, by two processes both times
    # The same samples, but batch norm and dropout see other parts of the batch.
    np.testing.assert_allclose(losses[1:], losses[[0, 0]], rtol=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_one_process_began_two_continue_at_the_border_of_an_epoch(
    data: Prepared, tmp_path: Path, together: Any, accumulate: int
) -> None:
    """Samples and their draws are the same: without batch norm and dropout, so are gradients, but for rounding."""
    settings = method("plain").settings("tiny", epochs=3, batch_size=16, crop=32)
    alone, mixed = tmp_path / "alone.safetensors", tmp_path / "mixed.safetensors"
    pretrain(method("plain"), data, settings, alone)
    border = load_weights(alone).card.iterations // 3
    settings = replace(settings, accumulate=accumulate)
    with pytest.raises(Killed):
        pretrain(method("plain"), data, settings, mixed, save_every_seconds=0, report=killed_after(border))
    assert torch.load(mixed.with_suffix(".state"), weights_only=True)["done"]["iteration"] == border
    made = together("plain", mixed, accumulate=accumulate)
    assert made.returncode == 0, made.stderr
    torch.testing.assert_close(load_weights(mixed).tensors, load_weights(alone).tensors, rtol=1e-4, atol=1e-5)
    curves = [[loss for _, loss in load_weights(out).card.loss_curve] for out in (alone, mixed)]
    np.testing.assert_allclose(*curves, rtol=1e-5)


@pytest.mark.slow
def test_processes_that_were_told_different_things_are_refused(tmp_path: Path, together: Any) -> None:
    made = together("plain", tmp_path / "odd.safetensors", seed="rank")
    assert made.returncode != 0
    assert "process 1 of 2 differs from the first in seed 0 (now 1)" in made.stderr
    assert not (tmp_path / "odd.safetensors").exists()


@pytest.mark.slow
def test_batch_that_two_processes_cannot_share_is_refused_by_the_command(data: Prepared) -> None:
    made = torchrun("-m", "embench", "pretrain", "retina", "--data", "toy", "--data-dir", data.path.parent,
                    "--batch-size", "15", "--crop", "32", "--device", "cpu")  # fmt: skip
    assert "--batch-size 15: not divisible among 2 devices" in made.stderr


# On a GPU, and compiled


@pytest.mark.slow
def test_compiled_network_learns_the_same(data: Prepared, tmp_path: Path) -> None:
    plain = load_weights(pretrain(Plain(), data, short("plain"), tmp_path / "plain.safetensors"))
    made = load_weights(pretrain(Plain(), data, short("plain", compile=True), tmp_path / "compiled.safetensors"))
    torch.testing.assert_close(made.tensors, plain.tensors, rtol=1e-4, atol=1e-5)
    assert made.card.options["compile"] is True


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gpu_learns_like_the_cpu_and_resumes(data: Prepared, tmp_path: Path, name: str, precision: str) -> None:
    settings = short(name, epochs=4, precision=precision)
    losses = []
    for device in ("cpu", "cuda"):
        out = pretrain(method(name), data, settings, tmp_path / f"{device}.safetensors", device=device, workers=2)
        losses.append([loss for _, loss in load_weights(out).card.loss_curve])
    np.testing.assert_allclose(*losses, rtol=0.1)
    out = tmp_path / "resumed.safetensors"
    with pytest.raises(Killed):
        pretrain(method(name), data, settings, out, device="cuda", save_every_seconds=0, report=killed_after(5))
    pretrain(method(name), data, settings, out, device="cuda")
    np.testing.assert_allclose([loss for _, loss in load_weights(out).card.loss_curve], losses[1], rtol=0.02)

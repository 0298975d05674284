"""What runs on a GPU, run on a pretended one: devices, dtypes and shapes of everything that is registered.

See :mod:`fake_cuda` for what this shows and what it cannot show.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import fake_cuda as pretended
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy
from fake_cuda import CUDA, SYNCHRONISING, fake_cuda
from test_pretraining import Toy
from torch import Tensor, nn

from baselines.transunet_network import resampled
from embench.core import runtime
from embench.core.errors import BadInput
from embench.core.signals import Interrupt
from embench.data import store
from embench.data.store import Prepared
from embench.data.task import Item, Scoring, Task, UnlabelledSet
from embench.models.base import TorchModel
from embench.models.checkpoints import load_weights
from embench.models.registry import find_model, model_names
from embench.models.volume import TorchVolumeModel
from embench.pretraining import command, distributed
from embench.pretraining.distributed import World
from embench.pretraining.loop import Progress, pretrain
from embench.pretraining.registry import find_pretraining, pretraining_names
from embench.runs import trial
from embench.scoring.schema import TrialResult
from embench.training import loop as training_loop
from embench.training.inference import predict_section, predictor
from embench.training.losses import loss_of
from embench.training.optim import optimiser
from embench.training.precision import autocast, place
from embench.training.recipe import RECIPES, RETINA, Recipe, SlidingWindow, WholeImage, find_recipe, tiny
from embench.training.sampler import TrainingSections
from embench.training.trainer import Training

pytestmark = pytest.mark.skipif(bool(pretended.why_not()), reason=pretended.why_not())

PRECISIONS = ("fp32", "bf16")
TASK = Task(
    name="three",
    title="Three classes",
    dataset="three",
    classes=("background", "a", "b"),
    class_weights=(1.0, 2.0, 3.0),
    scoring=Scoring("2d"),
    iterations=4,
    pretraining="toy-unlabelled",
    scale="tiny",
)


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> TrainingSections:
    image_ZYX, labels_ZYX = toy.discs(1, 1)
    path = tmp_path_factory.mktemp("three") / "three.h5"
    store.write(path, TASK, [Item(split, split, image_ZYX, labels_ZYX) for split in ("train", "test")])  # type: ignore[arg-type]
    return TrainingSections(Prepared(path))


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Four tiles of 96 pixels, which is not the tile of the reduced TransUNet."""
    path = tmp_path_factory.mktemp("unlabelled") / "toy.h5"
    spec = UnlabelledSet("toy-unlabelled", "", "toy", scale="tiny")
    store.write(path, spec, [Item("train", "a", toy.discs(3, 4)[0])])
    return Prepared(path)


# The method itself


class Careless(nn.Module):
    """Makes a tensor where the CPU is, whatever the image is on."""

    def forward(self, image: Tensor) -> Tensor:
        return image * torch.ones(image.shape[-1])


class CarelessBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.ones(gradient.shape)


def careless_step(x: Tensor) -> None:
    parameter = nn.Parameter(x)
    made = torch.optim.SGD([parameter], 0.1, momentum=0.9, fused=True)
    parameter.grad = torch.zeros_like(parameter)
    made.state[parameter]["momentum_buffer"] = torch.zeros(8, 8)
    made.step()


def test_a_tensor_made_on_the_cpu_by_mistake_is_found() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), Careless())
    network(torch.zeros(1, 1, 8, 8))
    with fake_cuda(), pytest.raises(RuntimeError, match=r"same device.*cuda:0 and cpu"):
        place(network, CUDA)(torch.zeros(1, 1, 8, 8, device=CUDA))


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: F.conv2d(x[None, None], torch.ones(1, 1, 3, 3)),
        lambda x: torch.stack((x, torch.ones(8, 8))),
        lambda x: torch.ones(8)[torch.zeros(2, dtype=torch.int64, device=CUDA)],
        lambda x: x.numpy(),
        lambda x: torch.zeros(8, 8, device=CUDA).normal_(generator=torch.Generator()),
        lambda x: torch.randn(8, 8, device=CUDA, generator=torch.Generator("cpu")),
        lambda x: x @ x.bfloat16(),
        lambda x: torch.cuda.set_rng_state(torch.zeros(16, dtype=torch.uint8, device=CUDA), CUDA),
        lambda x: CarelessBackward.apply(x.requires_grad_()).sum().backward(),
        careless_step,
    ],
    ids=[
        "product",
        "joined",
        "chosen",
        "numpy",
        "generator",
        "random",
        "dtypes",
        "random-state",
        "backward",
        "optimiser",
    ],
)
def test_other_mistakes_are_found_too(mistake: Callable[[Tensor], object]) -> None:
    with fake_cuda(), pytest.raises((RuntimeError, TypeError)):
        mistake(torch.zeros(8, 8, device=CUDA))


def test_backward_gives_what_torchs_own_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """On numbers, where both can be had: branches, sums, broadcasting, a function written in Python, bf16."""
    from baselines.u_mamba_network import UMamba

    torch.manual_seed(0)
    network, image = UMamba(2, features=(8, 16), states=4), torch.randn(2, 1, 16, 16)
    found = []
    for backward in (Tensor.backward, pretended._backward):
        network.zero_grad()
        with autocast("bf16", torch.device("cpu")):
            loss = network(image).float().square().mean()
        backward(loss)
        found.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(*found)


def test_documented_operators_without_a_deterministic_form_are_refused() -> None:
    with fake_cuda(), runtime.deterministic(CUDA, asked=True):
        position = torch.zeros(1, 1, 4, 4, device=CUDA, requires_grad=True)
        with pytest.raises(RuntimeError, match="upsample_bicubic2d_backward"):
            F.interpolate(position, size=(6, 6), mode="bicubic").sum().backward()
        logits = torch.zeros(1, 2, 4, 4, device=CUDA, requires_grad=True)
        with pytest.raises(RuntimeError, match="nll_loss2d_forward"):
            F.cross_entropy(logits, torch.zeros(1, 4, 4, dtype=torch.int64, device=CUDA))


# Models: a training step and a prediction


NETWORKS = [
    name
    for name in model_names()
    if isinstance(model := find_model(name), TorchModel) and not isinstance(model, TorchVolumeModel)
]


@cache
def first_alike(name: str) -> str:
    """Return the first model with the same network under the same recipe, but for widths: one run serves both.

    What a model freezes is trained here: that takes more operations, not others.
    """
    return next(other for other in NETWORKS if signature(other) == signature(name))


@cache
def signature(name: str) -> object:
    model = find_model(name)
    assert isinstance(model, TorchModel)
    network = model.at("tiny").network(TASK.outputs)
    return type(network), model.recipe, [(key, type(module)) for key, module in network.named_modules()]


RAN: dict[tuple[str, str], set[str]] = {}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_model_trains_and_predicts(sections: TrainingSections, name: str, precision: Any) -> None:
    operators = train_and_predict(sections, first_alike(name), precision)
    if find_model(name).family == "hybrid" and "swin" not in name:
        assert "scaled_dot_product" in " ".join(operators)  # attention by the fused kernel


def train_and_predict(sections: TrainingSections, name: str, precision: Any) -> set[str]:
    """In fp32 with deterministic algorithms, on crops that are not of the size that the network was made for."""
    if (name, precision) in RAN:
        return RAN[name, precision]
    model = find_model(name)
    assert isinstance(model, TorchModel)
    network = model.at("tiny").network(TASK.outputs)
    crop = 32 if precision == "fp32" else 64
    recipe = replace(find_recipe(f"{model.recipe}-tiny").resized(crop=crop, batch_size=2), precision=precision)
    outputs: list[Tensor] = []
    with fake_cuda() as seen, runtime.deterministic(CUDA, asked=precision == "fp32"):
        network = place(network, CUDA)
        settings = {"norms": (0.4, 0.2), "iterations": 2, "entropy": [0, 0], "device": CUDA}
        training = Training(network, sections, TASK, recipe, **settings)  # type: ignore[arg-type]
        handle = network.register_forward_hook(lambda *call: outputs.append(call[-1]))
        assert training.step() == 0.5  # what a pretended loss reads
        handle.remove()
        for key, parameter in network.named_parameters():
            assert (parameter.device, parameter.dtype) == (CUDA, torch.float32), key
        assert all(buffer.device == CUDA for buffer in network.buffers())
        for state in training.optimiser.state.values():
            assert all(value.device == CUDA for value in state.values())  # the count of steps too, as they are fused
        scores = predictor(network, TASK, recipe, (0.4, 0.2), CUDA)(np.zeros((crop, crop), np.uint8))
    (logits,) = outputs
    assert (logits.device, logits.shape) == (CUDA, (2, 3, crop, crop))
    assert logits.dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)
    assert (scores.shape, scores.dtype) == ((3, crop, crop), np.float32)
    RAN[name, precision] = seen
    return seen


@pytest.mark.parametrize("inference", [WholeImage(), SlidingWindow(32, batch=2)], ids=["whole", "windows"])
@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_sections_of_any_size_are_predicted(inference: Any, volume: bool, channels: int) -> None:
    network = nn.Conv2d(1, channels, 3, padding=1)
    with fake_cuda(), autocast("bf16", CUDA):
        scores = predict_section(
            place(network, CUDA),
            np.zeros((75, 40), np.uint8),
            inference=inference,
            norms=(0.5, 0.1),
            device=CUDA,
            volume=volume,
        )
    assert (scores.shape, scores.dtype) == ((channels, 75, 40), np.float32)


# Losses, optimisers, schedules


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["cross-entropy", "cross-entropy+dice"])
def test_loss_and_its_gradient_are_on_the_gpu(kind: str, channels: int, deterministic: bool) -> None:
    with fake_cuda(), runtime.deterministic(CUDA, deterministic):
        logits = torch.zeros(2, channels, 8, 8, device=CUDA, requires_grad=True)
        target = torch.zeros(2, 8, 8, dtype=torch.int64, device=CUDA)
        loss = loss_of(kind, (1.0, 2.0, 3.0) if channels > 1 else None)(logits, target)
        assert (loss.device, loss.dtype, loss.shape) == (CUDA, torch.float32, ())
        loss.backward()
        assert logits.grad is not None
        assert logits.grad.device == CUDA


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_recipe_steps_on_the_gpu(recipe: Recipe) -> None:
    layer = nn.Linear(3, 2)
    with fake_cuda():
        place(layer, CUDA)
        made, schedule = optimiser(tiny(recipe), layer.parameters(), 4)
        for _ in range(3):
            layer(torch.zeros(2, 3, device=CUDA)).sum().backward()
            made.step()
            made.zero_grad()
            schedule.step()
        made.load_state_dict(made.state_dict())


def test_no_step_waits_for_the_device(sections: TrainingSections) -> None:
    """Its loss is read by the loop, once for many steps."""
    recipe = replace(RETINA.resized(crop=32, batch_size=2), clip_gradient=1.0, ema=0.9, scale="tiny")
    reads: list[int] = []
    with fake_cuda() as seen:
        network = place(nn.Sequential(nn.Conv2d(1, TASK.outputs, 3, padding=1)), CUDA)
        settings = {"norms": (0.4, 0.2), "iterations": 45, "entropy": [0, 0], "device": CUDA}
        training = Training(network, sections, TASK, recipe, **settings)  # type: ignore[arg-type]
        for iteration in range(3):
            training.take(training.batch(iteration))
        assert not seen & SYNCHRONISING
        training.tell([0.5] * 3)
        counted = {"tell": lambda losses: (training.tell(losses), reads.append(len(losses))), "save": lambda: None}
        with training_loop.Loop(
            training.take, training.batch, iteration=3, iterations=45, stop=Interrupt(), device=CUDA, **counted
        ) as steps:
            steps.run(45)
        assert seen & SYNCHRONISING  # the reading itself, so that a step which reads would be seen
    assert reads == [17, 20, 5]


# Trials

SMALL = """
from torch import nn
from embench import TorchModel

class Small(TorchModel):
    def network(self, outputs):
        layers = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.1), nn.Conv2d(4, outputs, 1)
        return nn.Sequential(*layers)
"""


def test_interrupted_trial_goes_on(tmp_path: Path, toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, states, random generators, prediction, scores, result: from the file that the CPU read back."""
    (tmp_path / "small.py").write_text(SMALL)
    spec = toy.planned(toy_data, tmp_path, f"{tmp_path}/small.py:Small", iterations=3, evaluations=1)
    recipe = replace(spec.recipe, precision="bf16")
    spec = replace(spec, device="cuda:0", workers=0, recipe=recipe, save_every=0.0, deterministic=True)

    class Killed(Exception):
        pass

    def kill(what: str, iteration: int, loss: float) -> None:
        if iteration == 2:
            raise Killed

    monkeypatch.setattr(training_loop, "READ_EVERY", 1)
    told: list[tuple[str, int]] = []
    peak = {"bytes": 2**40}  # of an earlier trial in the same process
    monkeypatch.setattr(pretended, "reset_peak", lambda: peak.update(bytes=5))
    monkeypatch.setattr(pretended, "peak", lambda: peak["bytes"])
    with fake_cuda():
        with pytest.raises(Killed):
            trial.run(spec, kill)
        state = torch.load(spec.state_path, map_location="cpu")["training"]
        assert state["cuda_rng"].device.type == "cpu"
        result = trial.run(spec, lambda what, iteration, loss: told.append((what, iteration)))
    assert isinstance(result, TrialResult)
    assert (result.status, result.environment["device_name"]) == ("done", "pretended")
    assert (result.environment["deterministic"], result.peak_memory_bytes) == (True, 5)
    assert told == [("training", 2), ("training", 3), ("scoring", 3)]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
    ],
    ids=["allocator", "cublas", "driver"],
)
def test_lack_of_memory_is_told_in_one_line(
    tmp_path: Path, toy_data: Path, unlabelled: Prepared, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def short(*_: object) -> None:
        raise error

    monkeypatch.setattr(Training, "take", short)
    monkeypatch.setattr(Toy, "loss", short)
    spec = replace(toy.planned(toy_data, tmp_path), device="cuda:0", workers=0)
    settings = Toy().settings("tiny", epochs=1, batch_size=4, crop=32)
    with fake_cuda():
        with pytest.raises(BadInput, match=r"^out of memory \(cuda:0\).*--precision bf16.*--batch-size"):
            trial.run(spec)
        with pytest.raises(BadInput, match=r"^out of memory \(cuda\).*--precision bf16.*--batch-size"):
            pretrain(Toy(), unlabelled, settings, tmp_path / "toy.safetensors", device="cuda:0")


# Pre-training


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [name for name in pretraining_names() if "retina-" not in name])
def test_method_pretrains(unlabelled: Prepared, tmp_path: Path, name: str, precision: Any) -> None:
    """Its step, pictures and checkpoint; in fp32 with deterministic algorithms.

    Those that leave out one operation of another's views differ in nothing else.
    """
    method = find_pretraining(name)()
    parts: dict[str, Any] = {"accumulate": 2, "ema": 0.9} if (name, precision) == ("mocov2", "bf16") else {}
    settings = method.settings("tiny", epochs=1, batch_size=4, crop=96, precision=precision, **parts)
    losses: list[Tensor] = []
    plain = method.loss

    def watched(module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        assert all((view.device, view.dtype) == (CUDA, torch.float32) for view in batch)
        assert all(view.shape == (4 // settings.accumulate, 1, 96, 96) for view in batch)
        losses.append(plain(module, batch))
        return losses[-1]

    method.loss = watched  # type: ignore[method-assign]
    with fake_cuda():
        out = pretrain(
            method,
            unlabelled,
            settings,
            tmp_path / "out.safetensors",
            device="cuda:0",
            deterministic=precision == "fp32",
        )
    assert [(loss.device, loss.dtype, loss.shape) for loss in losses] == [(CUDA, torch.float32, ())] * len(losses)
    assert len(losses) == settings.accumulate
    made = load_weights(out)
    assert made.card.environment["device_name"] == "pretended"  # type: ignore[attr-defined]
    assert made.tensors.keys() == method.weights(method.module(settings, 4)).keys()
    assert (tmp_path / "out" / "epoch-0001.png").exists()


def test_interrupted_pretraining_goes_on(unlabelled: Prepared, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(at: Progress) -> None:
        if at.iteration == 2:
            raise Killed

    settings = Toy().settings("tiny", epochs=3, batch_size=4, crop=96, ema=0.9)
    out, seen = tmp_path / "out.safetensors", []
    with fake_cuda():
        with pytest.raises(Killed):
            pretrain(Toy(), unlabelled, settings, out, device="cuda:0", save_every_seconds=0, report=kill)
        assert torch.load(out.with_suffix(".state"))["done"]["iteration"] == 1
        pretrain(Toy(), unlabelled, settings, out, device="cuda:0", report=lambda at: seen.append(at.iteration))
    assert seen == [2, 3]


def test_resampled_positions_are_bicubic_interpolation() -> None:
    torch.manual_seed(0)
    grid = torch.randn(2, 5, 14, 14)
    for size in ((6, 6), (14, 14), (20, 9)):
        expected = F.interpolate(grid, size=size, mode="bicubic", align_corners=False)
        torch.testing.assert_close(resampled(grid, size), expected)


# One GPU for each process


def test_processes_of_a_machine_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    chosen: list[str] = []
    with fake_cuda(gpus=2):
        monkeypatch.setattr("torch.cuda.set_device", chosen.append)
        assert distributed.local_device("auto") == "cuda:1"
        assert chosen == ["cuda:1"]
        monkeypatch.undo()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    with fake_cuda(gpus=2), pytest.raises(BadInput, match=r"process 2 .*2 CUDA devices.*--nproc-per-node"):
        distributed.local_device("cuda")


@pytest.mark.parametrize(
    ("device", "backend", "bound"), [("cuda:1", "nccl", torch.device("cuda:1")), ("cpu", "gloo", None)]
)
def test_processes_on_gpus_talk_by_nccl_each_through_its_own(
    monkeypatch: pytest.MonkeyPatch, device: str, backend: str, bound: torch.device | None
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    given: list[tuple[Any, ...]] = []
    group = torch.distributed
    monkeypatch.setattr(group, "init_process_group", lambda name, device_id=None: given.append((name, device_id)))
    monkeypatch.setattr(group, "get_rank", lambda: 1)
    monkeypatch.setattr(group, "get_world_size", lambda: 2)
    monkeypatch.setattr(group, "destroy_process_group", lambda: None)
    with distributed.joined_world(device) as world:
        assert world == World(1, 2)
    assert given == [(backend, bound)]


def test_deterministic_run_makes_its_pretraining_deterministic_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also because cuBLAS takes its setting when it starts, in the same process as the trials perhaps."""
    data = tmp_path / "data"
    toy.make_task(data)
    asked: list[bool] = []

    def run(method: str, *_: Any, deterministic: bool = False, **__: Any) -> Path:
        asked.append(deterministic)
        raise BadInput("enough")

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr("embench.data.catalog.find_task", lambda *_: replace(toy.TOY, synthetic=True))
    for wanted in (True, False):
        with pytest.raises(BadInput, match="enough"):
            toy.planned(data, tmp_path, "retina", deterministic=wanted)
    assert asked == [True, False]


def test_cublas_is_told_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with fake_cuda(), runtime.deterministic(CUDA, asked=True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not torch.backends.cudnn.benchmark

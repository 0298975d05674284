"""How long a training step takes on the CPU, against the plain way: loss, gradients, optimiser, on one batch.

    python benchmarks/training_step.py                        # TransUNet-192 at 4 and 8 images, UNet-ResNet50 at 8
    python benchmarks/training_step.py --network transunet --batch-size 4 --pairs 10
    OMP_NUM_THREADS=1 python benchmarks/training_step.py --processor-time    # on a machine that does other things too

The reference is the published network in plain form (plain_transunet.py, or segmentation_models_pytorch's own), fp32,
eager, in PyTorch's default memory format, with the recipe's optimiser as the library gives it. Ours is the step of
`embench.training.trainer`, in fp32 and, where the processor has the instructions, in bf16. Both start from the same
parameters and get the same batches; each has a process of its own, since a trial has its process keep freed memory.
First the outputs are compared, in evaluation mode and, with dropout off, in training mode; errors are fractions of
the greatest output.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import segmentation_models_pytorch as smp
import torch
from alternating import alternate_apart
from plain_transunet import VisionTransformer
from torch import Tensor, nn

from baselines.transunet_network import TransUNet
from baselines.unet_resnet50 import unet
from embench.core import environment
from embench.core.runtime import freed_memory_kept
from embench.training.losses import loss_of
from embench.training.optim import optimiser
from embench.training.precision import Precision, autocast, has_bf16, place
from embench.training.recipe import RETINA, UNET, Recipe

CPU = torch.device("cpu")
CASES: dict[str, tuple[Recipe, Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, ...]]] = {
    "transunet": (RETINA, lambda: VisionTransformer(1), lambda: TransUNet(1), (4, 8)),
    "unet": (
        UNET,
        lambda: smp.Unet("resnet50", encoder_weights=None, in_channels=1, classes=1),
        lambda: unet(1, "full"),
        (8,),
    ),
}
"""Recipe, reference, ours, batch sizes."""


GOALS = {("transunet", "fp32"): 1.3, ("transunet", "bf16"): 2.5, ("unet", "fp32"): 1.4, ("unet", "bf16"): 2.5}


def batch(size: int, crop: int) -> tuple[Tensor, Tensor]:
    """Return images (B, 1, Y, X) of noise that is smooth as tissue is, and the label map that its sign gives."""
    noise = torch.randn(size, 1, crop, crop, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.avg_pool2d(noise, 9, stride=1, padding=4)
    return smooth / smooth.std() + 0.1 * noise, (smooth[:, 0] > 0).long()


def plain_step(network: nn.Module, recipe: Recipe, images: Tensor, labels: Tensor) -> Callable[[], float]:
    """Return a step as published."""
    parameters, rate = network.parameters(), recipe.learning_rate
    if recipe.optimiser == "adamw":
        stepper: torch.optim.Optimizer = torch.optim.AdamW(parameters, rate, weight_decay=recipe.weight_decay)
    else:
        stepper = torch.optim.SGD(parameters, rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)

    def step() -> float:
        stepper.zero_grad()
        loss = loss_of(recipe.loss)(network(images), labels)
        loss.backward()
        stepper.step()
        return loss.item()

    return step


def our_step(
    network: nn.Module, recipe: Recipe, precision: Precision, images: Tensor, labels: Tensor
) -> Callable[[], float]:
    """Return a step as `embench.training.trainer.Training` takes it."""
    stepper, _ = optimiser(recipe, network.parameters(), 1000)
    for group in stepper.param_groups:
        group["lr"] = recipe.learning_rate  # as the plain step: the schedules are not what is measured

    def step() -> float:
        with autocast(precision, CPU):
            logits = network(images)
        loss = loss_of(recipe.loss)(logits.float(), labels)
        loss.backward()
        stepper.step()
        stepper.zero_grad(set_to_none=True)
        return loss.item()

    return step


def agreement(reference: nn.Module, ours: nn.Module, precision: Precision, images: Tensor) -> str:
    """Return the error of our output in both modes, dropout off; running statistics of norms are put back."""
    kept = {network: {k: v.clone() for k, v in network.state_dict().items()} for network in (reference, ours)}
    told = []
    for mode in ("evaluation", "training"):
        outputs = []
        for network, used in ((reference, "fp32"), (ours, precision)):
            for module in network.train(mode == "training").modules():
                if isinstance(module, nn.Dropout):
                    module.eval()
            with torch.no_grad(), autocast(used, CPU):  # type: ignore[arg-type]
                outputs.append(network(images).float())
        error = (outputs[1] - outputs[0]).abs()
        scale = outputs[0].abs().max()
        told.append(f"{mode} {error.mean() / scale:.1e} (greatest {error.max() / scale:.1e})")
    for network, state in kept.items():
        network.load_state_dict(state)
        network.train()
    return "mean error of outputs: " + ", ".join(told)


def started(make: Callable[[], nn.Module], name: str) -> nn.Module:
    """Return a network with the parameters that both start from."""
    torch.manual_seed(0)
    state = CASES[name][2]().state_dict()
    network = make()
    network.load_state_dict(state)
    return network


@contextmanager
def plain(name: str, size: int, crop: int) -> Iterator[Callable[[], float]]:
    """Prepare the published step, in a process as Python starts it."""
    recipe, make, *_ = CASES[name]
    yield plain_step(started(make, name), recipe, *batch(size, crop))


@contextmanager
def ours(name: str, size: int, crop: int, precision: Precision) -> Iterator[Callable[[], float]]:
    """Prepare our step, in a process as a trial has it."""
    recipe, _, make, _ = CASES[name]
    with freed_memory_kept(CPU):
        yield our_step(place(started(make, name), CPU), recipe, precision, *batch(size, crop))


def measure(name: str, size: int, options: argparse.Namespace) -> Iterator[str]:
    """Yield lines on one network at one batch size."""
    _, make_plain, make_ours, _ = CASES[name]
    images, _ = batch(size, options.crop)
    for precision in options.precision:
        agreed = agreement(started(make_plain, name), place(started(make_ours, name), CPU), precision, images)
        found = alternate_apart(
            partial(plain, name, size, options.crop),
            partial(ours, name, size, options.crop, precision),
            options.pairs,
            time.process_time if options.processor_time else time.perf_counter,
        )
        yield found.line(f"{name}, batch {size}, {precision}", agreed, GOALS[name, precision])


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(CASES), nargs="+", default=list(CASES))
    parser.add_argument("--batch-size", type=int, nargs="+", help="default: 4 and 8; 8")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--processor-time", action="store_true", help="not of the clock; for one thread")
    fast: list[Precision] = ["fp32", "bf16"] if has_bf16(CPU) else ["fp32"]
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=fast)
    options = parser.parse_args(arguments)
    processor = environment.environment("cpu", torch.get_num_threads())["processor"]
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{processor}, {capability}, {torch.get_num_threads()} threads, torch {torch.__version__}", flush=True)
    if not has_bf16(CPU):
        print("no bf16 instructions here, so bf16 is not measured; with --precision bf16 it is, emulated", flush=True)
    for name in options.network:
        for size in options.batch_size or CASES[name][3]:
            for line in measure(name, size, options):
                print(line, flush=True)


if __name__ == "__main__":
    main()

"""Training a network under a recipe, one step at a time, resumable at any step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from embench.augment import TrainingAugmentation
from embench.errors import BadInput, Diverged, TryAgain
from embench.files import replacing
from embench.losses import segmentation_loss
from embench.precision import autocast
from embench.recipe import Recipe
from embench.sections import TrainingSections
from embench.task import Task


class Training:
    """A network on its way through a budget of iterations (protocol 4.1, 4.2).

    Parameters
    ----------
    network : nn.Module
        From (B, 1, Y, X) to logits; parameters that do not require a gradient stay as they are.
    sections : TrainingSections
    task : Task
    recipe : Recipe
        With crop and batch size filled in (:meth:`Recipe.for_task`).
    norms : (float, float)
        Mean and standard deviation of 0..1 grey values.
    iterations : int
        The whole budget: the horizon of the learning-rate schedule.
    entropy : list of int
        Of the trial; every random draw of the data follows from it. Dropout uses torch's global generator,
        which the trial seeds and :meth:`state` keeps.
    device : torch.device
    """

    def __init__(
        self,
        network: nn.Module,
        sections: TrainingSections,
        task: Task,
        recipe: Recipe,
        *,
        norms: tuple[float, float],
        iterations: int,
        entropy: list[int],
        device: torch.device,
    ) -> None:
        assert recipe.crop is not None
        assert recipe.batch_size is not None
        self.network, self.sections, self.task, self.recipe = network, sections, task, recipe
        self.norms, self.entropy, self.device = norms, entropy, device
        self.batch_size = recipe.batch_size
        self.augment = TrainingAugmentation(
            recipe.crop, crop_nonempty=task.crop_nonempty, noise_and_blur=task.noise_and_blur
        )
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimiser, self.schedule = optimiser(recipe, trained, iterations)
        self.iteration = 0
        self.curve: list[tuple[int, float, float]] = []

    def step(self) -> float:
        """Take one optimiser step and return its loss; raises :class:`Diverged` when that is not finite."""
        images, labels = self.sections.batch(self.iteration, self.batch_size, self.entropy, self.augment)
        batch = normalised(torch.from_numpy(images), self.norms, self.device)
        target = torch.from_numpy(labels).to(self.device).long()
        self.network.train()
        with autocast(self.recipe.precision, self.device):
            logits = self.network(batch)
        loss = segmentation_loss(self.recipe.loss, logits.float(), target, self.task.class_weights)
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(self.iteration + 1)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.curve.append((self.iteration + 1, value, float(self.schedule.get_last_lr()[0])))
        self.schedule.step()
        self.iteration += 1
        return value

    def state(self) -> dict[str, Any]:
        """Return everything that :meth:`resume` needs to go on to the same bytes."""
        state = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "iteration": self.iteration,
            "curve": self.curve,
            "torch_rng": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state`."""
        self.network.load_state_dict(state["network"])
        resume_optimiser(self.optimiser, state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.iteration = state["iteration"]
        self.curve = [tuple(point) for point in state["curve"]]
        torch.set_rng_state(state["torch_rng"])
        if "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)


def optimiser(
    recipe: Recipe, parameters: Iterable[nn.Parameter], iterations: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return the optimiser of a recipe and its schedule over ``iterations`` steps.

    ``onecycle`` is PyTorch's with its defaults (protocol 4.1). ``polynomial`` is lr (1 - i/N)^0.9 set *after*
    step i, so that steps 0 and 1 both use the full rate (protocol 4.2).
    """
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimiser == "adamw":
        made: torch.optim.Optimizer = torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)
    else:
        made = torch.optim.SGD(parameters, rate, momentum=recipe.momentum, weight_decay=decay, fused=True)
    if recipe.schedule == "onecycle":
        return made, torch.optim.lr_scheduler.OneCycleLR(made, recipe.learning_rate, total_steps=iterations)
    return made, torch.optim.lr_scheduler.LambdaLR(made, lambda step: polynomial(step, iterations))


def resume_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state, its tensors in the memory format of their parameters.

    A state may come from another processor, on which the network is trained in another format. torch (2.14) keeps the
    format of what it loads, and a fused step then takes every number for another one, without a word.
    """
    optimiser.load_state_dict(state)
    for parameter, values in optimiser.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def polynomial(step: int, steps: int, power: float = 0.9) -> float:
    """Return the factor on the learning rate used *in* ``step`` (from 0) of ``steps``."""
    return (1 - max(step - 1, 0) / steps) ** power


def warm_cosine(step: int, steps: int, warm: float = 0.05) -> float:
    """Return the factor on the learning rate in ``step`` (from 0) of ``steps``.

    It rises linearly over the fraction ``warm`` of the steps, then falls to 0 along half a cosine.
    """
    rising = warm * steps
    if step < rising:
        return (step + 1) / math.ceil(rising)
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


def normalised(images_BYX: Tensor, norms: tuple[float, float], device: torch.device) -> Tensor:
    """Return uint8 images as (B, 1, Y, X) float32 on ``device``: (grey / 255 - mean) / deviation."""
    mean, deviation = norms
    return images_BYX.to(device).unsqueeze(1).float().div_(255).sub_(mean).div_(deviation)


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write a training state atomically."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch ends its archive all the same, and then complains of that instead of the disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_state(path: Path) -> dict[str, Any] | None:
    """Return a training state, or ``None`` where there is none.

    Raises
    ------
    BadInput
        When the file is not whole; it is named, and has to be removed to start again.
    TryAgain
        When it cannot be read.
    """
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise TryAgain(f"{path}: cannot be read ({error.strerror or error}); run the same command again") from None
    except Exception as error:
        raise BadInput(f"{path}: not a training state ({type(error).__name__}); remove it to start again") from error

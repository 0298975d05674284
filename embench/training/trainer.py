"""Training a network under a recipe, one step at a time, resumable at any step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from embench.data.task import Task
from embench.training import patches
from embench.training.augmentations import augmentation_of
from embench.training.losses import loss_of
from embench.training.optim import optimiser, resume_optimiser
from embench.training.patches import TrainingPatches
from embench.training.precision import autocast
from embench.training.recipe import Recipe
from embench.training.sampler import TrainingSections, positions_of

Batch = tuple[Tensor, Tensor]
"""Images and labels (B, Y, X), uint8, pinned beside a GPU."""


class Training:
    """A network on its way through a budget of iterations (protocol 4.1, 4.2): what :class:`Loop` makes steps of.

    Parameters
    ----------
    network : nn.Module
        From (B, 1, Y, X) or (B, 1, Z, Y, X) to logits; parameters that do not require a gradient stay as they are.
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

    Attributes
    ----------
    curve : list of (int, float, float)
        Iteration (from 1), loss and learning rate of every step whose loss has been read.
    """

    def __init__(
        self,
        network: nn.Module,
        sections: TrainingSections | TrainingPatches,
        task: Task,
        recipe: Recipe,
        *,
        norms: tuple[float, float],
        iterations: int,
        entropy: list[int],
        device: torch.device,
    ) -> None:
        self.network, self.recipe, self.norms, self.device = network, recipe, norms, device
        self.batch = batches(sections, task, recipe, entropy, device)
        self.loss = loss_of(recipe.loss, task.class_weights)
        self.trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimiser, self.schedule = optimiser(recipe, self.trained, iterations)
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema)) if recipe.ema else None
        self.curve: list[tuple[int, float, float]] = []
        self._rates: list[float] = []

    @property
    def iteration(self) -> int:
        """Steps taken whose loss has been read."""
        return len(self.curve)

    @property
    def best(self) -> nn.Module:
        """The network that predicts: the moving average where the recipe has one."""
        return self.network if self.average is None else self.average.module

    def take(self, batch: Batch) -> Tensor:
        """Take the optimiser's step of a batch and return its loss, which nothing has read."""
        images, labels = batch
        target = labels.to(self.device, non_blocking=True).long()
        self.network.train()
        with autocast(self.recipe.precision, self.device):
            logits = self.network(normalised(images, self.norms, self.device))
        loss = self.loss(logits.float(), target)
        loss.backward()
        if self.recipe.clip_gradient is not None:
            nn.utils.clip_grad_norm_(self.trained, self.recipe.clip_gradient)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.network)
        self._rates.append(float(self.schedule.get_last_lr()[0]))
        self.schedule.step()
        return loss.detach()

    def step(self) -> float:
        """Take the next step with its loss read: what a loop does, one step at a time."""
        loss = float(self.take(self.batch(self.iteration)))
        self.tell([loss])
        return loss

    def tell(self, losses: Sequence[float]) -> None:
        """Note the losses of the steps taken since the last time."""
        first = len(self.curve) + 1
        self.curve += [
            (first + number, loss, rate) for number, (loss, rate) in enumerate(zip(losses, self._rates, strict=False))
        ]
        self._rates.clear()

    def state(self) -> dict[str, Any]:
        """Return everything that :meth:`resume` needs to go on to the same bytes."""
        state = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "curve": self.curve,
            "torch_rng": torch.get_rng_state(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state`."""
        self.network.load_state_dict(state["network"])
        resume_optimiser(self.optimiser, state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.curve = [tuple(point) for point in state["curve"]]
        torch.set_rng_state(state["torch_rng"])
        if "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)


def batches(
    sections: TrainingSections | TrainingPatches, task: Task, recipe: Recipe, entropy: list[int], device: torch.device
) -> Callable[[int], Batch]:
    """Return what makes the batch of an iteration (from 0): a pure function, which several threads may call at once."""
    assert recipe.batch_size is not None
    size = recipe.batch_size
    if isinstance(sections, TrainingPatches):
        draw = partial(sections.batch, size=size, entropy=entropy, augment=patches.augmentation_of(recipe, task))
    else:
        augment, epoch = augmentation_of(recipe, task), positions_of(recipe.sampler, sections)
        draw = partial(sections.batch, size=size, entropy=entropy, augment=augment, epoch_of=epoch)

    def batch(iteration: int) -> Batch:
        images, labels = draw(iteration)
        return on_host(images, device), on_host(labels, device)

    return batch


def on_host(array: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return an array as a tensor that is copied to ``device`` without blocking: pinned beside a GPU."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def normalised(images_BYX: Tensor, norms: tuple[float, float], device: torch.device) -> Tensor:
    """Return uint8 images as (B, 1, Y, X) float32 on ``device``: (grey / 255 - mean) / deviation."""
    mean, deviation = norms
    return images_BYX.to(device, non_blocking=True).unsqueeze(1).float().div_(255).sub_(mean).div_(deviation)

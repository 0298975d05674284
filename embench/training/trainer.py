"""Training a network under a recipe, one step at a time, resumable at any step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from embench.core.errors import Diverged
from embench.data.task import Task
from embench.training.augment import TrainingAugmentation
from embench.training.losses import segmentation_loss
from embench.training.optim import optimiser, resume_optimiser
from embench.training.precision import autocast
from embench.training.recipe import Recipe
from embench.training.sampler import TrainingSections


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


def normalised(images_BYX: Tensor, norms: tuple[float, float], device: torch.device) -> Tensor:
    """Return uint8 images as (B, 1, Y, X) float32 on ``device``: (grey / 255 - mean) / deviation."""
    mean, deviation = norms
    return images_BYX.to(device).unsqueeze(1).float().div_(255).sub_(mean).div_(deviation)

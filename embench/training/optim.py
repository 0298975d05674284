"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from embench.training.recipe import Recipe


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

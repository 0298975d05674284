"""Optimisers and schedules that a recipe names: any of ``torch.optim``, and factors on the learning rate."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from embench.core.errors import BadInput
from embench.core.names import unknown
from embench.training.recipe import Recipe
from embench.training.registries import SCHEDULES, name_of

_NOT_STEPPED = ("lbfgs", "sparseadam")
"""Optimisers that need more than a gradient: a function to call again, or sparse gradients."""


def optimiser_names() -> dict[str, Any]:
    """Return the optimisers of ``torch.optim`` by name, in small letters as recipes hold them."""
    found = {name.lower(): value for name, value in vars(torch.optim).items() if isinstance(value, type)}
    return {
        name: value
        for name, value in found.items()
        if issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer and name not in _NOT_STEPPED
    }


def optimiser(
    recipe: Recipe, parameters: Iterable[nn.Parameter], iterations: int
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Return the optimiser of a recipe and its schedule over ``iterations`` steps.

    Raises
    ------
    BadInput
        An unknown optimiser (with near names), or one that does not take what the recipe gives it.
    """
    made = _optimiser(recipe, parameters)
    return made, _schedule(recipe, made, iterations)


def _optimiser(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    make: Any = recipe.optimiser
    if isinstance(make, str):
        if make not in optimiser_names():
            raise unknown(f"optimiser of recipe {recipe.name}", make, optimiser_names())
        make = optimiser_names()[make]
    taken = inspect.signature(make).parameters
    given = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "momentum": recipe.momentum}
    options = {name: value for name, value in given.items() if name in taken}
    if "fused" in taken and isinstance(recipe.optimiser, str):
        options["fused"] = True
    try:
        return make(parameters, **options | dict(recipe.optimiser_options))
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"recipe {recipe.name}: optimiser {name_of(recipe.optimiser)}: {error}") from None


def _schedule(recipe: Recipe, made: torch.optim.Optimizer, iterations: int) -> LRScheduler:
    """``onecycle`` is PyTorch's with its defaults (protocol 4.1), which moves the momentum too; others are factors."""
    if recipe.schedule == "onecycle":
        return OneCycleLR(made, recipe.learning_rate, total_steps=iterations)
    value: Any = recipe.schedule
    factor: Callable[[int, int], float] = SCHEDULES.find(value) if isinstance(value, str) else value
    warm = min(recipe.warm_up, iterations - 1)

    def of_step(step: int) -> float:
        rising = min(1.0, (step + 1) / warm) if warm else 1.0
        return rising * factor(max(step - warm, 0), iterations - warm)

    return LambdaLR(made, of_step)


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


# Schedules: the factor on the learning rate used in a step (from 0) of so many


def constant(step: int, steps: int) -> float:
    """Return 1."""
    return 1.0


def linear(step: int, steps: int) -> float:
    """Return a factor that falls to 0 along a line."""
    return 1 - step / steps


def cosine(step: int, steps: int) -> float:
    """Return a factor that falls to 0 along half a cosine."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def polynomial(step: int, steps: int, power: float = 0.9) -> float:
    """Return (1 - i/N)^0.9 as set *after* step i, so that steps 0 and 1 both use the full rate (protocol 4.2)."""
    return (1 - max(step - 1, 0) / steps) ** power


def warm_cosine(step: int, steps: int, warm: float = 0.05) -> float:
    """Return a factor that rises linearly over the fraction ``warm`` of the steps, then falls along half a cosine."""
    rising = warm * steps
    if step < rising:
        return (step + 1) / math.ceil(rising)
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2

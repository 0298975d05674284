"""How a network is trained and applied, apart from the network: a named, frozen recipe (protocol 4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from embench.core.names import unknown
from embench.data.task import Scale, Task


@dataclass(frozen=True)
class WholeImage:
    """Predict a section in one piece (protocol 4.1).

    In 2D it is resized down to a multiple of ``multiple`` and back; in 3D it is reflect-padded and cropped.
    """

    multiple: int = 32


@dataclass(frozen=True)
class SlidingWindow:
    """Predict overlapping windows and average their logits with equal weight (protocol 4.2)."""

    window: int = 224
    overlap_2d: float = 0.5
    overlap_3d: float = 0.7
    batch: int = 4

    def starts(self, side: int, volume: bool) -> list[int]:
        """Return where windows begin along a side, padded to a window at least; the last one ends with the side."""
        step = max(int(self.window * (1 - (self.overlap_3d if volume else self.overlap_2d))), 1)
        last = max(side, self.window) - self.window
        return [min(start, last) for start in range(0, last + step, step)]


Inference = WholeImage | SlidingWindow


@dataclass(frozen=True)
class Recipe:
    """Loss, optimiser, schedule, crop, batch, precision and inference under one name.

    Parameters
    ----------
    loss : {"cross-entropy", "cross-entropy+dice"}
        The second is half of each.
    optimiser : {"adamw", "sgd"}
    learning_rate, weight_decay, momentum : float
        ``momentum`` is SGD's.
    schedule : {"onecycle", "polynomial"}
        Over the whole budget of iterations.
    inference : WholeImage or SlidingWindow
    crop, batch_size : int or None
        ``None``: the task's own.
    scale : {"full", "tiny"}
        Width of the network that the adapter builds.
    precision : {"fp32", "bf16"}
        Arithmetic of the training and prediction passes.
    """

    name: str
    loss: Literal["cross-entropy", "cross-entropy+dice"]
    optimiser: Literal["adamw", "sgd"]
    learning_rate: float
    weight_decay: float
    schedule: Literal["onecycle", "polynomial"]
    inference: Inference
    momentum: float = 0.9
    crop: int | None = None
    batch_size: int | None = None
    scale: Scale = "full"
    precision: Literal["fp32", "bf16"] = "fp32"

    def for_task(self, task: Task) -> Recipe:
        """Return the recipe with the task's crop and batch size filled in, tiny where the task is."""
        recipe = tiny(self) if task.scale == "tiny" and self.scale != "tiny" else self
        return replace(recipe, crop=recipe.crop or task.crop, batch_size=recipe.batch_size or task.batch_size)

    def resized(self, *, crop: int | None = None, batch_size: int | None = None) -> Recipe:
        """Return the recipe at another crop (and sliding window) or batch size."""
        inference = self.inference
        if crop and isinstance(inference, SlidingWindow):
            inference = replace(inference, window=crop)
        return replace(self, crop=crop or self.crop, batch_size=batch_size or self.batch_size, inference=inference)


UNET = Recipe(
    name="unet",
    loss="cross-entropy",
    optimiser="adamw",
    learning_rate=0.003,
    weight_decay=0.1,
    schedule="onecycle",
    inference=WholeImage(32),
)
"""The published UNet-ResNet50 recipe (protocol 4.1)."""

RETINA = Recipe(
    name="retina",
    loss="cross-entropy+dice",
    optimiser="sgd",
    learning_rate=0.003,
    weight_decay=1e-4,
    schedule="polynomial",
    inference=SlidingWindow(224),
    crop=224,
)
"""The published fine-tuning recipe of TransUNet and RETINA (protocol 4.2)."""

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (UNET, RETINA)}


def find_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``; ``-tiny`` at the end gives its reduced form."""
    base = name.removesuffix("-tiny")
    if base not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[base] if base == name else tiny(RECIPES[base])


def tiny(recipe: Recipe) -> Recipe:
    """Return the reduced form of ``recipe`` used on the synthetic suite: narrow network, crop 64, batch 8.

    SGD runs at 0.1: at the published 0.003 the narrow networks hardly move within the suite's short budgets.
    """
    rate = 0.1 if recipe.optimiser == "sgd" else recipe.learning_rate
    return replace(recipe.resized(crop=64, batch_size=8), name=f"{recipe.name}-tiny", scale="tiny", learning_rate=rate)

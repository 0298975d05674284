"""Verbs on models and pre-training methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embench.core.console import print_table
from embench.models.base import GROUPS
from embench.models.registry import find_model, model_names
from embench.pretraining.registry import find_pretraining, pretraining_names
from embench.training.recipe import OPEN, WholeImage, find_recipe, recipe_names
from embench.training.registries import name_of

if TYPE_CHECKING:
    pass


def pretrain(method: str, data: str, **asked: Any) -> None:
    """Pre-train and print where the checkpoint is."""
    from embench.pretraining import command

    print(f"checkpoint: {command.run(method, data, **asked)}")


def list_models() -> None:
    """Print every registered adapter, group by group."""
    models = [find_model(name) for name in model_names()]
    rows = [
        (
            group,
            model.name,
            model.title,
            getattr(model, "recipe_name", "–"),
            getattr(model, "pretraining", None) or "none",
        )
        for group in GROUPS
        for model in models
        if model.group == group
    ]
    print_table(("group", "model", "title", "recipe", "pre-training"), rows)


def list_methods() -> None:
    """Print every registered pre-training method."""
    rows = []
    for name in pretraining_names():
        method = find_pretraining(name)
        network = f"any (default: {method.trains.name})" if method.takes_any_model else method.trains.name
        rows.append((name, method.title, network, str(method.epochs), str(method.batch_size)))
    print_table(("method", "title", "network", "epochs", "batch"), rows)


def list_recipes() -> None:
    """Print every recipe, and what a recipe can name."""
    recipes = [find_recipe(name) for name in recipe_names()]
    rows = [
        (
            recipe.name,
            name_of(recipe.loss),
            f"{name_of(recipe.optimiser)} {recipe.learning_rate:g}",
            name_of(recipe.schedule),
            str(recipe.crop or "task's"),
            "whole image" if isinstance(recipe.inference, WholeImage) else "sliding window",
        )
        for recipe in recipes
    ]
    print_table(("recipe", "loss", "optimiser", "schedule", "crop", "inference"), rows)
    print()
    named = {field: registry.names() for field, registry in OPEN.items() if registry}
    fields = [(field, ", ".join(names)) for field, names in named.items()]
    print_table(("field", "names"), [*fields, ("optimiser", "any of torch.optim, as AdamW")])



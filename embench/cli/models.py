"""Verbs on models: pretrain, list models, list pretraining, list recipes, checkpoint inspect, import, fetch."""

# No `from __future__ import annotations`: typer would evaluate every annotation's text, a sixth of the time of help.

from pathlib import Path
from typing import Annotated

import typer

from embench.cli.apps import DataFolder, app, checkpoint, listing
from embench.cli.verbs import verb
from embench.pretraining.options import PretrainingRequest


@verb(
    app,
    examples="""
  embench pretrain retina --data vnc-unlabelled
  embench pretrain mocov2 --data my-tiles --epochs 50 --device cuda""",
)
def pretrain(
    method: Annotated[str, typer.Argument(help="retina, mocov2, ...; see: embench list pretraining.")],
    data_name: Annotated[str, typer.Option("--data", help="An unlabelled set.")],
    request: PretrainingRequest,
) -> None:
    """Pre-train on unlabelled images and write a checkpoint with its card. An interrupted pre-training resumes."""
    from embench.pretraining import command

    print(f"checkpoint: {command.run(method, data_name, request)}")


@app.command()
def check(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py:NAME", help="A model, recipe, data set, metric or pre-training method; or a model's name."
        ),
    ],
    source: Annotated[Path | None, typer.Option(help="Files of a data set that is not generated.")] = None,
) -> None:
    """Try a piece of your own in seconds, before anything is spent on it: what works, and what to mend.

    Exit status 2 if anything does not work. FILE.py is code and is run.
    """
    from embench.runs import check as checks

    works = True
    for finding in checks.check(what, source):
        works = works and not finding.fault
        print(f"{'FAULT' if finding.fault else 'ok   '} {finding.what}{f': {finding.fault}' if finding.fault else ''}")
    if not works:
        raise typer.Exit(2)


@listing.command("models")
def list_models() -> None:
    """Print the model adapters, group by group."""
    from embench.core.console import print_table
    from embench.models.base import GROUPS
    from embench.models.registry import find_model, model_names

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
    print(
        "\nbesides: smp:ARCHITECTURE:ENCODER[:START], vit:NAME[:START], external:NAME or external:FILE.toml, "
        "FILE.py:CLASS; NAME@full, NAME@frozen, NAME@lora"
    )


@listing.command("pretraining")
def list_pretraining() -> None:
    """Print the pre-training methods."""
    from embench.core.console import print_table
    from embench.pretraining.registry import find_pretraining, pretraining_names

    rows = []
    for name in pretraining_names():
        method = find_pretraining(name)
        network = f"any (default: {method.trains.name})" if method.takes_any_model else method.trains.name
        rows.append((name, method.title, network, str(method.epochs), str(method.batch_size)))
    print_table(("method", "title", "network", "epochs", "batch"), rows)


@listing.command("recipes")
def list_recipes() -> None:
    """Print the recipes, and what a recipe can name."""
    from embench.core.console import print_table
    from embench.training.recipe import OPEN, WholeImage, find_recipe, recipe_names
    from embench.training.registries import name_of

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
    listed = [(field, ", ".join(names)) for field, names in named.items()]
    print_table(("field", "names"), [*listed, ("optimiser", "any of torch.optim, as AdamW")])


StripPrefix = Annotated[str, typer.Option(help="What every name in the file begins with and is to be cut off.")]


@checkpoint.command("inspect")
def checkpoint_inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint, published or ours.")],
    strip_prefix: StripPrefix = "",
) -> None:
    """Say what a checkpoint is; nothing in it is executed."""
    from baselines import cli as baselines

    baselines.inspect(file, strip_prefix)


@checkpoint.command("import")
def checkpoint_import(
    file: Annotated[Path, typer.Argument(help="A published checkpoint: .pt, .pth, .pth.tar or .npz.")],
    data_name: Annotated[
        str | None,
        typer.Option("--data", help="The set it was trained on, as in cem500k (default: imagenet or unknown)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Checkpoint to write (default: where run looks for it).")] = None,
    norms: Annotated[str | None, typer.Option(help="MEAN,STD of 0..1 grey values, where the file has none.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another checkpoint.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model whose encoder the file holds: vit:NAME:START, smp:ARCH:ENCODER:START; or transunet-imagenet, "
            "with which a reconstruction began."
        ),
    ] = None,
    key_map: Annotated[
        list[str], typer.Option("--key-map", help="With --model: THEIRS=OURS, beginnings of names; may be repeated.")
    ] = [],  # noqa: B006
    strip_prefix: StripPrefix = "",
    data: DataFolder = None,
) -> None:
    """Make a published pre-training a checkpoint that models are initialised from."""
    from baselines import cli as baselines

    baselines.import_(file, data_name, out, norms, data, force, model, key_map, strip_prefix)


@checkpoint.command("fetch")
def checkpoint_fetch(
    name: Annotated[str, typer.Argument(help="mocov2-cem500k, ..., or smp:ARCH:ENCODER:imagenet, vit:NAME:timm.")],
    data: DataFolder = None,
) -> None:
    """Download a checkpoint that has a public address."""
    from baselines import cli as baselines

    baselines.fetch(name, data)

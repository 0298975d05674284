"""Verbs on data: fetch, prepare, verify, show, export, list tasks, list suites."""

# No `from __future__ import annotations`: typer would evaluate every annotation's text, a sixth of the time of help.

import os
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from embench.cli.apps import DataFolder, app, listing
from embench.cli.verbs import verb
from embench.core.errors import BadInput
from embench.data.options import OwnData


@verb(
    app,
    without={"name"},
    examples="""
  embench prepare vnc --source ~/Downloads/vnc
  embench prepare my-er --images raw/ --masks labels/ --classes 0:background,1:er
  embench prepare my-tiles --tiles unlabelled/""",
)
def prepare(
    name: Annotated[str, typer.Argument(help="A task, an unlabelled set or a data set; or the name of your own.")],
    source: Annotated[
        list[Path],
        typer.Option(help="Folder, zip or files as published; may be repeated (default: what was fetched)."),
    ] = [],  # noqa: B006
    force: Annotated[bool, typer.Option("--force", help="Prepare again what is there.")] = False,
    own: OwnData = OwnData(),
    tiles: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images without masks, cut into a set for pre-training.", rich_help_panel="Your own images"
        ),
    ] = None,
    any_size: Annotated[
        bool, typer.Option("--any-size", help="Read files that are large beside the memory of this machine.")
    ] = False,
    data: DataFolder = None,
) -> None:
    """Bring a data set, or your own images and masks, into the one prepared format."""
    from embench.data import catalog, own_task, own_tiles
    from embench.data.readers.base import ANY_SIZE

    if any_size:
        os.environ[ANY_SIZE] = "1"
    given = [each.name for each in fields(own) if getattr(own, each.name) != each.default and each.name != "name"]
    told = ", ".join(f"--{option.replace('_', '-')}" for option in given)
    known = catalog.is_registered(name)
    if known and (given or tiles):
        raise BadInput(f"{told or '--tiles'}: for your own images, but {name} is a built-in set; choose another name")
    if tiles:
        if given or source:
            raise BadInput(f"--tiles: goes with the name alone, not with {told or '--source'}")
        _tell_prepared(*own_tiles.prepare(name, tiles, data, force=force))
        return
    if not given:
        for prepared in catalog.prepare(name, source, data, force=force):
            _tell_prepared(*prepared)
        return
    if not own.classes:
        raise BadInput(f"{name}: --classes is missing; name the values of the masks: --classes 0:background,1:er")
    if len(source) > 1:
        raise BadInput(f"{name}: {len(source)} times --source; give one folder with train/ and test/")
    asked = replace(own, name=name, source=source[0] if source else None)
    _tell_prepared(*own_task.prepare(asked, data, force=force))


def _tell_prepared(name: str, path: Path, fresh: bool) -> None:
    from embench.data import store, summary

    with store.Prepared(path) as prepared:
        state = "prepared" if fresh else "already prepared"
        verified = prepared.card.get("verified")
        source = "" if verified is None else ", source verified" if verified else ", source unverified"
        print(f"{name}: {state}, {path}, hash {prepared.hash[:12]}{source}")
        for line in summary.lines(prepared):
            print(f"  {line}")


@app.command()
def fetch(
    task: Annotated[str, typer.Argument(help="A task or data set: cremi, guay, kasthuri, perez, urocell, ...")],
    insecure_host: Annotated[
        list[str], typer.Option(help="Do not check the TLS certificate of this host; only for files of known SHA-256.")
    ] = [],  # noqa: B006
    data: DataFolder = None,
) -> None:
    """Download the published files of a data set, checked against their SHA-256."""
    from embench.core.paths import data_folder
    from embench.data import catalog, download

    dataset = catalog.find_dataset(task)
    for file in download.fetch(dataset, data or data_folder(), insecure_hosts=insecure_host):
        state = "fetched" if file.fresh else "already here"
        print(f"{file.path}: {state}, sha256 {file.sha256} ({'verified' if file.verified else 'unverified'})")
    print(f"next: embench prepare {task}")


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="A prepared task or unlabelled set.")], data: DataFolder = None
) -> None:
    """Hash prepared data again and compare with the recorded hash."""
    from embench.core.paths import prepared_path
    from embench.data import catalog, store

    names = [spec.name for spec in catalog.find_dataset(name).specs] if name in catalog.DATASETS else [name]
    there = [each for each in names if len(names) == 1 or prepared_path(each, data).exists()]
    if not there:
        raise BadInput(f"{name}: none of {', '.join(names)} is prepared here; run: embench prepare {name}")
    for each in there:
        with store.Prepared(prepared_path(each, data)) as prepared:
            if not prepared.verify():
                raise BadInput(f"{prepared.path}: the voxels do not have the recorded hash; prepare it with --force")
            print(f"{each}: hash {prepared.hash} holds")


@app.command()
def export(
    task: Annotated[str, typer.Argument(help="A prepared task.")],
    layout: Annotated[str, typer.Option("--format", help="nnunet or folder.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder.")],
    data: DataFolder = None,
) -> None:
    """Write a task's training images and masks, and its test images without masks, for other tools."""
    from embench.data import catalog
    from embench.scoring.export import export as write

    with catalog.open_prepared(task, data) as prepared:
        count = write(prepared, layout, out)
    print(f"{task}: {count} files in {out}; how to name and score predictions: {out / 'README.md'}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A task.")], data: DataFolder = None) -> None:
    """Print everything known of a task and, where it is prepared, what its file holds."""
    from embench.core.paths import prepared_path
    from embench.data import catalog, store, summary
    from embench.data.task import SPLITS

    try:
        task = catalog.find_task(name, data)
    except BadInput:
        from embench.models.registry import model_names

        if name in model_names():
            raise BadInput(f"{name}: a model, not a task; see: embench list models") from None
        raise
    for key, value in asdict(task).items():
        if value not in ("", None, {}):
            print(f"{key}: {value}")
    path = prepared_path(name, data)
    if not path.exists():
        print("prepared: no")
        return
    with store.Prepared(path) as prepared:
        print(f"prepared: {path}\nhash: {prepared.hash}")
        for line in summary.lines(prepared):
            print(line)
        for key, value in prepared.card.items():
            if key not in _SUMMARISED:
                print(f"{key}: {_short(value)}")
        for split in SPLITS:
            volumes = prepared.volumes(split)
            for volume in volumes[:_SHOWN]:
                print(f"{split}: {volume.name} {volume.image.shape}")
            if len(volumes) > _SHOWN:
                print(f"{split}: and {len(volumes) - _SHOWN} more")


_SHOWN = 10
"""Images of a split that ``show`` lists."""
_SUMMARISED = (
    "splits",
    "leakage",
    "notes",
    "crop",
    "budget",
    "norms",
    "threshold",
    "made from",
    "test sections in train",
)


def _short(value: Any) -> str:
    """Return a fact of a card as one short line."""
    if isinstance(value, dict | list) and len(value) > _SHOWN:
        return f"{len(value)} entries"
    return str(value)


@listing.command("tasks")
def list_tasks(data: DataFolder = None) -> None:
    """Print the tasks and whether they are prepared here."""
    from embench.core.console import print_table
    from embench.core.paths import prepared_path
    from embench.data import catalog

    rows = [
        (
            task.name,
            task.title,
            ", ".join(task.classes[value] for value in task.scoring.classes),
            task.scoring.planes,
            str(task.iterations),
            "yes" if prepared_path(task.name, data).exists() else "no",
        )
        for task in (*catalog.all_tasks(), *catalog.own_tasks(data))
    ]
    print_table(("task", "title", "scored classes", "scoring", "iterations", "prepared"), rows)


@listing.command("suites")
def list_suites() -> None:
    """Print the suites."""
    from embench.data.catalog import SUITES

    for name, tasks in SUITES.items():
        print(f"{name}: {', '.join(tasks)}")

"""Verbs on data: fetch, prepare, verify, show, export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embench.core import paths
from embench.core.console import print_table
from embench.core.errors import BadInput
from embench.data import catalog, store

if TYPE_CHECKING:
    pass


def fetch(name: str, data: Path | None, insecure_hosts: Sequence[str]) -> None:
    """Download published files; say which are verified."""
    from embench.data import download

    dataset = catalog.find_dataset(name)
    for file in download.fetch(dataset, data or paths.data_folder(), insecure_hosts=insecure_hosts):
        state = "fetched" if file.fresh else "already here"
        print(f"{file.path}: {state}, sha256 {file.sha256} ({'verified' if file.verified else 'unverified'})")
    print(f"next: embench prepare {name}")


def prepare(task: str | None, source: Sequence[Path], data: Path | None, force: bool, **own: Any) -> None:
    """Prepare a registered task or, with a ``name`` of their own, the user's images; say what was written."""
    from embench.data import own_task

    given = {option: value for option, value in own.items() if value is not None}
    if (task is None) == ("name" not in given):
        raise BadInput("say what to prepare: a task (see: embench list tasks), or --name with your own images")
    if task is not None:
        if given:
            options = ", ".join(f"--{option.replace('_', '-')}" for option in given)
            raise BadInput(f"{options}: only with --name, for your own images")
        for prepared in catalog.prepare(task, source, data, force=force):
            _tell_prepared(*prepared)
        return
    if "tiles" in given:
        from embench.data import own_tiles

        if odd := given.keys() - {"name", "tiles"} or source:
            raise BadInput(f"--tiles: goes with --name alone, not with {', '.join(map(str, sorted(odd)))}")
        _tell_prepared(*own_tiles.prepare(given["name"], given["tiles"], data, force=force))
        return
    if "classes" not in given or len(source) > 1:
        raise BadInput("--name: give --classes 0:background,1:er and --images DIR --masks DIR (or one --source DIR)")
    asked = own_task.OwnData(**given, source=source[0] if source else None)
    _tell_prepared(*own_task.prepare(asked, data, force=force))


def _tell_prepared(name: str, path: Path, fresh: bool) -> None:
    with store.Prepared(path) as prepared:
        state = "prepared" if fresh else "already prepared"
        verified = prepared.card.get("verified")
        source = "" if verified is None else ", source verified" if verified else ", source unverified"
        print(f"{name}: {state}, {path}, hash {prepared.hash[:12]}{source}")
        for note in prepared.card.get("notes", []):
            print(f"  note: {note}")


def verify(name: str, data: Path | None) -> None:
    """Hash prepared data again."""
    with store.Prepared(paths.prepared_path(name, data)) as prepared:
        if not prepared.verify():
            raise BadInput(f"{prepared.path}: the voxels do not have the recorded hash; prepare it again with --force")
        print(f"{name}: hash {prepared.hash} holds")


def export(name: str, layout: str, out: Path, data: Path | None) -> None:
    """Write a task for other tools; say what to do next."""
    from embench.scoring import export

    with catalog.open_prepared(name, data) as prepared:
        count = export.export(prepared, layout, out)
    print(f"{name}: {count} files in {out}; how to name and score predictions: {out / 'README.md'}")


def show(name: str, data: Path | None) -> None:
    """Print a task's facts and, where it is prepared, what its file holds."""
    task = catalog.find_task(name, data)
    for key, value in asdict(task).items():
        print(f"{key}: {value}")
    path = paths.prepared_path(name, data)
    if not path.exists():
        print("prepared: no")
        return
    with store.Prepared(path) as prepared:
        print(f"prepared: {path}\nhash: {prepared.hash}\nnorms in use: {prepared.norms[0]:.8f} {prepared.norms[1]:.8f}")
        for key, value in prepared.card.items():
            print(f"{key}: {value}")
        for split in ("train", "valid", "test"):
            for volume in prepared.volumes(split):
                print(f"{split}: {volume.name} {volume.image.shape}")


def list_tasks(data: Path | None) -> None:
    """Print every task."""
    rows = [
        (
            task.name,
            task.title,
            ", ".join(task.classes[value] for value in task.scoring.classes),
            task.scoring.planes,
            str(task.iterations),
            "yes" if paths.prepared_path(task.name, data).exists() else "no",
        )
        for task in (*catalog.all_tasks(), *catalog.own_tasks(data))
    ]
    print_table(("task", "title", "scored classes", "scoring", "iterations", "prepared"), rows)

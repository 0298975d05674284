"""Verbs on data: fetch, prepare, verify, show, export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embench.core import paths
from embench.core.console import print_table
from embench.core.errors import BadInput
from embench.data import catalog, store, summary
from embench.data.readers.base import ANY_SIZE
from embench.data.task import SPLITS


def fetch(name: str, data: Path | None, insecure_hosts: Sequence[str]) -> None:
    """Download published files; say which are verified."""
    from embench.data import download

    dataset = catalog.find_dataset(name)
    for file in download.fetch(dataset, data or paths.data_folder(), insecure_hosts=insecure_hosts):
        state = "fetched" if file.fresh else "already here"
        print(f"{file.path}: {state}, sha256 {file.sha256} ({'verified' if file.verified else 'unverified'})")
    print(f"next: embench prepare {name}")


def prepare(
    task: str | None,
    source: Sequence[Path],
    data: Path | None,
    force: bool,
    *,
    allow_duplicates: bool = False,
    any_size: bool = False,
    **own: Any,
) -> None:
    """Prepare a registered task or, with a ``name`` of their own, the user's images; say what was written."""
    from embench.data import own_task

    if any_size:
        os.environ[ANY_SIZE] = "1"
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
    if "classes" not in given:
        raise BadInput(f"--name {given['name']}: --classes is missing; name the values of the masks: 0:background,1:er")
    if len(source) > 1:
        raise BadInput(f"--name {given['name']}: {len(source)} times --source; give one folder with train/ and test/")
    asked = own_task.OwnData(**given, source=source[0] if source else None, allow_duplicates=allow_duplicates)
    _tell_prepared(*own_task.prepare(asked, data, force=force))


def _tell_prepared(name: str, path: Path, fresh: bool) -> None:
    with store.Prepared(path) as prepared:
        state = "prepared" if fresh else "already prepared"
        verified = prepared.card.get("verified")
        source = "" if verified is None else ", source verified" if verified else ", source unverified"
        print(f"{name}: {state}, {path}, hash {prepared.hash[:12]}{source}")
        for line in summary.lines(prepared):
            print(f"  {line}")


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
        if value not in ("", None, {}):
            print(f"{key}: {value}")
    path = paths.prepared_path(name, data)
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

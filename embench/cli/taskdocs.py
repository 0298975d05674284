"""docs/tasks.md, written from the tasks themselves: ``python -m embench.cli.taskdocs > docs/tasks.md``."""

from __future__ import annotations

from collections.abc import Iterable

from embench.data import catalog
from embench.data.task import Dataset, Task

_HEADER = ("task", "what", "classes", "score", "iterations", "batch", "crop", "norms", "class weights", "prepared with")
_PLANES = {
    "2d": "mean IoU of 2D sections",
    "stack": "IoU of a volume predicted along z",
    "orthoplane": "IoU of a volume predicted along z, y and x",
}


def markdown() -> str:
    """Return the page: one table of all tasks, then each data set with its licence, citation and files."""
    suites = [f"- `{name}`: {', '.join(f'`{task}`' for task in members)}" for name, members in catalog.SUITES.items()]
    parts = [
        "# Tasks",
        "Generated from the task objects by `python -m embench.cli.taskdocs`; do not edit.",
        "Voxel sizes are in nanometres, ZYX. What no source states is shown as unknown.",
        "## Suites",
        "\n".join(suites),
        "## All tasks",
        table(catalog.all_tasks()),
        "## Data sets",
        *(_section(catalog.find_dataset(name)) for name in catalog.DATASETS),
    ]
    return "\n\n".join(parts) + "\n"


def table(shown: Iterable[Task]) -> str:
    """Return a Markdown table of tasks."""
    rows = [_HEADER, ("---",) * len(_HEADER), *map(_row, shown)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(task: Task) -> tuple[str, ...]:
    norms = " / ".join(f"{value:.8f}" for value in task.norms) if task.norms else "of the training split"
    weights = " ".join(f"{weight:g}" for weight in task.class_weights) if task.class_weights else "–"
    names = [f"**{name}**" if value in task.scoring.classes else name for value, name in enumerate(task.classes)]
    return (
        f"`{task.name}`",
        task.title + (" (synthetic)" if task.synthetic else ""),
        ", ".join(names),
        _score(task),
        str(task.iterations),
        str(task.batch_size),
        str(task.crop),
        norms,
        weights,
        f"`embench prepare {task.dataset}`",
    )


def _score(task: Task) -> str:
    rule = _PLANES[task.scoring.planes]
    if task.scoring.match_instances:
        rule += ", instance-matched"
    if task.scoring.ignore_unlabelled:
        rule += ", unlabelled voxels ignored"
    return rule


def _section(dataset: Dataset) -> str:
    first = dataset.specs[0]
    voxel_size = " x ".join(f"{side:g}" for side in first.voxel_size) if first.voxel_size else "unknown"
    facts = [
        f"- modality: {first.modality}",
        f"- licence: {first.licence}",
        *([] if dataset.generated else [f"- voxel size: {voxel_size}"]),
        *([f"- see: {first.homepage}"] if first.homepage else []),
    ]
    for download in dataset.downloads:
        digest = f"sha256 `{download.sha256}`" if download.sha256 else "sha256 not known"
        facts.append(f"- file: <{download.url}>, {digest}")
        facts += [f"  - in it: `{name}`, sha256 `{value}`" for name, value in download.members.items()]
    budgets = {task.name: task.budgets for task in dataset.tasks if task.budgets}
    for name, named in budgets.items():
        listed = ", ".join(f"{label} {iterations}" for label, iterations in named.items())
        facts.append(f"- budgets named for `{name}`: {listed} iterations")
    citation = f"\n\n```bibtex\n{first.citation}\n```" if first.citation else ""
    return f"### `{dataset.name}`\n\n" + "\n".join(facts) + citation


if __name__ == "__main__":
    print(markdown(), end="")

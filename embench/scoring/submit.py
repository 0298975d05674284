"""Bringing result files into a git-tracked folder of results, for a pull request to a leaderboard.

Files are read as data: nothing in them is imported or run. Everything is checked before anything is copied.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from embench.core import confined
from embench.core.errors import BadInput
from embench.core.files import write_atomic
from embench.core.git import git
from embench.core.names import check_name, is_name
from embench.core.plugins import registered_under
from embench.data.catalog import find_task, is_registered
from embench.scoring import predictions, results, test_sets
from embench.scoring.results import RECIPE, result_files, result_path
from embench.scoring.schema import ONE_RESULT, TrialResult, digest_of, predictions_digest
from embench.training.recipe import published_recipe


@dataclass(frozen=True)
class Submitted:
    """One result file that passed every check.

    Parameters
    ----------
    source : Path
    below : Path
        The folder in which it was found: no link from there on leads to it.
    result : TrialResult
    place : Path
        Where it belongs, relative to the folder of results.
    rewritten : bytes or None
        What is stored, where that is not the file itself: with who submitted it.
    """

    source: Path
    below: Path
    result: TrialResult
    place: Path
    rewritten: bytes | None = None

    def content(self, source: Path) -> bytes:
        """Return what is stored of one of its files."""
        if source == self.source and self.rewritten is not None:
            return self.rewritten
        return confined.read(source, self.below, results.MAX_BYTES, "a result or a section")

    def files(self) -> list[tuple[Path, Path]]:
        """Return (source, place) of its predicted sections and, last, of the result itself."""
        sections = [(self.source.parent / name, self.place.parent / name) for name in self.result.sections]
        return [*sections, (self.source, self.place)]


def submit(given: Sequence[Path], folder: Path, submitter: str | None = None) -> list[Submitted]:
    """Check results and copy them, with their predicted sections, to where they belong in ``folder``.

    Parameters
    ----------
    given : sequence of Path
        Result files, or folders of them.
    folder : Path
        The git-tracked folder of results that a leaderboard is built from.
    submitter : str, optional
        Who owns the results there: a login of the place where the repository is.

    Returns
    -------
    list of Submitted
        In order of place; those that were there already are among them.

    Raises
    ------
    BadInput
        Whatever :func:`check` finds, or a folder that git does not track; nothing is copied then.
    """
    checked = check(given, folder, submitter)
    _check_tracked(folder, [place for each in checked for _, place in each.files()])
    for each in checked:
        for source, place in each.files():
            if confined.status(folder / place, folder) is None:
                write_atomic(folder / place, each.content(source), below=folder)
    return checked


def check(given: Sequence[Path], folder: Path, submitter: str | None = None) -> list[Submitted]:
    """Return the results that may stand in ``folder``; write nothing.

    A result must be readable under the schema with scores that its counts bear out
    (:func:`embench.scoring.results.load`), be of a registered task under that task's classes, scoring rule and data,
    be named after its seed, have its predicted sections beside it, and be the only one of its trial. One that lies in
    ``folder`` must be in its place.

    Raises
    ------
    BadInput
        One line per fault, over all files.
    """
    faults: list[str] = []
    found: dict[Path, Submitted] = {}
    registry = test_sets.load(folder)
    paths, unread = _paths(given)
    faults += unread
    for path, below in paths:
        try:
            each = _owned(_checked(path, below), submitter)
        except BadInput as error:
            faults += error.lines
            continue
        if each.place in found:
            faults.append(f"{path}: the same trial as {found[each.place].source}; give one of them")
            continue
        found[each.place] = each
        faults += _faults_in(folder, each) + _section_faults(each)
        if fault := test_sets.fault(each.result, registry):
            faults.append(f"{each.source}: {fault}")
    faults += _repeated(folder, list(found.values()))
    if faults:
        raise BadInput(faults)
    return [found[place] for place in sorted(found)]


def _repeated(folder: Path, checked: Sequence[Submitted]) -> list[str]:
    """Return a line per result whose label maps another seed of the same model has already: one result, not two."""
    faults: list[str] = []
    first: dict[tuple[str, str, str], tuple[int, Path]] = {}
    known = set()
    for each in sorted(checked, key=lambda each: each.result.seed):
        near = folder / each.place.parent
        stored = _stored(folder, near) if near not in known else []
        known.add(near)
        for path, result in (*stored, (each.source, each.result)):
            if (digest := predictions_digest(result)) is None:
                continue
            seed, other = first.setdefault((result.task, result.row, digest), (result.seed, path))
            if seed != result.seed and path == each.source:
                faults.append(f"{path}: seed {result.seed} has the label maps of seed {seed} ({other}); {ONE_RESULT}")
    return faults


def _stored(folder: Path, near: Path) -> list[tuple[Path, TrialResult]]:
    """Return the readable results in one folder of results; others are named when a board is built."""
    found = []
    with suppress(OSError):  # nothing is there
        for name in fnmatch.filter(confined.names(near, folder), "seed-*.json"):
            with suppress(BadInput):
                found.append((near / name, results.load(near / name, folder)))
    return found


def place_of(result: TrialResult) -> Path:
    """Return where a result belongs, relative to a folder of results: as ``embench run`` and ``score`` write it."""
    owner = f"~{result.submitter}" if result.submitter else ""
    if result.status == "submitted":
        path = result_path(Path(), result.model.name, result.fingerprint, result.seed)
        return path.parent.with_name(path.parent.name + owner) / path.name
    recipe = _recipe_of(result)
    facts: dict[str, Any] = {
        "recipe": recipe,
        "fingerprint": result.fingerprint.model_dump(mode="json"),
        "weights": result.model.weights_hash,
        "transfer": (result.weights or {}).get("transfer"),
    }
    if source := result.environment.get("source"):
        facts["source"] = source
    variant = f"{check_name(str(recipe.get('name')), 'recipe')}-{digest_of(facts)}"
    return Path(result.task) / result.model.name / f"{variant}{owner}" / f"seed-{result.seed}.json"


def _recipe_of(result: TrialResult) -> dict[str, Any]:
    """Return the recipe after which a result's folder is called: the one planned, where the model has none."""
    name = result.recipe.get("name")
    if "loss" in result.recipe or not isinstance(name, str):
        return result.recipe
    planned = published_recipe(_PLANNED if name == "none" else name)
    if planned is None:
        return result.recipe
    facts: dict[str, Any] = json.loads(json.dumps(planned.for_task(find_task(result.task)).facts()))
    return facts


_PLANNED = "retina"
"""What :func:`embench.runs.request.pairing` plans for a model that the harness does not train."""


def advice(checked: Sequence[Submitted], folder: Path) -> str:
    """Return the git commands that make a commit of what was submitted."""
    folders = dict.fromkeys(str(folder / each.place.parent) for each in checked)
    rows = ", ".join(dict.fromkeys(each.result.row for each in checked))
    tasks = ", ".join(dict.fromkeys(each.result.task for each in checked))
    return f"git add -- {shlex.join(folders)}\ngit commit -m {shlex.quote(f'results: {rows} on {tasks}')}"


def _paths(given: Sequence[Path]) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Return the result files given, each with the folder it was found in, and what could not be looked at.

    A folder without any is a fault, as a file that is not there is.
    """
    paths: list[tuple[Path, Path]] = []
    faults: list[str] = []
    for each in given:
        if not each.is_dir():
            if not os.path.lexists(each):
                raise BadInput(f"{each}: no such file or folder; give result files (seed-N.json) or a folder of them")
            paths.append((each, each.parent))
            continue
        found = result_files(each)
        if not found.files and not found.faults:
            raise BadInput(f"{each}: no result files (seed-N.json) in it")
        paths += [(path, each) for path in found.files]
        faults += found.faults
    return paths, faults


def _checked(path: Path, below: Path) -> Submitted:
    """Return one result with its place; raise with every fault that it has by itself."""
    result = results.load(path, below)
    faults = []
    if path.name != f"seed-{result.seed}.json":
        faults.append(f"{path}: holds seed {result.seed}; call it seed-{result.seed}.json")
    name = result.recipe.get("name")
    if not isinstance(name, str) or (result.status == "submitted") != (name == RECIPE["name"]):
        faults.append(f"{path}: recipe {str(name)[:60]!r} with status {result.status}; submit what embench wrote")
    elif not is_name(name):
        faults.append(f"{path}: recipe {name[:60]!r}: not a name ([a-z0-9._-], at most 80)")
    if result.status == "submitted" and result.model.name in registered_under("embench.models"):
        faults.append(f"{path}: predictions under the name of the registered model {result.model.name}; name their own")
    if not is_registered(result.task):
        faults.append(f"{path}: task {result.task}: not one of embench list tasks; results of own data stay at home")
    else:
        faults += [f"{path}: {fault}" for fault in _task_faults(result)]
    if faults:
        raise BadInput(faults)
    return Submitted(path, below, result, place_of(result))


def _owned(each: Submitted, submitter: str | None) -> Submitted:
    """Return a result as who submits it owns it; raise for one that another owns."""
    owner = each.result.submitter
    if submitter is None or owner == submitter.lower():
        return each
    if owner is not None:
        raise BadInput(f"{each.source}: submitted by {owner}, not by {submitter}; submit results of your own")
    try:
        result = TrialResult.model_validate_json(
            json.dumps({**each.result.model_dump(mode="json", exclude_unset=True), "submitter": submitter.lower()})
        )
    except ValidationError:
        raise BadInput(f"--submitter {submitter[:60]!r}: not a login (letters, digits and -, at most 39)") from None
    return replace(each, result=result, place=place_of(result), rewritten=results.content_for(result))


def _task_faults(result: TrialResult) -> list[str]:
    """Return in what a result contradicts the task that it names."""
    task = find_task(result.task)
    mark = result.fingerprint
    facts = {
        "task": (mark.task, task.name),
        "classes": (mark.classes, task.classes),
        "class names": (result.class_names, task.classes),
        "scoring": (digest_of(mark.scoring), digest_of(asdict(task.scoring))),
        "synthetic": (result.synthetic, task.synthetic),
    }
    if result.status != "submitted":
        facts["iterations asked"] = (result.iterations_asked, mark.iterations)
    if result.track == "published" or (result.status == "submitted" and not result.iterations_done):
        facts["iterations of the published budget"] = (mark.iterations, task.iterations)
    if result.status == "submitted" and result.iterations_done:
        facts["iterations"] = (mark.iterations, result.iterations_done)
    return [
        f"{what}: {_brief(found)}, the task has {_brief(expected)}; only results under the task as published may stand"
        for what, (found, expected) in facts.items()
        if found != expected
    ]


def _faults_in(folder: Path, each: Submitted) -> list[str]:
    """Return why a result may not be copied into a folder: another file of its trial, or itself in a wrong place."""
    target = folder / each.place
    if each.source.resolve().is_relative_to(folder.resolve()):
        if each.source.resolve() != target.resolve():
            return [f"{each.source}: not where it belongs; move it to {target}"]
        return []
    try:
        return [
            f"{folder / place}: already holds something else than {source}; a stored result is never replaced"
            for source, place in each.files()
            if confined.status(folder / place, folder) is not None
            and confined.read(folder / place, folder, results.MAX_BYTES, "a result") != each.content(source)
        ]
    except FileNotFoundError as error:  # a section, which has a line of its own
        return [f"{error.filename}: no such file"]
    except BadInput as error:
        return error.lines


def _section_faults(each: Submitted) -> list[str]:
    faults = []
    for name in each.result.sections:
        try:
            predictions.section_place(name, each.source)
            predictions.read_section(each.source.parent / name, each.below)
        except BadInput as error:
            faults += error.lines
    return faults


def _check_tracked(folder: Path, places: Sequence[Path]) -> None:
    """Raise unless git tracks ``folder`` and would take the files."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    if git(existing, ["rev-parse", "--is-inside-work-tree"]).returncode:
        raise BadInput(f"{folder}: not in a git checkout; give the results folder of a clone of the leaderboard")
    asked = "\0".join(str(folder.absolute() / place) for place in places)
    done = git(existing, ["check-ignore", "--stdin", "-z"], given=os.fsencode(asked))
    ignored = os.fsdecode(done.stdout).split("\0")
    if faults := [f"{path}: git ignores it; change .gitignore or give another folder" for path in ignored if path]:
        raise BadInput(faults)


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

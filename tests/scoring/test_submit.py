"""Results for a pull request: what is refused, why, and that nothing is written then."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import made_results as made
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from embench.cli.app import app
from embench.core.errors import BadInput
from embench.data.catalog import find_task
from embench.scoring import submit, test_sets
from embench.scoring.results import load, result_files, save

TASK = find_task("vnc-mito")
COMMITTED = Path(__file__).parents[2] / "results"

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="needs git")


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """Return the results folder of an empty checkout."""
    subprocess.run(["git", "init", "-q", str(tmp_path / "board")], check=True)
    return tmp_path / "board" / "results"


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Return a result file with one predicted section, as a run would leave it."""
    name = "seed-0.sections/stack1-z3.png"
    path = tmp_path / "mine" / "seed-0.json"
    save(made.result("retina", TASK, 0, texts={"sections": (name,)}), path)
    (path.parent / name).parent.mkdir()
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(path.parent / name)
    return path


def change(path: Path, **changes: object) -> Path:
    """Replace fields of a stored result."""
    return made.forged(load(path), path, **changes)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_result_goes_with_its_sections_to_where_a_run_would_have_written_it(given: Path, board: Path) -> None:
    (placed,) = submit.submit([given], board)
    assert load(board / placed.place) == load(given)
    assert (board / placed.place).parent.parent.name == "retina"
    assert [path.name for path in board.rglob("*.png")] == ["stack1-z3.png"]
    before = everything(board)
    submit.submit([given.parent], board)
    assert everything(board) == before


def test_the_place_of_a_result_is_the_one_that_runs_use() -> None:
    for path in result_files(COMMITTED).files:
        assert COMMITTED / submit.place_of(load(path)) == path


def test_the_results_of_this_repository_may_stand_where_they_are() -> None:
    checked = submit.check([COMMITTED], COMMITTED)
    assert len(checked) == len(result_files(COMMITTED).files)


def _not_json(path: Path) -> Path:
    path.write_text("{")
    return path


def _renamed(path: Path) -> Path:
    return path.rename(path.with_name("seed-7.json"))


def _own_task(path: Path) -> Path:
    save(made.result("retina", made.task("my-own-images"), 0), path)
    return path


def _better_score(path: Path) -> Path:
    result = load(path)
    return change(path, snapshots=[{**each.model_dump(), "score": 0.99} for each in result.snapshots])


def _edited(path: Path) -> Path:
    path.write_text(path.read_text().replace('"score": 0.', '"score": 0.9'))
    return path


def _other_scoring(path: Path) -> Path:
    mark = load(path).fingerprint
    return change(path, fingerprint={**mark.model_dump(), "scoring": {**mark.scoring, "match_instances": True}})


def _without_section(path: Path) -> Path:
    shutil.rmtree(path.with_suffix(".sections"))
    return path


def _escaping_section(path: Path) -> Path:
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "sections": ["../../seed-0.sections/x-z0.png"]}))
    return path


def _section_that_is_code(path: Path) -> Path:
    (path.parent / "seed-0.sections" / "stack1-z3.png").write_text("import os")
    return path


FAULTY: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no JSON": (_not_json, "not a result of schema"),
    "a name that is not its seed's": (_renamed, "call it seed-0.json"),
    "a task of one's own": (_own_task, "task my-own-images"),
    "a score that its counts contradict": (_better_score, "its counts give"),
    "a score that was edited": (_edited, "changed since it was written"),
    "other classes": (
        lambda path: change(
            path,
            class_names=("background", "nucleus"),
            fingerprint={**load(path).fingerprint.model_dump(), "classes": ("background", "nucleus")},
        ),
        "class names",
    ),
    "another scoring rule": (_other_scoring, "scoring"),
    "real data called synthetic": (lambda path: change(path, synthetic=True), "synthetic: True"),
    "a budget that is not the published track's": (lambda path: change(path, iterations_asked=10), "of 10 iterations"),
    "a recipe that would be a path": (
        lambda path: change(path, recipe={**load(path).recipe, "name": "../../x"}),
        "not a name",
    ),
    "no section": (_without_section, "not a label map"),
    "a section elsewhere": (_escaping_section, "sections.0"),
    "a section that is no picture": (_section_that_is_code, "not a label map"),
    "nothing": (lambda path: path.parent / "absent.json", "no such file"),
    "an empty folder": (lambda path: path.parent / "seed-0.sections", "no result files"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_fault_is_named_in_one_line_and_nothing_is_written(fault: str, given: Path, board: Path) -> None:
    break_it, said = FAULTY[fault]
    done = CliRunner().invoke(app, ["submit", str(break_it(given)), "--results", str(board)])
    assert isinstance(done.exception, BadInput)
    assert any(said in line for line in done.exception.lines), done.exception.lines
    assert all("\n" not in line for line in done.exception.lines)
    assert not board.exists()


def test_every_fault_of_every_file_is_named_at_once(given: Path, board: Path) -> None:
    other = given.parent.parent / "other" / "seed-1.json"
    save(made.result("transunet", TASK, 1), other)
    stamp = {**load(other).fingerprint.model_dump(), "classes": ("a", "b")}
    change(other, class_names=("a", "b"), fingerprint=stamp, synthetic=True)
    _without_section(given)
    with pytest.raises(BadInput) as raised:
        submit.submit([given, other], board)
    assert len(raised.value.lines) == 4
    assert not board.exists()


def test_the_same_trial_twice_is_refused_and_a_stored_one_is_never_replaced(given: Path, board: Path) -> None:
    copy = shutil.copytree(given.parent, given.parent.parent / "copy") / "seed-0.json"
    with pytest.raises(BadInput, match="the same trial as"):
        submit.submit([given, copy], board)
    submit.submit([given], board)
    before = everything(board)
    change(copy, message="again")
    with pytest.raises(BadInput, match="never replaced"):
        submit.submit([copy], board)
    assert everything(board) == before


def test_scores_on_other_data_than_the_registered_are_refused(given: Path, board: Path) -> None:
    """And first scores on other data, where nothing is registered, stand in no honest one's way."""
    forged = given.parent / "seed-1.json"
    save(made.result("retina", TASK, 1, data_hash="0" * 64), forged)
    submit.submit([forged], board)
    submit.submit([given], board)
    true = load(given)
    known = {TASK.name: [{"data_hash": true.fingerprint.data_hash, "images": test_sets.truth_of(true)}]}
    (board / test_sets.FILE).write_text(json.dumps(known))
    other = given.parent / "seed-2.json"
    save(made.result("retina", TASK, 2, data_hash="0" * 64), other)
    with pytest.raises(BadInput, match="data hash 000000000000"):
        submit.submit([other], board)
    submit.check([given], board)


def test_a_result_in_a_wrong_place_of_the_folder_is_refused(given: Path, board: Path) -> None:
    (placed,) = submit.submit([given], board)
    moved = board / "elsewhere" / "seed-0.json"
    moved.parent.mkdir()
    (board / placed.place).rename(moved)
    with pytest.raises(BadInput, match="not where it belongs"):
        submit.check([board], board)


def test_a_folder_that_git_does_not_track_is_refused(given: Path, board: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not in a git checkout"):
        submit.submit([given], tmp_path / "plain" / "results")
    (board.parent / ".gitignore").write_text("results/\n")
    with pytest.raises(BadInput, match="git ignores it"):
        submit.submit([given], board)
    assert not board.exists()


def test_the_printed_commands_commit_exactly_what_was_submitted(given: Path, board: Path) -> None:
    done = CliRunner().invoke(app, ["submit", str(given), "--results", str(board)])
    assert done.exit_code == 0, done.output
    add, commit = done.output.splitlines()[-2:]
    assert commit == "git commit -m 'results: retina on vnc-mito'"
    subprocess.run(add, shell=True, check=True, cwd=board.parent)
    listed = subprocess.check_output(["git", "diff", "--cached", "--name-only"], cwd=board.parent, text=True)
    assert len(listed.split()) == 2


def test_submitted_predictions_stand_beside_trials(given: Path, board: Path) -> None:
    result = made.result("nnunet", TASK, 0, status="submitted", iterations=TASK.iterations, track="open")
    path = given.parent / "other" / "seed-0.json"
    save(result.model_copy(update={"recipe": {"name": "submitted"}, "iterations_asked": 0}), path)
    (placed,) = submit.submit([path], board)
    assert placed.place.parts[:2] == ("vnc-mito", "nnunet")
    assert placed.place.parts[2].startswith("submitted-")


def test_scoring_is_compared_as_a_task_states_it() -> None:
    assert made.result("retina", TASK).fingerprint.scoring.keys() == asdict(TASK.scoring).keys()

"""A wrong command ends in a line that fits what is wrong, and a vague one asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embench.cli import data as data_verbs
from embench.core.errors import BadInput
from embench.data import catalog, download, store
from embench.data.task import Item, Scoring, Task, UnlabelledSet
from embench.models.checkpoints import load_card
from embench.models.registry import find_model
from embench.runs.options import RunRequest
from embench.runs.request import choose_tasks
from leaderboard import cli as leaderboard


def prepared(folder: Path, name: str = "mine", **card: object) -> Path:
    grey = np.random.default_rng(0).integers(0, 255, (2, 20, 24), np.uint8)
    task = Task(name, "M", "own", ("background", "mito", "er"), Scoring("2d", (1, 2)), 100)
    items = [Item(split, "a", grey[n : n + 1], grey[n : n + 1] % 2) for n, split in enumerate(("train", "test"))]
    store.write(folder / f"{name}.h5", task, items, dict(card))  # type: ignore[arg-type]
    return folder / f"{name}.h5"


def test_run_without_a_task_asks_which_where_something_is_prepared(tmp_path: Path) -> None:
    assert all(task.synthetic for task in choose_tasks(RunRequest(models=["transunet"]), tmp_path))
    prepared(tmp_path)
    with pytest.raises(BadInput, match="--task: say which; prepared here: mine "):
        choose_tasks(RunRequest(models=["transunet"]), tmp_path)
    assert [task.name for task in choose_tasks(RunRequest(models=["x"], tasks=["mine"]), tmp_path)] == ["mine"]


@pytest.mark.parametrize(
    ("name", "says"),
    [("vnc", "vnc-mito, vnc-synapse"), ("retina", "a model, not a task"), ("nothing", "unknown task")],
)
def test_show_says_what_a_name_is(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=says):
        data_verbs.show(name, tmp_path)


def test_verify_takes_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match=r"none of vnc-mito, .* is prepared here; run: embench prepare vnc"):
        data_verbs.verify("vnc", tmp_path)
    spec = UnlabelledSet("vnc-unlabelled", "V", "vnc")
    item = Item("train", "a", np.random.default_rng(0).integers(0, 255, (1, 20, 24), np.uint8))
    store.write(tmp_path / "vnc-unlabelled.h5", spec, [item])
    data_verbs.verify("vnc", tmp_path)
    assert "vnc-unlabelled: hash" in capsys.readouterr().out


def test_generated_data_are_not_to_be_fetched_by_hand(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="generated here when it is first used"):
        download.fetch(catalog.find_dataset("mini"), tmp_path)


def test_a_source_that_is_not_there_is_said_to_be_so_though_all_is_prepared(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--source .*nowhere: no such file or folder"):
        catalog.prepare("mini-cremi", tmp_path / "nowhere", tmp_path)


def test_a_checkpoint_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nothere\.pt: no such checkpoint"):
        load_card(tmp_path / "nothere.pt")


def test_a_model_file_without_a_class_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "mymodel.py").write_text("")
    with pytest.raises(BadInput, match=r"say which class.*mymodel\.py:MyModel"):
        find_model(str(tmp_path / "mymodel.py"))


def test_the_site_never_goes_into_the_results(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="give another folder for the site"):
        leaderboard.build([tmp_path], tmp_path)


def test_show_prints_no_thousand_entries_and_no_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(tmp_path, files={f"image{n}": [n, n] for n in range(3000)})
    data_verbs.show("mine", tmp_path)
    shown = capsys.readouterr().out
    assert "files: 3000 entries" in shown
    assert "warning: no mask holds er (class 2)" in shown
    assert len(shown.splitlines()) < 60

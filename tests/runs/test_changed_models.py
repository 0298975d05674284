"""A changed model file is another model: its trials are others, and the old ones stay visible."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from embench.core.errors import BadInput
from embench.core.files import sha256
from embench.data import store
from embench.data.task import Item, Scoring, Task
from embench.runs.options import RunRequest
from embench.runs.request import trials as planned
from embench.runs.trial import run
from embench.scoring import results, submit
from leaderboard import trials

TASK = Task("mine", "M", "own", ("background", "mito"), Scoring("2d"), 1)
CODE = """import numpy as np
from embench.models.base import SegmentationModel

class Half(SegmentationModel):
    def predict(self, image_YX, task):
        return (image_YX[None] < LIMIT).astype(np.float32)
"""


@pytest.fixture
def request_(tmp_path: Path) -> RunRequest:
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 255, (2, 20, 24), np.uint8)
    items = [
        Item(split, "a", stack[n : n + 1], (stack[n : n + 1] < 99).astype(np.uint8))
        for n, split in enumerate(("train", "test"))
    ]
    store.write(tmp_path / "mine.h5", TASK, items)  # type: ignore[arg-type]
    return RunRequest([f"{tmp_path / 'half.py'}:Half"], ["mine"], seeds=1, results=tmp_path / "r", data=tmp_path)


def write(tmp_path: Path, limit: int) -> None:
    (tmp_path / "half.py").write_text(CODE.replace("LIMIT", str(limit)))


def test_an_edit_is_a_new_trial_and_both_are_shown(request_: RunRequest, tmp_path: Path) -> None:
    scores, paths = [], []
    for limit in (99, 200):
        write(tmp_path, limit)
        (spec,) = planned(request_)
        done = run(spec)
        assert done is not None
        scores.append(done.score)
        paths.append(spec.path)
    assert paths[0] != paths[1]
    assert scores[0] == 1 != scores[1]
    found, refused = trials.read([tmp_path / "r"])
    assert not refused
    assert len({trial.row for trial in found}) == 2
    assert sorted(trial.row.partition("#code=")[0] for trial in found) == ["half", "half"]  # the first keeps its name


def test_the_result_says_which_file_it_was_and_the_command_names_it(
    request_: RunRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBENCH_DATA", str(tmp_path))
    write(tmp_path, 99)
    (spec,) = planned(request_)
    result = run(spec)
    assert result is not None
    assert result.environment["source"] == sha256(tmp_path / "half.py")
    command = trials.command([trials.trial_of(result, spec.path)])
    assert shlex.split(command)[:4] == ["embench", "run", "--model", "half.py:Half"]
    assert command.endswith(f"# with the file of SHA-256 {sha256(tmp_path / 'half.py')}")
    assert str(tmp_path) not in command
    assert tmp_path / "r" / submit.place_of(results.load(spec.path)) == spec.path


def test_a_model_that_is_not_trained_here_has_no_recipe(request_: RunRequest, tmp_path: Path) -> None:
    write(tmp_path, 99)
    (spec,) = planned(request_)
    result = run(spec)
    assert result is not None
    assert result.recipe == {"name": "none"}
    assert trials.trial_of(result, spec.path).row == "half"


def test_a_file_that_changed_since_the_plan_is_not_run(request_: RunRequest, tmp_path: Path) -> None:
    write(tmp_path, 99)
    (spec,) = planned(request_)
    write(tmp_path, 98)
    with pytest.raises(BadInput, match="changed since the run was planned"):
        run(spec)
    assert not spec.path.exists()

"""Somebody else's tool as a model: its environment, its commands, its faults."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import pytest
import toy

from embench.core import signals
from embench.core.errors import BadInput, Interrupted
from embench.models.external import PLACEHOLDERS, read
from embench.models.registry import find_model
from embench.runs import plan as plans
from embench.runs import status, worker
from embench.runs.external import log_path, work_folder
from embench.runs.trial import run
from embench.scoring.schema import TrialResult

PROGRAM = """
import os, sys, time
from pathlib import Path
import numpy as np
from PIL import Image

what, data, predictions, seed, iterations = sys.argv[1:6]
print(what, "with seed", seed, "for", iterations, flush=True)
if what == "train":
    assert not list(Path(data).glob("test/masks"))
    assert "EMBENCH_DATA" not in os.environ
    levels = [np.asarray(Image.open(path))[np.asarray(Image.open(str(path).replace("images", "masks"))) > 0].mean()
              for path in sorted(Path(data).glob("train/images/*.png"))]
    Path("level").write_text(str(np.mean(levels) - 35))
elif what == "predict":
    for path in sorted(Path(data).glob("test/images/*.png")):
        found = (np.asarray(Image.open(path).convert("L")) > float(Path("level").read_text())).astype(np.uint8)
        Image.fromarray(found).save(Path(predictions) / path.name)
elif what == "fail":
    sys.exit("no such luck")
elif what == "small":
    for path in sorted(Path(data).glob("test/images/*.png")):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(Path(predictions) / path.name)
elif what == "hang":
    os.spawnvp(os.P_NOWAIT, "sleep", ["sleep", "600"])
    time.sleep(600)
"""
TOOL = """
name = "threshold"
title = "A threshold"
budget = "one look at every training image"
train = [["{{python}}", "{{tool}}/tool.py", "{train}", "{{data}}", "{{predictions}}", "{{seed}}", "{{iterations}}"]]
predict = [["{program}", "{{tool}}/tool.py", "{predict}", "{{data}}", "{{predictions}}", "{{seed}}", "{{iterations}}"]]
{more}
[environment]
inherit = true
[limits]
hours = {hours}
"""


def tool(folder: Path, train: str = "train", predict: str = "predict", program: str = "python", **more: object) -> str:
    settings = {"hours": 1, "more": ""} | more
    (folder / "tool.py").write_text(PROGRAM)
    (folder / "tool.toml").write_text(TOOL.format(train=train, predict=predict, program=program, **settings))
    return f"external:{folder / 'tool.toml'}"


def test_a_tool_trains_and_predicts_in_its_own_environment_and_is_scored(toy_data, tmp_path):
    trial = toy.planned(toy_data, tmp_path / "results", tool(tmp_path), first_seed=3)
    result = run(trial)
    assert result is not None
    assert (result.status, result.track, result.row) == ("done", "open", "threshold")
    assert result.score > 0.8
    assert result.message == "budget, as the tool states it: one look at every training image"
    assert result.recipe["budget"] == "one look at every training image"
    assert result.peak_memory_bytes > 10_000_000
    assert result.seconds_training > 0
    facts = result.environment["external"]
    assert facts["versions"]["numpy"]
    assert facts["sha256"] == find_model(trial.model).source_hash
    assert "{work}/data 3 8" in facts["commands"][0].replace("{work}/predictions ", "")
    assert "train with seed 3 for 8" in log_path(trial).read_text()
    assert not work_folder(trial).exists()
    own = next((toy_data / "tools").glob("threshold-*/bin/python"))
    assert own.exists()
    assert str(own) in log_path(trial).read_text()


FAULTS = {
    "ends with an error": ({"train": "fail"}, "python ended with status 1: no such luck"),
    "writes nothing": ({"predict": "nothing"}, "no label map for test-z0000"),
    "writes another size": ({"predict": "small"}, r"shape \(1, 9, 9\)"),
    "hangs": ({"train": "hang", "hours": 0.0006}, "not done after the 0.0006 hours of its limits"),
    "needs a missing program": ({"program": "no-such-program"}, "needs the program no-such-program"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tool_that_goes_wrong_is_one_line_with_its_log_and_stays_visible(fault, toy_data, tmp_path):
    settings, said = FAULTS[fault]
    trial = toy.planned(toy_data, tmp_path / "results", tool(tmp_path, **settings))
    plans.write([trial])
    outcome = worker.attempt(trial)
    assert isinstance(outcome, worker.Failure)
    assert outcome.kind == "bad-input"
    assert "\n" not in outcome.message
    assert re.search(said, outcome.message)
    assert f"log: {log_path(trial)}" in outcome.message
    assert log_path(trial).exists()
    (standing,) = status.standings(tmp_path / "results")
    assert (standing.state, standing.note) == ("failed", outcome.message)
    with pytest.raises(BadInput, match="code that the plan names"):
        status.to_retry([standing], [], diverged=False)
    assert status.to_retry([standing], [trial.model], diverged=False) == [standing.trial]


def test_a_stopped_tool_goes_on_with_the_command_that_it_was_in(toy_data, tmp_path):
    trial = toy.planned(toy_data, tmp_path / "results", tool(tmp_path))
    (tmp_path / "tool.py").write_text(PROGRAM.replace('elif what == "predict":', 'elif what == "predict":\n    hang\n'))
    with pytest.raises(BadInput, match="NameError"):
        run(trial)
    (tmp_path / "tool.py").write_text(PROGRAM)
    assert run(trial).score > 0.8
    log = log_path(trial).read_text()
    assert log.count("train with seed") == 1
    assert log.count("predict with seed") == 2


def test_a_signal_ends_the_tool_and_whatever_it_started(toy_data, tmp_path, monkeypatch):
    trial = toy.planned(toy_data, tmp_path / "results", tool(tmp_path, train="hang"))

    def stop_when_running(self: signals.Interrupt) -> None:
        if log_path(trial).exists() and "hang with seed" in log_path(trial).read_text():
            raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(signals.Interrupt, "check", stop_when_running)
    with pytest.raises(Interrupted):
        run(trial)
    alive = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _cwd(path) == work_folder(trial)]
    assert alive == []


def _cwd(path: Path) -> Path | None:
    try:
        return (path.parent / "cwd").readlink()
    except OSError:
        return None


def test_another_description_is_another_model(toy_data, tmp_path):
    first = toy.planned(toy_data, tmp_path / "results", tool(tmp_path))
    second = toy.planned(toy_data, tmp_path / "results", tool(tmp_path, hours=2))
    assert first.path != second.path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("predict = [[", "predcit = [["), "unknown key 'predcit': did you mean predict"),
        (('budget = "one', 'bugdet = "one'), "budget: Field required"),
        (("hours = 1", "hours = -1"), "limits.hours: Input should be greater than 0"),
        (("{seed}", "{sed}"), "unknown placeholder of .*: did you mean seed"),
        (('name = "threshold"', 'name = "../up"'), "use lower-case letters"),
        (('title = "A', 'place = "../out"\ntitle = "A'), "give a folder below the trial's own"),
        (('title = "A', "title = A"), "not TOML"),
        (("inherit = true", "inherits = true"), "did you mean inherit"),
    ],
)
def test_a_description_that_is_none_is_refused_with_the_place(change, said, tmp_path):
    tool(tmp_path)
    path = tmp_path / "tool.toml"
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(BadInput, match=said) as refused:
        read(path)
    assert all(str(path) in line for line in refused.value.lines)


@pytest.mark.slow
def test_an_environment_that_cannot_be_made_says_what_pip_says(toy_data, tmp_path):
    spec = tool(tmp_path)
    path = tmp_path / "tool.toml"
    path.write_text(path.read_text().replace("inherit = true", 'requirements = ["./no-such-package.whl"]'))
    trial = toy.planned(toy_data, tmp_path / "results", spec)
    with pytest.raises(BadInput, match=r"threshold: its environment cannot be made .*no-such-package.*; log: .*\.log"):
        run(trial)


def test_the_described_tools_can_be_read_and_a_wrong_name_has_near_ones():
    from baselines.external import TOOLS

    assert {path.stem for path in TOOLS.glob("*.toml")} >= {"nnunet"}
    for path in TOOLS.glob("*.toml"):
        model = find_model(f"external:{path.stem}")
        assert model.group == "tool"
        assert model.tool.budget
    with pytest.raises(BadInput, match="did you mean nnunet"):
        find_model("external:nnunett")
    with pytest.raises(BadInput, match="no such file"):
        find_model("external:none.toml")


def test_every_placeholder_is_filled_in(toy_data, tmp_path):
    spec = tool(tmp_path)
    path = tmp_path / "tool.toml"
    words = ", ".join(f'"{name}={{{name}}}"' for name in PLACEHOLDERS)
    path.write_text(path.read_text().replace("predict = [", f'predict = [["echo", {words}], '))
    trial = toy.planned(toy_data, tmp_path / "results", spec)
    assert isinstance(run(trial), TrialResult)
    (line,) = [line for line in log_path(trial).read_text().splitlines() if line.startswith("work=")]
    assert "{" not in line
    assert f"classes={len(toy.TOY.classes)}" in line
    assert json.dumps(sys.prefix) not in line

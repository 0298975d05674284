"""Plans, progress and failures: plain files beside the results, read back as they were written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import planned

from embench.core import locks
from embench.core.errors import BadInput, TryAgain
from embench.runs import plan, status, worker
from embench.runs.executors import follow
from embench.runs.plan import TrialSpec
from embench.runs.worker import Failure, Progress
from embench.scoring import results, schema


def test_a_plan_is_read_back_as_it_was_written_and_is_one_file_however_often(toy_data: Path, tmp_path: Path) -> None:
    trials = [planned(toy_data, tmp_path, "transunet", first_seed=seed) for seed in (0, 1)]
    assert plan.write(trials) == plan.write(list(reversed(trials)))
    assert plan.load_all(tmp_path) == trials
    assert not results.result_files(tmp_path).files


def test_trials_of_a_moved_folder_write_where_the_plan_now_stands(toy_data: Path, tmp_path: Path) -> None:
    plan.write([planned(toy_data, tmp_path / "before")])
    (tmp_path / "before").rename(tmp_path / "after")
    (trial,) = plan.load_all(tmp_path / "after")
    assert trial.path.is_relative_to(tmp_path / "after")


@pytest.mark.parametrize("field", ["task", "pairing", "key/task", "key/model", "key/recipe/name"])
def test_a_name_in_a_plan_never_forms_a_path(field: str, toy_data: Path, tmp_path: Path) -> None:
    path = plan.write([planned(toy_data, tmp_path)])
    facts = json.loads(path.read_text())
    *parents, last = field.split("/")
    place = facts[0]
    for parent in parents:
        place = place[parent]
    place[last] = "../../elsewhere"
    path.write_text(json.dumps(facts))
    with pytest.raises(BadInput, match=r"'\.\./\.\./elsewhere'(: use| is not a name)"):
        plan.load_all(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "\x00", '[{"model": "x"}]', "[" * 100_000])
def test_what_is_no_plan_is_named_and_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / ".plans" / "a.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(BadInput, match=r"a\.json: not a plan"):
        plan.load_all(tmp_path)


def test_a_model_file_is_found_from_any_folder(toy_data: Path, tmp_path: Path) -> None:
    here = replace(planned(toy_data, tmp_path), model="models/mine.py:Mine", results_folder=Path("r"))
    away = here.elsewhere()
    assert away.model == f"{Path.cwd()}/models/mine.py:Mine"
    assert away.results_folder == Path.cwd() / "r"
    assert away.path == here.path.absolute()


@given(done=st.integers(1, 1000), left=st.integers(0, 1000), seconds=st.floats(0, 1e6))
def test_the_estimate_is_the_pace_of_this_attempt_times_what_is_left(done: int, left: int, seconds: float) -> None:
    note = Progress(stage="training", iteration=5 + done, first=5, seconds=seconds, loss=None, host="a", process=1)
    assert note.seconds_left(5 + done + left) == pytest.approx(seconds * left / done)


def test_there_is_no_estimate_before_the_first_iteration() -> None:
    note = Progress(stage="training", iteration=5, first=5, seconds=3, loss=None, host="a", process=1)
    assert note.seconds_left(10) is None


def test_progress_is_written_at_a_change_of_stage_and_then_every_ten_seconds(toy_data: Path, tmp_path: Path) -> None:
    trial, now = planned(toy_data, tmp_path), [100.0]
    beat = worker._Heartbeat(trial, lambda: now[0])
    seen = []
    for seconds, stage, iteration in ((0, "training", 3), (5, "training", 4), (10, "training", 5), (11, "scoring", 5)):
        now[0] = 100.0 + seconds
        beat(stage, iteration, float("nan"))
        found = worker.progress(trial)
        assert found is not None
        assert found.first == 3
        seen.append((found.stage, found.iteration, found.seconds))
    assert seen == [("training", 3, 0), ("training", 3, 0), ("training", 5, 10), ("scoring", 5, 11)]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(BadInput("weights: lack a key"), "bad-input"), (TryAgain("disk full"), "try-again"), (KeyError("x"), "error")],
)
def test_a_failed_trial_is_recorded_with_its_reason_and_forgotten_when_it_succeeds(
    error: Exception, kind: str, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(spec: TrialSpec, report: object) -> None:
        raise error

    trial = planned(toy_data, tmp_path, "transunet", iterations=1, evaluations=1)
    with monkeypatch.context() as patched:
        patched.setattr("embench.runs.trial.run", fail)
        found = worker.attempt(trial)
        assert isinstance(found, Failure)
        assert found.kind == kind
        assert str(error) in found.message
        assert bool(found.trace) == (kind == "error")
        assert worker.settled(trial) == found
    result = worker.attempt(trial)
    assert isinstance(result, schema.TrialResult)
    assert worker.settled(trial) == result
    assert worker.failure(trial) is None
    assert worker.progress(trial) is None


def test_a_trial_of_a_process_that_is_ending_is_waited_for(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = planned(toy_data, tmp_path, "transunet", iterations=1, evaluations=1)
    asked: list[float] = []
    holding = locks.claimed(trial.claim_path)

    def sleep(seconds: float) -> None:
        asked.append(seconds)
        if len(asked) == 3:
            holding.__exit__(None, None, None)

    monkeypatch.setattr("embench.runs.worker.time.sleep", sleep)
    holding.__enter__()
    assert worker.attempt(trial) is None
    assert not asked
    assert isinstance(worker.attempt(trial, patience=60), schema.TrialResult)
    assert len(asked) == 3


def test_a_trial_that_lost_its_process_is_run_again_and_one_that_never_began_is_not(
    toy_data: Path, tmp_path: Path
) -> None:
    lost, failed, _ = both = [planned(toy_data, tmp_path, "transunet", first_seed=seed) for seed in range(3)]
    plan.write(both)
    worker._Heartbeat(lost)("training", 3, 0.5)
    worker.fail(failed, KeyError("x"))
    found = status.standings(tmp_path)
    assert [(each.state, each.stopped) for each in found] == [("waiting", True), ("failed", False), ("waiting", False)]
    assert found[0].note == "stopped at iteration 3 of 8"
    assert [trial.seed for trial in status.to_retry(found, [], diverged=False)] == [0, 1]
    with locks.claimed(lost.claim_path):
        assert status.standings(tmp_path)[0].state == "running"


def test_a_trial_without_news_is_not_shown_again(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, looks, seen = planned(toy_data, tmp_path, "transunet"), [0], list[int]()
    beat = worker._Heartbeat(trial)
    beat("training", 3, 0.5)

    class Shown:
        def update(self, trial: TrialSpec, stage: str, iteration: int, loss: float) -> None:
            seen.append(iteration)

        def finished(self, trial: TrialSpec, outcome: object) -> None:
            seen.append(-1)

    def engine_has() -> set[Path]:
        looks[0] += 1
        if looks[0] == 3:
            beat("training", 4, 0.5)
            beat.last()
        return {trial.path} if looks[0] < 5 else set()

    monkeypatch.setattr(follow, "LOOK_EVERY", 0.0)
    assert follow.follow([trial], engine_has, Shown()) == [None]
    assert seen == [3, 4, -1]

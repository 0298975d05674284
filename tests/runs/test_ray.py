"""Trials on a Ray cluster: what is said when it cannot be, and (slow) real clusters whose workers and nodes die."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy import comparable, planned, request

from embench.core.errors import BadInput, TryAgain
from embench.runs import worker
from embench.runs.executors import Local, find_executor, follow
from embench.runs.executors import ray as engine
from embench.runs.request import trials
from embench.runs.worker import Failure
from embench.scoring import results
from embench.scoring.schema import TrialResult
from tools import engine_drill


@pytest.mark.parametrize(("name", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed_is_refused_with_the_extra_that_has_it(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = importlib.util.find_spec
    for place in ("embench.runs.executors.ray", "embench.runs.executors.slurm"):
        monkeypatch.setattr(f"{place}.find_spec", lambda wanted: None if wanted == module else known(wanted))
    with pytest.raises(BadInput, match=f"pip install {module} .*extra {name} ") as refused:
        find_executor(name)
    assert len(refused.value.lines) == 1


class FakeRay:
    """Tasks that end at once, in what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ends: object) -> None:
        ray = pytest.importorskip("ray")
        self.ends, self.asked = ends, list[dict[str, object]]()
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "remote", lambda **_: lambda function: self)
        monkeypatch.setattr(ray, "wait", lambda references, **_: (references, []))
        monkeypatch.setattr(ray, "get", self.get)
        monkeypatch.setattr(follow, "LOOK_EVERY", 0.01)

    def options(self, **asked: object) -> FakeRay:
        self.asked.append(asked)
        return self

    def remote(self, trial: object) -> object:
        return object()

    def get(self, _: object) -> object:
        if isinstance(self.ends, Exception):
            raise self.ends
        return self.ends


def test_a_result_that_only_another_machine_sees_is_told_and_is_no_success(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeRay(monkeypatch, True)
    monkeypatch.setattr(engine, "SEEN_WITHIN", 0.05)
    (found,) = engine.Ray("auto").run([planned(toy_data, tmp_path)])
    assert isinstance(found, Failure)
    assert found.kind == "bad-input"
    assert "a folder that all nodes share" in found.message


def test_why_a_trial_failed_on_a_machine_whose_files_are_not_seen_is_told(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = Failure(kind="bad-input", message="/there/toy.h5: no such file", host="there")
    FakeRay(monkeypatch, why)
    assert engine.Ray("auto").run([planned(toy_data, tmp_path)]) == [why]


def test_a_worker_without_embench_is_told_in_one_line(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    cause = ModuleNotFoundError("No module named 'embench'")
    FakeRay(monkeypatch, ray.exceptions.RayTaskError("work", "Traceback\nModuleNotFoundError: No module", cause))
    (found,) = engine.Ray("auto").run([planned(toy_data, tmp_path)])
    assert isinstance(found, Failure)
    assert found.kind == "bad-input"
    assert found.message.startswith("on a Ray worker: ModuleNotFoundError: No module; the Python of every node")


def test_a_trial_that_ray_gives_up_may_be_tried_again(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    FakeRay(monkeypatch, ray.exceptions.WorkerCrashedError())
    (found,) = engine.Ray("auto").run([planned(toy_data, tmp_path)])
    assert isinstance(found, Failure)
    assert found.kind == "try-again"
    assert "lost by Ray: WorkerCrashedError" in found.message


def test_a_trial_is_placed_by_its_threads_and_a_gpu(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRay(monkeypatch, False)
    for device, gpus in (("cpu", 0), ("cuda", 1)):
        trial = trials(request(toy_data, tmp_path, ["transunet"], threads=3), device)[0]
        engine.Ray("auto").run([trial])
        assert fake.asked.pop() == {"name": trial.label, "num_cpus": 3, "num_gpus": gpus}


# A real Ray cluster on this machine.


@pytest.fixture(scope="module")
def cluster() -> Iterator[engine_drill.OnRay]:
    pytest.importorskip("ray", reason="needs Ray: pip install ray")
    with engine_drill.on_ray(Path(), client=True) as found:
        yield found


class Command:
    """``embench run`` of the small model on the toy task, with options of its own."""

    def __init__(self, folder: Path, data: Path, seeds: int, iterations: int = 300) -> None:
        self.folder, self.data = folder, data
        model = folder / "small.py"
        model.write_text(engine_drill.MODEL)
        asked = {"models": [f"{model}:Small"], "seeds": seeds, "iterations": iterations}
        self.here = trials(request(data, folder / "here", **asked))  # type: ignore[arg-type]
        self.away = trials(request(data, folder / "away", **asked))  # type: ignore[arg-type]

    def start(self, *more: str) -> subprocess.Popen[str]:
        trial = self.away[0]
        told = {"model": trial.model, "task": "toy", "seeds": len(self.away), "iterations": trial.iterations}
        told |= {
            "evaluations": 2,
            "device": "cpu",
            "save-every": 1,
            "data-dir": self.data,
            "results": self.folder / "away",
        }
        options = [f"--{name}={value}" for name, value in told.items()]
        command = [sys.executable, "-m", "embench", "run", *options, "--executor=ray", *more]
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def end(self, process: subprocess.Popen[str], status: int = 0) -> str:
        out, err = process.communicate(timeout=900)
        assert process.returncode == status, err
        assert "Traceback" not in err
        return out + err

    def under_way(self, process: subprocess.Popen[str]) -> None:
        while not any((note := worker.progress(trial)) and note.stage == "training" for trial in self.away):
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)

    def check(self) -> None:
        away = [results.load(trial.path) for trial in self.away]
        for one, other in zip(Local(jobs=1).run(self.here), away, strict=True):
            assert isinstance(one, TrialResult)
            assert comparable(one) == comparable(other)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_trials_outlive_the_death_of_workers_of_nodes_and_of_the_command(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install ray")
    figures = engine_drill.drill("ray", tmp_path, count=4, faults=4)
    assert figures.faults.total() >= 3
    assert (figures.lost, figures.rewritten, figures.equal) == (0, 0, 4), figures


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_has_its_trials_saved_and_goes_on(
    number: signal.Signals, cluster: engine_drill.OnRay, toy_data: Path, tmp_path: Path
) -> None:
    command = Command(tmp_path, toy_data, seeds=2, iterations=6000)  # still at work when it is stopped
    process = command.start(f"--address={cluster.cluster.address}")
    command.under_way(process)
    time.sleep(2)
    process.send_signal(number)
    command.end(process, 130 if number == signal.SIGINT else 75)
    assert any(trial.state_path.exists() for trial in command.away)
    command.end(command.start(f"--address={cluster.cluster.address}"))
    command.check()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_ray_client_runs_the_same_trials(cluster: engine_drill.OnRay, toy_data: Path, tmp_path: Path) -> None:
    command = Command(tmp_path, toy_data, seeds=2)
    command.end(command.start(f"--address={cluster.client}"))
    command.check()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_without_an_address_a_ray_of_this_machine_is_started_for_the_command(toy_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install ray")
    command = Command(tmp_path, toy_data, seeds=2, iterations=20)
    command.end(command.start())
    command.check()


def test_sigterm_stays_with_the_command_when_ray_has_taken_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr(ray, "init", lambda *_, **__: signal.signal(signal.SIGTERM, lambda *_: sys.exit(15)))
    assert engine.Ray().device("auto") == "cpu"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def init(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup.\nDetails")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(TryAgain, match=r"^Ray does not start here \(Exception: The current node timed out[^\n]*\)$"):
        engine.Ray().device("auto")
    with pytest.raises(TryAgain, match=r"^--address auto: no Ray cluster there"):
        engine.Ray("auto").device("auto")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_where_nothing_listens_is_told_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(TryAgain, match=rf"^--address {address}: no Ray cluster there \(Connection refused\)$"):
        engine.Ray(address).device("auto")


@pytest.mark.parametrize("address", ["here", "ray://", "127.0.0.1:port", "127.0.0.1:99999", ":1", "a:1:2"])
def test_what_is_no_address_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(BadInput, match="expected auto, HOST:PORT or ray://HOST:PORT"):
        engine.Ray(address).device("auto")

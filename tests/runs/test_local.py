"""Trials on this machine: one per GPU, CPU trials by cores, and what becomes of them when a process is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from toy import comparable, planned, request

from embench.core import environment
from embench.runs import status, worker
from embench.runs.executors import Local, local
from embench.runs.plan import TrialSpec
from embench.runs.request import trials
from embench.runs.worker import Failure
from embench.scoring import results
from embench.scoring.schema import TrialResult
from tools import engine_drill


@pytest.mark.parametrize(
    ("gpus", "cores", "threads", "number", "asked", "jobs", "places"),
    [
        (0, 8, 1, 20, None, 8, ["cpu"]),
        (0, 8, 3, 20, None, 2, ["cpu"]),
        (0, 2, 4, 20, None, 1, ["cpu"]),
        (0, 8, 1, 3, None, 3, ["cpu"]),
        (0, 8, 1, 20, 5, 5, ["cpu"]),
        (1, 8, 1, 20, None, 1, ["cuda:0"]),
        (4, 2, 1, 20, None, 4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        (4, 64, 1, 3, None, 3, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        (2, 8, 1, 20, 4, 4, ["cuda:0", "cuda:1"]),
    ],
)
def test_there_is_a_trial_per_gpu_or_as_many_as_the_cores_carry(
    gpus: int,
    cores: int,
    threads: int,
    number: int,
    asked: int | None,
    jobs: int,
    places: list[str],
    toy_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, list[str]]] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(environment, "cores", lambda: cores)
    monkeypatch.setattr(local, "_pool", lambda _, jobs, devices, __: seen.append((jobs, list(devices))))
    monkeypatch.setattr(local, "_inline", lambda trial, *_: seen.append((1, [trial.device])))
    first = replace(planned(toy_data, tmp_path), device="cuda" if gpus else "cpu", threads=threads)
    Local(asked).run([replace(first, seed=seed) for seed in range(number)])
    assert seen == [(jobs, places)] if jobs > 1 else set(map(str, seen)) == {str((1, places))}


def test_every_gpu_has_a_process_of_its_own_for_all_the_trials_it_gets(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "mine.py"
    model.write_text(  # each process waits until the other is at work too, so that both get trials
        "import os, pathlib, time\n"
        "from embench.runs.executors import local\n"
        "from embench.models.base import SegmentationModel\n"
        "class Telling(SegmentationModel):\n"
        "    def fit(self, sections, task, iterations, rng):\n"
        f"        place = pathlib.Path({str(tmp_path)!r}) / 'seen'\n"
        "        place.mkdir(exist_ok=True)\n"
        "        (place / local._device).touch()\n"
        "        while len(list(place.iterdir())) < 2:\n"
        "            time.sleep(0.05)\n"
        "        raise ValueError(f'process {os.getpid()} has {local._device}')\n"
        "    def predict(self, image, task):\n"
        "        raise NotImplementedError\n"
    )
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    asked = trials(request(toy_data, tmp_path / "r", [f"{model}:Telling"], seeds=5))
    outcomes = Local().run([replace(trial, device="cuda") for trial in asked])
    told = [outcome.message for outcome in outcomes if isinstance(outcome, Failure)]
    assert len(told) == 5
    pairs = {match.groups() for line in told if (match := re.search(r"process (\d+) has (cuda:\d)", line))}
    assert Counter(device for _, device in pairs) == {"cuda:0": 1, "cuda:1": 1}


def started(trial: TrialSpec, process: subprocess.Popen[str]) -> worker.Progress:
    while True:
        note = worker.progress(trial)
        if note and note.stage == "training":
            return note
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_worker_ends_the_run_with_75_and_retry_goes_on_from_what_was_saved(
    toy_data: Path, tmp_path: Path
) -> None:
    model, folder = tmp_path / "small.py", tmp_path / "r"
    model.write_text(engine_drill.MODEL)
    asked = {"models": [f"{model}:Small"], "seeds": 2, "iterations": 200}
    here = trials(request(toy_data, tmp_path / "here", **asked))  # type: ignore[arg-type]
    away = trials(request(toy_data, folder, **asked))  # type: ignore[arg-type]
    options = [
        f"--model={model}:Small",
        "--task=toy",
        "--seeds=2",
        "--evaluations=2",
        "--iterations=200",
        "--state-every=0",
    ]
    options += ["--device=cpu", "--jobs=2", f"--data-dir={toy_data}"]

    def embench(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "embench", *arguments, f"--results={folder}"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with embench("run", *options) as process:
        os.kill(started(away[0], process).process, signal.SIGKILL)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 75
    assert "a worker process was killed" in said
    assert "Traceback" not in said
    first = status.standings(folder)[0]
    assert (first.state, first.stopped) == ("waiting", True)
    assert "stopped at iteration" in first.note
    with embench("retry", f"--model={model}:Small", "--jobs=1") as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    with embench("run", *options) as process:  # the second trial may not have begun
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    for one, other in zip(Local(jobs=1).run(here), [results.load(trial.path) for trial in away], strict=True):
        assert isinstance(one, TrialResult)
        assert comparable(one) == comparable(other)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_trials_outlive_the_death_of_workers_and_of_the_command(tmp_path: Path) -> None:
    figures = engine_drill.drill("local", tmp_path, count=4, faults=4)
    assert figures.faults.total() >= 3
    assert (figures.lost, figures.rewritten, figures.equal) == (0, 0, 4), figures

"""Trials through Slurm: what is parsed and submitted, and (slow) a real one-machine cluster that pre-empts them."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import slurm_cluster
from hypothesis import given
from hypothesis import strategies as st
from toy import comparable, request

from embench.core.errors import BadInput, TryAgain
from embench.runs import worker
from embench.runs.executors import Local, find_executor, slurm
from embench.runs.executors.slurm import Slurm, minutes, parse, shared_out
from embench.runs.plan import TrialSpec
from embench.runs.request import trials
from embench.scoring import results
from embench.scoring.schema import TrialResult
from tools import engine_drill


def test_slurm_options_are_those_of_sbatch() -> None:
    given = ["partition=gpu,time=4:00:00,gres=gpu:1", "nodelist=a,b", "cpus-per-task=4"]
    expected = {"partition": "gpu", "time": 240, "gres": "gpu:1", "nodelist": "a,b", "cpus_per_task": 4}
    assert parse(given) == expected
    assert parse([]) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partion=gpu", "did you mean partition"),
        ("gpu", "expected option=value"),
        ("", "expected option=value"),
        ("partition=", "not a value"),
        ("partition=a\nb", "not a value"),
        ("partition=a,partition=b", "partition: given twice"),
        ("cpus_per_task=0", "expected a whole number of at least 1"),
        ("cpus_per_task=two", "expected a whole number of at least 1"),
        ("max_submit=²", "expected a whole number of at least 1"),
        ("time=soon", "expected minutes, hours"),
        ("time=1:2:3:4", "expected minutes, hours"),
        ("time=0", "no time at all"),
        ("job_name=x", "unknown --slurm option 'job_name'"),
    ],
)
def test_a_bad_slurm_option_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=re.escape(message)):
        parse([text])


@given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_a_time_of_sbatch_is_its_minutes_rounded_up(days: int, hours: int, mins: int, seconds: int) -> None:
    total = (days * 24 + hours) * 60 + mins
    if total:
        assert minutes(f"{days}-{hours}:{mins:02}") == minutes(str(total)) == total
    if total or seconds:
        wanted = total + math.ceil(seconds / 60)
        assert minutes(f"{days}-{hours}:{mins}:{seconds}") == wanted
        assert minutes(f"{days * 24 + hours}:{mins}:{seconds}") == minutes(f"{total}:{seconds}") == wanted


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse([text])
    except BadInput:
        return
    assert found.keys() <= set(slurm.OPTIONS)


@given(st.integers(1, 50), st.integers(1, 20))
def test_every_trial_is_in_one_job_and_the_jobs_are_even(number: int, jobs: int) -> None:
    shares = shared_out(list(range(number)), jobs)  # type: ignore[arg-type]  # anything can be shared out
    assert sorted(item for share in shares for item in share) == list(range(number))
    assert len(shares) <= jobs
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_options_of_one_executor_are_refused_by_another() -> None:
    with pytest.raises(BadInput, match="--slurm: only with --executor slurm"):
        find_executor("local", slurm=["partition=a"])
    with pytest.raises(BadInput, match="--address: only with --executor ray"):
        find_executor("slurm", address="auto")
    with pytest.raises(BadInput, match="did you mean slurm"):
        find_executor("slrum")
    with pytest.raises(BadInput, match="--jobs 0"):
        find_executor("local", jobs=0)


class FakeSlurm:
    """squeue, scontrol and sbatch as far as the executor uses them, with a limit on the jobs of a user."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int = 1000, array: int = 1001) -> None:
        pytest.importorskip("submitit")
        self.limit, self.array, self.jobs, self.submitted = limit, array, list[str](), 0
        monkeypatch.setattr("shutil.which", lambda name, **_: f"/bin/{name}")
        monkeypatch.setattr(slurm, "_slurm", self.answer)
        monkeypatch.setattr(Slurm, "_submit", self.submit)

    def answer(self, *command: str) -> str:
        if command[0] == "squeue":
            return "\n".join([*self.jobs, "77|another|N/A|RUNNING|None"])
        return f"MaxArraySize            = {self.array}\nMaxJobCount = 10000\n"

    def submit(self, shares: tuple[tuple[TrialSpec, ...], ...]) -> str:
        if len(shares) > self.limit:
            raise slurm._OverLimit("Job violates accounting/QOS policy (job submit limit)")
        name = slurm.record(shares).stem
        self.submitted += 1
        self.jobs += [f"{self.submitted}_{i}|embench-{name}|{i}|PENDING|Priority" for i in range(len(shares))]
        return str(self.submitted)


@pytest.fixture
def many(toy_data: Path, tmp_path: Path) -> list[TrialSpec]:
    return trials(request(toy_data, tmp_path, ["transunet"], seeds=7))


@pytest.mark.parametrize(
    ("limit", "array", "options", "jobs"),
    [(1000, 1001, {}, 7), (1000, 3, {}, 3), (1000, 1001, {"max_submit": 2}, 2), (4, 1001, {}, 3), (1, 1001, {}, 1)],
)
def test_all_trials_fit_into_one_array_under_the_limit_of_the_cluster(
    limit: int, array: int, options: dict[str, int], jobs: int, many: list[TrialSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeSlurm(monkeypatch, limit, array)
    assert Slurm(options).submit(many) == jobs
    assert fake.submitted == 1
    assert slurm.jobs_of(many[0].results_folder).keys() == {trial.path for trial in many}


def test_a_cluster_that_takes_no_job_says_so(many: list[TrialSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSlurm(monkeypatch, limit=0)
    with pytest.raises(BadInput, match="job submit limit"):
        Slurm().submit(many)


def test_a_trial_is_not_submitted_while_slurm_has_a_job_for_it(
    many: list[TrialSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeSlurm(monkeypatch)
    assert Slurm().submit(many[:4]) == 4
    assert Slurm().submit(many) == 3
    assert Slurm().submit(many) == 0
    del fake.jobs[2]
    assert Slurm().submit(many) == 1
    assert fake.submitted == 3


def test_status_says_what_slurm_says_of_a_waiting_trial(many: list[TrialSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    from embench.runs import plan, status

    FakeSlurm(monkeypatch)
    plan.write(many)
    Slurm().submit(many[:1])
    notes = {each.trial.seed: (each.state, each.note) for each in status.standings(many[0].results_folder)}
    assert notes[0] == ("waiting", "Slurm job 1_0 is pending (Priority)")
    assert notes[1] == ("waiting", "")


def test_a_gpu_is_asked_for_when_the_trial_wants_one(many: list[TrialSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSlurm(monkeypatch)
    assert Slurm().device("auto") == "cpu"
    assert Slurm({"gres": "gpu:a100:1"}).device("auto") == "cuda"
    assert Slurm().device("cuda") == "cuda"
    with pytest.raises(BadInput, match="--slurm asks for a GPU"):
        Slurm({"gpus_per_node": 1}).device("cpu")
    on_gpu = replace(many[0], device="cuda", threads=3)
    assert Slurm().parameters("abc", 2, on_gpu)["gpus_per_node"] == 1
    assert "gpus_per_node" not in Slurm({"gres": "gpu:1"}).parameters("abc", 2, on_gpu)
    assert Slurm().parameters("abc", 2, on_gpu)["cpus_per_task"] == 3


def test_the_job_script_lets_the_signals_reach_the_trial(
    many: list[TrialSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeSlurm(monkeypatch)
    from submitit.slurm.slurm import _make_sbatch_string

    asked = parse(["partition=gpu,time=4:00:00,setup=module load cuda"])
    script = _make_sbatch_string("exec python", "/f", **Slurm(asked, jobs=3).parameters("abc", 9, many[0]), map_count=9)
    for line in (
        "#SBATCH --array=0-8%3",
        "#SBATCH --job-name=embench-abc",
        "#SBATCH --partition=gpu",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@90",
        "#SBATCH --time=240",
        "module load cuda",
        "exec python",
    ):
        assert line in script.splitlines()
    assert "srun" not in script


def test_a_silent_slurm_is_asked_again_before_giving_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_: Path) -> dict[Path, slurm.Job]:
        raise TryAgain("squeue: timed out")

    monkeypatch.setattr(slurm, "_ASK_EVERY", -1.0)
    asking = slurm._Asking(tmp_path)
    asking.there = frozenset({tmp_path})
    monkeypatch.setattr(slurm, "jobs_of", silent)
    for _ in range(slurm._SILENT - 1):
        assert asking() == {tmp_path}
    with pytest.raises(TryAgain):
        asking()


# A real Slurm of one machine.


class Cluster:
    """Commands in the environment of a running Slurm."""

    def __init__(self, environment: dict[str, str], data: Path) -> None:
        self.environment, self.data = environment, data

    def said(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def embench(self, *arguments: str, results: Path, expect: int = 0) -> str:
        command = [sys.executable, "-m", "embench", *arguments, "--results", str(results)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == expect, done.stderr
        return done.stdout + done.stderr

    def run(self, *more: str, results: Path, expect: int = 0, **asked: object) -> str:
        settings = {
            "task": "toy",
            "seeds": 2,
            "evaluations": 2,
            "device": "cpu",
            "data-dir": self.data,
            "state-every": 2,
        }
        told = [part for name, value in (settings | asked).items() for part in (f"--{name}", str(value))]
        return self.embench("run", "--executor", "slurm", *told, *more, results=results, expect=expect)

    def until(self, happened: object, what: str, seconds: float = 200) -> None:
        end = time.monotonic() + seconds
        while not happened():  # type: ignore[operator]
            assert time.monotonic() < end, f"no {what}: {self.said('squeue')}"
            time.sleep(0.5)


@pytest.fixture
def cluster(tmp_path: Path, toy_data: Path) -> Iterator[Cluster]:
    pytest.importorskip("submitit")
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    with slurm_cluster.cluster(tmp_path / "slurm", max_array_size=4) as environment:
        yield Cluster({**environment, "OMP_NUM_THREADS": "1"}, toy_data)


def finished(results_folder: Path) -> dict[str, int]:
    """How often each trial came to its end, from the logs of the jobs."""
    found: dict[str, int] = {}
    for log in (results_folder / ".slurm").glob("*_log.out"):
        for label in re.findall(r"\d+ of \d+ over: (.+?), IoU", log.read_text()):
            found[label] = found.get(label, 0) + 1
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_jobs_that_slurm_preempts_and_requeues_end_with_the_bytes_of_one_process(
    cluster: Cluster, tmp_path: Path
) -> None:
    folder, iterations = tmp_path / "away", 250
    asked = {"models": ["transunet"], "seeds": 2, "iterations": iterations}
    here = trials(request(cluster.data, tmp_path / "here", **asked))  # type: ignore[arg-type]
    away = trials(request(cluster.data, folder, **asked))  # type: ignore[arg-type]
    submitted = {"model": "transunet", "iterations": iterations, "slurm": "partition=low,time=30"}
    cluster.run("--detach", results=folder, **submitted)
    assert "2 of 2 trials are with Slurm already" in cluster.run("--detach", results=folder, **submitted)

    def reached() -> list[int]:
        return [note.iteration if (note := worker.progress(trial)) else 0 for trial in away]

    cluster.until(lambda: min(reached()) >= 1, "trial under way")
    restarts = []
    for preempt in (True, False, True):
        before = {job.number for job in running(cluster)}
        if not before:
            break
        if preempt:
            cluster.said("sbatch", "--partition=high", "--exclusive", "--wrap=sleep 2", "--output=/dev/null")
        else:
            for number in before:
                cluster.said("scontrol", "requeue", number)
        cluster.until(lambda before=before: not before & {job.number for job in running(cluster)}, "pre-emption")
        restarts += sorted(before)
        cluster.until(lambda: running(cluster) or all(trial.path.exists() for trial in away), "job after pre-emption")
        time.sleep(8)
    assert len(restarts) >= 4
    assert "done" in cluster.run(results=folder, **submitted)
    for one, other in zip(Local(jobs=1).run(here), [results.load(trial.path) for trial in away], strict=True):
        assert isinstance(one, TrialResult)
        assert comparable(one) == comparable(other)
    assert finished(folder) == {trial.label: 1 for trial in away}
    assert "2 done, 0 running, 0 failed, 0 waiting" in cluster.embench("status", results=folder)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_trials_outlive_preemption_signals_and_the_death_of_jobs_and_of_the_command(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    figures = engine_drill.drill("slurm", tmp_path, count=4, faults=6)
    assert figures.faults.total() >= 4
    assert (figures.lost, figures.rewritten, figures.equal) == (0, 0, 4), figures


def running(cluster: Cluster) -> list[slurm.Job]:
    lines = cluster.said("squeue", "--noheader", "--array", "--format=%i|%j|%K|%T|%r").splitlines()
    jobs = [job for line in lines if (job := slurm._job(line))]
    return [job for job in jobs if job.state == "RUNNING"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_time_limit_that_is_reached_puts_the_job_back_and_a_cancelled_job_stays_cancelled(
    cluster: Cluster, tmp_path: Path
) -> None:
    folder = tmp_path / "r"
    submitted = {"model": "transunet", "seeds": 1, "iterations": 100_000, "slurm": "partition=low,time=1"}
    cluster.run("--detach", results=folder, **submitted)
    logs = folder / ".slurm"

    def log() -> str:
        return "".join(path.read_text() for path in logs.glob("*_log.out"))

    cluster.until(lambda: log().count("Starting with") >= 3, "third start", 300)
    (trial,) = trials(request(cluster.data, folder, ["transunet"], seeds=1, iterations=100_000))
    cluster.until(lambda: trial.path.exists() or worker.progress(trial), "progress")
    note = worker.progress(trial)
    assert note is not None
    assert note.first > 0  # it resumed
    cluster.said("scancel", "--user=root")
    cluster.until(lambda: not cluster.said("squeue", "--noheader"), "empty queue")
    time.sleep(3)
    assert not cluster.said("squeue", "--noheader")
    assert "1 waiting" in cluster.embench("status", results=folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_is_killed_is_reported_and_the_same_command_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    submitted = {"model": "transunet", "seeds": 1, "iterations": 150, "slurm": "partition=low,time=30"}
    (trial,) = trials(request(cluster.data, folder, ["transunet"], seeds=1, iterations=150))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cluster.run, results=folder, expect=75, **submitted)
        cluster.until(lambda: worker.progress(trial) is not None, "trial under way")
        note = worker.progress(trial)
        assert note is not None
        os.kill(note.process, signal.SIGKILL)
        assert "its Slurm job ended without a result" in waiting.result()
    assert "1 waiting" in cluster.embench("status", results=folder)
    cluster.run(results=folder, **submitted)
    assert finished(folder) == {trial.label: 1}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_more_trials_than_jobs_fit_and_a_failing_one_stops_no_other(cluster: Cluster, tmp_path: Path) -> None:
    model = tmp_path / "mine.py"
    model.write_text(
        "from embench.models.base import SegmentationModel\n"
        "class Odd(SegmentationModel):\n"
        "    def fit(self, sections, task, iterations, rng):\n"
        "        if rng.bit_generator.seed_seq.entropy[-1] == 3:\n"
        "            raise ValueError('no threes')\n"
        "    def predict(self, image, task):\n"
        "        return (image[None] / 255).astype('float32')\n"
    )
    folder = tmp_path / "r"
    submitted = {"model": f"{model}:Odd", "seeds": 6, "slurm": "partition=low"}
    told = cluster.run(results=folder, expect=1, **submitted)
    assert "6 trials in 4 jobs" in told
    assert "odd toy seed 3: ValueError: no threes" in told
    assert len(results.result_files(folder).files) == 5
    assert "5 done, 0 running, 1 failed, 0 waiting" in cluster.embench("status", results=folder)
    assert "code that the plan names" in cluster.embench("retry", results=folder, expect=2)
    model.write_text(model.read_text().replace("== 3", "== 7"))
    cluster.embench("retry", "--executor", "slurm", "--model", f"{model}:Odd", results=folder)
    assert "6 done" in cluster.embench("status", results=folder)

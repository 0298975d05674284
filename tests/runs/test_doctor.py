"""embench doctor: each fault is found before any training, named, and told with what to do."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from toy import planned, request

from embench.cli import app
from embench.core import paths
from embench.data import store
from embench.models import checkpoints
from embench.runs import doctor, plan
from embench.runs.doctor import Asked, Check
from embench.runs.options import RunRequest
from embench.runs.plan import TrialSpec


@pytest.fixture
def data(toy_data: Path, tmp_path: Path) -> Path:
    """A data folder of one's own, so that it can be spoiled."""
    return Path(shutil.copytree(toy_data, tmp_path / "toy"))


def found(asked: Asked) -> dict[str, Check]:
    return {check.what: check for check in doctor.checks(asked)}


def failed(asked: Asked) -> dict[str, str]:
    return {check.what: check.found for check in doctor.checks(asked) if check.state == "fail"}


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = os.urandom(len(content) - len(content) // 2)
    path.write_bytes(content)


def test_what_can_run_here_has_nothing_to_fail_and_each_check_is_one_line(data: Path, tmp_path: Path) -> None:
    checks = found(Asked(request(data, tmp_path / "r", ["retina", "unet-resnet50"], seeds=3), deep=True))
    assert {check.state for check in checks.values()} <= {"ok", "warn"}
    assert not [check for check in checks.values() if "\n" in check.found]
    assert checks["data toy"] == Check("ok", "data toy", checks["data toy"].found)
    assert "verified" in checks["data toy"].found
    assert checks["checkpoint retina"].state == "ok"
    assert "6 trials" in checks["disk"].found
    assert not (tmp_path / "r").exists()


def test_without_anything_asked_for_nothing_fails(tmp_path: Path) -> None:
    checks = found(Asked(RunRequest(models=[], data=tmp_path / "none", results=tmp_path / "r")))
    assert {check.state for check in checks.values()} <= {"ok", "warn"}
    assert "embench fetch NAME" in checks["data"].found
    assert "embench pretrain METHOD" in checks["checkpoints"].found


def test_data_that_are_not_prepared_fail_with_the_command_that_prepares_them(data: Path, tmp_path: Path) -> None:
    faults = failed(Asked(request(data, tmp_path, [], tasks=["vnc-mito"])))
    assert faults.keys() == {"data vnc-mito"}
    assert "run: embench prepare vnc" in faults["data vnc-mito"]


def test_generated_data_and_their_checkpoints_need_not_be_there(tmp_path: Path) -> None:
    asked = request(tmp_path / "none", tmp_path, ["retina"], tasks=[], suite="mini")
    assert not failed(Asked(asked))


def test_a_missing_checkpoint_fails_with_the_command_that_makes_it(data: Path, tmp_path: Path) -> None:
    for path in (data / "weights").glob("*.*"):
        path.unlink()
    faults = failed(Asked(request(data, tmp_path, ["retina", "transunet"])))
    assert faults.keys() == {"checkpoint retina"}
    assert "run: embench pretrain retina --data toy-unlabelled --scale tiny" in faults["checkpoint retina"]


def test_changed_voxels_are_found_by_deep_and_their_file_is_not_opened_without(data: Path, tmp_path: Path) -> None:
    spoil(data / "toy.h5")
    asked = Asked(request(data, tmp_path, [], tasks=["toy"]))
    check = found(asked)["data toy"]
    assert check.state == "warn"
    assert "changed since" in check.found
    assert "data toy" in failed(replace(asked, deep=True))


def test_a_changed_checkpoint_of_a_plan_is_found_by_deep(data: Path, tmp_path: Path) -> None:
    trial = planned(data, tmp_path / "r", "retina")
    plan.write([trial])
    asked = Asked(RunRequest(models=[], data=data, results=tmp_path / "r"), deep=True)
    assert not failed(asked)
    assert trial.weights is not None
    start = checkpoints.load_weights(trial.weights)
    checkpoints.save_weights(trial.weights, {key: tensor + 1 for key, tensor in start.tensors.items()}, start.card)
    (told,) = failed(asked).values()
    assert "changed since the run was planned" in told
    trial.weights.unlink()
    (told,) = failed(replace(asked, deep=False)).values()
    assert "no such checkpoint" in told


@pytest.mark.parametrize(
    ("change", "what", "told"),
    [
        ({"model": "gone"}, "model gone", "not installed here"),
        ({"model": "/nowhere/a.py:A"}, "model /nowhere/a.py:A", "no such file"),
        ({"task": "gone"}, "data gone", "not prepared"),
    ],
)
def test_what_a_plan_wants_and_is_not_here_fails(
    change: dict[str, str], what: str, told: str, data: Path, tmp_path: Path
) -> None:
    trial = replace(planned(data, tmp_path / "r", "transunet"), **change)  # type: ignore[arg-type]
    plan.write([trial])
    faults = failed(Asked(RunRequest(models=[], data=data, results=tmp_path / "r")))
    assert faults.keys() == {what}
    assert told in faults[what]


def test_no_model_file_of_a_plan_is_imported(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "mine.py"
    model.write_text("raise SystemExit('imported')")
    plan.write([replace(planned(data, tmp_path / "r", "transunet"), model=f"{model}:Mine")])
    checks = found(Asked(RunRequest(models=[], data=data, results=tmp_path / "r")))
    assert "1 trials" in checks["disk"].found


def waiting(data: Path, folder: Path, number: int) -> list[TrialSpec]:
    return [planned(data, folder, "transunet", first_seed=seed) for seed in range(number)]


def test_too_little_disk_for_what_is_planned_fails(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan.write(waiting(data, tmp_path / "r", 5))
    asked = Asked(RunRequest(models=[], data=data, results=tmp_path / "r"), executor="ray")
    assert "5 trials need up to" in found(asked)["disk"].found
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12, 10**6))  # type: ignore[attr-defined]
    assert "make room" in failed(asked)["disk"]


def test_a_state_on_disk_is_no_larger_than_was_said(data: Path, tmp_path: Path) -> None:
    from embench.models.registry import find_model
    from embench.training.state import save_state

    adapter = find_model("transunet")
    network = adapter.at("tiny").network(1)  # type: ignore[attr-defined]
    import torch

    optimiser = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    save_state({"network": network.state_dict(), "optimiser": optimiser.state_dict()}, tmp_path / "state.pt")
    said = doctor._state_bytes(adapter, "tiny")  # type: ignore[arg-type]
    assert 0.9 * said < (tmp_path / "state.pt").stat().st_size < said + 2**20


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/1").exists(), reason="needs /proc")
def test_a_folder_that_cannot_be_written_fails_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    assert doctor.writable("results folder", tmp_path / "a" / "b").state == "ok"
    assert {path.name for path in tmp_path.iterdir()} == {"toy"}
    check = doctor.writable("results folder", Path("/proc/none"))
    assert check.state == "fail"
    assert "choose another folder" in check.found


def test_an_executor_fails_only_where_it_is_asked_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    asked = Asked(request(data, tmp_path, []))
    assert found(asked)["executor slurm"].state == "warn"
    faults = failed(replace(asked, executor="slurm"))
    assert faults.keys() == {"executor slurm"}
    assert "no sbatch here" in faults["executor slurm"] or "pip install" in faults["executor slurm"]


def test_a_gpu_that_the_ray_cluster_does_not_have_fails_there(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    asked = Asked(request(data, tmp_path, []), executor="ray", address="auto")
    assert "trials run there on: cpu" in found(asked)["executor ray"].found
    on_gpu = replace(asked, request=request(data, tmp_path, [], device="cuda"))
    assert "has no GPU now" in failed(on_gpu)["executor ray"]


def test_a_library_older_than_declared_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [check.state for check in doctor.versions()] == ["ok"]
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: {"torch": "1.0", "h5py": None}.get(name, known(name)))
    told = [check.found for check in doctor.versions() if check.state == "fail"]
    assert any("torch 1.0; wanted >=" in line and "pip install 'torch>=" in line for line in told)
    assert any("h5py is not installed" in line for line in told)
    assert len(told) == 2


@pytest.mark.skipif(__import__("torch").cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_asked_for_and_not_there_fails(data: Path, tmp_path: Path) -> None:
    assert failed(Asked(request(data, tmp_path, [], device="cuda"))).keys() == {"GPU"}
    assert found(Asked(request(data, tmp_path, [])))["GPU"].state == "warn"


@pytest.mark.parametrize(("arguments", "status"), [([], 0), (["--task", "vnc-mito"], 2), (["--task", "no-such"], 2)])
def test_the_exit_status_says_whether_what_was_asked_for_works(
    arguments: list[str],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["embench", "doctor", "--results", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == status
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "warn", "fail") for line in lines)


def test_a_prepared_file_from_elsewhere_is_read_once_by_deep(data: Path, tmp_path: Path) -> None:
    shutil.rmtree(paths.cache_folder(), ignore_errors=True)
    os.utime(data / "toy.h5", (1, 1))
    asked = Asked(request(data, tmp_path, [], tasks=["toy"]))
    assert "read once" in found(asked)["data toy"].found
    assert not store.is_known(data / "toy.h5")
    assert found(replace(asked, deep=True))["data toy"].state == "ok"
    assert found(asked)["data toy"].state == "ok"

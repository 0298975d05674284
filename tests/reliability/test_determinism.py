"""Deterministic algorithms: always on a CPU, on a GPU where asked for, and the result says what was used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import planned

from embench.core import runtime
from embench.core.runtime import deterministic
from embench.runs import trial

SMALL = f"{Path(__file__).parents[2] / 'tools/small.py'}:Small"


def test_on_a_cpu_an_operation_without_a_deterministic_form_is_an_error() -> None:
    with deterministic(torch.device("cpu")), pytest.raises(RuntimeError, match="deterministic"):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    assert not torch.are_deterministic_algorithms_enabled()


def test_memory_is_not_filled_before_it_is_written_and_the_setting_is_put_back() -> None:
    with deterministic(torch.device("cpu")):
        assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


def test_a_trial_runs_so_by_default_and_its_result_says_so(toy_data: Path, tmp_path: Path) -> None:
    used: set[bool] = set()
    spec = planned(toy_data, tmp_path, SMALL)
    assert not spec.deterministic  # the flag is for a GPU
    result = trial.run(spec, lambda *_: used.add(torch.are_deterministic_algorithms_enabled()))
    assert used == {True}
    assert result is not None
    assert result.environment["deterministic"] is True
    assert result.environment["threads"] == spec.threads


@pytest.mark.parametrize("asked", [False, True])
def test_on_a_gpu_the_flag_decides_and_what_is_used_is_told(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with deterministic(torch.device("cuda"), asked):  # flags alone: no GPU is needed to set them
        told = runtime.in_use("cuda")
    workspace = ":4096:8" if asked else "default"
    assert told == {"deterministic": asked, "cudnn_benchmark": not asked, "cublas_workspace": workspace}
    assert torch.backends.cudnn.benchmark

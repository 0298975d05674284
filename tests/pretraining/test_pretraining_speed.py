"""The script that measures the speed of pre-training, and what its figures rest on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from baselines.transunet_network import ReconstructionTransUNet

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pretraining

    return pretraining


def test_an_image_costs_the_stated_operations(script: Any) -> None:
    network = ReconstructionTransUNet().to("meta")
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 1, 224, 224, device="meta")).square().mean().backward()
    assert counter.get_total_flops() == pytest.approx(script.FLOP, rel=0.01)


def test_the_clock_runs_over_the_steps_after_the_warm_up(script: Any) -> None:
    meter = script.Meter(warm_up=5, steps=10)
    for iteration in range(1, 15):
        meter(script.Progress(iteration, 100, 0.0, waited=float(iteration)))
    with pytest.raises(script.Done):
        meter(script.Progress(15, 100, 0.0, waited=15.0))
    speed = meter.speed(4, torch.device("cpu"))
    assert (speed.steps, meter.waited) == (10, 10.0)
    assert speed.images_per_second == pytest.approx(40 / meter.seconds)


@pytest.mark.slow
def test_it_runs_and_says_that_there_is_no_gpu() -> None:
    command = [sys.executable, BENCHMARKS / "pretraining.py", "--threads", "1", "--steps", "1", "--images", "16",
               "--peak-tflops", "1"]  # fmt: skip
    made = subprocess.run(command, capture_output=True, text=True, env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""})
    assert made.returncode == 0, made.stderr
    assert "no GPU here" in made.stdout
    for told in ("images/s over 1 steps", "model FLOP utilisation", "peak memory", "waiting for data"):
        assert told in made.stdout


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_is_kept_busy() -> None:
    command = [sys.executable, BENCHMARKS / "pretraining.py", "--steps", "60", "--images", "4096", "--batch-size", "64"]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    waiting = float(made.stdout.split("waiting for data: ")[1].split("%")[0])
    assert waiting < 10

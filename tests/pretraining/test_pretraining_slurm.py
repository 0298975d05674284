"""The Slurm job of docs/pretraining/slurm.sh on a real one-machine cluster, without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import slurm_cluster

from embench.models.checkpoints import load_weights

SCRIPT = Path(__file__).parents[2] / "docs" / "pretraining" / "slurm.sh"


def test_the_job_script_is_a_script_of_bash() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_job_whose_time_is_up_saves_goes_back_and_ends_with_the_checkpoint(tmp_path: Path) -> None:
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    torchrun = tmp_path / "bin" / "torchrun"
    torchrun.parent.mkdir()
    torchrun.write_text(f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n')
    torchrun.chmod(0o755)
    out = tmp_path / "made.safetensors"
    with slurm_cluster.cluster(tmp_path / "slurm", cpus=2) as environment:
        path = f"{torchrun.parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**environment, "PATH": path, "PROCESSES": "2", "OMP_NUM_THREADS": "1"}

        def said(*command: str) -> str:
            done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
            return done.stdout.strip()

        def until(happened: Callable[[], object], what: str) -> None:
            end = time.monotonic() + 600
            while not happened():
                assert time.monotonic() < end, f"no {what}: {log()}"
                time.sleep(0.5)

        sizes = ("--crop", "32", "--batch-size", "32", "--epochs", "2", "--device", "cpu", "--state-every", "1000")
        machine = ("--parsable", "--gpus-per-node=0", "--cpus-per-task=2", "--time=60")
        job = said("sbatch", *machine, str(SCRIPT), "retina", "--data", "mini-cem", "--out", str(out), *sizes)

        def log() -> str:
            written = tmp_path / f"embench-pretrain-{job}.log"
            return written.read_text() if written.exists() else ""

        until(lambda: "iteration" in log(), "first step")
        said("scancel", "--batch", "--signal=USR1", job)  # as Slurm does when the time is nearly up
        until(lambda: "Restarts=1" in said("scontrol", "show", "job", job), "second start")
        assert "stopped by SIGTERM; run the same command again to go on" in log()
        assert out.with_suffix(".state").exists()
        until(out.exists, "checkpoint")
        until(lambda: "JobState=COMPLETED" in said("scontrol", "show", "job", job), "end")
    first, second = (part.split("iteration ")[1].split()[0] for part in log().split("stopped by SIGTERM", 1))
    assert int(second) > int(first) >= 1
    assert load_weights(out).card.epochs == 2  # type: ignore[attr-defined]

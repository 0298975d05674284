"""A run killed anywhere ends with the bytes of one that was left alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_lose_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.reliability.kill", "--kills", "50"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(r"killed (\d+) times", done.stdout)
    assert told is not None
    assert int(told[1]) >= 50
    assert done.stdout.endswith("lost: 0\n")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_faults_of_the_file_system_leave_what_there_was() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.reliability.faults", "--number", "60"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("wrong: 0\n")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_runs_of_new_processes_give_the_same_bytes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.reliability.repeat", "--runs", "3", "--models", "unet-resnet50,retina"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "retina: 3 of 3 runs gave the same bytes" in done.stdout

"""A run killed anywhere ends with the bytes of one that was left alone."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_lose_nothing(tool: Callable[..., str]) -> None:
    printed = tool("kill", "--kills", "50")
    *_, together = re.findall(r"killed (\d+) times", printed)  # of each job, then of both
    assert int(together) >= 50
    assert printed.endswith("lost: 0\n")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_faults_of_the_file_system_leave_what_there_was(tool: Callable[..., str]) -> None:
    assert tool("faults", "--number", "60").endswith("wrong: 0\n")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_runs_of_new_processes_give_the_same_bytes(tool: Callable[..., str]) -> None:
    printed = tool("repeat", "--runs", "3", "--models", "unet-resnet50,retina")
    assert "retina: 3 of 3 runs gave the same bytes" in printed

"""Work by several processes gives what one process gives."""

from __future__ import annotations

import math
import os
from pathlib import Path

import made_results as made
import pytest

from embench.core import parallel
from embench.core.errors import TryAgain
from leaderboard import trials


def test_what_processes_return_comes_in_order_and_from_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    squares, own = range(100), []
    found = list(parallel.forked(lambda k: (own.append(k), k * k, os.getpid()), squares))
    assert [square for _, square, _ in found] == [k * k for k in squares]
    assert own == []
    assert os.getpid() not in {process for *_, process in found}


def test_few_things_are_done_in_this_process() -> None:
    assert set(parallel.forked(lambda _: os.getpid(), range(parallel.FEWEST - 1))) == {os.getpid()}


def test_a_fault_in_a_process_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        list(parallel.forked(lambda k: 1 / k, range(parallel.FEWEST)))


@pytest.mark.parametrize("jobs", [1, 2])
def test_new_processes_give_the_same_in_order(jobs: int) -> None:
    assert list(parallel.spawned(math.sqrt, range(50), jobs)) == [math.sqrt(k) for k in range(50)]
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        list(parallel.spawned(math.sqrt, [1, -1], jobs))


def test_a_killed_process_is_said_in_a_line() -> None:
    with pytest.raises(TryAgain, match="a worker process was killed"):
        list(parallel.spawned(os._exit, [3, 3], 2))


def test_results_read_by_processes_are_those_read_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made.write(
        made.suite({"retina": 0.7, "transunet": 0.5}, [made.task("made-mito")], seeds=3), tmp_path / "r"
    )
    broken = next(folder.rglob("seed-2.json"))
    broken.write_text(broken.read_text().replace('"status": "done"', '"status": "diverged"'))
    alone = trials.read([folder])
    monkeypatch.setattr(parallel, "FEWEST", 1)
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    monkeypatch.setenv("EMBENCH_DATA", str(tmp_path / "elsewhere"))
    assert trials.read([folder]) == alone
    assert (len(alone[0]), len(alone[1])) == (5, 1)

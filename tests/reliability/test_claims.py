"""Two processes, one piece of work: whoever comes first has it, the others see who, and a dead one's is free."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from embench.core import locks
from embench.core.locks import Held, claimed

FORK = multiprocessing.get_context("fork")
RACERS = 8
ROUNDS = 8


def race(path: Path, start: Any, decided: Any, told: Any) -> None:
    """Try once, at the same moment as the others; hold what was won until all have tried."""
    start.wait()
    try:
        with claimed(path):
            told.put(("won", os.getpid(), ""))
            decided.wait()
    except Held as held:
        told.put(("lost", os.getpid(), str(held)))
        decided.wait()


@pytest.mark.parametrize("before", ["none", "of one that ended", "of one that was killed"])
def test_of_eight_racers_one_wins_every_time_and_the_others_see_it(before: str, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        path = tmp_path / f"{number}.claim"
        if before == "of one that ended":
            with claimed(path):
                pass
        if before == "of one that was killed":
            held_until_killed(path)
        start, decided, told = FORK.Barrier(RACERS), FORK.Barrier(RACERS), FORK.Queue()
        racers = [FORK.Process(target=race, args=(path, start, decided, told)) for _ in range(RACERS)]
        for racer in racers:
            racer.start()
        outcomes = [told.get(timeout=60) for _ in racers]
        for racer in racers:
            racer.join(60)
        winners = [process for outcome, process, _ in outcomes if outcome == "won"]
        assert len(winners) == 1
        for outcome, _, message in outcomes:
            if outcome == "lost" and "an unknown host" not in message:  # the winner has not yet written its name
                assert "held by process " in message
                assert f" on {socket.gethostname()}" in message
                # where a claim was left before, its name may stand until the winner's does
                assert before != "none" or f"held by process {winners[0]} " in message


def hold(path: Path, ready: Connection) -> None:
    with claimed(path):
        ready.send(os.getpid())
        time.sleep(600)


def in_another(target: Callable[[Path, Connection], None], path: Path) -> tuple[Any, int]:
    here, there = FORK.Pipe()
    process = FORK.Process(target=target, args=(path, there))
    process.start()
    return process, here.recv()


def held_until_killed(path: Path) -> None:
    process, number = in_another(hold, path)
    os.kill(number, signal.SIGKILL)
    process.join()


def test_the_second_sees_host_and_process_and_a_dead_holders_claim_is_free(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    process, number = in_another(hold, path)
    with (
        pytest.raises(Held, match=rf"a\.claim: held by process {number} on {socket.gethostname()}; wait"),
        claimed(path),
    ):
        pass
    assert locks.holder(path) == locks.Holder(socket.gethostname(), number)
    os.kill(number, signal.SIGKILL)
    process.join()
    assert path.exists()
    assert locks.holder(path) is None
    with claimed(path):
        assert locks.holder(path) == locks.Holder(socket.gethostname(), os.getpid())


def test_neither_age_nor_a_process_number_that_lives_again_decides(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    path.write_text(f'{{"host": "{socket.gethostname()}", "process": {os.getppid()}}}')  # alive, and not its holder
    with claimed(path):
        pass
    process, number = in_another(hold, path)
    os.utime(path, (0, 0))  # as by a clock that is decades behind
    with pytest.raises(Held, match=str(number)), claimed(path):
        pass
    process.kill()
    process.join()


def grandchild_outlives(path: Path, ready: Connection) -> None:
    with claimed(path):
        FORK.Process(target=time.sleep, args=(5,)).start()  # as a data worker
        ready.send(os.getpid())
        time.sleep(600)


def test_a_data_worker_that_outlives_its_parent_keeps_nothing_claimed(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    process, number = in_another(grandchild_outlives, path)
    os.kill(number, signal.SIGKILL)
    process.join()
    with claimed(path):
        pass


def test_two_blocks_of_one_process_do_not_share_a_claim(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    with claimed(path):
        with pytest.raises(Held, match=str(os.getpid())), claimed(path):
            pass
        assert locks.holder(path) is not None
    assert locks.holder(path) is None

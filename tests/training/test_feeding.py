"""Batches made ahead: the same ones in the same order, few in memory, faults where they are asked for."""

from __future__ import annotations

import threading
import time

import pytest

from embench.training.feeding import AHEAD, Feed, workers_for


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_every_batch_comes_once_and_in_order(workers: int) -> None:
    def make(number: int) -> int:
        time.sleep(0.001 * (number % 3))  # later ones may be ready first
        return number

    with Feed(make, 3, 20, workers) as feed:
        assert list(feed) == list(range(3, 20))
        with pytest.raises(StopIteration):
            next(feed)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_batches_are_made_than_wait_for_the_step(workers: int) -> None:
    made: list[int] = []
    with Feed(lambda number: made.append(number) or number, 0, 100, workers) as feed:
        next(feed)
        time.sleep(0.1)
        assert len(made) <= 1 + workers + AHEAD


def test_without_threads_a_batch_is_made_when_it_is_asked_for() -> None:
    made: list[int] = []
    with Feed(lambda number: made.append(threading.get_ident()), 0, 3) as feed:
        assert not made
        next(feed)
        assert made == [threading.get_ident()]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_is_raised_at_its_own_batch(workers: int) -> None:
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("the third")
        return number

    with Feed(make, 0, 5, workers) as feed:
        assert [next(feed), next(feed)] == [0, 1]
        with pytest.raises(ValueError, match="the third"):
            next(feed)


def test_closing_waits_for_what_is_being_made() -> None:
    """The file that a thread reads from is closed next."""
    under_way = threading.Event()
    ended: list[int] = []

    def make(number: int) -> int:
        under_way.set()
        time.sleep(0.1)
        ended.append(number)
        return number

    feed = Feed(make, 0, 100, 2)
    with feed:
        next(feed)
    count = len(ended)
    time.sleep(0.15)
    assert len(ended) == count < 100


def test_waiting_is_what_the_step_waited() -> None:
    def make(number: int) -> None:
        time.sleep(0.02)

    with Feed(make, 0, 5) as slow:
        list(slow)
    assert slow.waited >= 0.1
    with Feed(make, 0, 30, 4) as ahead:
        for _ in ahead:
            time.sleep(0.03)
    assert ahead.waited < 0.3 * 30 * 0.02


def test_a_training_on_the_processor_has_no_threads_beside_it() -> None:
    assert workers_for("cpu", 64) == 0
    assert workers_for("cuda:0", 16, 4) == 4
    assert workers_for("cuda", 2, 8) == 1

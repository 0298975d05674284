"""Asked to stop, a run saves, says so and ends; the same command goes on from there."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from toy import comparable, planned

from embench.core import signals
from embench.core.errors import Interrupted
from embench.runs import trial
from embench.training.state import load_state

SMALL = f"{Path(__file__).parents[2] / 'tools/small.py'}:Small"


def signalled_at(iteration: int, number: signal.Signals) -> trial.Report:
    def report(stage: str, reached: int, loss: float) -> None:
        if stage == "training" and reached == iteration:
            os.kill(os.getpid(), number)

    return report


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_the_step_and_saves_it(number: signal.Signals, toy_data: Path, tmp_path: Path) -> None:
    whole = trial.run(planned(toy_data, tmp_path / "whole", SMALL))
    spec = planned(toy_data, tmp_path / "stopped", SMALL)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=rf"stopped by {number.name}; run the same command again to go on"):
        trial.run(spec, signalled_at(3, number))
    assert signal.getsignal(number) is before
    state = load_state(spec.state_path)
    assert state is not None
    assert [iteration for iteration, *_ in state["training"]["curve"]] == [1, 2, 3]
    resumed = trial.run(spec)
    assert whole is not None
    assert resumed is not None
    assert comparable(resumed) == comparable(whole)


def test_signals_that_ask_for_another_run_end_with_75() -> None:
    assert {number.name: signals.exit_status(number) for number in signals.SIGNALS} == {
        "SIGINT": 130,
        "SIGTERM": 75,
        "SIGUSR1": 75,
    }


def never_between_steps() -> None:
    with signals.deferred(grace=0.2):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


def test_a_step_that_does_not_end_is_given_up_in_time() -> None:
    process = multiprocessing.get_context("fork").Process(target=never_between_steps)
    started = time.monotonic()
    process.start()
    process.join(30)
    assert process.exitcode == 75
    assert time.monotonic() - started < 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stopped_at_any_moment_a_run_ends_in_time_and_goes_on_to_the_same_bytes(tool: Callable[..., str]) -> None:
    assert tool("stop", "--rounds", "5").endswith("wrong: 0\n")

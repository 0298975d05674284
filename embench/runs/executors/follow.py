"""Waiting for trials that run elsewhere, through what they leave in the results folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Sequence
from pathlib import Path

from embench.runs import worker
from embench.runs.executors.display import Display
from embench.runs.plan import TrialSpec
from embench.runs.worker import Outcome, Progress

LOOK_EVERY = 5.0


def follow(trials: Sequence[TrialSpec], engine_has: Callable[[], Container[Path]], shown: Display) -> list[Outcome]:
    """Wait until every trial has ended and return how each did, in the order given.

    Parameters
    ----------
    trials : sequence of TrialSpec
    engine_has : callable
        Gives the result files of the trials that the engine has queued or running.
    shown : Display

    Returns
    -------
    list of Outcome
        ``None`` for a trial that the engine no longer has and that left neither a result nor a reason.
    """
    outcomes: dict[int, Outcome] = {}
    last: dict[int, Progress] = {}
    while True:
        there = engine_has()  # before the files are looked at: who leaves in between has written its result by then
        for number, trial in enumerate(trials):
            if number in outcomes:
                continue
            outcome = worker.settled(trial)
            if outcome is not None or trial.path not in there:
                outcomes[number] = outcome
                shown.finished(trial, outcome)
            elif (note := worker.progress(trial)) and note != last.get(number):
                last[number] = note  # a trial that was put back to wait has no news
                shown.update(trial, note.stage, note.iteration, math.nan if note.loss is None else note.loss)
        if len(outcomes) == len(trials):
            return [outcomes[number] for number in range(len(trials))]
        time.sleep(LOOK_EVERY)

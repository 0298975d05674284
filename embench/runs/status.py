"""What became of the planned trials: done, running, failed, waiting; and trying again what failed."""

from __future__ import annotations

import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

from embench.core import confined, locks
from embench.core.console import duration
from embench.core.errors import BadInput, TryAgain
from embench.models.registry import absolute, code_of
from embench.runs import plan, worker
from embench.runs.plan import TrialSpec, absolute_recipe
from embench.scoring import results

log = logging.getLogger(__name__)

State = Literal["done", "running", "failed", "waiting"]
DIVERGED = ".diverged"


@dataclass(frozen=True)
class Standing:
    """Where a trial stands.

    ``note`` says of a running trial where and how far, of a failed one why, of a waiting one what it waits for, if
    that is known. ``seconds_left`` is an estimate from the pace of the attempt under way. ``stopped``: a waiting trial
    whose process ended (it was stopped or killed), and that no engine is known to have.
    """

    trial: TrialSpec
    state: State
    note: str = ""
    iteration: int = 0
    seconds_left: float | None = None
    diverged: bool = False
    stopped: bool = False

    def facts(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {
            "model": self.trial.key.model,
            "task": self.trial.task,
            "seed": self.trial.seed,
            "state": self.state,
            "note": self.note,
            "iteration": self.iteration,
            "iterations": self.trial.iterations,
            "seconds_left": self.seconds_left,
            "result": str(self.trial.path),
        }


def standings(folder: Path) -> list[Standing]:
    """Return where every planned trial of a results folder stands.

    Raises
    ------
    BadInput
        No such folder, no plan in it, or one that cannot be used.
    """
    trials = plan.load_all(folder)
    if not trials:
        raise BadInput(f"{folder}: no plan here; embench run writes one")
    queued = _queued(folder)
    return [_standing(trial, queued) for trial in trials]


def _standing(trial: TrialSpec, queued: dict[Path, str]) -> Standing:
    try:
        if plan.is_done(trial):
            return _ended(trial)
        return _under_way(trial, queued)
    except BadInput as error:
        return Standing(trial, "failed", str(error))


def _ended(trial: TrialSpec) -> Standing:
    result = results.load(trial.path, trial.results_folder)
    if result.status == "diverged":
        return Standing(trial, "failed", f"diverged: {result.message}", result.iterations_done, diverged=True)
    score = "" if result.score is None else f"IoU {result.score:.4f}"
    return Standing(trial, "done", score, trial.iterations)


def _under_way(trial: TrialSpec, queued: dict[Path, str]) -> Standing:
    note, failure = worker.progress(trial), worker.failure(trial)
    reached = note.iteration if note else 0
    if holder := locks.holder(trial.claim_path, trial.results_folder):
        if note is None:
            return Standing(trial, "running", f"{holder}: starting")
        left = note.seconds_left(trial.iterations)
        estimate = "" if left is None else f", about {duration(left)} left"
        how_far = f"{note.stage}, iteration {reached} of {trial.iterations}{estimate}"
        return Standing(trial, "running", f"{holder}: {how_far}", reached, left)
    if failure:
        return Standing(trial, "failed", failure.message, reached)
    queue = queued.get(trial.path.absolute(), "")
    how_far = f"stopped at iteration {reached} of {trial.iterations}" if note else ""
    told = ", ".join(filter(None, (queue, how_far)))
    return Standing(trial, "waiting", told, reached, stopped=bool(how_far and not queue))


def _queued(folder: Path) -> dict[Path, str]:
    """Return what Slurm says of the trials that it has; nothing where no trial was ever given to it."""
    from embench.runs.executors import slurm

    if not (folder / slurm.FOLDER).is_dir() or shutil.which("squeue") is None:
        return {}
    try:
        jobs = slurm.jobs_of(folder)
    except TryAgain as error:
        log.warning("what waits in Slurm is not known: %s", error)
        return {}
    return {path: f"Slurm job {job.number} is {job}" for path, job in jobs.items()}


def summary(found: Iterable[Standing]) -> str:
    """Return the numbers of trials: ``12 done, 2 running, 1 failed, 3 waiting``."""
    counts = Counter(standing.state for standing in found)
    return ", ".join(f"{counts[state]} {state}" for state in ("done", "running", "failed", "waiting"))


def to_retry(
    found: Sequence[Standing], models: Sequence[str], *, diverged: bool, data: Path | None = None
) -> list[TrialSpec]:
    """Return the trials to run again: the failed and the stopped ones.

    Parameters
    ----------
    found : sequence of Standing
    models : sequence of str
        The models whose files may be run, as ``file.py:Class`` or ``external:FILE.toml``, and recipes, as
        ``file.py:NAME`` or ``FILE.toml``: a plan alone has no code run.
    diverged : bool
        The diverged ones too; see :func:`set_aside`.
    data : Path, optional
        The only folder of data that may be used and written to; any that the plans name when it is not given.

    Raises
    ------
    BadInput
        For a file that was not named, or another folder of data.
    """
    again = [
        each.trial for each in found if each.stopped or (each.state == "failed" and (diverged or not each.diverged))
    ]
    if data is not None and (others := {each.data for each in again if each.data.resolve() != data.resolve()}):
        raise BadInput(
            f"{other}: the plan names this folder of data; to use it give --data-dir {other}" for other in others
        )
    named = {absolute(model) for model in models}
    unnamed = {trial.model for trial in again if code_of(trial.model) and absolute(trial.model) not in named}
    recipes = {absolute_recipe(model) for model in models}
    unnamed |= {code for trial in again for code in _recipe_code(trial) if absolute_recipe(code) not in recipes}
    if unnamed:
        raise BadInput(
            f"{model}: code that the plan names; to run it give --model {model}" for model in sorted(unnamed)
        )
    return again


def set_aside(trial: TrialSpec) -> Path | None:
    """Move the result of a trial into ``.diverged`` of its results folder, and return where; ``None``: it has none."""
    folder = trial.results_folder
    with locks.claimed(trial.claim_path, folder):
        if not plan.is_done(trial):
            return None
        place = folder / DIVERGED / trial.path.relative_to(folder).parent
        for number in count(1):
            target = place / f"{trial.path.stem}.{number}.json"
            with suppress(FileExistsError):
                confined.rename(trial.path, target, folder)
                return target
        raise AssertionError


def _recipe_code(trial: TrialSpec) -> list[str]:
    """Return the files that a trial's recipe imports; a TOML file may name others."""
    names = (trial.recipe_from or "", *(change.partition("=")[2] for change in trial.recipe_changes))
    return [name for name in names if re.search(r"\.py:|\.toml$", name)]

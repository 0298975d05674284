"""On a Ray cluster: each trial a task, placed by GPU or cores, tried again when its worker or node dies.

Nothing but the trial travels through Ray: states and results go through the folders that all its nodes see, so that a
trial that is tried again resumes where it was.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from embench import interrupt, ledger, provenance
from embench.errors import BadInput, Interrupted, TryAgain
from embench.executors.display import display
from embench.executors.follow import follow
from embench.files import remove
from embench.ledger import Failure, Outcome
from embench.plan import TrialSpec

RETRIES = 100
"""Times a trial is tried again after the loss of its worker or node (a spot instance may go often)."""


@dataclass(frozen=True)
class Ray:
    """A Ray cluster; trials and results lie in folders that all its nodes see.

    Parameters
    ----------
    address : str, optional
        ``auto``, ``ray://HOST:PORT`` or ``HOST:PORT``; by default a Ray of this machine alone, for this command.
    jobs : int, optional
        Trials at a time; by default as many as GPUs or cores allow.
    """

    address: str | None = None
    jobs: int | None = None

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise BadInput("--executor ray: Ray is not installed; run: pip install 'embench[ray]'")

    def device(self, asked: str) -> str:
        """Return ``cuda`` when it is asked for, or when the cluster has a GPU and it is not refused."""
        if asked not in ("auto", "cpu", "cuda"):
            raise BadInput(f"--device {asked}: use auto, cpu or cuda")
        self._connect()
        import ray

        gpus = ray.cluster_resources().get("GPU", 0)
        if asked == "cuda" and not gpus:
            raise BadInput("--device cuda: this Ray cluster has no GPU now; use --device cpu")
        return "cuda" if gpus and asked != "cpu" else "cpu"

    def run(self, trials: Sequence[TrialSpec]) -> list[Outcome]:
        """Run the trials on the cluster and return how each ended, in the order given."""
        if not trials:
            return []
        trials = [trial.elsewhere() for trial in trials]
        for trial in trials:
            remove(ledger.failure_path(trial))
        self._connect()
        import ray

        waiting = list(reversed(trials))
        running: dict[Any, TrialSpec] = {}
        lost: dict[Path, Failure] = {}
        start = ray.remote(max_retries=RETRIES, retry_exceptions=False)(_work)

        def engine_has() -> set[Path]:
            ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0) if running else ([], [])
            for reference in ended:
                trial = running.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    lost[trial.path] = Failure(kind="try-again", message=f"lost by Ray: {_first(error)}", host="")
            while waiting and len(running) < (self.jobs or len(trials)):
                trial = waiting.pop()
                wanted = {"num_cpus": trial.threads, "num_gpus": 1 if trial.device == "cuda" else 0}
                running[start.options(name=trial.label, **wanted).remote(trial)] = trial
            return {trial.path for trial in (*running.values(), *waiting)}

        try:
            with display(trials) as shown:
                outcomes = follow(trials, engine_has, shown)
        finally:
            for reference in running:
                ray.cancel(reference)  # which reaches the trial as Ctrl-C does: it saves and ends
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=interrupt.GRACE)
        return [lost.get(trial.path) if end is None else end for trial, end in zip(trials, outcomes, strict=True)]

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if ray.is_initialized():
            return
        here = {} if self.address else {"num_cpus": provenance.cores(), "include_dashboard": False}
        try:
            ray.init(self.address or "local", log_to_driver=False, logging_level=logging.WARNING, **here)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise TryAgain(f"--address {self.address}: no Ray cluster there ({_first(error)})") from None


def _work(trial: TrialSpec) -> None:
    """Run a trial on the worker that Ray chose; how it ended stands in the results folder."""
    try:
        ledger.attempt(trial)
    except Interrupted as error:
        os._exit(interrupt.exit_status(error.number))  # the loss of a worker, which has the trial tried again


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"

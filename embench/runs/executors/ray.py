"""On a Ray cluster: each trial a task, placed by GPU or cores, tried again when its worker or node dies.

Nothing but the trial, and why it failed, travels through Ray: states and results go through the folders that all its
nodes see, so that a trial that is tried again resumes where it was.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from embench.core import environment, signals
from embench.core.errors import BadInput, Interrupted, TryAgain
from embench.core.files import remove
from embench.runs import worker
from embench.runs.executors.display import display
from embench.runs.executors.follow import follow
from embench.runs.plan import TrialSpec
from embench.runs.worker import Failure, Outcome

RETRIES = 100
"""Times a trial is tried again after the loss of its worker or node (a spot instance may go often)."""
_CLIENT_PORT = 10001
SEEN_WITHIN = 60.0
"""Seconds after which a file written by another machine is seen here, if the folder is shared (NFS takes its time)."""
_NEEDED = "the Python of every node needs this version of embench, and what the models need"


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
            raise BadInput("--executor ray: Ray is not installed; run: pip install ray (the extra ray of embench-em)")

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
            remove(worker.failure_path(trial), trial.results_folder)
        self._connect()
        import ray

        waiting = list(reversed(trials))
        running: dict[Any, TrialSpec] = {}
        told: dict[Path, Outcome] = {}
        unseen: dict[Path, float] = {}
        start = ray.remote(max_retries=RETRIES, retry_exceptions=False)(_work)

        def engine_has() -> set[Path]:
            ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0) if running else ([], [])
            for reference in ended:
                trial = running.pop(reference)
                told[trial.path], is_elsewhere = _ended(reference, trial)
                if is_elsewhere:
                    unseen[trial.path] = time.monotonic() + SEEN_WITHIN
            while waiting and len(running) < (self.jobs or len(trials)):
                trial = waiting.pop()
                wanted = {"num_cpus": trial.threads, "num_gpus": 1 if trial.device == "cuda" else 0}
                running[start.options(name=trial.label, **wanted).remote(trial)] = trial
            late = {path for path, end in unseen.items() if time.monotonic() < end}
            return {trial.path for trial in (*running.values(), *waiting)} | late

        try:
            with display(trials) as shown:
                outcomes = follow(trials, engine_has, shown)
            running.clear()
        except (ConnectionError, ray.exceptions.RaySystemError) as error:
            running.clear()
            raise TryAgain(
                f"the Ray cluster does not answer any more ({_first(error)}); what is saved is kept"
            ) from None
        finally:
            for reference in running:
                ray.cancel(reference)  # which reaches the trial as Ctrl-C does: it saves and ends
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=signals.GRACE)
        return [told.get(trial.path) if end is None else end for trial, end in zip(trials, outcomes, strict=True)]

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if ray.is_initialized():
            return
        if self.address not in (None, "auto"):
            _knock(self.address)
        here = {} if self.address else {"num_cpus": environment.cores(), "include_dashboard": False}
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of what the error says
                ray.init(self.address or "local", log_to_driver=False, logging_level=logging.WARNING, **here)
        except Exception as error:  # Ray raises plain ones too
            where = f"--address {self.address}: no Ray cluster there" if self.address else "Ray does not start here"
            raise TryAgain(f"{where} ({_first(error)})") from None
        finally:
            if on_sigterm is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own ends the process with 15


def _knock(address: str) -> None:
    """Find out soon that nothing listens at ``HOST:PORT`` or ``ray://HOST[:PORT]``; Ray itself may wait for ever."""
    host, _, port = address.removeprefix("ray://").partition(":")
    if address.startswith("ray://"):
        port = port or str(_CLIENT_PORT)
    if not host or not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise BadInput(f"--address {address}: expected auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise TryAgain(f"--address {address}: no Ray cluster there ({error.strerror or error})") from None


def _work(trial: TrialSpec) -> Failure | bool:
    """Run a trial on the worker that Ray chose, and return why it failed, or whether its result is written.

    The result itself stands in the results folder.
    """
    try:
        outcome = worker.attempt(trial, patience=worker.HANDOVER)
    except Interrupted as error:
        os._exit(signals.exit_status(error.number))  # the loss of a worker, which has the trial tried again
    return outcome if isinstance(outcome, Failure) else outcome is not None


def _ended(reference: Any, trial: TrialSpec) -> tuple[Outcome, bool]:
    """Return how a trial ended whose files are not seen here, and whether its worker says that they are written."""
    import ray

    try:
        found = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # of what surrounds the trial: its own faults are caught on the worker
        said = str(error).strip().splitlines()[-1]
        told = f"on a Ray worker: {said}; {_NEEDED}"
        return Failure(kind="bad-input", message=told, host=""), False
    except ray.exceptions.RayError as error:
        return Failure(kind="try-again", message=f"lost by Ray: {_first(error)}", host=""), False
    if isinstance(found, Failure):
        return found, False
    apart = f"done, but {trial.path} is not seen here; --results must be a folder that all nodes share"
    return (Failure(kind="bad-input", message=apart, host="") if found else None), found


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"

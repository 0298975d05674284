"""Engines that bring planned trials to their end: on this machine, through Slurm, on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from embench.core.errors import BadInput
from embench.core.names import unknown
from embench.runs.executors.local import Local
from embench.runs.plan import TrialSpec
from embench.runs.worker import Outcome

__all__ = ["NAMES", "Executor", "Local", "find_executor"]

NAMES = ("local", "slurm", "ray")


class Executor(Protocol):
    """Takes trials and gets each finished exactly once: the claim on a trial and its result file see to that."""

    def device(self, asked: str) -> str:
        """Return ``cpu`` or ``cuda`` for a device as asked (``auto``, ``cpu``, ``cuda``), where the trials will run.

        Raises
        ------
        BadInput
            When there is no such device there.
        """

    def run(self, trials: Sequence[TrialSpec]) -> list[Outcome]:
        """Run the trials and return how each ended, in the order given.

        Raises
        ------
        TryAgain
            When it stopped before the end; the same command goes on from there.
        """


def find_executor(
    name: str, *, jobs: int | None = None, slurm: Sequence[str] = (), address: str | None = None
) -> Executor:
    """Return the executor ``name`` with what was asked of it.

    Parameters
    ----------
    name : {"local", "slurm", "ray"}
    jobs : int, optional
        Trials at a time.
    slurm : sequence of str
        As ``--slurm`` gives them.
    address : str, optional
        Of a Ray cluster.

    Raises
    ------
    BadInput
        Unknown name, an option of another executor, or an executor that is not installed here.
    """
    if name not in NAMES:
        raise unknown("executor", name, NAMES)
    if jobs is not None and jobs < 1:
        raise BadInput(f"--jobs {jobs}: must be at least 1")
    if slurm and name != "slurm":
        raise BadInput("--slurm: only with --executor slurm")
    if address and name != "ray":
        raise BadInput("--address: only with --executor ray")
    if name == "slurm":
        from embench.runs.executors.slurm import Slurm, parse

        return Slurm(parse(slurm), jobs)
    if name == "ray":
        from embench.runs.executors.ray import Ray

        return Ray(address, jobs)
    return Local(jobs)

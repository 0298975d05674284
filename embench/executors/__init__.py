"""Engines that bring planned trials to their end: on this machine, through Slurm, on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from embench.executors.local import Local
from embench.ledger import Outcome
from embench.plan import TrialSpec

__all__ = ["Executor", "Local"]


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

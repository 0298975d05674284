"""Several processes that pre-train one network."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from embench.core import environment
from embench.core.errors import BadInput

if TYPE_CHECKING:
    pass


# The loop


@dataclass(frozen=True)
class World:
    """This process among those that share every batch (started by ``torchrun``)."""

    rank: int = 0
    size: int = 1

    def joined(self, module: nn.Module) -> nn.Module:
        """Return ``module``, wrapped so that gradients are averaged among the processes."""
        if self.size == 1:
            return module
        # The strides of a 1x1 filter can be written in two ways; torch and its reducer take different ones.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)  # older torch knows no other
            return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)

    def averaging(self, joined: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Average gradients in the ``last`` backward pass of a step; before it they only add up in each process."""
        return nullcontext() if last or self.size == 1 else joined.no_sync()  # type: ignore[operator]

    def agree(self, told: dict[str, Any]) -> None:
        """Raise :class:`BadInput` unless every process tells the same."""
        if self.size == 1:
            return
        everyone: list[Any] = [None] * self.size
        distributed.all_gather_object(everyone, told)
        for rank, other in enumerate(everyone):
            if changed := differences(everyone[0], other):
                raise BadInput(
                    f"process {rank} of {self.size} differs from the first in {changed}: give all the same command, "
                    "and data and --out in folders that every machine shares"
                )

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of ``values`` over the processes, the same in each."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values / self.size

    def agreed(self, yes: bool) -> bool:
        """Whether any of the processes says yes, the same in each."""
        if self.size == 1:
            return yes
        said = torch.tensor(int(yes), device="cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.all_reduce(said, distributed.ReduceOp.MAX)
        return bool(said)

    def wait(self) -> None:
        """Return when every process is here."""
        if self.size > 1:
            distributed.barrier()


ALONE = World()


@contextlib.contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Join the processes that ``torchrun`` started together with this one; by itself, give :data:`ALONE`."""
    said = os.environ.get("WORLD_SIZE") or "1"
    if said == "1":
        yield ALONE
        return
    if absent := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise BadInput(
            f"WORLD_SIZE={said} is set without {', '.join(absent)}, left over from another program: "
            "unset WORLD_SIZE, or start with torchrun"
        )
    on_gpu = device.startswith("cuda")
    # given its GPU, NCCL has not to guess it where there is no tensor to tell: at a barrier
    distributed.init_process_group("nccl" if on_gpu else "gloo", device_id=torch.device(device) if on_gpu else None)
    try:
        yield World(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def differences(before: dict[str, Any], facts: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {before.get(name)} (now {value})" for name, value in facts.items() if before.get(name) != value
    )


def local_device(name: str) -> str:
    """Return the device as torch names it; each process that ``torchrun`` started on a machine has a GPU of its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise BadInput("--device cuda: no CUDA device is visible here; use --device cpu")
        number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if number >= gpus:
            raise BadInput(
                f"--device cuda: process {number} (from 0) has no GPU, as {gpus} CUDA devices are visible here; "
                f"give torchrun --nproc-per-node={gpus} or less"
            )
        name = f"cuda:{number}"
        torch.cuda.set_device(name)
    elif name != "cpu":
        raise BadInput(f"--device {name}: use auto, cpu or cuda")
    return name


def own_cores() -> int:
    """Return this process's part of the cores: all, or an equal part for each that ``torchrun`` started here."""
    return max(1, environment.cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

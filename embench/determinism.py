"""The same bytes from the same seed: deterministic algorithms always on a CPU, on a GPU where asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

deterministic_mode: Any = torch.utils.deterministic


@contextmanager
def deterministic(device: torch.device, asked: bool = False) -> Iterator[None]:
    """Use deterministic algorithms in the block, on a CPU or where ``asked``; an operation without one is an error.

    torch by default fills memory in this mode before an operation writes to it. That is left out: nothing here reads
    what it did not write, and a training step on a CPU takes 7 % longer with it. On a GPU the algorithms themselves are
    slower. cuBLAS reads ``CUBLAS_WORKSPACE_CONFIG`` when it starts, so the block must come before the first
    computation there.
    """
    wanted = asked or device.type == "cpu"
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    filled = deterministic_mode.fill_uninitialized_memory
    if wanted and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(wanted)
    deterministic_mode.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        deterministic_mode.fill_uninitialized_memory = filled


def in_use(device: str) -> dict[str, Any]:
    """Return what this process uses now, for the environment of a result or a checkpoint card."""
    used: dict[str, Any] = {"deterministic": torch.are_deterministic_algorithms_enabled()}
    if device.startswith("cuda"):
        used["cudnn_benchmark"] = torch.backends.cudnn.benchmark
        used["cublas_workspace"] = os.environ.get("CUBLAS_WORKSPACE_CONFIG", "default")
    return used

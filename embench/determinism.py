"""The same bytes from the same seed: deterministic algorithms always on a CPU, on a GPU where asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def deterministic(device: torch.device, asked: bool = False) -> Iterator[None]:
    """Use deterministic algorithms in the block, on a CPU or where ``asked``; an operation without one is an error.

    On a GPU they are slower. cuBLAS reads ``CUBLAS_WORKSPACE_CONFIG`` when it starts, so the block must come before the
    first computation there.
    """
    wanted = asked or device.type == "cpu"
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if wanted and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def in_use(device: str) -> dict[str, Any]:
    """Return what this process uses now, for the environment of a result or a checkpoint card."""
    used: dict[str, Any] = {"deterministic": torch.are_deterministic_algorithms_enabled()}
    if device.startswith("cuda"):
        used["cudnn_benchmark"] = torch.backends.cudnn.benchmark
        used["cublas_workspace"] = os.environ.get("CUBLAS_WORKSPACE_CONFIG", "default")
    return used

"""The same bytes from the same seed: deterministic algorithms always on a CPU, on a GPU where asked for."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from embench.core.errors import BadInput

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


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # glibc's malloc.h


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Let the process keep in the block what it frees, where the device is the processor and the C library glibc.

    Every training step allocates the same maps. glibc gives those of more than 32 MiB back to the system, which has to
    clear their pages before the next step has them: some hundredths of a step. After the block the heap is given back,
    and goes on as glibc's does once large blocks have been freed.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        yield
        return
    glibc = ctypes.CDLL(None)
    glibc.mallopt(_MMAP_MAX, 0)
    glibc.mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        glibc.mallopt(_MMAP_MAX, 1 << 16)
        glibc.mallopt(_MMAP_THRESHOLD, 32 << 20)
        glibc.mallopt(_TRIM_THRESHOLD, 64 << 20)
        glibc.malloc_trim(0)


def find_device(name: str) -> str:
    """Return ``cpu`` or ``cuda`` for a device as asked; ``auto`` takes a GPU when there is one."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise BadInput(f"--device {name}: use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: no CUDA device is visible here; use --device cpu")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name

"""Memory that a process has freed, kept for what it allocates next."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

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

"""What the system allows and tells of this process; where it has no such thing, nothing is limited or told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]

CAN_LIMIT = resource is not None
"""Whether limits can be set here at all: not on Windows."""


def peak_memory() -> int:
    """Return the peak of this process's resident memory in bytes; 0 where the system does not tell."""
    if resource is None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def limit_memory(value: int | None) -> None:
    """Limit the address space of this process to so many bytes, its hard limit at most; ``None`` lifts the limit."""
    if resource is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = hard if value is None else value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def address_space() -> int | None:
    """Return the bytes of address space in use (Linux); elsewhere they are no measure of memory, and ``None``."""
    if resource is None or not os.path.exists("/proc/self/statm"):
        return None
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def no_core_file() -> None:
    """Let this process leave nothing when it crashes."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def after_fork(function: Callable[[], None]) -> None:
    """Call a function in every process forked from this one, where processes fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)

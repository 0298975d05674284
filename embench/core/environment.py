"""What a result was made with: code, libraries, machine."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import embench
from embench.core import process
from embench.core.errors import BadInput, TryAgain
from embench.core.git import git

_LIBRARIES = (
    "torch",
    "numpy",
    "scipy",
    "h5py",
    "opencv-python-headless",
    "segmentation-models-pytorch",
    "timm",
    "monai",
)


@cache
def commit() -> str:
    """Return the commit of the source tree, with ``-dirty`` where it differs, or ``release`` outside a checkout."""
    root = Path(embench.__file__).parent.parent
    if not (root / ".git").exists():
        return "release"
    try:
        done = git(root, ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
    except (BadInput, TryAgain):
        return "unknown"
    return "unknown" if done.returncode else done.stdout.decode().strip()


def environment(device: str, threads: int) -> dict[str, Any]:
    """Return versions, device and thread count, for a result or a checkpoint card (no host or user names)."""
    from embench.core.runtime import in_use

    return {
        "embench": embench.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "device": device,
        "device_name": _device_name(device),
        "threads": threads,
        **in_use(device),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return _processor()
    import torch

    return torch.cuda.get_device_name(device)


@cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory(device: str) -> int:
    """Return the peak memory of this process (on ``cuda``: of the device) in bytes."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    return process.peak_memory()

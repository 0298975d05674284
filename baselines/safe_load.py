"""What the file of a published checkpoint holds, without running anything in it (protocol 8).

Torch files are read with ``weights_only=True``, numpy archives with ``allow_pickle=False``; each first in a child
process with limits (:mod:`embench.core.sandbox`), because neither reader was written for files that are broken on
purpose. A file that asks for more than tensors is refused, with the name of what it asks for where torch says it.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embench.core import sandbox
from embench.core.errors import BadInput


def content(path: Path) -> Mapping[str, Any]:
    """Return what a torch file or a numpy archive holds.

    Raises
    ------
    BadInput
        In one line: absent, empty, of another format, cut short, damaged, holding more than tensors, or needing more
        time or memory than a file of its size should.
    """
    if not path.is_file():
        raise BadInput(f"{path}: cannot be read ({'not a file' if path.exists() else 'No such file or directory'})")
    sandbox.call(_try, str(path), where=path, size=path.stat().st_size)
    return _content(path)


def _try(name: str) -> None:
    _content(Path(name))


def _content(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    if not head:
        raise BadInput(f"{path}: empty, so not a checkpoint; fetch it again")
    if head.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(path):
            raise BadInput(f"{path}: cut short (a zip archive without its end); fetch it again")
        if _is_numpy(path):
            return _numpy_content(path)
    elif not head.startswith(b"\x80"):  # as torch's own pickles begin
        raise BadInput(
            f"{path}: not a published checkpoint (it starts with {head[:8]!r}); refused; give a .pt, .pth or .npz file"
        )
    return _torch_content(path)


def _is_numpy(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except Exception as error:  # it raises anything on a broken file
        raise BadInput(f"{path}: a broken zip archive ({_first_line(error)}); fetch it again") from None


def _numpy_content(path: Path) -> Mapping[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except MemoryError:
        raise
    except Exception as error:  # its parser raises anything on a broken file
        raise BadInput(f"{path}: not a whole archive of plain arrays ({_first_line(error)}); refused") from None


def _torch_content(path: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise _asks(path, error) or BadInput(
            f"{path}: not a torch checkpoint, or a damaged one ({_reason(error)}); refused; fetch it again"
        ) from None
    if not isinstance(found, Mapping):
        raise BadInput(f"{path}: holds a {type(found).__name__}, not a state dict")
    return found


def _asks(path: Path, error: Exception) -> BadInput | None:
    """Return the refusal of a file that asks for functions or classes, by torch's word; ``None`` without any."""
    names = re.findall(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else []
    if not names:
        with suppress(Exception):  # not torch's own format, or broken as well
            names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    if not names:
        return None
    name = re.sub(r"^(builtins|__builtin__)\.", "", names[0])[:200]
    return BadInput(
        f"{path}: asks for {name}, which could run code; refused, as weights need only tensors; "
        "who made the file can save these alone: torch.save(network.state_dict(), FILE)"
    )


def _reason(error: Exception) -> str:
    """Return what torch says, without its advice on loading the file all the same."""
    told = str(error).rpartition("WeightsUnpickler error: ")[2].partition(". In PyTorch 2.6")[0]
    return _first_line(told or error)


def _first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]

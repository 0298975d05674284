"""What the file of a published checkpoint holds, without running anything in it (protocol 8).

Torch files are read with ``weights_only=True``, numpy archives with ``allow_pickle=False``; each first in a child
process with limits (:mod:`embench.core.sandbox`), because neither reader was written for files that are broken on
purpose. A file that asks for more than tensors is refused with the name of what it asks for; that name is found by
listing the operations of its pickle, none of which is carried out.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embench.core import sandbox
from embench.core.errors import BadInput

_MOST_SCANNED = 2**26
"""Bytes of a pickle that are looked through for names."""
_TENSORS = re.compile(
    r"torch\._utils\._rebuild\w+|torch\.\w+Storage|torch\.storage\.\w+|collections\.OrderedDict|_codecs\.encode"
)
"""What the pickle of a plain state dict asks for."""


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
        if asked := _asked(path):
            raise _asks(path, asked)
        raise BadInput(
            f"{path}: not a published checkpoint (it starts with {head[:8]!r}); give a .pt, .pth, .pth.tar or .npz file"
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
        if "allow_pickle" in str(error) and (asked := _asked(path)):
            raise _asks(path, asked) from None
        raise BadInput(f"{path}: not a whole archive of plain arrays ({_first_line(error)}); refused") from None


def _torch_content(path: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # as above
        told = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if asked := told[1] if told else _asked(path):
            raise _asks(path, asked) from None
        raise BadInput(f"{path}: not a torch checkpoint, or a damaged one ({_reason(error)}); fetch it again") from None
    if not isinstance(found, Mapping):
        raise BadInput(f"{path}: holds a {type(found).__name__}, not a state dict")
    return found


def _asks(path: Path, asked: str) -> BadInput:
    return BadInput(f"{path}: asks for {asked[:200]}, which could run code; refused, as weights need only tensors")


def _asked(path: Path) -> str | None:
    """Return the first thing that the pickles of a file ask for and that no state dict needs."""
    names: list[str] = []
    with suppress(Exception):  # the file may be broken as well
        for pickled in _pickles(path):
            names += [name for name in _names(pickled) if not _TENSORS.fullmatch(name)]
    return next((name for name in names if not name.startswith("numpy.")), next(iter(names), None))


def _pickles(path: Path) -> Iterator[bytes]:
    """Yield what may be a pickle: the file itself, or the members of a zip or tar archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    found = file.read(_MOST_SCANNED)
                yield found[found.find(b"\n", 10) + 1 :] if found.startswith(b"\x93NUMPY") else found
    elif tarfile.is_tarfile(path):  # torch before 2017
        with tarfile.open(path) as members:
            for each in members:
                if content := members.extractfile(each):
                    yield content.read(_MOST_SCANNED)
    else:
        with path.open("rb") as file:
            yield file.read(_MOST_SCANNED)


def _names(pickled: bytes) -> Iterator[str]:
    """Yield the functions and classes that a pickle asks for, until it ends or breaks off."""
    stream, pushed, memo = io.BytesIO(pickled), [""] * 2, dict[int, str]()
    while stream.tell() < len(pickled):  # torch's older format is several in a row
        try:
            for operation, argument, _ in pickletools.genops(stream):
                match operation.name:
                    case "GLOBAL" | "INST":
                        yield _plain(str(argument).replace(" ", "."))
                    case "STACK_GLOBAL":
                        yield _plain(".".join(pushed[-2:]))
                    case "EXT1" | "EXT2" | "EXT4":
                        yield f"extension {argument} of copyreg"
                    case "MEMOIZE":
                        memo[len(memo)] = pushed[-1]
                    case "PUT" | "BINPUT" | "LONG_BINPUT":
                        memo[int(argument or 0)] = pushed[-1]
                    case "GET" | "BINGET" | "LONG_BINGET":
                        pushed.append(memo.get(int(argument or 0), "?"))
                    case _ if isinstance(argument, str):
                        pushed.append(argument)
        except Exception:  # no pickle, or not a whole one
            return


def _plain(name: str) -> str:
    return re.sub(r"^(builtins|__builtin__)\.", "", name)


def _reason(error: Exception) -> str:
    """Return what torch says, without its advice on loading the file all the same."""
    return _first_line(str(error).rpartition("WeightsUnpickler error: ")[2] or error)


def _first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]

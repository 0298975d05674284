"""Every operation of this process on the files of a folder, one by one, so that it can be made to end or fail there."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Operation:
    """What is about to be done.

    Attributes
    ----------
    number : int
        From 1.
    kind : str
        ``mkdir``, ``open`` (to write), ``write`` (of the kernel, so a flush is one), ``close`` (of a written file),
        ``truncate``, ``chmod``, ``fsync``, ``rename`` or ``unlink``.
    path : Path
        Of a rename, the new name.
    begin : callable
        Does the first half of a write; nothing for any other.
    old : Path or None
        The name before a rename.
    """

    number: int
    kind: str
    path: Path
    begin: Callable[[], object] = lambda: None
    old: Path | None = None

    def error(self, code: int) -> OSError:
        """Return the error that the kernel gives: with the name only where it is told the name."""
        if self.kind in ("write", "close", "fsync", "truncate"):
            return OSError(code, os.strerror(code))
        if self.old:
            return OSError(code, os.strerror(code), str(self.old), None, str(self.path))
        return OSError(code, os.strerror(code), str(self.path))


def watch(folder: Path, before: Callable[[Operation], None]) -> None:
    """Call ``before`` ahead of every operation below ``folder``, until this process ends.

    What a library writes by itself, not through Python, is not seen; nothing that a run writes is written so.
    """
    folder = folder.absolute()
    count = 0

    def named(place: Any, dir_fd: int | None = None) -> Path:
        if isinstance(place, int):
            return Path(os.readlink(f"/proc/self/fd/{place}"))
        below = Path() if dir_fd is None else Path(os.readlink(f"/proc/self/fd/{dir_fd}"))
        return (below / os.fsdecode(place)).absolute()

    def meet(kind: str, path: Path, begin: Callable[[], object] = lambda: None, old: Path | None = None) -> None:
        nonlocal count
        if path.is_relative_to(folder):
            count += 1
            before(Operation(count, kind, path, begin, old))

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            meet("write", named(self.name), lambda: io.FileIO.write(self, memoryview(data)[: len(data) // 2]))
            return super().write(data)

        def close(self) -> None:
            if not self.closed:
                try:
                    meet("close", named(self.name))
                finally:
                    super().close()

    plain = {name: getattr(os, name) for name in ("open", "mkdir", "chmod", "unlink", "remove", "rmdir", "fsync")}
    plain |= {name: getattr(os, name) for name in ("ftruncate", "pwrite", "replace", "rename")}
    plain_open = builtins.open

    def watched(kind: str, name: str) -> None:
        def operation(place: Any, *args: Any, **kwargs: Any) -> Any:
            meet(kind, named(place, kwargs.get("dir_fd")))
            return plain[name](place, *args, **kwargs)

        setattr(os, name, operation)

    def os_open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            meet("open", named(path, kwargs.get("dir_fd")))
        return plain["open"](path, flags, *args, **kwargs)

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        meet("write", named(descriptor), lambda: plain["pwrite"](descriptor, data[: len(data) // 2], offset))
        return plain["pwrite"](descriptor, data, offset)

    def renaming(name: str) -> None:
        def rename(old: Any, new: Any, **kwargs: Any) -> None:
            meet("rename", named(new, kwargs.get("dst_dir_fd")), old=named(old, kwargs.get("src_dir_fd")))
            plain[name](old, new, **kwargs)

        setattr(os, name, rename)

    def open_(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+") or not Path(file).absolute().is_relative_to(folder):
            return plain_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if opener is None:  # else it is that which opens
            meet("open", named(file))
        raw = Raw(os.fsdecode(file), mode.translate(str.maketrans("", "", "bt")), opener=opener)
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    for name in ("mkdir", "chmod", "fsync", "rmdir"):
        watched(name, name)
    watched("unlink", "unlink")
    watched("unlink", "remove")
    watched("truncate", "ftruncate")
    renaming("replace")
    renaming("rename")
    os.open = os_open  # type: ignore[assignment]
    os.pwrite = pwrite  # type: ignore[assignment]
    builtins.open = io.open = open_  # type: ignore[assignment]

"""One worker for one piece of work: a file that says who has it, locked for as long as they live.

The lock is a POSIX record lock, or that of Windows (:mod:`embench.core.kernel_locks`). The kernel drops it when its
process ends, however that ends, and an NFS server drops it with its client: no clock is read and no process id is
probed. It belongs to the process alone, so that a data worker that outlives its killed parent keeps nothing claimed.
What is assumed: every machine sees locks through the file system (NFS must not be mounted with ``nolock`` or
``local_lock=all``; Lustre needs ``flock``).
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from embench.core import confined, kernel_locks, process
from embench.core.errors import BadInput, TryAgain
from embench.core.files import explained

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

MAX_BYTES = 4096

_mine: set[Path] = set()
"""What this process holds: its own locks do not stop it, and closing a second descriptor would drop the first's."""
process.after_fork(_mine.clear)


@dataclass(frozen=True)
class Holder:
    """The process that has a claim."""

    host: str
    process: int

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class Held(TryAgain):
    """Another process has the claim.

    Parameters
    ----------
    path : Path
        The claim.
    holder : Holder
    """

    def __init__(self, path: Path, holder: Holder) -> None:
        super().__init__(f"{path}: held by {holder}; wait for it, or run the same command again when it has ended")
        self.path, self.holder = path, holder


@contextmanager
def claimed(path: Path, below: Path | None = None) -> Iterator[None]:
    """Hold the claim ``path``, in a folder below ``below`` that may be anybody's, for as long as the block runs.

    A claim whose holder is dead is free, whatever its file says. The file stays when the block ends: to remove a lock
    file is a race, unless nobody can want it any more.

    Raises
    ------
    Held
        At once, when another process (or another block of this one) has it.
    BadInput
        The file system has no locks, or the file cannot be made, or a link or no file lies in its place.
    """
    place = path.absolute()
    if place in _mine:
        raise Held(path, _self())
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(confined.writing(place, (below or path.parent).absolute()))
        except OSError as error:
            raise explained(error, path) from None
        _lock(descriptor, path)
        _mine.add(place)
        try:
            _write(descriptor, path, json.dumps(asdict(_self())).encode())
            yield
        finally:
            _mine.discard(place)


def holder(path: Path, below: Path | None = None) -> Holder | None:
    """Return who has the claim ``path``, without touching it; ``None`` when it is free.

    For lookers: between this answer and any use of it the claim may change hands.
    """
    place = path.absolute()
    if place in _mine:
        return _self()
    try:
        with confined.reading(place, (below or path.parent).absolute(), MAX_BYTES, "a claim") as file:
            return _holder(file.fileno())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explained(error, path) from None


def _self() -> Holder:
    return Holder(socket.gethostname(), os.getpid())


def _lock(descriptor: int, path: Path) -> None:
    while True:
        try:
            if kernel_locks.take(descriptor):
                return
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise BadInput(
                    f"{path}: this file system has no locks between processes ({error.strerror}); "
                    "choose a folder on one that has"
                ) from None
            raise explained(error, path) from None
        if found := _holder(descriptor):  # else it went in the meantime
            raise Held(path, found)


def _holder(descriptor: int) -> Holder | None:
    number = kernel_locks.taken_by(descriptor)
    if number is None:
        return None
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        return Holder(**json.loads(os.read(descriptor, MAX_BYTES)))
    except (ValueError, TypeError):  # it has the lock and has not yet written its name
        return Holder("an unknown host", number)


def _write(descriptor: int, path: Path, name: bytes) -> None:
    try:
        os.ftruncate(descriptor, 0)
        if hasattr(os, "pwrite"):
            os.pwrite(descriptor, name, 0)
        else:
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, name)
    except OSError as error:
        raise explained(error, path) from None

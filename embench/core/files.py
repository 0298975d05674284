"""Writing files so that a reader sees the old one or the new one, never half of either."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from embench.core.errors import BadInput, TryAgain

_FOR_THE_USER = {
    errno.EACCES: "give yourself the permission, or choose another place",
    errno.EPERM: "give yourself the permission, or choose another place",
    errno.EROFS: "choose another place, or have it mounted for writing",
    errno.ENOTDIR: "choose another place",
    errno.EISDIR: "choose another place",
    errno.EEXIST: "choose another place",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "choose another place",
}
"""Faults that stay until somebody mends them; any other (disk full, quota, input/output, stale handle) may pass."""

_swept: set[Path] = set()
"""Folders in which this process has looked for what dead ones left."""
os.register_at_fork(after_in_child=_swept.clear)


def explained(error: OSError, path: Path) -> BadInput | TryAgain:
    """Return what to raise when ``path`` cannot be written: by whether the same command can succeed later."""
    what = f"{path}: cannot be written ({error.strerror or error})"
    if error.errno in _FOR_THE_USER:
        return BadInput(f"{what}; {_FOR_THE_USER[error.errno]}")
    advice = "make room and " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return TryAgain(f"{what}; {advice}run the same command again")


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is fsynced and renamed over ``path``.

    The temporary file is locked while its writer lives, so that the next process to write into the folder can tell
    and remove what dead ones left (on any machine, see :mod:`embench.core.locks` for what is assumed).

    Parameters
    ----------
    path : Path
        The file to make or replace; its folder is created.
    durable : bool
        Without, nothing is fsynced: for files by the thousand that a later run makes again. After a power cut such a
        file may be empty.

    Yields
    ------
    Path
        Where to write. On an exception it is removed and ``path`` stays as it was.

    Raises
    ------
    TryAgain, BadInput
        When ``path`` cannot be written: a fault that may pass, or one that the user must mend (:func:`explained`).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        descriptor, temporary = _temporary(path)
    except OSError as error:
        raise explained(error, path) from None
    try:
        with _explaining(path, temporary):
            yield temporary
            os.chmod(temporary, 0o666 & ~_umask())
            move(temporary, path, durable)
    finally:
        with suppress(OSError):  # if it stays, the next process sweeps it
            temporary.unlink(missing_ok=True)
        os.close(descriptor)


def write_atomic(path: Path, content: bytes | str, durable: bool = True) -> None:
    """Write ``content`` (text as UTF-8) to ``path`` atomically; ``durable`` as in :func:`replacing`."""
    with replacing(path, durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def move(temporary: Path, path: Path, durable: bool = True) -> None:
    """Rename a written file over ``path``; if ``durable``, a power cut leaves the old one or the whole new one."""
    if durable:
        _fsync(temporary)
    os.replace(temporary, path)
    if durable:
        _fsync(path.parent)


def remove(path: Path) -> None:
    """Remove a file, if it is there; raises as :func:`replacing` does."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise explained(error, path) from None


def sweep(folder: Path) -> None:
    """Remove the temporary files of dead processes from ``folder``, once in the life of this process."""
    if folder in _swept:
        return
    _swept.add(folder)
    for left in folder.glob(".*.part"):
        with suppress(OSError):  # another sweeper had it, or it is not ours to remove
            descriptor = os.open(left, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path) -> None:
    """Write a file of one block in ``folder`` (created when absent) and remove it; raise as :func:`replacing` does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise explained(error, folder) from None


def _temporary(path: Path) -> tuple[int, Path]:
    """Make and lock a temporary file beside ``path``."""
    while True:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with suppress(OSError):  # without locks there is no sweeping either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(name)
        os.close(descriptor)  # a sweeper took it between those two lines


@contextmanager
def _explaining(path: Path, temporary: Path) -> Iterator[None]:
    """Turn the faults of writing ``temporary`` into ours; a fault of another file, which it may be made from, stays."""
    try:
        yield
    except OSError as error:
        if error.errno is None and (told := re.search(r"errno = (\d+)", str(error))):  # HDF5 says it in words
            error = OSError(int(told[1]), os.strerror(int(told[1])))
        about = Path(os.fsdecode(error.filename)) if error.filename else temporary
        if error.errno is None or about not in (temporary, path.parent):
            raise
        raise explained(error, path) from None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current

"""Writing files so that a reader sees the old one or the new one, never half of either."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from embench.core import confined, kernel_locks, process
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
process.after_fork(_swept.clear)


def explained(error: OSError, path: Path) -> BadInput | TryAgain:
    """Return what to raise when ``path`` cannot be written: by whether the same command can succeed later."""
    what = f"{path}: cannot be written ({error.strerror or error})"
    if error.errno in _FOR_THE_USER:
        return BadInput(f"{what}; {_FOR_THE_USER[error.errno]}")
    advice = "make room and " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return TryAgain(f"{what}; {advice}run the same command again")


@contextmanager
def replacing(path: Path, durable: bool = True, below: Path | None = None) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is fsynced and renamed over ``path``.

    The temporary file is locked while its writer lives, so that the next process to write into the folder can tell
    and remove what dead ones left (on any machine, see :mod:`embench.core.locks` for what is assumed).

    Parameters
    ----------
    path : Path
        The file to make or replace; its folder is created. What is a link is replaced, never written through.
    durable : bool
        Without, nothing is fsynced: for files by the thousand that a later run makes again. After a power cut such a
        file may be empty.
    below : Path, optional
        A folder that may be anybody's, from which on no link leads to ``path`` (:mod:`embench.core.confined`).

    Yields
    ------
    Path
        Where to write. On an exception it is removed and ``path`` stays as it was.

    Raises
    ------
    TryAgain, BadInput
        When ``path`` cannot be written: a fault that may pass, or one that the user must mend (:func:`explained`).
    """
    with ExitStack() as stack:
        try:
            place = stack.enter_context(confined.folder(path.parent, below or path.parent, make=True))
            sweep(path.parent)
            descriptor, temporary = _temporary(path, place)
        except OSError as error:
            raise explained(error, path) from None
        try:
            with _explaining(path, temporary):
                yield temporary
                os.chmod(temporary, 0o666 & ~_umask())
                _move(temporary, path, place, durable)
        finally:
            with suppress(OSError):  # if it stays, the next process sweeps it
                os.unlink(temporary)
            os.close(descriptor)


def write_atomic(path: Path, content: bytes | str, durable: bool = True, below: Path | None = None) -> None:
    """Write ``content`` (text as UTF-8) to ``path`` atomically; ``durable`` and ``below`` as in :func:`replacing`."""
    with replacing(path, durable, below) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _move(temporary: Path, path: Path, place: int | None, durable: bool) -> None:
    """Rename a written file over ``path``; if ``durable``, a power cut leaves the old one or the whole new one."""
    if durable:
        _fsync(temporary)
    if place is None:
        os.replace(temporary, path)
    else:
        os.replace(temporary.name, path.name, src_dir_fd=place, dst_dir_fd=place)
    if durable and place is not None:  # elsewhere a folder cannot be synced
        os.fsync(place)


def remove(path: Path, below: Path | None = None) -> None:
    """Remove a file, if it is there; raises as :func:`replacing` does."""
    try:
        confined.remove(path, below or path.parent)
    except OSError as error:
        raise explained(error, path) from None


_PART = ".embench-"
"""How the names of temporary files begin: nobody else's are removed."""


def sweep(folder: Path) -> None:
    """Remove the temporary files of dead processes from ``folder``, once in the life of this process."""
    if folder in _swept:
        return
    _swept.add(folder)
    for left in folder.glob(f"{_PART}*.part"):
        # What fails: another sweeper had it, or it is not ours to remove.
        with suppress(OSError, BadInput), confined.writing(left, folder) as descriptor:
            kernel_locks.take_open(descriptor)
            left.unlink()


def preallocate(descriptor: int, size: int) -> None:
    """Give an open file ``size`` bytes that are really there; raises ``OSError`` where there is no room for them."""
    if hasattr(os, "posix_fallocate"):
        if size:
            os.posix_fallocate(descriptor, 0, size)
        return
    with os.fdopen(os.dup(descriptor), "r+b") as file:  # elsewhere by writing them
        for start in range(0, size, 2**20):
            file.write(bytes(min(2**20, size - start)))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path, below: Path | None = None) -> None:
    """Write a file of one block in ``folder`` (created when absent) and remove it; raise as :func:`replacing` does."""
    try:
        with confined.folder(folder, below or folder, make=True), tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise explained(error, folder) from None


def _temporary(path: Path, place: int | None) -> tuple[int, Path]:
    """Make and lock a temporary file beside ``path``, in the open folder ``place``."""
    while True:
        name = f"{_PART}{path.name[:60]}.{secrets.token_hex(4)}.part"
        temporary = path.parent / name
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        try:
            descriptor = os.open(temporary if place is None else name, flags, 0o600, dir_fd=place)
        except FileExistsError:
            continue
        with suppress(OSError):  # without locks there is no sweeping either
            kernel_locks.take_open(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:
            return descriptor, temporary
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

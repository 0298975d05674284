"""Locks on files that the kernel drops when their holder dies: POSIX's, or those of Windows.

On Windows one byte far behind the content is locked, so that everybody can still read who has the lock.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:
    msvcrt = None  # type: ignore[assignment]

# struct flock: where a lock is, whose, and its type; the C library has no other way to look without locking.
_FLOCK = struct.Struct("qqihh" if sys.platform == "darwin" else "hhqqi4x")
_TYPE, _PROCESS = (3, 2) if sys.platform == "darwin" else (0, 4)
_FAR = 2**30


def take(descriptor: int) -> bool:
    """Lock a file for this process; return whether it did, which another process's lock prevents.

    The lock ends with the process, or when the process closes any descriptor of the file.

    Raises
    ------
    OSError
        The file system has no locks (ENOLCK, ENOSYS, EOPNOTSUPP), or another fault.
    """
    try:
        if fcntl is not None:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            _windows(descriptor, "LK_NBLCK")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise
        return False
    return True


def taken_by(descriptor: int) -> int | None:
    """Return the number of the other process that has the lock, 0 where nobody tells; ``None`` when it is free."""
    if fcntl is not None:
        asked = [0] * 5
        asked[_TYPE] = fcntl.F_WRLCK
        found = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, _FLOCK.pack(*asked)))
        return None if found[_TYPE] == fcntl.F_UNLCK else found[_PROCESS]
    if not take(descriptor):
        return 0
    _windows(descriptor, "LK_UNLCK")
    return None


def take_open(descriptor: int, wait: bool = False) -> None:
    """Lock an open file until this descriptor is closed; raise OSError when another one has it, unless ``wait``."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    else:
        _windows(descriptor, "LK_LOCK" if wait else "LK_NBLCK")


def _windows(descriptor: int, how: str) -> None:
    if msvcrt is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    os.lseek(descriptor, _FAR, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, getattr(msvcrt, how), 1)  # type: ignore[attr-defined]
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)

"""Opening files by name below a folder that may be anybody's.

Results, plans, notes, cards and data come from other people, through git, an archive or a shared disk, and such a
folder can hold anything under any name: links that lead out of it, pipes and devices that never end, files and trees
without bounds. Here no link below the folder is followed, a file is regular or refused, its size is known before it
is read, and a walk says what it could not see. The folder itself may be reached through links: the user named it.

Each step goes from one open folder to the next (``openat`` and ``O_NOFOLLOW``), so that nobody can put a link in the
way between the check and the use. Systems without that (Windows) look at each name instead, just before it is used.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from embench.core.errors import BadInput

HAS_DIR_FD = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW") and hasattr(os, "O_DIRECTORY")
"""Whether a name can be opened relative to an open folder here."""
DEEPEST = 32
"""Levels of folders below the one given."""
MOST_NAMES = 500_000
"""Files and folders in one walk."""
_PLAIN = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_BINARY"))


@contextmanager
def folder(path: Path, below: Path, make: bool = False) -> Iterator[int | None]:
    """Open the folder ``path`` below ``below`` without following a link.

    Parameters
    ----------
    path : Path
        ``below`` itself, or a folder in it.
    below : Path
        The folder that is trusted to be where it is.
    make : bool
        Make what is missing.

    Yields
    ------
    int or None
        The descriptor, for ``dir_fd``; ``None`` on a system without it, where the path was checked by name.

    Raises
    ------
    BadInput
        A link on the way, or a path that is not below the folder.
    OSError
        As the system says, for a folder that is missing or cannot be made or opened.
    """
    parts = _parts(path, below)
    if make:
        below.mkdir(parents=True, exist_ok=True)
    if not HAS_DIR_FD:
        _check_by_name(below, parts, make)
        yield None
        return
    descriptor = os.open(below, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for depth, name in enumerate(parts):
            inner = _open_folder(descriptor, name, below.joinpath(*parts[: depth + 1]), make)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def status(path: Path, below: Path) -> os.stat_result | None:
    """Return what lies under a name, a link as a link; ``None`` where there is nothing; raises as :func:`folder`."""
    if path == below:
        return path.stat() if path.exists() else None
    try:
        with folder(path.parent, below) as place:
            return _status(path, place)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_file(path: Path, below: Path) -> bool:
    """Whether a regular file, no link to one, lies there; raises as :func:`folder` does."""
    found = status(path, below)
    return found is not None and stat.S_ISREG(found.st_mode)


@contextmanager
def reading(path: Path, below: Path, most: int, what: str = "it") -> Iterator[IO[bytes]]:
    """Open a file to read.

    Parameters
    ----------
    path, below : Path
        As for :func:`folder`.
    most : int
        Bytes that such a file has at most.
    what : str
        What such a file is, for the message: ``a plan``.

    Raises
    ------
    BadInput
        A link, no regular file, too large, or not to be read.
    FileNotFoundError
        Nothing is there.
    """
    try:
        with folder(path.parent, below) as place:
            descriptor = _open(path, place, os.O_RDONLY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from None
    with os.fdopen(descriptor, "rb") as file:
        if (size := os.fstat(descriptor).st_size) > most:
            raise BadInput(f"{path}: {size} bytes; {what} has at most {most}")
        yield file


def read(path: Path, below: Path, most: int, what: str = "it") -> bytes:
    """Return the bytes of a file; raises as :func:`reading` does."""
    try:
        with reading(path, below, most, what) as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(content) > most:  # it grew meanwhile
        raise BadInput(f"{path}: more than {most} bytes; {what} has at most so many")
    return content


@contextmanager
def writing(path: Path, below: Path) -> Iterator[int]:
    """Open a file to be written in place, made when absent, and its folders too.

    Yields
    ------
    int
        Its descriptor, open for reading and writing.

    Raises
    ------
    BadInput
        A link, no regular file, or a file that has a second name elsewhere.
    OSError
        As the system says.
    """
    with folder(path.parent, below, make=True) as place:
        descriptor = _open(path, place, os.O_RDWR | os.O_CREAT)
    try:
        if os.fstat(descriptor).st_nlink > 1:
            raise BadInput(f"{path}: a hard link to a file elsewhere; remove it")
        yield descriptor
    finally:
        os.close(descriptor)


def remove(path: Path, below: Path) -> None:
    """Remove a file (of a link the link), if it is there; raises as :func:`folder` does."""
    try:
        with folder(path.parent, below) as place:
            os.unlink(_name(path, place), dir_fd=place)
    except FileNotFoundError:
        return


def rename(old: Path, new: Path, below: Path) -> None:
    """Move a file to another name below the same folder, in whose place nothing may be; folders are made."""
    with folder(old.parent, below) as source, folder(new.parent, below, make=True) as target:
        if _status(new, target) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
        os.rename(_name(old, source), _name(new, target), src_dir_fd=source, dst_dir_fd=target)


@dataclass
class Found:
    """What a walk met: files in order of their paths, and a line for everything that it could not take."""

    files: list[Path] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def names(path: Path, below: Path) -> list[str]:
    """Return the names in one folder, sorted; raises as :func:`folder` does, and for more than the most names."""
    with folder(path, below) as place, os.scandir(path if place is None else place) as entries:
        return sorted(entry.name for entry in _counted(entries, path))


def walk(below: Path, pattern: str, deepest: int = DEEPEST) -> Found:
    """Return the files under a folder whose names match; hidden folders are not entered.

    Parameters
    ----------
    below : Path
        As a folder that is not there, or that cannot be read, is a fault too, look first.
    pattern : str
        Of the names, as ``seed-*.json``.
    deepest : int
        Levels of folders.

    Returns
    -------
    Found
        Faults: a folder that cannot be read, links to folders or under a matching name, what matches and is no regular
        file, names that are no text, levels or names beyond the most.
    """
    found = Found()
    waiting: list[tuple[str, ...]] = [()]
    left = MOST_NAMES
    while waiting:
        parts = waiting.pop()
        here = below.joinpath(*parts)
        inner: list[tuple[str, ...]] = []
        try:
            with folder(here, below) as place, os.scandir(here if place is None else place) as entries:
                for entry in entries:
                    left -= 1
                    if left < 0:
                        break
                    kind = _kind(entry)
                    matches = fnmatch.fnmatch(entry.name, pattern)
                    if kind == "folder" and not matches:
                        if not entry.name.startswith("."):
                            inner.append((*parts, entry.name))
                    elif fault := _fault(entry, kind, matches, place):
                        found.faults += BadInput(f"{here / entry.name}: {fault}").lines
                    elif matches:
                        found.files.append(here / entry.name)
        except BadInput as error:
            found.faults += error.lines
        except OSError as error:
            told = f"{here}: cannot be read ({error.strerror or error}); whatever is in it is left out"
            found.faults += BadInput(told).lines
        if left < 0:
            found.faults.append(f"{below}: more than {MOST_NAMES} files and folders; the rest is left out")
            break
        for each in inner:
            if fault := _folder_fault(each, deepest):
                found.faults += BadInput(f"{below.joinpath(*each)}: {fault}").lines
            else:
                waiting.append(each)
    found.files.sort(key=lambda path: path.parts)
    found.faults.sort()
    return found


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def _fault(entry: os.DirEntry[str], kind: str, matches: bool, place: int | None) -> str:
    """Return why an entry is left out that may have been meant to be read."""
    if kind == "link":
        if not matches and (entry.name.startswith(".") or not _leads_to_folder(entry, place)):
            return ""
        return "a link; links are not followed: put there what it points to, or give that as a folder of its own"
    if not matches:
        return ""
    if kind != "file":
        return "not a file; remove it"
    return "" if _is_text(entry.name) else "its name is not UTF-8; rename it"


def _leads_to_folder(entry: os.DirEntry[str], place: int | None) -> bool:
    try:
        return stat.S_ISDIR(os.stat(entry.path if place is None else entry.name, dir_fd=place).st_mode)
    except OSError:  # it leads nowhere, or in a circle
        return False


def _folder_fault(parts: tuple[str, ...], deepest: int) -> str:
    if not _is_text(parts[-1]):
        return "its name is not UTF-8; rename it; whatever is in it is left out"
    if len(parts) > deepest:
        return f"more than {deepest} levels deep; whatever is in it is left out"
    return ""


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _counted(entries: Iterator[os.DirEntry[str]], path: Path) -> Iterator[os.DirEntry[str]]:
    for number, entry in enumerate(entries):
        if number == MOST_NAMES:
            raise BadInput(f"{path}: more than {MOST_NAMES} names; remove what does not belong there")
        yield entry


def _parts(path: Path, below: Path) -> tuple[str, ...]:
    """Return the names that lead from ``below`` to ``path``."""
    try:
        parts = path.relative_to(below).parts
    except ValueError:
        try:
            parts = path.absolute().relative_to(below.absolute()).parts
        except ValueError:
            raise BadInput(f"{path}: not below {below}") from None
    if ".." in parts or any("\0" in part for part in parts):
        raise BadInput(f"{path}: not below {below}")
    return parts


def _link(path: Path) -> BadInput:
    return BadInput(
        f"{path}: a link; links in such a folder are not followed: remove it, or put there what it points to"
    )


def _open_folder(descriptor: int, name: str, path: Path, make: bool) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=descriptor)
    except FileNotFoundError:
        if not make:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
        with suppress(FileExistsError):  # another process was quicker, or a link lies there
            os.mkdir(name, dir_fd=descriptor)
        return _open_folder(descriptor, name, path, make=False)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                raise _link(path) from None
        raise OSError(error.errno, error.strerror, str(path)) from None


def _open(path: Path, place: int | None, flags: int) -> int:
    """Open a regular file of an open folder; what else lies there is not even opened: a device may act on that."""
    try:
        found = _status(path, place)
        if found is not None:
            _check_regular(path, found)
        descriptor = os.open(_name(path, place), flags | _PLAIN, 0o666, dir_fd=place)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise _link(path) from None
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        _check_regular(path, os.fstat(descriptor))  # it may have been changed for another in between
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(path: Path, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise _link(path)
    if not stat.S_ISREG(found.st_mode):  # a pipe or a device would never end
        raise BadInput(f"{path}: not a file; remove it")


def _status(path: Path, place: int | None) -> os.stat_result | None:
    try:
        return os.stat(_name(path, place), dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _name(path: Path, place: int | None) -> str:
    return str(path) if place is None else path.name


def _check_by_name(below: Path, parts: tuple[str, ...], make: bool) -> None:
    """Check each folder from ``below`` on by its name; for systems without ``dir_fd``."""
    here = below
    if not here.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(here))
    for name in parts:
        here = here / name
        if os.path.islink(here) or getattr(os.path, "isjunction", lambda _: False)(here):
            raise _link(here)
        if make and not here.exists():
            here.mkdir(exist_ok=True)
        if not here.is_dir():
            code = errno.ENOTDIR if here.exists() else errno.ENOENT
            raise OSError(code, os.strerror(code), str(here))

"""Zip archives: checked before they are unpacked."""

from __future__ import annotations

import hashlib
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from embench.core.errors import BadInput
from embench.core.files import check_writable
from embench.data.task import Download

_LARGEST_MEMBER = 2**36
_UNCHECKED_MEMBER = 2**30
_LARGEST_RATIO = 10_000
_MOST_MEMBERS = 2_000_000
_DEEPEST, _LONGEST_PATH = 100, 1000
"""Folders in one another, and characters of a path."""


def odd_members(archive: Path, download: Download) -> str:
    """Say which known files inside an archive are missing or of another hash; empty when all hold."""
    if not download.members:
        return ""
    odd = []
    try:
        with zipfile.ZipFile(archive) as contents:
            by_name = {PurePosixPath(member.filename).name: member for member in contents.infolist()}
            for name, expected in download.members.items():
                if name not in by_name:
                    odd.append(f"{name} is missing")
                    continue
                with contents.open(by_name[name]) as stream:
                    digest = _digest(stream)
                if digest != expected:
                    odd.append(f"{name} has SHA-256 {digest}, published {expected}")
    except Exception as error:  # of any of four ways of compression
        odd.append(f"the archive is broken: {error}")
    return "; ".join(odd)


def _digest(stream: Any) -> str:
    digest = hashlib.sha256()
    while block := stream.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def reason(error: BaseException) -> str:
    while isinstance(inner := getattr(error.args[0] if error.args else None, "reason", None), BaseException):
        error = inner  # of requests' report of urllib3's report: the fault itself
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip archive into a new folder, after checking every entry.

    Raises
    ------
    BadInput
        Whatever :func:`check_archive` finds, and what does not fit on the disk, before anything is written. Also when
        an entry is damaged; then nothing is left.
    """
    members = check_archive(archive)
    check_writable(folder)
    try:
        free = shutil.disk_usage(folder).free
        if (total := sum(member.file_size for member in members)) > free:
            raise BadInput(f"{archive}: unpacks to {total} bytes, {free} are free in {folder.parent}; make room")
        with _reading(archive), zipfile.ZipFile(archive) as contents:
            for member in members:
                target = folder / member.filename
                if _is_folder(member):
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with contents.open(member) as source, target.open("xb") as out:
                    shutil.copyfileobj(source, out, 2**20)
                    if out.tell() != member.file_size:
                        raise EOFError(f"{member.filename!r} has {out.tell()} bytes, {member.file_size} are declared")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_archive(archive: Path) -> list[zipfile.ZipInfo]:
    """Return the entries of a zip archive that are to be unpacked, all of which stay in its folder.

    Raises
    ------
    BadInput
        One line per fault: paths that lead elsewhere or that other systems read otherwise, symbolic links, devices,
        encrypted, doubled or overlapping entries, files in the place of folders, declared sizes that are absurd.
    """
    with _reading(archive), zipfile.ZipFile(archive) as contents:
        members = [member for member in contents.infolist() if not _is_junk(member.filename)]
    if faults := list(_unsafe(archive, members)):
        raise BadInput(faults)
    return members


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Turn whatever the readers of archives raise on a broken one into :class:`BadInput`."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # of any of four ways of compression
        raise BadInput(f"{archive}: cannot be unpacked ({reason(error)}); fetch it again") from error


def _unsafe(archive: Path, members: Sequence[zipfile.ZipInfo]) -> Iterator[str]:
    if len(members) > _MOST_MEMBERS:
        yield f"{archive}: {len(members)} entries; at most {_MOST_MEMBERS}"
    seen: set[str] = set()
    files = {PurePosixPath(member.filename) for member in members if not _is_folder(member)}
    end, last = 0, ""
    for member in sorted(members, key=lambda each: each.header_offset):
        name = member.filename
        where = f"{archive}: entry {name!r:.200}"
        path, windows = PurePosixPath(name), PureWindowsPath(name)
        if path.is_absolute() or windows.drive or windows.root or ".." in windows.parts or not windows.parts:
            yield f"{where} leads out of the folder; refused"
        if not name.isprintable() or len(member.orig_filename) != len(name):
            yield f"{where} has control characters or NUL in its name; refused"
        if len(path.parts) > _DEEPEST or len(name) > _LONGEST_PATH:
            yield f"{where} is too deep or its path too long; refused"
        mode = member.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            yield f"{where} is a symbolic link or a device; refused"
        if member.flag_bits & 1:
            yield f"{where} is encrypted; unpack it by hand and give the folder"
        same = unicodedata.normalize("NFC", str(path)).casefold()  # as some file systems see it
        if same in seen:
            yield f"{where} occurs twice; refused"
        seen.add(same)
        if not files.isdisjoint(path.parents):
            yield f"{where} lies in a folder whose name is that of a file; refused"
        if member.header_offset < end:
            yield f"{where} overlaps {last!r:.200}; refused"
        end, last = member.header_offset + 30 + len(name.encode("utf-8", "replace")) + member.compress_size, name
        is_dense = member.file_size > _UNCHECKED_MEMBER and member.file_size > _LARGEST_RATIO * member.compress_size
        if member.file_size > _LARGEST_MEMBER or is_dense:
            yield f"{where} declares {member.file_size} bytes from {member.compress_size}; refused"


def _is_folder(member: zipfile.ZipInfo) -> bool:
    return member.filename.endswith("/")  # ZipInfo.is_dir fails on an empty name


def _is_junk(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or (bool(parts) and parts[-1] in (".DS_Store", "Thumbs.db"))

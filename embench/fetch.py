"""Published files: downloading them, checking them, and unpacking archives that nobody here vouches for.

A file is kept only when it is what was asked for: of the known SHA-256 where there is one, never a web page saved in
its place, never half. Where no SHA-256 is known, that of what came is recorded beside the file and shown as unverified.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import stat
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from embench.errors import BadInput
from embench.files import check_writable, sha256, write_atomic
from embench.task import Dataset, Download

log = logging.getLogger(__name__)

_MAGIC = {".zip": b"PK\x03\x04", ".hdf": b"\x89HDF\r\n\x1a\n"}
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<script")
_LARGEST_MEMBER = 2**36
_UNCHECKED_MEMBER = 2**30
_LARGEST_RATIO = 10_000
_MOST_MEMBERS = 2_000_000
_DEEPEST, _LONGEST_PATH = 100, 1000
"""Folders in one another, and characters of a path."""
_SECONDS = 30.0


@dataclass(frozen=True)
class Fetched:
    """A published file that is here.

    Parameters
    ----------
    path : Path
    sha256 : str
        Of the file as it is.
    verified : bool
        Whether that, or the hash of every known file inside it, is the published one.
    fresh : bool
        Downloaded just now.
    """

    path: Path
    sha256: str
    verified: bool
    fresh: bool


def downloads_folder(data: Path) -> Path:
    """Return where published files are kept inside the data folder."""
    return data / "downloads"


def fetch(
    dataset: Dataset,
    data: Path,
    *,
    insecure_hosts: Sequence[str] = (),
    progress: bool = True,
    retries: int = 2,
) -> list[Fetched]:
    """Download the published files of a data set, except those that are here already.

    Parameters
    ----------
    dataset : Dataset
    data : Path
        The data folder.
    insecure_hosts : sequence of str
        Hosts whose TLS certificate is not checked; only for files of known SHA-256.
    progress : bool
        Show a bar on standard error.
    retries : int
        Further attempts after a broken connection or a wrong hash.

    Raises
    ------
    BadInput
        Nothing to download; an unreachable address; a file that is not what it should be (both hashes are shown and
        nothing is kept); an insecure host without known SHA-256.
    """
    if not dataset.downloads:
        raise BadInput(f"{dataset.name}: nothing to fetch; {_by_hand(dataset)}")
    _check_insecure(dataset, insecure_hosts)
    folder = downloads_folder(data)
    check_writable(folder)
    done, faults = [], []
    for download in dataset.downloads:
        try:
            done.append(_fetch(download, dataset, folder, insecure_hosts, progress, retries))
        except BadInput as error:
            faults += error.lines
    if faults:
        raise BadInput(faults)
    return done


def fetched(dataset: Dataset, data: Path) -> list[Path] | None:
    """Return the downloaded files of a data set when all are here."""
    paths = [downloads_folder(data) / download.filename for download in dataset.downloads]
    return paths if paths and all(path.is_file() for path in paths) else None


def _fetch(
    download: Download, dataset: Dataset, folder: Path, insecure_hosts: Sequence[str], progress: bool, retries: int
) -> Fetched:
    import pooch
    import requests

    path = folder / download.filename
    record = _Record.of(path)
    if path.exists():
        digest = sha256(path)
        if digest == (download.sha256 or (record.sha256 if record else digest)):
            return _recorded(download, path, digest, fresh=False)
        log.warning("%s: not the file that it was; fetching it again", path)
        path.unlink()
    is_insecure = urlsplit(download.url).hostname in insecure_hosts
    if is_insecure:
        log.warning("%s: its TLS certificate is NOT checked, as asked; the SHA-256 is", download.url)
    # A redirect could lead to a host for which nobody gave leave.
    options = {"verify": False, "allow_redirects": False} if is_insecure else {}
    get = pooch.HTTPDownloader(progressbar=progress, timeout=_SECONDS, **options)

    def download_and_check(url: str, output: str, _: Any) -> None:
        get(url, output, None)
        _check_kind(Path(output), download)
        digest = sha256(Path(output))
        if download.sha256 and digest != download.sha256:
            raise ValueError(f"SHA-256 {digest}, published {download.sha256}")
        if odd := _odd_members(Path(output), download):
            raise ValueError(odd)

    pooch.get_logger().setLevel("WARNING")
    store = pooch.create(
        path=folder,
        base_url="",
        registry={download.filename: None},
        urls={download.filename: download.url},
        retry_if_failed=retries,
    )
    try:
        store.fetch(download.filename, downloader=download_and_check)
    except requests.exceptions.SSLError as error:
        host = urlsplit(download.url).hostname
        advice = f", or add --insecure-host {host} (the SHA-256 is still checked)" if download.sha256 else ""
        raise BadInput(
            f"{download.url}: the certificate of {host} cannot be trusted ({_reason(error)}); "
            f"{_by_hand(dataset, download)}{advice}"
        ) from error
    except (requests.exceptions.RequestException, OSError) as error:
        raise BadInput(
            f"{download.url}: cannot be fetched ({_reason(error)}); {_by_hand(dataset, download)}"
        ) from error
    except ValueError as error:
        raise BadInput(
            f"{download.url}: what came is not the published file ({error}); nothing was kept; "
            f"try again, or {_by_hand(dataset, download)}"
        ) from error
    return _recorded(download, path, sha256(path), fresh=True)


@dataclass(frozen=True)
class _Record:
    """What is known of a downloaded file, kept beside it."""

    url: str
    sha256: str
    verified: bool

    @staticmethod
    def path(file: Path) -> Path:
        return file.with_name(f"{file.name}.json")

    @classmethod
    def of(cls, file: Path) -> _Record | None:
        if not (path := cls.path(file)).exists():
            return None
        try:
            return _RECORD.validate_json(path.read_bytes())
        except (OSError, ValidationError):
            raise BadInput(f"{path}: not a record of a download; remove it and {file.name}, and fetch again") from None


_RECORD = TypeAdapter(_Record)


def _recorded(download: Download, path: Path, digest: str, *, fresh: bool) -> Fetched:
    verified = digest == download.sha256 or bool(download.members and not _odd_members(path, download))
    record = _Record(download.url, digest, verified)
    write_atomic(_Record.path(path), json.dumps(record.__dict__, indent=1) + "\n")
    return Fetched(path, digest, verified, fresh)


def _check_insecure(dataset: Dataset, hosts: Sequence[str]) -> None:
    faults = []
    for host in hosts:
        concerned = [download for download in dataset.downloads if urlsplit(download.url).hostname == host]
        if not concerned:
            faults.append(f"--insecure-host {host}: no file of {dataset.name} comes from there")
        faults += [
            f"--insecure-host {host}: the SHA-256 of {download.filename} is not known, so nothing else vouches for it; "
            f"{_by_hand(dataset, download)}"
            for download in concerned
            if download.sha256 is None
        ]
    if faults:
        raise BadInput(faults)


def _check_kind(file: Path, download: Download) -> None:
    with file.open("rb") as stream:
        head = stream.read(512)
    start = head.lstrip().lower()
    if start.startswith(_PAGES):
        raise BadInput(
            f"{download.url}: a web page came instead of {download.filename} (SHA-256 {sha256(file)}, published "
            f"{download.sha256 or 'not known'}); nothing was kept; open the address in a browser, save the file, "
            "and give it with --source"
        )
    magic = _MAGIC.get(Path(download.filename).suffix, b"")
    if not head.startswith(magic):
        raise ValueError(f"it starts with {head[:8]!r}, not like a {Path(download.filename).suffix} file")


def _odd_members(archive: Path, download: Download) -> str:
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


def _by_hand(dataset: Dataset, download: Download | None = None) -> str:
    what = download.filename if download else "its files"
    pages = {spec.homepage for spec in dataset.specs}
    where = f" (see {', '.join(sorted(pages - {''}))})" if pages - {""} else ""
    return f"fetch {what} by hand{where} and run: embench prepare {dataset.name} --source FILE|ZIP|DIR"


def _reason(error: BaseException) -> str:
    while isinstance(inner := getattr(error.args[0] if error.args else None, "reason", None), BaseException):
        error = inner  # of requests' report of urllib3's report: the fault itself
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"


@contextmanager
def opened(dataset: Dataset, sources: Sequence[Path], data: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Give one folder that holds what ``sources`` hold, and the card that says what they were.

    Parameters
    ----------
    dataset : Dataset
    sources : sequence of Path
        Folders, zip archives and single files. Archives are unpacked below ``data`` and removed at the end; a folder
        that holds the published archives stands for them.
    data : Path
        The data folder.

    Yields
    ------
    folder : Path
    card : dict
        ``source``: names; ``files``: SHA-256 of each archive, single file and file of known hash; ``verified``:
        whether all of them have the published one (``None`` where none is known).

    Raises
    ------
    BadInput
        A missing source; an unsafe archive, one line per fault.
    """
    if absent := [f"{path}: no such file or folder" for path in sources if not path.exists()]:
        raise BadInput(absent)
    sources = [each for source in sources for each in _archives_in(source, dataset) or [source]]
    if odd := [f"{path}: {_NOT_UNPACKED}" for path in sources if path.is_file() and _is_other_archive(path)]:
        raise BadInput(odd)
    for archive in filter(_is_zip, sources):
        check_archive(archive)
    card = _card(dataset, sources)
    if len(sources) == 1 and sources[0].is_dir():
        yield sources[0], card
        return
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data, prefix=".unpacked-") as name:
        root = Path(name)
        for source in sources:
            target = root / source.resolve().name
            while target.exists() or target.is_symlink():
                target = target.with_name(f"{target.name}~")
            if _is_zip(source):
                unpack(source, target)
            else:
                target.symlink_to(source.resolve(), target_is_directory=source.is_dir())
        while len(inside := list(root.iterdir())) == 1 and inside[0].is_dir():  # the archive's own outer folder
            root = inside[0]
        try:
            yield root, card
        except BadInput as error:  # a path in an archive is told as such, and not by where it was unpacked
            raise BadInput(
                [line.replace(f"{name}/", "").replace(name, "the sources") for line in error.lines]
            ) from None


_NOT_UNPACKED = "only zip archives are unpacked here; unpack it by hand and give the folder"
_OTHER_ARCHIVES = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar")


def _is_other_archive(path: Path) -> bool:
    return path.name.lower().endswith(_OTHER_ARCHIVES)


def _is_zip(path: Path) -> bool:
    """Whether a source is a zip archive, or a broken one."""
    return path.is_file() and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path))


def _archives_in(source: Path, dataset: Dataset) -> list[Path]:
    names = [download.filename for download in dataset.downloads if download.filename.endswith(".zip")]
    return [source / name for name in names if source.is_dir() and (source / name).is_file()]


def _card(dataset: Dataset, sources: Sequence[Path]) -> dict[str, Any]:
    known = {download.filename: download.sha256 for download in dataset.downloads if download.sha256}
    for download in dataset.downloads:
        known.update(download.members)
    files: dict[str, str] = {}
    for source in sources:
        if source.is_file():
            files[source.name] = sha256(source)
        else:
            found = [path for path in sorted(source.rglob("*")) if path.name in known and path.is_file()]
            files |= {path.name: sha256(path) for path in found}
    verified: bool | None = None
    if known:
        verified = bool(files) and all(_is_published(dataset, source, files) for source in sources)
    return {"source": [source.name for source in sources], "files": files, "verified": verified}


def _is_published(dataset: Dataset, source: Path, files: dict[str, str]) -> bool:
    known = {download.filename: download for download in dataset.downloads}
    members = {name: digest for download in dataset.downloads for name, digest in download.members.items()}
    if source.is_dir():
        expected = {name: each.sha256 for name, each in known.items() if each.sha256} | members
        found = {name: digest for name, digest in files.items() if name in expected}
        return bool(found) and all(expected[name] == digest for name, digest in found.items())
    download = known.get(source.name)
    if download is None:
        return members.get(source.name) == files[source.name]
    return files[source.name] == download.sha256 or bool(download.members and not _odd_members(source, download))


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
        raise BadInput(f"{archive}: cannot be unpacked ({_reason(error)}); fetch it again") from error


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

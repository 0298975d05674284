"""Published files: downloading them, checking them, and unpacking archives that nobody here vouches for.

A file is kept only when it is what was asked for: of the known SHA-256 where there is one, never a web page saved in
its place, never half. Where no SHA-256 is known, that of what came is recorded beside the file and shown as unverified.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from embench.core.errors import BadInput
from embench.core.files import check_writable, sha256, write_atomic
from embench.data.archives import odd_members, reason
from embench.data.task import Dataset, Download

log = logging.getLogger(__name__)

_MAGIC = {".zip": b"PK\x03\x04", ".hdf": b"\x89HDF\r\n\x1a\n"}
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<script")
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
    if dataset.generated:
        raise BadInput(f"{dataset.name}: generated here when it is first used; there is nothing to fetch")
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
        if odd := odd_members(Path(output), download):
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
            f"{download.url}: the certificate of {host} cannot be trusted ({reason(error)}); "
            f"{_by_hand(dataset, download)}{advice}"
        ) from error
    except (requests.exceptions.RequestException, OSError) as error:
        raise BadInput(f"{download.url}: cannot be fetched ({reason(error)}); {_by_hand(dataset, download)}") from error
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
    verified = digest == download.sha256 or bool(download.members and not odd_members(path, download))
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


def _by_hand(dataset: Dataset, download: Download | None = None) -> str:
    what = download.filename if download else "its files"
    pages = {spec.homepage for spec in dataset.specs}
    where = f" (see {', '.join(sorted(pages - {''}))})" if pages - {""} else ""
    return f"fetch {what} by hand{where} and run: embench prepare {dataset.name} --source FILE|ZIP|DIR"

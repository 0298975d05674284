"""The files a data set is prepared from: a folder, archives, or what was downloaded."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embench.core.errors import BadInput
from embench.core.files import sha256
from embench.data.archives import check_archive, odd_members, unpack
from embench.data.task import Dataset


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
    return files[source.name] == download.sha256 or bool(download.members and not odd_members(source, download))

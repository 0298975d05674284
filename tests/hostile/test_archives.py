"""More than forty archives that want out of their folder, or more of the disk than there is: every one is refused by
name, and not one byte is outside."""

from __future__ import annotations

import io
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from embench.cli.app import app
from embench.core.errors import BadInput
from embench.data import archives, sources
from embench.data.task import Dataset

Make = Callable[[Path], bytes]

CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"


def entry(name: str, mode: int = stat.S_IFREG | 0o644, system: int = 3) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename, info.external_attr, info.create_system = name, mode << 16, system
    return info


def zipped(*members: tuple[zipfile.ZipInfo | str, bytes], way: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return an archive of one good file and the given ones."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", way) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that occur twice
        archive.writestr("good.txt", b"good")
        for name, content in members:
            archive.writestr(name, content, way)
    return buffer.getvalue()


def named(name: str, mode: int = stat.S_IFREG | 0o644) -> Make:
    """Return an archive with a file of that name."""
    return lambda outside: zipped((entry(name.format(outside=outside), mode), b"outside"))


def patched(content: bytes, signature: bytes, offset: int, value: bytes, which: int = -1) -> bytes:
    """Overwrite bytes of the last (or another) record of a kind."""
    places = [at for at in range(len(content)) if content.startswith(signature, at)]
    at = places[which] + offset
    return content[:at] + value + content[at + len(value) :]


def both(content: bytes, central: int, local: int, value: bytes) -> bytes:
    """Overwrite a field of the last entry in the directory and in its own header."""
    return patched(patched(content, CENTRAL, central, value), LOCAL, local, value)


def raw_name(old: bytes, new: bytes, where: bytes = b"") -> Make:
    """Return an archive in which the bytes of a name are others, of the same length."""
    assert len(old) == len(new)

    def make(_: Path) -> bytes:
        content = zipped((old.decode(), b"outside"))
        if where == b"":
            return content.replace(old, new)
        at = content.rindex(old) if where == CENTRAL else content.index(old)
        return content[:at] + new + content[at + len(old) :]

    return make


def overlapping(_: Path) -> bytes:
    """Return an archive whose entries all have the bytes of the first (a bomb of Fifield's kind)."""
    content = zipped(("a", bytes(10_000)), ("b", bytes(10_000)), ("c", bytes(10_000)))
    at = [place for place in range(len(content)) if content.startswith(CENTRAL, place)]
    first = content[at[1] + 42 : at[1] + 46]
    for place in at[2:]:
        content = content[: place + 42] + first + content[place + 46 :]
    return content


def zip64(size: int) -> Make:
    """Return an archive with an entry that declares its size in 64 bits."""

    def make(_: Path) -> bytes:
        info = entry("big")
        info.extra = struct.pack("<HHQ", 1, 8, size)
        content = zipped((info, b"x"), way=zipfile.ZIP_STORED)
        return patched(content, CENTRAL, 24, b"\xff\xff\xff\xff")

    return make


def lying(declared: int) -> Make:
    """Return an archive with an entry that unpacks to more than it declares."""
    return lambda _: both(zipped(("lies", bytes(100_000))), 24, 22, struct.pack("<I", declared))


def tarred(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tar_entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Make:
    def make(outside: Path) -> bytes:
        info = tarfile.TarInfo(name.format(outside=outside))
        info.type, info.linkname = kind, target.format(outside=outside)
        return tarred((info, b"" if kind != tarfile.REGTYPE else b"outside"))

    return make


OUT, LINK, TWICE, DECLARES = "leads out", "symbolic link or a device", "twice", "declares"

ZIPS: dict[str, tuple[Make, str]] = {
    "parent": (named("../outside"), OUT),
    "parent of a folder": (named("a/../../outside"), OUT),
    "parent after a dot": (named("./../outside"), OUT),
    "parent at the end": (named("a/.."), OUT),
    "parent as a folder": (named("../outside/"), OUT),
    "absolute": (named("{outside}/outside"), OUT),
    "absolute twice": (named("//{outside}/outside"), OUT),
    "backslashes": (named("..\\outside"), OUT),
    "mixed slashes": (named("a\\..\\../outside"), OUT),
    "absolute backslash": (named("\\outside"), OUT),
    "drive": (named("C:\\outside"), OUT),
    "drive without a slash": (named("C:outside"), OUT),
    "network share": (named("\\\\host\\share\\outside"), OUT),
    "device path": (named("\\\\?\\C:\\outside"), OUT),
    "no name": (named(""), OUT),
    "only a dot": (named("."), OUT),
    "NUL in a name": (raw_name(b"aXb.txt", b"a\0b.txt"), "NUL"),
    "NUL hides the end": (raw_name(b"../oXgood", b"../o\0good"), OUT),
    "control characters": (named("a\x1b[2Jb"), "control"),
    "line break": (named("a\nb"), "control"),
    "name too long": (named("a" * 300), "too long"),
    "path too long": (named("/".join(["a" * 200] * 30)), "too long"),
    "too deep": (named("a/" * 3000 + "b"), "too"),
    "symbolic link": (named("link", stat.S_IFLNK | 0o777), LINK),
    "symbolic link as a folder": (named("link/", stat.S_IFLNK | 0o777), LINK),
    "link, then a file through it": (
        lambda outside: zipped((entry("link", stat.S_IFLNK | 0o777), str(outside).encode()), ("link/outside", b"x")),
        LINK,
    ),
    "character device": (named("device", stat.S_IFCHR | 0o666), LINK),
    "block device": (named("device", stat.S_IFBLK | 0o666), LINK),
    "pipe": (named("pipe", stat.S_IFIFO | 0o666), LINK),
    "socket": (named("socket", stat.S_IFSOCK | 0o666), LINK),
    "same name twice": (named("good.txt"), TWICE),
    "same name in another way": (named("./good.txt"), TWICE),
    "same name in capitals": (named("GOOD.TXT"), TWICE),
    "same name in other Unicode": (lambda _: zipped(("caf\u00e9", b"1"), ("cafe\u0301", b"2")), TWICE),
    "file and folder": (named("good.txt/outside"), "that of a file"),
    "encrypted": (lambda _: both(zipped(("secret", b"x" * 50)), 8, 6, b"\x01\x00"), "encrypted"),
    "strongly encrypted": (lambda _: both(zipped(("secret", b"x" * 50)), 8, 6, b"\x41\x00"), "encrypted"),
    "unknown compression": (lambda _: both(zipped(("odd", b"x" * 50)), 10, 8, b"\x63\x00"), "compress"),
    "bomb": (lambda _: both(zipped(("bomb", bytes(10_000))), 24, 22, b"\xf0\xff\xff\xff"), DECLARES),
    "bomb in 64 bits": (zip64(2**62), DECLARES),
    "negative size": (zip64(2**64 - 1), DECLARES),
    "overlapping entries": (overlapping, "overlaps"),
    "entry in the directory": (
        lambda _: patched(zipped(("a", b"x")), CENTRAL, 42, b"\xff\xff\xff\x7f"),
        "cannot be unpacked",
    ),
    "more than declared": (lying(10), "cannot be unpacked"),
    "less than declared": (lying(200_000), "cannot be unpacked"),
    "wrong check sum": (lambda _: both(zipped(("a", b"x" * 50)), 16, 14, b"\0\0\0\0"), "cannot be unpacked"),
    "other name in the header": (raw_name(b"inside", b"../out", LOCAL), "cannot be unpacked"),
    "other name in the directory": (raw_name(b"inside", b"../out", CENTRAL), OUT),
    "directory beyond the end": (lambda _: patched(zipped(), END, 16, b"\xff\xff\xff\x7f"), "overlaps"),
    "cut short": (lambda _: zipped(("a", bytes(range(256)) * 50))[:-40], "cannot be unpacked"),
    "cut in the data": (lambda _: zipped(("a", b"x" * 5000), way=0)[:2000] + zipped()[-100:], "cannot be unpacked"),
    "thousands of declared entries": (lambda _: zipped(*((f"{n}/" * 101, b"") for n in range(2000))), "too deep"),
}

TARS: dict[str, Make] = {
    "parent": tar_entry("../outside"),
    "absolute": tar_entry("{outside}/outside"),
    "symbolic link out": tar_entry("link", tarfile.SYMTYPE, "{outside}"),
    "hard link out": tar_entry("link", tarfile.LNKTYPE, "{outside}/kept"),
    "character device": tar_entry("device", tarfile.CHRTYPE),
    "block device": tar_entry("device", tarfile.BLKTYPE),
    "pipe": tar_entry("pipe", tarfile.FIFOTYPE),
    "compressed": lambda outside: tarred((tarfile.TarInfo("../outside"), bytes(10_000)), mode="w:gz"),
    "compressed by xz": lambda outside: tarred((tarfile.TarInfo("../outside"), bytes(10_000)), mode="w:xz"),
    "negative size": lambda outside: (lambda content: content[:124] + b"\xff" * 12 + content[136:])(
        tarred((tarfile.TarInfo("a"), b"x"))
    ),
}


def sandbox(tmp_path: Path) -> tuple[Path, Path]:
    """Make a folder to unpack into, and beside it one with a file that must stay as it is."""
    (outside := tmp_path / "outside").mkdir()
    (outside / "kept").write_text("kept")
    (data := tmp_path / "data").mkdir()
    return data, outside


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_there_are_more_than_forty() -> None:
    assert len(ZIPS) + len(TARS) > 60


@pytest.mark.parametrize("name", ZIPS)
def test_a_hostile_zip_is_named_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    data, outside = sandbox(tmp_path)
    make, says = ZIPS[name]
    (archive := tmp_path / "bad.zip").write_bytes(make(outside))
    before = listing(tmp_path)
    with pytest.raises(BadInput) as caught:
        archives.unpack(archive, data / "out")
    assert listing(tmp_path) == before
    assert all(line.startswith(f"{archive}: ") and line.isprintable() for line in caught.value.lines)
    assert any(says in line for line in caught.value.lines), caught.value.lines


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_the_command_line_refuses_them_and_exits_with_2(kind: str, tmp_path: Path) -> None:
    data, outside = sandbox(tmp_path)
    makes = {name: make for name, (make, _) in ZIPS.items()} if kind == "zip" else TARS
    for name, make in makes.items():
        (archive := tmp_path / f"bad.{kind}").write_bytes(make(outside))
        before = listing(tmp_path)
        done = CliRunner().invoke(app, ["prepare", "guay", "--source", str(archive), "--data-dir", str(data)])
        assert isinstance(done.exception, BadInput), name
        assert all(str(archive) in line for line in done.exception.lines), done.exception.lines
        after = {path: content for path, content in listing(tmp_path).items() if not path.startswith("cache")}
        assert after == before, name
        if kind == "tar":
            assert done.exception.lines == [
                f"{archive}: only zip archives are unpacked here; unpack it by hand and give the folder"
            ]


def test_a_good_archive_is_unpacked_whole(tmp_path: Path) -> None:
    content = zipped(("top/caf\u00e9.txt", b"1"), ("top/deep/er/b.bin", bytes(1000)), ("C\u00e9/a", b""))
    (tmp_path / "good.zip").write_bytes(content)
    archives.unpack(tmp_path / "good.zip", tmp_path / "out")
    files = {name: found for name, found in listing(tmp_path / "out").items() if found is not None}
    assert files == {"good.txt": b"good", "top/caf\u00e9.txt": b"1", "top/deep/er/b.bin": bytes(1000), "C\u00e9/a": b""}


def test_archives_in_an_archive_stay_closed(tmp_path: Path) -> None:
    """A bomb of many layers unpacks to its outermost, and a hostile archive inside to a file."""
    inner = zipped(("zeros", bytes(2**20)), (entry("../outside"), b"x"))
    (tmp_path / "a.zip").write_bytes(zipped(*((f"{number}.zip", inner) for number in range(42))))
    archives.unpack(tmp_path / "a.zip", tmp_path / "out")
    assert len(listing(tmp_path / "out")) == 43
    assert sum(len(content or b"") for content in listing(tmp_path / "out").values()) < 100_000


def test_sources_given_as_links_are_not_followed_out_of_an_archive(tmp_path: Path) -> None:
    """What is unpacked holds no links, so that a reader that follows them stays inside."""
    (tmp_path / "a.zip").write_bytes(zipped(("in/a.txt", b"1")))
    dataset = Dataset("toy", (), lambda source, name: iter(()))
    with sources.opened(dataset, [tmp_path / "a.zip"], tmp_path / "data") as (folder, _):
        assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert not list((tmp_path / "data").iterdir())

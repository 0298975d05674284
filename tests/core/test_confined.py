"""Whatever lies under a name of a foreign folder: nothing outside is read or changed, and nothing hangs."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from embench.core import confined
from embench.core.errors import BadInput


@pytest.fixture(params=["by descriptor", "by name"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of going down: that of this system, and that of one without ``dir_fd``."""
    if request.param == "by name":
        monkeypatch.setattr(confined, "HAS_DIR_FD", False)
    return str(request.param)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    place = tmp_path / "outside"
    place.mkdir()
    (place / "secret").write_text("secret")
    return place


@pytest.fixture
def below(tmp_path: Path) -> Path:
    place = tmp_path / "given"
    (place / "a").mkdir(parents=True)
    (place / "a" / "file").write_text("content")
    return place


def fifo(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path, outside: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # its address is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


ODD: dict[str, Callable[[Path, Path], object]] = {
    "a link to a file": lambda path, outside: path.symlink_to(outside / "secret"),
    "a link to a device": lambda path, outside: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path, outside: path.symlink_to(outside / "new"),
    "a link to itself": lambda path, outside: path.symlink_to(path.name),
    "a link to a folder": lambda path, outside: path.symlink_to(outside),
    "a relative link": lambda path, outside: path.symlink_to(os.path.relpath(outside / "secret", path.parent)),
    "a pipe": fifo,
    "a socket": unix_socket,
    "a folder": lambda path, outside: path.mkdir(),
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_no_file_is_neither_read_nor_written(way: str, what: str, below: Path, outside: Path) -> None:
    path = below / "a" / "odd"
    ODD[what](path, outside)
    with pytest.raises(BadInput, match=r"odd: (a link|not a file)"):
        confined.read(path, below, 100)
    with pytest.raises((BadInput, IsADirectoryError)), confined.writing(path, below) as descriptor:
        os.write(descriptor, b"changed")
    assert not confined.is_file(path, below)
    assert [each.read_text() for each in outside.iterdir()] == ["secret"]


def test_a_hard_link_to_a_file_elsewhere_is_not_written(way: str, below: Path, outside: Path) -> None:
    os.link(outside / "secret", below / "a" / "odd")
    with pytest.raises(BadInput, match="hard link"), confined.writing(below / "a" / "odd", below):
        pass
    assert (outside / "secret").read_text() == "secret"


DOES: dict[str, Callable[[Path, Path], object]] = {
    "read": lambda path, below: confined.read(path, below, 100),
    "write": lambda path, below: confined.writing(path, below).__enter__(),
    "remove": confined.remove,
    "look": confined.status,
    "rename from": lambda path, below: confined.rename(path, below / "new", below),
    "rename to": lambda path, below: confined.rename(below / "a" / "file", path, below),
    "list": lambda path, below: confined.names(path.parent, below),
    "make": lambda path, below: confined.folder(path, below, make=True).__enter__(),
}


@pytest.mark.parametrize("does", DOES)
@pytest.mark.parametrize("depth", [1, 2])
def test_no_folder_on_the_way_is_a_link(way: str, does: str, depth: int, below: Path, outside: Path) -> None:
    (outside / "inner").mkdir()
    (outside / "inner" / "secret").write_text("secret")
    (below / "link").symlink_to(outside)
    path = below / "link" / "secret" if depth == 1 else below / "link" / "inner" / "secret"
    with pytest.raises(BadInput, match=r"link: a link"):
        DOES[does](path, below)
    assert sorted(p.name for p in outside.rglob("*")) == ["inner", "secret", "secret"]
    assert (below / "a" / "file").exists()


@pytest.mark.parametrize("does", DOES)
@pytest.mark.parametrize("path", ["../outside/secret", "a/../../outside/secret", "/etc/passwd"])
def test_no_path_leads_out_of_the_folder(way: str, does: str, path: str, below: Path, outside: Path) -> None:
    with pytest.raises(BadInput, match="not below"):
        DOES[does](below / path, below)
    assert (outside / "secret").read_text() == "secret"


def test_the_folder_itself_may_be_reached_through_a_link(way: str, below: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(below)
    assert confined.read(tmp_path / "mine" / "a" / "file", tmp_path / "mine", 100) == b"content"


def test_a_file_has_at_most_so_many_bytes_and_a_large_one_is_not_read(way: str, below: Path) -> None:
    with (below / "a" / "large").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(BadInput, match=f"{2**40} bytes; a plan has at most 100"):
        confined.read(below / "a" / "large", below, 100, "a plan")
    assert confined.read(below / "a" / "file", below, 7) == b"content"
    with pytest.raises(BadInput, match="at most 6"):
        confined.read(below / "a" / "file", below, 6)


def test_what_is_absent_is_absent(way: str, below: Path) -> None:
    for path in (below / "nothing", below / "no" / "thing", below / "a" / "file" / "thing"):
        assert confined.status(path, below) is None
        assert not confined.is_file(path, below)
    with pytest.raises(FileNotFoundError):
        confined.read(below / "no" / "thing", below, 100)
    confined.remove(below / "no" / "thing", below)


def test_files_are_written_made_moved_and_removed(way: str, below: Path) -> None:
    path = below / "b" / "c" / "file"
    with confined.writing(path, below) as descriptor:
        os.write(descriptor, b"x")
    confined.rename(path, below / "d" / "file", below)
    with pytest.raises(FileExistsError):
        confined.rename(below / "a" / "file", below / "d" / "file", below)
    assert confined.read(below / "d" / "file", below, 1) == b"x"
    assert confined.names(below / "d", below) == ["file"]
    confined.remove(below / "d" / "file", below)
    assert confined.names(below / "d", below) == []


def test_a_file_made_here_is_no_more_open_than_any_other(below: Path) -> None:
    before = os.umask(0o027)
    try:
        with confined.writing(below / "new", below):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((below / "new").stat().st_mode) == 0o640


# Walks


def deep(folder: Path, levels: int) -> None:
    """Make a tree too deep for one path."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("seed-0.json", os.O_CREAT, dir_fd=here))
    os.close(here)


def test_a_walk_finds_what_is_there_and_names_what_it_could_not_take(way: str, below: Path, outside: Path) -> None:
    for name in ("b/seed-1.json", "b/seed-0.json", "a/seed-10.json", ".running/seed-9.json", "b/other.json"):
        (below / name).parent.mkdir(exist_ok=True)
        (below / name).write_text("{}")
    (outside / "seed-5.json").write_text("{}")
    (below / "b" / "seed-2.json").symlink_to(outside / "seed-5.json")
    (below / "c").symlink_to(outside)
    (below / "loop").symlink_to(below)
    (below / "README").symlink_to(outside / "secret")
    os.mkfifo(below / "a" / "seed-3.json")
    (below / "a" / "seed-4.json").mkdir()
    os.mkdir(os.fsencode(below / "d") + b"\xff")
    (below / "b" / "seed-\udcff.json").write_text("{}")
    found = confined.walk(below, "seed-*.json")
    assert [str(path.relative_to(below)) for path in found.files] == [
        "a/seed-10.json",
        "b/seed-0.json",
        "b/seed-1.json",
    ]
    told = dict(line.removeprefix(f"{below}/").split(": ", 1) for line in found.faults)
    assert told.keys() == {
        *("b/seed-2.json", "c", "loop", "a/seed-3.json", "a/seed-4.json", "d\\udcff", "b/seed-\\udcff.json")
    }
    assert all(line.isprintable() and line.isascii() for line in found.faults)


def test_a_tree_without_end_is_one_fault(below: Path) -> None:
    deep(below, 1100)
    try:
        found = confined.walk(below, "seed-*.json")
    finally:
        subprocess.run(["rm", "-rf", str(below)], check=True)  # pytest's own clean-up would not survive it
    assert found.files == []
    assert len(found.faults) == 1
    assert f"more than {confined.DEEPEST} levels" in found.faults[0]


def test_a_walk_ends_where_there_are_too_many_names(below: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "MOST_NAMES", 20)
    for number in range(40):
        (below / f"seed-{number}.json").write_text("{}")
    found = confined.walk(below, "seed-*.json")
    assert len(found.files) <= 20
    assert found.faults == [f"{below}: more than 20 files and folders; the rest is left out"]
    with pytest.raises(BadInput, match="more than 20 names"):
        confined.names(below, below)


def test_a_folder_that_cannot_be_read_is_named(below: Path) -> None:
    """As the user that may not: root may read everything."""
    (below / "closed").mkdir()
    (below / "closed" / "seed-0.json").write_text("{}")
    (below / "closed").chmod(0)
    for parent in (below, *below.parents):
        if parent.owner() == below.owner() and parent != Path(parent.root) and parent != below.parents[-2]:
            parent.chmod(parent.stat().st_mode | 0o055)
    code = (
        "import os, sys; sys.path = [p or os.getcwd() for p in sys.path]\n"
        "from pathlib import Path; from embench.core import confined\n"
        "os.getuid() or os.setuid(65534)\n"
        f"found = confined.walk(Path({str(below)!r}), 'seed-*.json'); print(found.files, *found.faults, sep='|')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    (below / "closed").chmod(0o700)
    assert done.stdout.strip().split("|") == [
        "[]",
        f"{below / 'closed'}: cannot be read (Permission denied); whatever is in it is left out",
    ], done.stderr

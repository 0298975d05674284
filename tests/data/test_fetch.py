"""What is fetched is what was published, or it is not kept; what is unpacked stays in its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import ssl
import stat
import struct
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import published_files as published
import pytest
from typer.testing import CliRunner

from embench.cli.app import app
from embench.core.errors import BadInput
from embench.data import archives, catalog, store
from embench.data import download as fetch
from embench.data.task import Dataset, Download


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


ARCHIVE = zipped(**{"inside.txt": b"voxels" * 50})
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()


class Site:
    """A web server on the loopback interface; ``pages`` maps paths to bodies."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.asked: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                body = site.pages.get(self.path)
                if body is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if self.path in site.cut else body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    made = Site()
    yield made
    made.server.shutdown()
    made.server.server_close()


def dataset(*downloads: Download) -> Dataset:
    return Dataset("toy", (), lambda source, name: iter(()), downloads=downloads)


def get(data: Path, *downloads: Download, **options: object) -> list[fetch.Fetched]:
    return fetch.fetch(dataset(*downloads), data, progress=False, retries=0, **options)  # type: ignore[arg-type]


def refused(data: Path, call: Callable[[], object]) -> list[str]:
    with pytest.raises(BadInput) as caught:
        call()
    assert not [path for path in data.rglob("*") if path.is_file()], "nothing is left behind"
    return caught.value.lines


def test_a_file_of_the_published_hash_is_kept_and_not_fetched_twice(site: Site, tmp_path: Path) -> None:
    site.pages["/a.zip"] = ARCHIVE
    download = Download(f"{site.url}/a.zip", "a.zip", SHA256)
    (first,) = get(tmp_path, download)
    (second,) = get(tmp_path, download)
    assert first.path.read_bytes() == ARCHIVE
    assert (first.sha256, first.verified, first.fresh) == (SHA256, True, True)
    assert second == dataclasses.replace(first, fresh=False)
    assert site.asked == ["/a.zip"]


def test_without_a_published_hash_what_came_is_recorded_as_unverified(site: Site, tmp_path: Path) -> None:
    site.pages["/a.zip"] = ARCHIVE
    (found,) = get(tmp_path, Download(f"{site.url}/a.zip", "a.zip"))
    assert (found.sha256, found.verified) == (SHA256, False)
    assert SHA256 in found.path.with_name("a.zip.json").read_text()


def test_known_members_verify_an_archive_of_unknown_hash(site: Site, tmp_path: Path) -> None:
    site.pages["/a.zip"] = ARCHIVE
    members = {"inside.txt": hashlib.sha256(b"voxels" * 50).hexdigest()}
    (found,) = get(tmp_path, Download(f"{site.url}/a.zip", "a.zip", members=members))
    assert found.verified
    other = tmp_path / "other"
    (line,) = refused(
        other, lambda: get(other, Download(f"{site.url}/a.zip", "a.zip", members={"inside.txt": "0" * 64}))
    )
    assert members["inside.txt"] in line
    assert "0" * 64 in line


def test_an_altered_file_is_refused_with_both_hashes(site: Site, tmp_path: Path) -> None:
    site.pages["/a.zip"] = altered = zipped(**{"inside.txt": b"other"})
    (line,) = refused(tmp_path, lambda: get(tmp_path, Download(f"{site.url}/a.zip", "a.zip", SHA256)))
    assert SHA256 in line
    assert hashlib.sha256(altered).hexdigest() in line


def test_a_truncated_file_is_refused(site: Site, tmp_path: Path) -> None:
    site.pages["/a.zip"] = ARCHIVE
    site.cut.add("/a.zip")
    for sha256 in (SHA256, None):
        (line,) = refused(tmp_path, lambda: get(tmp_path, Download(f"{site.url}/a.zip", "a.zip", sha256)))  # noqa: B023
        assert "--source" in line


def test_a_web_page_in_place_of_a_file_is_refused(site: Site, tmp_path: Path) -> None:
    site.pages["/a.zip"] = page = b"  <!DOCTYPE html><html>please log in</html>"
    for sha256 in (SHA256, None):
        (line,) = refused(tmp_path, lambda: get(tmp_path, Download(f"{site.url}/a.zip", "a.zip", sha256)))  # noqa: B023
        assert "web page" in line
        assert hashlib.sha256(page).hexdigest() in line
        assert (sha256 or "not known") in line


def test_something_else_in_place_of_an_archive_is_refused(site: Site, tmp_path: Path) -> None:
    site.pages["/a.zip"] = b'{"error": "quota exceeded"}'
    (line,) = refused(tmp_path, lambda: get(tmp_path, Download(f"{site.url}/a.zip", "a.zip")))
    assert "not like a .zip file" in line


def test_dead_links_are_all_named_with_the_way_on(site: Site, tmp_path: Path) -> None:
    downloads = [Download(f"{site.url}/{name}", name, SHA256) for name in ("a.zip", "b.zip")]
    found = refused(tmp_path, lambda: get(tmp_path, *downloads))
    assert len(found) == 2
    assert all("404" in line and "embench prepare toy --source" in line for line in found)


def test_an_unreachable_host_is_named_with_the_way_on(tmp_path: Path, site: Site) -> None:
    site.server.shutdown()
    site.server.server_close()
    (line,) = refused(tmp_path, lambda: get(tmp_path, Download(f"{site.url}/a.zip", "a.zip", SHA256)))
    assert "cannot be fetched (NewConnectionError" in line  # the fault itself, whole
    assert "refused" in line
    assert "--source" in line


def test_a_broken_connection_is_tried_again(site: Site, tmp_path: Path) -> None:
    site.pages["/a.zip"] = ARCHIVE
    site.cut.add("/a.zip")
    timer = threading.Timer(0.5, site.cut.clear)
    timer.start()
    download = Download(f"{site.url}/a.zip", "a.zip", SHA256)
    (found,) = fetch.fetch(dataset(download), tmp_path, progress=False, retries=3)
    assert found.verified
    assert len(site.asked) > 1


def test_a_file_that_changed_on_disk_is_fetched_again(site: Site, tmp_path: Path) -> None:
    site.pages["/a.zip"] = ARCHIVE
    for sha256 in (SHA256, None):
        download = Download(f"{site.url}/a.zip", "a.zip", sha256)
        path = get(tmp_path, download)[0].path
        path.write_bytes(ARCHIVE[:-3])
        assert get(tmp_path, download)[0].fresh
        assert path.read_bytes() == ARCHIVE


def test_a_data_set_without_downloads_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing to fetch"):
        get(tmp_path)


@pytest.mark.parametrize("name", [name for name in catalog.DATASETS if catalog.find_dataset(name).downloads])
def test_every_download_is_of_a_kind_that_is_checked(name: str) -> None:
    for download in catalog.find_dataset(name).downloads:
        assert Path(download.filename).suffix in (".zip", ".hdf")


# --- TLS


@pytest.fixture
def secure(site: Site, tmp_path: Path) -> Site:
    """The same server behind a certificate that nobody vouches for."""
    import subprocess

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    with contextlib.suppress(FileNotFoundError):
        subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    if not certificate.exists():
        pytest.skip("needs the openssl command to make a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site.server.socket = context.wrap_socket(site.server.socket, server_side=True)
    site.url = site.url.replace("http://", "https://")
    return site


def test_a_certificate_is_checked_unless_its_host_is_named(secure: Site, tmp_path: Path) -> None:
    secure.pages["/a.zip"] = ARCHIVE
    data = tmp_path / "data"
    download = Download(f"{secure.url}/a.zip", "a.zip", SHA256)
    (line,) = refused(data, lambda: get(data, download))
    assert "certificate of 127.0.0.1" in line
    assert "--insecure-host 127.0.0.1" in line
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert get(data, download, insecure_hosts=["127.0.0.1"])[0].verified


def test_an_insecure_download_is_still_checked(secure: Site, tmp_path: Path) -> None:
    secure.pages["/a.zip"] = zipped(**{"inside.txt": b"forged"})
    data = tmp_path / "data"
    download = Download(f"{secure.url}/a.zip", "a.zip", SHA256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (line,) = refused(data, lambda: get(data, download, insecure_hosts=["127.0.0.1"]))
    assert SHA256 in line


def test_an_insecure_host_needs_a_known_hash_and_a_file_there(tmp_path: Path) -> None:
    download = Download("https://known.example/a.zip", "a.zip")
    found = refused(tmp_path, lambda: get(tmp_path, download, insecure_hosts=["known.example", "other.example"]))
    assert "SHA-256 of a.zip is not known" in found[0]
    assert "no file of toy comes from there" in found[1]


# --- from fetching to preparing


def test_what_the_command_line_fetches_it_prepares(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = published.cremi(tmp_path / "made", np.random.default_rng(0))
    real = catalog.find_dataset("cremi")
    downloads = []
    for path in sorted((tmp_path / "made").iterdir()):
        site.pages[f"/{path.name}"] = path.read_bytes()
        downloads.append(Download(f"{site.url}/{path.name}", path.name, hashlib.sha256(path.read_bytes()).hexdigest()))
    local = dataclasses.replace(real, downloads=tuple(downloads))
    monkeypatch.setattr(catalog, "find_dataset", lambda name: local)
    data = tmp_path / "data"
    fetched = CliRunner().invoke(app, ["fetch", "cremi", "--data-dir", str(data)], catch_exceptions=False)
    assert fetched.output.count("(verified)") == 3
    result = CliRunner().invoke(app, ["prepare", "cremi", "--data-dir", str(data)], catch_exceptions=False)
    assert "source verified" in result.output
    with store.Prepared(data / "cremi.h5") as file:
        np.testing.assert_array_equal(file.volumes("test")[0].image[:], made["C"][0])
        assert file.card["verified"] is True


# --- unpacking


def member(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def bad_archive(path: Path, *members: tuple[zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("good.txt", b"good")
        for info, content in members:
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize(
    ("name", "mode", "says"),
    [
        ("../outside.txt", 0o100644, "leads out"),
        ("a/../../outside.txt", 0o100644, "leads out"),
        ("/etc/outside.txt", 0o100644, "leads out"),
        ("C:/outside.txt", 0o100644, "leads out"),
        ("link", stat.S_IFLNK | 0o777, "symbolic link"),
        ("device", stat.S_IFCHR | 0o644, "symbolic link or a device"),
        ("good.txt", 0o100644, "twice"),
    ],
)
def test_unsafe_entries_are_refused_and_nothing_is_written(name: str, mode: int, says: str, tmp_path: Path) -> None:
    archive = bad_archive(tmp_path / "bad.zip", (member(name, mode), b"target"))
    with pytest.raises(BadInput, match=says):
        archives.unpack(archive, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zip"]


def test_every_unsafe_entry_is_named(tmp_path: Path) -> None:
    archive = bad_archive(
        tmp_path / "bad.zip", (member("../a"), b""), (member("/b"), b""), (member("c", 0o120777), b"x")
    )
    with pytest.raises(BadInput) as caught:
        archives.unpack(archive, tmp_path / "out")
    assert len(caught.value.lines) == 3


def patched(archive: Path, size: int) -> Path:
    """Declare another unpacked size in the central directory."""
    content = bytearray(archive.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", size)
    archive.write_bytes(content)
    return archive


def test_absurd_declared_sizes_are_refused(tmp_path: Path) -> None:
    archive = patched(bad_archive(tmp_path / "bomb.zip"), 0xFFFFFFF0)
    with pytest.raises(BadInput, match="declares 4294967280 bytes"):
        archives.unpack(archive, tmp_path / "out")


def test_what_does_not_fit_on_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = bad_archive(tmp_path / "a.zip", (member("big"), bytes(1000)))
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 999})())
    with pytest.raises(BadInput, match="unpacks to 1004 bytes, 999 are free"):
        archives.unpack(archive, tmp_path / "out")


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    archive = bad_archive(tmp_path / "bad.zip", (member("a"), bytes(range(256))), (member("b"), bytes(range(256))))
    content = bytearray(archive.read_bytes())
    starts = [n for n in range(len(content)) if content[n : n + 4] == b"PK\x01\x02"]
    content[starts[2] + 42 : starts[2] + 46] = content[starts[1] + 42 : starts[1] + 46]
    archive.write_bytes(content)
    with pytest.raises(BadInput, match="overlaps"):
        archives.unpack(archive, tmp_path / "out")


def test_a_damaged_entry_leaves_nothing(tmp_path: Path) -> None:
    archive = bad_archive(tmp_path / "bad.zip", (member("a"), np.random.default_rng(0).bytes(5000)))
    content = bytearray(archive.read_bytes())
    content[2000] ^= 255
    archive.write_bytes(content)
    with pytest.raises(BadInput, match="cannot be unpacked"):
        archives.unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_file_managers_leave_is_not_unpacked(tmp_path: Path) -> None:
    archive = bad_archive(tmp_path / "a.zip", (member("__MACOSX/._good.txt"), b"x"), (member("d/.DS_Store"), b"x"))
    archives.unpack(archive, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["good.txt"]

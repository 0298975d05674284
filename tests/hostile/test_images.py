"""Images and masks with faults, from cut short to made to do harm: each is named in one line, with exit status 2."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from embench.cli import app

from . import mutate, seeds

SHAPE = (4, 32, 40)
Write = Callable[[Path], object]


def grey(dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, SHAPE).astype(dtype)


def mask(dtype: Any = np.uint8, **changes: Any) -> np.ndarray:
    found = (grey() > 128).astype(dtype)
    for value in changes.values():
        found[1, 2, 3] = value
    return found


def raw(content: bytes | Callable[[], bytes]) -> Write:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content())


# PNG


def png(array: np.ndarray, **options: Any) -> bytes:
    Image.fromarray(array).save(buffer := io.BytesIO(), "png", **options)
    return buffer.getvalue()


def png_with(change: Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]]) -> Write:
    """Write a PNG of other chunks, with right check sums."""
    chunks = change(mutate._chunks(png(grey()[0])))
    content = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return raw(b"\x89PNG\r\n\x1a\n" + content)


def sized(width: int, height: int, depth: int = 8, colour: int = 0) -> Write:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return png_with(lambda chunks: [(b"IHDR", head), *chunks[1:]])


def palette(path: Path) -> None:
    image = Image.fromarray(grey()[0] % 3, "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    image.save(path, "png")


COLOURS = np.stack([grey()[0], grey()[1], grey()[2]], -1)
CLEAR = np.dstack([np.repeat(grey()[0, ..., None], 3, -1), grey()[1]])


# TIFF


def tif(array: np.ndarray, **options: Any) -> Write:
    return lambda path: tifffile.imwrite(path, array, **{"photometric": "minisblack", **options})


def tif_tag(code: int, value: int, array: np.ndarray | None = None) -> Write:
    """Write a TIFF in which one number of the first page's directory is another."""

    def write(path: Path) -> None:
        tif(grey()[0] if array is None else array)(path)
        content = bytearray(path.read_bytes())
        with tifffile.TiffFile(path) as opened:
            tag = opened.pages[0].tags[code]  # type: ignore[union-attr]
            at = tag.offset + 8
            content[tag.offset + 2 : tag.offset + 4] = struct.pack("<H", 4)  # a long
            content[at : at + 4] = struct.pack("<I", value)
        path.write_bytes(content)

    return write


def tif_tags(path: Path) -> None:
    """Write a TIFF whose directory declares 65535 entries, each of 4 GB."""
    entries = struct.pack("<HHII", 270, 2, 0xFFFFFFFF, 8) * 65535
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, 65535) + entries)


# NIfTI, NRRD


def nifti(changes: dict[int, bytes], array: np.ndarray | None = None) -> bytes:
    """Return a NIfTI file with some bytes of its header overwritten."""
    image = nibabel.Nifti1Image((grey() if array is None else array).T, np.eye(4))
    content = bytearray(image.to_bytes())
    for at, value in changes.items():
        content[at : at + len(value)] = value
    return bytes(content)


def shorts(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}h", *values)


def nrrd_with(*lines: str, data: bytes = grey().tobytes()) -> Write:
    facts = {"type": "uint8", "dimension": "3", "sizes": "40 32 4", "encoding": "raw"}
    facts |= dict(line.split(": ", 1) for line in lines)
    head = "".join(f"{key}: {value}\n" for key, value in facts.items() if value != "-")
    return raw(b"NRRD0004\n" + head.encode() + b"\n" + data)


# HDF5, Zarr


def hdf5(make: Callable[[h5py.File, Path], object]) -> Write:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            make(file, path)

    return write


def elsewhere(path: Path) -> Path:
    """Make a volume outside the folder of images that nobody asked for."""
    secret = path.parents[1] / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["raw"] = grey()
    return secret


def virtual(file: h5py.File, path: Path) -> None:
    layout = h5py.VirtualLayout(SHAPE, np.uint8)
    layout[:] = h5py.VirtualSource(str(elsewhere(path)), "raw", SHAPE)
    file.create_virtual_dataset("raw", layout)


def unknown_filter(path: Path) -> None:
    hdf5(lambda file, _: file.create_dataset("raw", data=grey(), chunks=(1, 32, 40), compression="gzip"))(path)
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b"\x01\x00\x08\x00\x01\x00\x01\x00deflate", b"\x99\x7f\x08\x00\x00\x00\x01\x00deflate")
    )


def zarr_with(change: Callable[[dict[str, Any]], object], version: int = 2) -> Write:
    """Write a Zarr folder whose description of the array is another."""

    def write(path: Path) -> None:
        zarr.create_array(str(path), data=grey(), chunks=(1, 32, 40), zarr_format=version)  # type: ignore[arg-type]
        about = path / (".zarray" if version == 2 else "zarr.json")
        facts = json.loads(about.read_bytes())
        change(facts)
        about.write_text(json.dumps(facts))

    return write


def zarr_then(change: Callable[[Path], object]) -> Write:
    def write(path: Path) -> None:
        zarr_with(lambda facts: None)(path)
        change(path)

    return write


def ome(place: str) -> Write:
    """Write an OME-Zarr that says where its first scale is."""

    def write(path: Path) -> None:
        zarr.create_array(str(path.parents[1] / "secret.zarr"), data=grey(), chunks=(1, 32, 40), zarr_format=2)
        root = zarr.open_group(str(path), mode="w", zarr_format=2)
        root.create_array("0", data=grey(), chunks=(1, 32, 40))
        root.attrs["multiscales"] = [{"axes": [], "datasets": [{"path": place}]}]

    return write


def cut(path: Path) -> None:
    chunk = path / "0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:20])


BROKEN, GREY, LABEL, BIG = "cannot be read", "must be 8-bit", "label values", "declares"
LINK, SHAPES = "another file", "shape"

FAULTS: dict[str, tuple[str, Write, str | Sequence[str]]] = {
    # in the place of the image
    "PNG cut short": ("b.png", raw(lambda: png(grey()[0])[:-400]), BROKEN),
    "empty PNG": ("b.png", raw(b""), BROKEN),
    "web page called PNG": ("b.png", raw(b"<!DOCTYPE html><html>log in</html>"), BROKEN),
    "JPEG called PNG": ("b.png", lambda path: Image.fromarray(grey()[0]).save(path, "jpeg"), BROKEN),
    "PostScript called PNG": (
        "b.png",
        raw(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 32\n%%EndComments\n"),
        BROKEN,
    ),
    "PNG without pixels": ("b.png", png_with(lambda chunks: [each for each in chunks if each[0] != b"IDAT"]), BROKEN),
    "PNG of wrong check sum": ("b.png", raw(lambda: png(grey()[0])[:60] + b"\0\0\0\0" + png(grey()[0])[64:]), BROKEN),
    "PNG of no width": ("b.png", sized(0, 32), (BROKEN, "empty")),
    "PNG of 4 gigapixels": ("b.png", sized(65_535, 65_535), (BROKEN, BIG)),
    "PNG of 170 megapixels in a kilobyte": ("b.png", sized(13_000, 13_000, 8, 6), (BIG, BROKEN)),
    "PNG of negative size": ("b.png", sized(2**32 - 1, 2**32 - 1), (BROKEN, BIG)),
    "PNG with a palette": ("b.png", palette, "palette"),
    "PNG of different channels": ("b.png", raw(lambda: png(COLOURS)), "different channels"),
    "PNG that is partly clear": ("b.png", raw(lambda: png(CLEAR)), "different channels"),
    "PNG of 16 bits": ("b.png", raw(lambda: png(grey(np.uint16)[0])), GREY),
    "folder called PNG": ("b.png", lambda path: path.mkdir(), BROKEN),
    "pipe called PNG": ("b.png", lambda path: os.mkfifo(path), "pipe or a device"),
    "link to a device": ("b.png", lambda path: path.symlink_to("/dev/zero"), "pipe or a device"),
    "link to nothing": ("b.png", lambda path: path.symlink_to("nowhere"), "no such file"),
    "TIFF cut short": ("b.tif", raw(lambda: seeds.written("a.tif", tif(grey()))[:2000]), BROKEN),
    "TIFF of nothing": ("b.tif", raw(b"II*\0"), BROKEN),
    "TIFF of 65535 tags": ("b.tif", tif_tags, BROKEN),
    "TIFF of absurd width": ("b.tif", tif_tag(256, 2**31), (BIG, "over")),
    "TIFF of absurd height": ("b.tif", tif_tag(257, 2**32 - 1), (BIG, "over", BROKEN)),
    "TIFF of no width": ("b.tif", tif_tag(256, 0), (BROKEN, "empty")),
    "TIFF of unknown compression": ("b.tif", tif_tag(259, 9999), BROKEN),
    "TIFF of 9999 bits": ("b.tif", tif_tag(258, 9999), (BROKEN, GREY)),
    "TIFF with pixels beyond its end": ("b.tif", tif_tag(273, 2**31), (BROKEN, "holds")),
    "TIFF of complex numbers": ("b.tif", tif(grey(np.complex64)), "expected numbers"),
    "TIFF of four axes": ("b.tif", tif(np.stack([grey()] * 3)), "axes"),
    "TIFF of colour planes": (
        "b.tif",
        tif(np.stack([grey()[0]] * 3), photometric="rgb", planarconfig="separate"),
        "colour planes",
    ),
    "TIFF of floats": ("b.tif", tif(grey(np.float32)), GREY),
    "NIfTI cut short": ("b.nii", raw(lambda: nifti({})[:500]), (BROKEN, "holds")),
    "NIfTI of negative size": ("b.nii", raw(lambda: nifti({42: shorts(-40, 32, 4)})), (BROKEN, "empty")),
    "NIfTI of absurd size": ("b.nii", raw(lambda: nifti({42: shorts(32767, 32767, 32767)})), BIG),
    "NIfTI of no dimensions": ("b.nii", raw(lambda: nifti({40: shorts(0)})), (BROKEN, "axes")),
    "NIfTI of five axes": ("b.nii", raw(lambda: nifti({40: shorts(5, 4, 4, 4, 4, 20)})), "expected three axes"),
    "NIfTI of unknown type": ("b.nii", raw(lambda: nifti({70: shorts(9999)})), BROKEN),
    "NIfTI with voxels beyond its end": ("b.nii", raw(lambda: nifti({108: struct.pack("<f", 1e9)})), (BROKEN, "holds")),
    "NIfTI with voxels before its start": ("b.nii", raw(lambda: nifti({108: struct.pack("<f", -1e9)})), BROKEN),
    "NIfTI of infinite scale": ("b.nii", raw(lambda: nifti({112: struct.pack("<f", 1e300**0.1)})), (GREY, BROKEN)),
    "NIfTI of other magic": ("b.nii", raw(lambda: nifti({344: b"nope"})), BROKEN),
    "gzip cut short": ("b.nii.gz", raw(lambda: gzip.compress(nifti({}))[:-200]), BROKEN),
    "gzip bomb": (
        "b.nii.gz",
        raw(lambda: gzip.compress(nifti({42: shorts(20_000, 20_000, 500)}) + bytes(3_000_000), 1)),
        BIG,
    ),
    "NRRD of voxels elsewhere": ("b.nrrd", nrrd_with("data file: /etc/passwd"), LINK),
    "NRRD of a list of files": ("b.nrrd", nrrd_with("data file: LIST", data=b"/etc/passwd\n"), LINK),
    "NRRD of absurd size": ("b.nrrd", nrrd_with("sizes: 99999999 99999999 9"), BIG),
    "NRRD of negative size": ("b.nrrd", nrrd_with("sizes: -40 32 4"), (BROKEN, "empty")),
    "NRRD without sizes": ("b.nrrd", nrrd_with("sizes: -"), BROKEN),
    "NRRD of less than it says": ("b.nrrd", nrrd_with(data=b"few"), BROKEN),
    "NRRD of unknown encoding": ("b.nrrd", nrrd_with("encoding: hidden"), BROKEN),
    "NRRD of blocks": ("b.nrrd", nrrd_with("type: block", "block size: 4"), (BROKEN, "expected numbers")),
    "NRRD gzip bomb": (
        "b.nrrd",
        nrrd_with("encoding: gzip", "sizes: 40 32 4", data=gzip.compress(bytes(20_000_000), 1)),
        (BROKEN, "holds", "memory"),
    ),
    "HDF5 cut short": ("b.h5", raw(lambda: seeds.hdf5()[0][:3000]), BROKEN),
    "HDF5 link to another file": (
        "b.h5",
        hdf5(lambda file, path: file.__setitem__("raw", h5py.ExternalLink(str(elsewhere(path)), "raw"))),
        LINK,
    ),
    "HDF5 link in a circle": ("b.h5", hdf5(lambda file, _: file.__setitem__("raw", h5py.SoftLink("/raw"))), "none"),
    "HDF5 voxels in another file": (
        "b.h5",
        hdf5(lambda file, path: file.create_dataset("raw", SHAPE, "u1", external=[(str(elsewhere(path)), 0, 5120)])),
        "other files",
    ),
    "HDF5 virtual volume": ("b.h5", hdf5(virtual), "other files"),
    "HDF5 of two volumes": ("b.h5", hdf5(lambda file, _: [file.__setitem__(n, grey()) for n in "ab"]), "name it"),
    "HDF5 without a volume": ("b.h5", hdf5(lambda file, _: file.create_group("volumes")), "none"),
    "HDF5 of records": ("b.h5", hdf5(lambda file, _: file.create_dataset("raw", SHAPE, [("a", "u1")])), "none"),
    "HDF5 of four axes": ("b.h5", hdf5(lambda file, _: file.__setitem__("raw", np.stack([grey()] * 2))), "none"),
    "HDF5 of absurd size": (
        "b.h5",
        hdf5(lambda file, _: file.create_dataset("raw", (10**6, 10**4, 10**4), "u1", chunks=(1, 64, 64))),
        BIG,
    ),
    "HDF5 behind an unknown filter": ("b.h5", unknown_filter, BROKEN),
    "Zarr behind a codec that runs code": (
        "b.zarr",
        zarr_with(lambda facts: facts.__setitem__("filters", [{"id": "pickle", "protocol": 5}])),
        "codec",
    ),
    "Zarr of objects": (
        "b.zarr",
        zarr_with(lambda facts: facts.__setitem__("dtype", "|O")),
        (BROKEN, "codec", "numbers"),
    ),
    "Zarr of absurd size": ("b.zarr", zarr_with(lambda facts: facts.__setitem__("shape", [10**6] * 3)), (BIG, "over")),
    "Zarr of negative size": ("b.zarr", zarr_with(lambda facts: facts.__setitem__("shape", [-4, 32, 40])), BROKEN),
    "Zarr of absurd chunks": (
        "b.zarr",
        zarr_with(lambda facts: facts.__setitem__("chunks", [2**31, 2**31, 2**31])),
        (BROKEN, BIG, "memory", "crashed"),
    ),
    "Zarr of chunks of nothing": ("b.zarr", zarr_with(lambda facts: facts.__setitem__("chunks", [0, 0, 0])), BROKEN),
    "Zarr 3 of an unknown codec": (
        "b.zarr",
        zarr_with(lambda facts: facts.__setitem__("codecs", [{"name": "os.system"}]), 3),
        (BROKEN, "codec"),
    ),
    "Zarr without description": ("b.zarr", zarr_then(lambda path: (path / ".zarray").unlink()), BROKEN),
    "Zarr with a chunk cut short": ("b.zarr", zarr_then(cut), BROKEN),
    "Zarr with a link in it": ("b.zarr", zarr_then(lambda path: (path / "9").symlink_to("/etc")), "symbolic link"),
    "Zarr with a pipe in it": ("b.zarr", zarr_then(lambda path: os.mkfifo(path / "9")), "pipe or a device"),
    "OME-Zarr of a scale elsewhere": ("b.zarr", ome("../../secret.zarr"), (BROKEN, "refused")),
    "OME-Zarr of an absolute scale": ("b.zarr", ome("/etc"), (BROKEN, "refused")),
    "OME-Zarr of no scale": ("b.zarr", ome(""), (BROKEN, "group")),
    # in the place of the mask
    "mask of 255": ("mask b.tif", tif(mask(value=255)), LABEL),
    "mask of a value too many": ("mask b.tif", tif(mask(value=2)), LABEL),
    "mask of negative labels": ("mask b.tif", tif(mask(np.int16, value=-1)), LABEL),
    "mask of fractions": ("mask b.tif", tif(mask(np.float32, value=0.5)), LABEL),
    "mask of NaN": ("mask b.tif", tif(mask(np.float32, value=np.nan)), LABEL),
    "mask of infinity": ("mask b.tif", tif(mask(np.float32, value=np.inf)), LABEL),
    "mask of huge labels": ("mask b.tif", tif(mask(np.uint64, value=2**64 - 1)), LABEL),
    "mask of other size": ("mask b.tif", tif(mask()[:, :-1]), SHAPES),
    "mask of other depth": ("mask b.tif", tif(mask()[:-1]), SHAPES),
    "mask transposed": ("mask b.tif", tif(mask().transpose(2, 1, 0)), SHAPES),
    "mask of colours": (
        "mask b.tif",
        tif(np.stack([mask(), mask(value=0), mask(value=1)], -1), photometric="rgb"),
        "channels",
    ),
    "mask of text": ("mask b.h5", hdf5(lambda file, _: file.__setitem__("raw", "labels")), "none"),
}


ONE_SECTION = {"TIFF of unknown compression", "TIFF of 9999 bits", "TIFF with pixels beyond its end"}
"""Of these only the pixels are broken, so that the mask beside them has to be of their size."""


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, list[str]]:
    """Run the command line here; return its exit status and what it wrote to standard error."""
    monkeypatch.setattr(sys, "argv", ["embench", *map(str, arguments)])
    capsys.readouterr()
    try:
        app.main()
        status = 0
    except SystemExit as done:
        status = done.code if isinstance(done.code, int) else int(done.code is not None)
    return status, capsys.readouterr().err.splitlines()


def layout(tmp_path: Path, fault: str) -> tuple[Path, list[object]]:
    """Write two pairs of images and masks, one file of which has the fault; return it and what is asked for."""
    where, write, _ = FAULTS[fault]
    side, _, name = where.rpartition(" ")
    is_one = fault.startswith("PNG") or fault in ONE_SECTION
    for folder, first, second in (("images", grey()[0], grey()), ("masks", mask()[0], mask())):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(png(first))
        if folder.removesuffix("s") != (side or "image"):
            tif(second[0] if is_one else second)(tmp_path / folder / "b.tif")
    path = tmp_path / f"{side or 'image'}s" / name
    write(path)
    wanted = ["--images", tmp_path / "images", "--masks", tmp_path / "masks", "--data-dir", tmp_path / "data"]
    return path, ["prepare", "mine", "--classes", "0:background,1:er", "--allow-duplicates", *wanted]


def test_there_are_more_than_forty() -> None:
    assert len(FAULTS) > 80


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_in_one_line(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, asked = layout(tmp_path, fault)
    says = FAULTS[fault][2]
    status, lines = run(monkeypatch, capsys, *asked)
    assert status == 2, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"embench: {path}"), lines
    assert any(word in lines[0] for word in ([says] if isinstance(says, str) else says)), lines
    assert not list((tmp_path / "data").rglob("*.h5"))


def test_files_without_a_fault_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same files without the fault are prepared: what is refused above is refused for it alone."""
    path, asked = layout(tmp_path, "mask of 255")
    tif(mask())(path)
    assert run(monkeypatch, capsys, *asked)[0] == 0
    assert list((tmp_path / "data").glob("mine.h5"))

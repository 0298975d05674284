"""What a pixel means: every format, every way in which it says so, as an image, as a mask and as a prediction.

An entry writes a picture of known values in its own way. Each role then either gets exactly these values, or one line
that names the file and says what to do; never anything else.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from embench.core.errors import BadInput
from embench.data import store
from embench.data.convert import grey, label_section, labels, scaled
from embench.data.readers.open import FORMATS, open_volume
from embench.data.task import Item, Scoring, Task
from embench.scoring import external

HEIGHT, WIDTH = 24, 32
_RNG = np.random.default_rng(5)
GREY = _RNG.integers(0, 256, (1, HEIGHT, WIDTH), np.uint8)
MASK = (_RNG.random((1, HEIGHT, WIDTH)) < 0.3).astype(np.uint8)
DEEP_GREY = _RNG.integers(0, 256, (5, HEIGHT, WIDTH), np.uint8)
DEEP_MASK = (_RNG.random((5, HEIGHT, WIDTH)) < 0.3).astype(np.uint8)
EXACT = ""


@dataclass(frozen=True)
class Way:
    """A way to store values.

    Parameters
    ----------
    suffix : str
    write : callable
        ``write(path, values)``: (Z, Y, X), values 0..255 for images and 0 and 1 for masks.
    image, mask : str
        ``EXACT``, or words of the line that refuses it.
    deep : bool
        Several sections.
    white : int
        What a mask holds for its second class, once read.
    grey_range : tuple of float or None
        For samples of other than 8 bits: what becomes 0 and 255.
    """

    suffix: str
    write: Callable[[Path, np.ndarray], object]
    image: str = EXACT
    mask: str = EXACT
    deep: bool = False
    white: int = 1
    grey_range: tuple[float, float] | None = None


# PNG


def png(content: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, np.ndarray], object]:
    return lambda path, v: path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(content(v[0]))))


def chunked(path: Path, bits: int, colour: int, rows: list[bytes], *more: tuple[bytes, bytes]) -> None:
    """Write a PNG of given rows of packed samples, with further chunks before the pixels."""
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", head), *more, (b"IDAT", pixels), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def packed(values: np.ndarray, bits: int) -> list[bytes]:
    """Return rows of samples of 1, 2 or 4 bits."""
    as_bits = (values[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint8)) & 1
    return [np.packbits(row.reshape(-1)).tobytes() for row in as_bits]


def png_bits(bits: int) -> Callable[[Path, np.ndarray], object]:
    def write(path: Path, values: np.ndarray) -> None:
        samples = values[0] if values.max() <= 1 else values[0] >> (8 - bits)
        chunked(path, bits, 0, packed(samples, bits))

    return write


def png_palette(*colours: tuple[int, int, int], clear: bytes = b"") -> Callable[[Path, np.ndarray], object]:
    """Store places in a palette of two colours, 1 where the mask is."""

    def write(path: Path, values: np.ndarray) -> None:
        more = [(b"PLTE", bytes(sum(colours, ())))] + ([(b"tRNS", clear)] if clear else [])
        chunked(path, 1, 3, packed((values[0] > 127 if values.max() > 1 else values[0]).astype(np.uint8), 1), *more)

    return write


def png_palette_of_greys(path: Path, values: np.ndarray) -> None:
    """Store the places of a palette in which greys run backwards."""
    colours = bytes(np.repeat(np.arange(255, -1, -1, dtype=np.uint8), 3))
    chunked(path, 8, 3, [row.tobytes() for row in 255 - values[0]], (b"PLTE", colours))


def png_turned(path: Path, values: np.ndarray) -> None:
    """Store a picture mirrored, with the tag that says so."""
    exif = Image.Exif()
    exif[274] = 2
    Image.fromarray(values[0, :, ::-1]).save(path, exif=exif)


def png_on_its_side(path: Path, values: np.ndarray) -> None:
    """Store a picture turned by a quarter, with the tag that says so."""
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(values[0])).save(path, exif=exif)


def png_clear_grey(path: Path, values: np.ndarray) -> None:
    chunked(path, 8, 0, [row.tobytes() for row in values[0]], (b"tRNS", struct.pack(">H", int(values[0, 0, 0]))))


# TIFF


def tif(
    content: Callable[[np.ndarray], np.ndarray] = lambda v: v, **options: Any
) -> Callable[[Path, np.ndarray], object]:
    return lambda path, v: tifffile.imwrite(path, content(v), **options)


def tif_palette(path: Path, values: np.ndarray) -> None:
    """Store 255 - value, with a palette of greys that runs backwards."""
    colours = np.repeat(np.arange(255, -1, -1, dtype=np.uint16)[None] * 257, 3, 0)
    tifffile.imwrite(path, 255 - values, photometric="palette", colormap=colours)


def tif_colours(path: Path, values: np.ndarray) -> None:
    colours = np.zeros((3, 256), np.uint16)
    colours[:, 1] = 65535, 0, 0
    tifffile.imwrite(path, values, photometric="palette", colormap=colours)


def tif_turned(path: Path, values: np.ndarray) -> None:
    tifffile.imwrite(path, values[:, ::-1, ::-1], extratags=[(274, "H", 1, 3, False)])


def tif_of_two_meanings(path: Path, values: np.ndarray) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for n, section in enumerate(values):
            tiff.write(section, photometric="miniswhite" if n else "minisblack", metadata=None, contiguous=False)


def ome_set(path: Path, values: np.ndarray) -> None:
    """Store one section of a volume whose other sections are, as the metadata say, in another file."""
    other = path.with_name(f"other-{path.name}")
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:a"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeZ="2" '
        'SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        f'<TiffData FirstZ="0" IFD="0" PlaneCount="1"><UUID FileName="{other.name}">urn:uuid:b</UUID></TiffData>'
        f'<TiffData FirstZ="1" IFD="0" PlaneCount="1"><UUID FileName="{path.name}">urn:uuid:a</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(other, 255 - values)
    tifffile.imwrite(path, values[0], description=xml.encode(), metadata=None, photometric="minisblack")


def pyramid(path: Path, values: np.ndarray) -> None:
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(values[0], metadata=None, photometric="minisblack")
        tiff.write(values[0, ::2, ::2], subfiletype=1, metadata=None, photometric="minisblack")


# the volume formats


def nifti(affine: np.ndarray | None = None, slope: tuple[float, float] | None = None, order: str = "<") -> Any:
    def write(path: Path, values: np.ndarray) -> None:
        header = nibabel.Nifti1Header(endianness=order)
        header.set_data_dtype(values.dtype)
        image = nibabel.Nifti1Image(values.T, np.eye(4) if affine is None else affine, header)
        if slope:
            image.header.set_data_dtype(np.uint8)
            image.header["scl_slope"], image.header["scl_inter"] = slope
            content = bytearray(nibabel.Nifti1Image(values.T, np.eye(4)).to_bytes())
            content[112:120] = struct.pack("<2f", *slope)
            path.write_bytes(content)
            return
        nibabel.save(image, path)

    return write


def nrrd_as(header: dict[str, Any], turn: Callable[[np.ndarray], np.ndarray] = lambda v: v.T) -> Any:
    return lambda path, v: nrrd.write(str(path), turn(v), header)


def mrc(turn: Callable[[np.ndarray], np.ndarray] = lambda v: v, **header: int) -> Callable[[Path, np.ndarray], object]:
    def write(path: Path, values: np.ndarray) -> None:
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(np.ascontiguousarray(turn(values)))
            for name, value in header.items():
                file.header[name] = value

    return write


def mrc_unsigned(path: Path, values: np.ndarray) -> None:
    """Store unsigned bytes in mode 0, with IMOD's stamp that says so."""
    mrc(lambda v: v.view(np.int8))(path, values)
    content = bytearray(path.read_bytes())
    content[152:160] = struct.pack("<2i", 1146047817, 0)
    path.write_bytes(content)


def hdf5(content: Callable[[np.ndarray], np.ndarray] = lambda v: v, **attributes: Any) -> Any:
    def write(path: Path, values: np.ndarray) -> None:
        with h5py.File(path, "w") as file:
            data = file.create_dataset("raw", data=content(values))
            for name, value in attributes.items():
                data.attrs[name] = np.bytes_(value) if isinstance(value, str) and name.isupper() else value

    return write


def hdf5_palette(colours: np.ndarray, content: Callable[[np.ndarray], np.ndarray] = lambda v: v) -> Any:
    def write(path: Path, values: np.ndarray) -> None:
        with h5py.File(path, "w") as file:
            data = file.create_dataset("raw", data=content(values))
            # a palette of three columns is itself a picture by its shape: the volume is then named by whoever opens it
            table = file.create_dataset("colours", data=colours)
            data.attrs["CLASS"], data.attrs["IMAGE_SUBCLASS"] = np.bytes_("IMAGE"), np.bytes_("IMAGE_INDEXED")
            data.attrs["PALETTE"] = table.ref
            table.attrs["CLASS"] = np.bytes_("PALETTE")

    return write


def axistags(names: str) -> str:
    return json.dumps({"axes": [{"key": name} for name in names]})


def dimension_labels(path: Path, values: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_dataset("raw", data=values.transpose(2, 1, 0))
        for axis, name in enumerate("xyz"):
            data.dims[axis].label = name


def ome_zarr(axes: str, turn: Callable[[np.ndarray], np.ndarray], version: int = 2, key: str = "") -> Any:
    def write(path: Path, values: np.ndarray) -> None:
        root = zarr.open_group(str(path), mode="w", zarr_format=version)
        root.create_array("0", data=np.ascontiguousarray(turn(values)))
        about = {"axes": [{"name": name} for name in axes], "datasets": [{"path": "0"}]}
        root.attrs.update({key: {"multiscales": [about]}} if key else {"multiscales": [about]})

    return write


def zarr_named(path: Path, values: np.ndarray) -> None:
    zarr.create_array(str(path), data=values.transpose(2, 0, 1).copy(), zarr_format=3, dimension_names=["x", "z", "y"])


COLOURED = "palette of colours"
ASK, CHANNELS, CLEAR = "--grey-range", "different channels", "transparent"
WIDE = {"image": ASK, "grey_range": (0, 65535)}
BACKWARDS = np.repeat(np.arange(255, -1, -1, dtype=np.uint8)[:, None], 3, 1)
RED = np.array([[0, 0, 0], [255, 0, 0], *[[9, 9, 9]] * 254], np.uint8)

WAYS: dict[str, Way] = {
    "PNG 8-bit grey": Way(".png", png(lambda v: v)),
    "PNG 8-bit RGB": Way(".png", png(lambda v: np.stack([v] * 3, -1))),
    "PNG 8-bit RGBA": Way(".png", png(lambda v: np.stack([v, v, v, np.full_like(v, 255)], -1))),
    "PNG grey, alpha": Way(".png", png(lambda v: np.stack([v, np.full_like(v, 255)], -1))),
    "PNG partly clear": Way(".png", png(lambda v: np.stack([v, 255 - v], -1)), CHANNELS, CHANNELS),
    "PNG different channels": Way(".png", png(lambda v: np.stack([v, v, 255 - v], -1)), CHANNELS, CHANNELS),
    "PNG 16-bit grey": Way(".png", png(lambda v: v.astype(np.uint16) * (257 if v.max() > 1 else 1)), **WIDE),
    "PNG 16-bit RGB": Way(
        ".png", png(lambda v: np.stack([v.astype(np.uint16) * (257 if v.max() > 1 else 1)] * 3, -1)), **WIDE
    ),
    "PNG 16-bit grey, alpha": Way(
        ".png",
        png(lambda v: np.stack([v.astype(np.uint16) * (257 if v.max() > 1 else 1), np.full(v.shape, 65535, "u2")], -1)),
        **WIDE,
    ),
    "PNG 16-bit, partly clear": Way(
        ".png",
        png(lambda v: np.stack([v.astype(np.uint16), np.full(v.shape, 65280, np.uint16)], -1)),
        ASK,
        CHANNELS,
    ),
    "PNG 1-bit": Way(".png", png_bits(1), image=ASK),
    "PNG 2-bit": Way(".png", png_bits(2), image=ASK),
    "PNG 4-bit": Way(".png", png_bits(4), image=ASK),
    "PNG palette of greys, backwards": Way(".png", png_palette_of_greys),
    "PNG palette white first": Way(".png", png_palette((255, 255, 255), (0, 0, 0)), image="_", white=0),
    "PNG palette black first": Way(".png", png_palette((0, 0, 0), (255, 255, 255)), image="_", white=255),
    "PNG palette of colours": Way(".png", png_palette((0, 0, 0), (255, 0, 0)), image=COLOURED),
    "PNG palette of colours, black second": Way(
        ".png", png_palette((255, 0, 0), (0, 0, 0)), image=COLOURED, mask="is black"
    ),
    "PNG palette partly clear": Way(
        ".png", png_palette((0, 0, 0), (255, 255, 255), clear=b"\xff\x10"), image=CLEAR, mask=CLEAR
    ),
    "PNG with a clear grey": Way(".png", png_clear_grey, CLEAR, CLEAR),
    "PNG mirrored by its tag": Way(".png", png_turned),
    "PNG turned by its tag": Way(".png", png_on_its_side),
    "TIFF black is zero": Way(".tif", tif(photometric="minisblack")),
    "TIFF white is zero": Way(".tif", tif(lambda v: 255 - v, photometric="miniswhite")),
    "TIFF 16-bit white is zero": Way(
        ".tif",
        tif(lambda v: 65535 - v.astype(np.uint16) * (257 if v.max() > 1 else 1), photometric="miniswhite"),
        **WIDE,
    ),
    "TIFF 1-bit": Way(".tif", tif(lambda v: v > 0, photometric="minisblack"), image=ASK),
    "TIFF 1-bit white is zero": Way(".tif", tif(lambda v: v == 0, photometric="miniswhite"), image=ASK),
    "TIFF 4-bit": Way(".tif", tif(lambda v: v if v.max() <= 1 else v >> 4, bitspersample=4), image=ASK),
    "TIFF float white is zero": Way(
        ".tif", tif(lambda v: v.astype("f4"), photometric="miniswhite"), "white is zero", "white is zero"
    ),
    "TIFF big-endian 16-bit": Way(
        ".tif", tif(lambda v: v.astype(np.uint16) * (257 if v.max() > 1 else 1), byteorder=">"), **WIDE
    ),
    "TIFF palette of greys, backwards": Way(".tif", tif_palette),
    "TIFF palette of colours": Way(".tif", tif_colours, image=COLOURED),
    "TIFF RGB": Way(".tif", tif(lambda v: np.stack([v] * 3, -1), photometric="rgb"), deep=True),
    "TIFF RGBA partly clear": Way(
        ".tif",
        tif(lambda v: np.stack([v, v, v, v], -1), photometric="rgb", extrasamples=["unassalpha"]),
        CHANNELS,
        CHANNELS,
    ),
    "TIFF CMYK": Way(".tif", tif(lambda v: np.stack([v] * 4, -1), photometric="separated"), "SEPARATED", "SEPARATED"),
    "TIFF turned by its tag": Way(".tif", tif_turned, deep=True),
    "TIFF pages of two meanings": Way(".tif", tif_of_two_meanings, "differ", "differ", deep=True),
    "TIFF of ImageJ, an axis called T": Way(".tif", tif(imagej=True, metadata={"axes": "TYX"}), deep=True),
    "TIFF of ImageJ, two channels": Way(
        ".tif", tif(lambda v: np.stack([v, v], 1), imagej=True, metadata={"axes": "ZCYX"}), "c (2)", "c (2)", deep=True
    ),
    "TIFF of ImageJ, channels alone": Way(".tif", tif(imagej=True, metadata={"axes": "CYX"}), deep=True),
    "OME-TIFF": Way(".ome.tif", tif(ome=True, metadata={"axes": "ZYX"}), deep=True),
    "OME-TIFF of a set": Way(".ome.tif", ome_set),
    "TIFF pyramid of pages": Way(".tif", pyramid),
    "NIfTI": Way(".nii", nifti(), deep=True),
    "NIfTI compressed": Way(".nii.gz", nifti(), deep=True),
    "NIfTI big-endian": Way(".nii", nifti(order=">"), deep=True),
    "NIfTI scaled": Way(".nii", nifti(slope=(1.0, 3.0)), ASK, "label values 3", deep=True),
    "NRRD": Way(".nrrd", nrrd_as({}), deep=True),
    "NRRD gzip": Way(".nrrd", nrrd_as({"encoding": "gzip"}), deep=True),
    "NRRD of colours": Way(
        ".nrrd",
        nrrd_as({"kinds": ["RGB-color", "domain", "domain"]}, lambda v: np.stack([v[0].T] * 3)),
        "rgb-color",
        "rgb-color",
    ),
    "MRC signed bytes": Way(".mrc", mrc(lambda v: v.view(np.int8)), image=ASK, deep=True),
    "MRC unsigned bytes": Way(".mrc", mrc_unsigned, deep=True),
    "MRC 16 bits": Way(".mrc", mrc(lambda v: v.astype(np.uint16) * (257 if v.max() > 1 else 1)), **WIDE, deep=True),
    "MRC floats": Way(".mrc", mrc(lambda v: v.astype(np.float32)), image=ASK, grey_range=(0, 255), deep=True),
    "MRC of other axes": Way(
        ".mrc",
        mrc(lambda v: v.astype(np.float32).transpose(2, 1, 0), mapc=3, mapr=2, maps=1),
        image=ASK,
        grey_range=(0, 255),
        deep=True,
    ),
    "HDF5": Way(".h5", hdf5(), deep=True),
    "HDF5 big-endian": Way(".h5", hdf5(lambda v: v.astype(">u2") * (257 if v.max() > 1 else 1)), **WIDE, deep=True),
    "HDF5 of ilastik": Way(".h5", hdf5(lambda v: v[..., None], axistags=axistags("zyxc")), deep=True),
    "HDF5 of ilastik, xyz": Way(".h5", hdf5(lambda v: v.T, axistags=axistags("xyz")), deep=True),
    "HDF5 of ilastik, channels": Way(
        ".h5",
        hdf5(lambda v: np.stack([v, v], -1), axistags=axistags("zyxc")),
        "expected one volume",
        "one volume",
        deep=True,
    ),
    "HDF5 with dimension labels": Way(".h5", dimension_labels, deep=True),
    "HDF5 white is zero": Way(
        ".h5", hdf5(lambda v: 255 - v, CLASS="IMAGE", IMAGE_WHITE_IS_ZERO=np.uint8(1)), deep=True
    ),
    "HDF5 first row at the bottom": Way(
        ".h5", hdf5(lambda v: v[:, ::-1], CLASS="IMAGE", DISPLAY_ORIGIN="LL"), "DISPLAY_ORIGIN", "DISPLAY_ORIGIN"
    ),
    "HDF5 palette of greys": Way(".h5:raw", hdf5_palette(BACKWARDS, lambda v: 255 - v)),
    "HDF5 palette of colours": Way(".h5:raw", hdf5_palette(RED), image=COLOURED),
    "OME-Zarr 0.4": Way(".zarr", ome_zarr("zyx", lambda v: v), deep=True),
    "OME-Zarr 0.5, five axes": Way(".zarr", ome_zarr("tczyx", lambda v: v[None, None], 3, "ome"), deep=True),
    "OME-Zarr of x, y, z": Way(".zarr", ome_zarr("xyz", lambda v: v.T), deep=True),
    "OME-Zarr of channels": Way(".zarr", ome_zarr("cyx", lambda v: v[:2]), "c (2)", "c (2)", deep=True),
    "Zarr 3 with named axes": Way(".zarr", zarr_named, deep=True),
    "Zarr big-endian": Way(
        ".zarr",
        lambda path, v: zarr.create_array(str(path), data=v.astype(">u2") * (257 if v.max() > 1 else 1), zarr_format=2),
        **WIDE,
        deep=True,
    ),
}


def stored(way: Way, path: Path, values: np.ndarray) -> Path:
    """Write values in a way, and return how the file is named to whoever opens it."""
    suffix, _, inside = way.suffix.partition(":")
    file = path / f"a{suffix}"
    way.write(file, values)
    return path / f"a{way.suffix}" if inside else file


@pytest.mark.parametrize("name", WAYS)
def test_an_image_means_what_its_format_says(name: str, tmp_path: Path) -> None:
    way = WAYS[name]
    values = DEEP_GREY if way.deep else GREY
    path = stored(way, tmp_path, values)
    if way.image == "_":  # two greys alone: what an image of them is, the mask tells
        return
    if way.image:
        with pytest.raises(BadInput) as caught:
            list(map(grey(open_volume(path)).__getitem__, range(len(values))))
        assert way.image in str(caught.value), caught.value
        assert str(path) in str(caught.value)
        assert len(caught.value.lines) == 1
    if way.grey_range:
        sections = scaled(open_volume(path), *way.grey_range)
    elif way.image:
        return
    else:
        sections = grey(open_volume(path))
    np.testing.assert_array_equal(np.stack([sections[z] for z in range(sections.shape[0])]), values)


@pytest.mark.parametrize("name", WAYS)
def test_a_mask_means_what_its_format_says(name: str, tmp_path: Path) -> None:
    way = WAYS[name]
    values = DEEP_MASK if way.deep else MASK
    path = stored(way, tmp_path, values)
    classes = {0: (255, 0), 255: (0, 255)}.get(way.white, (0, 1))
    if way.mask:
        with pytest.raises(BadInput) as caught:
            list(map(labels(open_volume(path), classes).__getitem__, range(len(values))))
        assert way.mask in str(caught.value), caught.value
        assert str(path) in str(caught.value)
        assert len(caught.value.lines) == 1
        return
    sections = labels(open_volume(path), classes)
    np.testing.assert_array_equal(np.stack([sections[z] for z in range(sections.shape[0])]), values)


@pytest.mark.parametrize("name", WAYS)
def test_a_prediction_means_what_its_format_says(name: str, tmp_path: Path) -> None:
    """Label maps that hold the truth in their own way score 1, or are refused; never 0."""
    way = WAYS[name]
    if ":" in way.suffix:  # a folder of predictions cannot name what is inside a file
        return
    values = DEEP_MASK if way.deep else MASK
    task = Task("mine", "M", "own", ("background", "er"), Scoring("stack"), 100)
    grey_values = DEEP_GREY if way.deep else GREY
    stem_ = f"a{way.suffix.partition('.tif')[0]}" if way.suffix == ".ome.tif" else "a"
    items = [Item("train", "t", GREY, MASK), Item("test", stem_, grey_values, values)]
    store.write(tmp_path / "mine.h5", task, items)
    (tmp_path / "p").mkdir()
    path = stored(way, tmp_path / "p", values)
    for other in (tmp_path / "p").glob("other-*"):  # what an OME-TIFF names is elsewhere
        other.rename(tmp_path / other.name)
    with store.Prepared(tmp_path / "mine.h5") as prepared:
        if way.mask or way.white != 1:
            with pytest.raises(BadInput) as caught:
                external.check(prepared, tmp_path / "p")
            assert str(path) in str(caught.value)
            assert len(caught.value.lines) == 1
            return
        checked = external.check(prepared, tmp_path / "p")
        found = np.stack(list(checked.labels(0)))
        np.testing.assert_array_equal(found, values)


def test_every_format_has_ways() -> None:
    assert {suffix for way in WAYS.values() for suffix in [way.suffix.partition(":")[0]]} >= {
        each.suffixes[0] for each in FORMATS
    }


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_orientation_tag_is_followed(suffix: str, orientation: int, tmp_path: Path) -> None:
    """Pillow's own transposition is the second opinion."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        Image.fromarray(GREY[0]).save(path, exif=exif)
    else:
        tifffile.imwrite(path, GREY[0], extratags=[(274, "H", 1, orientation, True)])
    plain = io.BytesIO()
    Image.fromarray(GREY[0]).save(plain, "png", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(plain)))
    np.testing.assert_array_equal(open_volume(path)[0], expected)
    np.testing.assert_array_equal(label_section(open_volume(path), 0), expected)

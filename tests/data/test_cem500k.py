"""Packing patches and cutting tiles: the same bytes however often it is killed, whoever does it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from embench.core.errors import BadInput, TryAgain
from embench.data import catalog, duplicates, own_tiles, packing, store
from embench.data.packing import pack
from embench.data.patches import padded
from embench.data.store import Prepared
from embench.data.unlabelled import Tiles, open_unlabelled
from embench.datasets import cem500k
from embench.datasets.cem500k import PatchFiles

(SPEC,) = cem500k.DATASET.unlabelled


def texture(seed: int, shape: tuple[int, int] = (224, 224)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    total = sum(cv2.resize(rng.standard_normal((n, n)), shape[::-1], interpolation=cv2.INTER_CUBIC) for n in (4, 8, 32))
    return (128 + 30 * total).clip(0, 255).astype(np.uint8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Patches in folders, some smaller, each compressed in another way."""
    folder = tmp_path / "patches"
    for n in range(20):
        shape = (224, 224) if n % 3 else (224 - n, 150)
        path = folder / f"part{n // 8}" / f"image{n:02d}.tiff"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, texture(n, shape), compression=(None, "lzw", "deflate")[n % 3])
    (folder / "README.txt").write_text("not a patch")
    return folder


def expected(folder: Path) -> np.ndarray:
    return np.stack([padded(tifffile.imread(file)) for file in sorted(folder.rglob("*.tiff"))])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BLOCK", 3)


def test_patches_are_packed_as_they_are_and_padded_by_reflection(source: Path, tmp_path: Path) -> None:
    ((name, path, fresh),) = catalog.prepare("cem500k", source, tmp_path)
    assert (name, fresh) == ("cem500k", True)
    with Prepared(path) as prepared:
        (volume,) = prepared.volumes("train")
        np.testing.assert_array_equal(volume.image[:], expected(source))
        assert prepared.verify()
        assert (prepared.card["patches"], prepared.card["padded by reflection"]) == (20, 7)
        grey = expected(source) / 255
        assert prepared.norms == pytest.approx((grey.mean(), grey.std()))
    assert not list(tmp_path.glob(".cem500k*"))
    assert catalog.prepare("cem500k", source, tmp_path)[0][2] is False


def test_packing_gives_the_file_that_the_general_way_gives(source: Path, tmp_path: Path) -> None:
    digest = pack(tmp_path / "a.h5", SPEC, PatchFiles(source), {}, jobs=1)
    assert store.write(tmp_path / "b.h5", SPEC, cem500k.read(source, "cem500k")) == digest


def test_processes_do_not_change_the_file(source: Path, tmp_path: Path) -> None:
    first = pack(tmp_path / "a.h5", SPEC, PatchFiles(source), {}, jobs=1)
    assert pack(tmp_path / "b.h5", SPEC, PatchFiles(source), {}, jobs=2) == first


def test_an_archive_is_packed_without_unpacking(source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "cem.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as contents:
        for file in source.rglob("*.tiff"):
            contents.write(file, f"../cem500k/{file.relative_to(source)}")  # read by name, never written
    before = sorted(path for path in tmp_path.rglob("*"))
    pack(tmp_path / "data" / "a.h5", SPEC, PatchFiles(archive), {}, jobs=1)
    with Prepared(tmp_path / "data" / "a.h5") as prepared:
        np.testing.assert_array_equal(prepared.volumes("train")[0].image[:], expected(source))
    cache = tmp_path / "cache"
    made = sorted(path for path in tmp_path.rglob("*") if path not in before and not path.is_relative_to(cache))
    assert made == [tmp_path / "data", tmp_path / "data" / "a.h5", tmp_path / "data" / "a.prints.npz"]


def test_every_patch_that_cannot_be_taken_is_named_and_nothing_is_written(source: Path, tmp_path: Path) -> None:
    tifffile.imwrite(source / "large.tiff", np.zeros((225, 224), np.uint8))
    tifffile.imwrite(source / "deep.tiff", np.zeros((224, 224), np.uint16))
    tifffile.imwrite(source / "rgb.tiff", np.zeros((224, 224, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(source / "pages.tiff", np.zeros((2, 224, 224), np.uint8), photometric="minisblack")
    (source / "broken.tiff").write_bytes((source / "part0/image01.tiff").read_bytes()[:900])
    (source / "empty.tiff").touch()
    with pytest.raises(BadInput) as caught:
        pack(tmp_path / "a.h5", SPEC, PatchFiles(source), {}, jobs=1)
    found = {Path(line.split(": ")[0]).name: line for line in caught.value.lines}
    assert set(found) == {"large.tiff", "deep.tiff", "rgb.tiff", "pages.tiff", "broken.tiff", "empty.tiff"}
    assert "225 x 224" in found["large.tiff"]
    assert not (tmp_path / "a.h5").exists()


def test_after_a_fault_is_mended_only_its_block_is_read_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = source / "part1/image10.tiff"
    bad.write_bytes(b"II*\0")
    with pytest.raises(BadInput, match="image10"):
        pack(tmp_path / "a.h5", SPEC, PatchFiles(source), {}, jobs=1)
    tifffile.imwrite(bad, texture(99))
    read = PatchFiles._read
    names: list[str] = []
    monkeypatch.setattr(PatchFiles, "_read", lambda self, name: names.append(name) or read(self, name))
    pack(tmp_path / "a.h5", SPEC, PatchFiles(source), {}, jobs=1)
    assert names == [f"part1/image{n:02d}.tiff" for n in (9, 10, 11)]
    with Prepared(tmp_path / "a.h5") as prepared:
        np.testing.assert_array_equal(prepared.volumes("train")[0].image[:], expected(source))
        assert prepared.verify()


def test_a_changed_or_added_file_is_never_taken_from_an_earlier_attempt(source: Path, tmp_path: Path) -> None:
    (source / "zzz.tiff").touch()
    with pytest.raises(BadInput):
        pack(tmp_path / "a.h5", SPEC, PatchFiles(source), {}, jobs=1)
    (source / "zzz.tiff").unlink()
    tifffile.imwrite(source / "part0/image01.tiff", texture(77))
    tifffile.imwrite(source / "part0/added.tiff", texture(78))
    pack(tmp_path / "a.h5", SPEC, PatchFiles(source), {}, jobs=1)
    with Prepared(tmp_path / "a.h5") as prepared:
        np.testing.assert_array_equal(prepared.volumes("train")[0].image[:], expected(source))


def test_killed_packing_goes_on_and_gives_the_same_file(source: Path, tmp_path: Path) -> None:
    whole = pack(tmp_path / "whole.h5", SPEC, PatchFiles(source), {}, jobs=1)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom embench.data import packing\n"
        "from embench.datasets.cem500k import DATASET, PatchFiles\n"
        "packing.BLOCK = 3\nread = PatchFiles._read\n"
        "def slowly(self, name):\n    time.sleep(0.2)\n    return read(self, name)\n"
        "PatchFiles._read = slowly\n"
        "packing.pack(Path(sys.argv[2]), DATASET.unlabelled[0], PatchFiles(Path(sys.argv[1])), {}, jobs=1)\n"
    )
    path = tmp_path / "killed.h5"
    blocks = tmp_path / ".killed.h5.packing" / "blocks"
    process = subprocess.Popen([sys.executable, "-c", code, str(source), str(path)])

    def done() -> int:
        size = packing._RECORD.itemsize
        if not blocks.exists() or blocks.stat().st_size < 7 * size:
            return 0
        return int((np.fromfile(blocks, packing._RECORD)["facts"] != b"").sum())

    while done() < 2:
        assert process.poll() is None
        time.sleep(0.02)
    with pytest.raises(TryAgain, match="held by process"):
        pack(path, SPEC, PatchFiles(source), {}, jobs=1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = done()
    assert 2 <= finished < 7
    assert not path.exists()
    seen: list[str] = []
    read = PatchFiles._read
    try:
        PatchFiles._read = lambda self, name: seen.append(name) or read(self, name)  # type: ignore[method-assign]
        assert pack(path, SPEC, PatchFiles(source), {}, jobs=1) == whole
    finally:
        PatchFiles._read = read  # type: ignore[method-assign]
    assert len(seen) == 20 - 3 * finished
    assert path.read_bytes()[-1000:] == (tmp_path / "whole.h5").read_bytes()[-1000:]


def test_too_little_space_is_said_before_anything_is_laid_out(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: _Free())
    with pytest.raises(BadInput, match="GB"):
        pack(tmp_path / "a.h5", SPEC, PatchFiles(source), {}, jobs=1)
    assert not list(tmp_path.rglob("patches.h5"))


class _Free:
    free = 1000


def test_prints_of_packed_patches_are_those_of_the_file(source: Path, tmp_path: Path) -> None:
    pack(tmp_path / "a.h5", SPEC, PatchFiles(source), {}, jobs=1)
    with Prepared(tmp_path / "a.h5") as prepared:
        kept = duplicates.pretraining_prints(prepared)
        duplicates.prints_path(prepared.path).unlink()
        made = duplicates.pretraining_prints(prepared)
    np.testing.assert_array_equal(kept, made)


def test_patches_are_read_at_random_without_their_neighbours(source: Path, tmp_path: Path) -> None:
    pack(tmp_path / "a.h5", SPEC, PatchFiles(source), {}, jobs=1)
    with h5py.File(tmp_path / "a.h5") as file:
        dataset = file["train/patches/image"]
        assert dataset.chunks is None
        assert dataset.compression is None
        assert dataset.id.get_offset() is not None
    with Prepared(tmp_path / "a.h5") as prepared:
        tiles = Tiles(prepared, 224)
        assert len(tiles) == 20
        np.testing.assert_array_equal(tiles[13], expected(source)[13])


def test_the_real_patches_are_packed(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/cem500k_examples/patches"
    pack(tmp_path / "a.h5", SPEC, PatchFiles(folder), {}, jobs=1)
    with Prepared(tmp_path / "a.h5") as prepared:
        assert (prepared.card["patches"], prepared.card["padded by reflection"]) == (10, 2)
        np.testing.assert_array_equal(prepared.volumes("train")[0].image[:], expected(folder))


def test_nothing_to_pack_is_said(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "file.txt").write_text("text")
    with pytest.raises(BadInput, match=r"no \.tif"):
        PatchFiles(tmp_path / "none")
    with pytest.raises(BadInput, match="neither a folder nor a zip"):
        PatchFiles(tmp_path / "file.txt")
    with pytest.raises(BadInput, match="no such folder"):
        PatchFiles(tmp_path / "absent")
    with pytest.raises(BadInput, match="embench prepare cem500k --source"):
        catalog.prepare("cem500k", None, tmp_path)


# Cutting


def test_images_of_any_size_are_cut_and_de_duplicated_within_each_source(tmp_path: Path) -> None:
    source = tmp_path / "images"
    for folder in ("a", "b"):
        (source / folder / "deeper").mkdir(parents=True)
    wide = texture(1, (300, 560))  # 224 + 76 rows: one; 2 x 224 + 112 columns: three
    Image.fromarray(wide).save(source / "a/one.png")
    stack = np.stack([texture(2, (230, 230)), texture(3, (230, 230)), texture(2, (230, 230)) // 2 + 60])
    tifffile.imwrite(source / "a/deeper/two.tif", stack, photometric="minisblack")
    Image.fromarray(wide[:, :224]).save(source / "b/again.png")  # in another source: kept
    Image.fromarray(texture(4, (100, 300))).save(source / "small.png")  # shorter than a tile: whole; 76 columns over
    name, path, fresh = own_tiles.prepare("mine", source, tmp_path, jobs=1)
    assert (name, fresh) == ("mine", True)
    with Prepared(path) as prepared:
        (volume,) = prepared.volumes("train")
        found = {image.tobytes() for image in volume.image[:]}
        card = prepared.card
        assert prepared.verify()
    kept = [
        stack[0, :224, :224], stack[1, :224, :224], wide[:224, :224], wide[:224, 224:448], padded(wide[:224, 448:]),
        wide[:224, :224], padded(texture(4, (100, 300))[:, :224]),
    ]  # fmt: skip
    assert volume is not None
    assert found == {image.tobytes() for image in kept}
    assert (card["tiles"], card["patches"], card["left out as near duplicates"]) == (8, 7, 1)
    assert own_tiles.prepare("mine", source, tmp_path)[2] is False
    with open_unlabelled("mine", tmp_path) as again:
        assert len(Tiles(again, 224)) == 7
    assert not list(tmp_path.glob(".mine*"))


def test_cutting_does_not_depend_on_processes_and_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "images"
    source.mkdir()
    for n in range(3):
        tifffile.imwrite(source / f"{n}.tif", np.stack([texture(n * 9 + k, (224, 448)) for k in range(2)]))
    hashes = []
    for name, jobs in (("one", 1), ("two", 2)):
        _, path, _ = own_tiles.prepare(name, source, tmp_path, jobs=jobs)
        with Prepared(path) as prepared:
            hashes.append(prepared.volumes("train")[0].image[:].tobytes())
    assert hashes[0] == hashes[1]

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(packing._Job, "pack_block", killed)
        with pytest.raises(Killed):
            own_tiles.prepare("three", source, tmp_path, jobs=1)
    assert not (tmp_path / "three.h5").exists()
    with monkeypatch.context() as patch:
        patch.setattr(own_tiles, "fingerprint", killed)  # hashes of the first attempt are not made again
        _, path, _ = own_tiles.prepare("three", source, tmp_path, jobs=1)
    with Prepared(path) as prepared:
        assert prepared.volumes("train")[0].image[:].tobytes() == hashes[0]


def test_images_that_cannot_be_cut_are_all_named(tmp_path: Path) -> None:
    source = tmp_path / "images"
    source.mkdir()
    Image.fromarray(texture(1)).save(source / "good.png")
    tifffile.imwrite(source / "deep.tif", np.zeros((300, 300), np.uint16))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)).save(source / "colour.png")
    with pytest.raises(BadInput) as caught:
        own_tiles.prepare("mine", source, tmp_path, jobs=1)
    assert sorted(Path(line.split(":")[0].split(",")[0]).name for line in caught.value.lines) == [
        "colour.png", "deep.tif",
    ]  # fmt: skip
    assert not (tmp_path / "mine.h5").exists()
    for name in ("cem500k", "urocell", "../mine"):
        with pytest.raises(BadInput, match=r"name|taken"):
            own_tiles.prepare(name, source, tmp_path)

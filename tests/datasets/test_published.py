"""The published layouts, pitfalls included, come out as the protocol says (protocol 3)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import published_files as published
import pytest
import tifffile
from PIL import Image

from embench.core.errors import BadInput
from embench.data import catalog, download, store


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def prepared(name: str, source: Path | list[Path], tmp_path: Path) -> store.Prepared:
    catalog.prepare(name, source, tmp_path / "data")
    return store.Prepared(tmp_path / "data" / f"{name}.h5")


def arrays(file: store.Prepared, split: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = {}
    for volume in file.volumes(split):  # type: ignore[arg-type]
        assert volume.labels is not None
        found[volume.name] = volume.image[:], volume.labels[:]
    return found


def check(found: dict[str, tuple], expected: dict[str, tuple]) -> None:
    assert found.keys() == expected.keys()
    for name, (image, labels) in expected.items():
        np.testing.assert_array_equal(found[name][0], image, strict=True)
        np.testing.assert_array_equal(found[name][1], labels.astype(np.uint8), strict=True)


def lines(call: Callable[[], object]) -> list[str]:
    with pytest.raises(BadInput) as caught:
        call()
    return caught.value.lines


# --- CREMI


def test_cremi_takes_every_identifier_but_the_greatest_as_cleft(source: Path, tmp_path: Path, rng) -> None:
    made = published.cremi(source, rng)
    with prepared("cremi", source, tmp_path) as file:
        check(arrays(file, "train"), {"A": made["A"], "B": made["B"]})
        check(arrays(file, "test"), {"C": made["C"]})
        assert file.volumes("train")[0].labels[1, 5, 10] == 1, "identifier 0 is a cleft"
        assert file.card["verified"] is False


def test_cremi_is_read_from_single_files(source: Path, tmp_path: Path, rng) -> None:
    made = published.cremi(source, rng)
    with prepared("cremi", sorted(source.iterdir()), tmp_path) as file:
        check(arrays(file, "test"), {"C": made["C"]})
        assert set(file.card["files"]) == {f"sample_{letter}_20160501.hdf" for letter in "ABC"}


def test_every_missing_cremi_volume_is_named(source: Path, tmp_path: Path, rng) -> None:
    published.cremi(source, rng)
    (source / "sample_B_20160501.hdf").unlink()
    (source / "sample_C_20160501.hdf").unlink()
    found = lines(lambda: prepared("cremi", source, tmp_path))
    assert [line.split("no ")[1] for line in found] == ["sample_B_20160501.hdf", "sample_C_20160501.hdf"]
    assert not list((tmp_path / "data").glob("*.h5"))


def test_cremi_without_clefts_lists_what_the_file_holds(source: Path, tmp_path: Path, rng) -> None:
    published.cremi(source, rng)
    for letter in "AC":
        with h5py.File(source / f"sample_{letter}_20160501.hdf", "r+") as file:
            del file["volumes/labels/clefts"]
    found = lines(lambda: prepared("cremi", source, tmp_path))
    assert len(found) == 2
    assert all("volumes/labels/clefts" in line and "volumes/raw" in line for line in found)


def test_hdf5_links_to_other_files_are_refused(source: Path, tmp_path: Path, rng) -> None:
    published.cremi(source, rng)
    with h5py.File(source / "sample_A_20160501.hdf", "r+") as file:
        del file["volumes/raw"]
        file["volumes/raw"] = h5py.ExternalLink(str(source / "sample_B_20160501.hdf"), "volumes/raw")
    found = lines(lambda: prepared("cremi", source, tmp_path))
    assert len(found) == 1
    assert "link to another file" in found[0]


def test_hdf5_of_absurd_declared_size_is_refused(source: Path, tmp_path: Path, rng) -> None:
    published.cremi(source, rng)
    with h5py.File(source / "sample_A_20160501.hdf", "r+") as file:
        del file["volumes/raw"]
        file.create_dataset("volumes/raw", (10**6, 10**4, 10**4), np.uint8, chunks=(1, 64, 64))
    (found,) = lines(lambda: prepared("cremi", source, tmp_path))
    assert "declares" in found


# --- Guay


def test_guay_scales_each_signed_volume_and_keeps_its_labels(source: Path, tmp_path: Path, rng) -> None:
    made = published.guay(source / "platelet_data", rng)

    def scaled(volume: np.ndarray) -> np.ndarray:
        values = volume.astype(float)
        values -= values.min()
        values /= values.max()
        values *= 255
        return values.astype(np.uint8)

    expected = {name: (scaled(image), labels) for name, (image, labels) in made.items()}
    with prepared("guay", source, tmp_path) as file:
        check(arrays(file, "train"), {"train": expected["train"]})
        check(arrays(file, "valid"), {"eval": expected["eval"]})
        check(arrays(file, "test"), {"test": expected["test"]})
        assert file.volumes("train")[0].image[:].min() == 0
        assert file.volumes("train")[0].image[:].max() == 255


def test_guay_is_read_from_its_zip_and_nothing_is_left_of_it(source: Path, tmp_path: Path, rng) -> None:
    published.guay(source / "platelet_data", rng)
    archive = Path(shutil.make_archive(str(tmp_path / "platelets"), "zip", source))
    with prepared("guay", archive, tmp_path) as file:
        assert [volume.image.shape for volume in file.volumes("train")] == [(4, 40, 40)]
    assert [path.name for path in (tmp_path / "data").glob("[!.]*")] == ["guay.h5"]


def test_guay_labels_outside_the_classes_are_all_named(source: Path, tmp_path: Path, rng) -> None:
    published.guay(source, rng)
    for name, value in (("train", 7), ("test", 65535)):
        labels = tifffile.imread(source / f"{name}-labels.tif")
        labels[1, 2, 3] = value
        tifffile.imwrite(source / f"{name}-labels.tif", labels, photometric="minisblack")
    found = lines(lambda: prepared("guay", source, tmp_path))
    assert len(found) == 2
    assert "7" in found[0]
    assert "65535" in found[1]
    assert not list((tmp_path / "data").glob("*.h5"))


# --- Kasthuri++ and Lucchi++


@pytest.mark.parametrize(
    ("name", "folder", "mask_name"),
    [("kasthuri", "Kasthuri++", "mask{:04d}.png"), ("lucchi", "Lucchi++", "{}.png")],
)
def test_white_is_foreground_and_padding_is_not(
    name: str, folder: str, mask_name: str, source: Path, tmp_path: Path, rng
) -> None:
    made = published.plusplus(source / folder, rng, mask_name)
    with prepared(name, source, tmp_path) as file:
        for split, key in (("train", "Train"), ("test", "Test")):
            expected = {f"{n:04d}": (image[None], mask[None]) for n, (image, mask) in enumerate(made[key])}
            check(arrays(file, split), expected)
        assert "notes" not in file.card


def test_the_folder_itself_may_be_given(source: Path, tmp_path: Path, rng) -> None:
    published.plusplus(source / "anything", rng, "mask{:04d}.png")
    with prepared("kasthuri", source / "anything", tmp_path) as file:
        assert len(file.volumes("train")) == 12


def test_mask_values_that_the_rule_drops_are_noted(source: Path, tmp_path: Path, rng) -> None:
    published.plusplus(source / "Kasthuri++", rng, "mask{:04d}.png")
    path = source / "Kasthuri++/Train_Out/mask0003.png"
    mask = np.asarray(Image.open(path)).copy()
    mask[0, :5] = 128
    Image.fromarray(mask).save(path)
    with prepared("kasthuri", source, tmp_path) as file:
        assert file.card["notes"] == ["mask0003.png: 5 mask voxels of value 128..128 became background"]


def test_every_section_without_partner_is_named(source: Path, tmp_path: Path, rng) -> None:
    published.plusplus(source / "Kasthuri++", rng, "mask{:04d}.png")
    (source / "Kasthuri++/Train_Out/mask0002.png").unlink()
    (source / "Kasthuri++/Test_In/mask0001.png").unlink()
    found = lines(lambda: prepared("kasthuri", source, tmp_path))
    assert len(found) == 2
    assert "mask0002.png: no mask" in found[0]
    assert "mask0001.png: no image" in found[1]


def test_every_unequal_or_broken_pair_is_named(source: Path, tmp_path: Path, rng) -> None:
    published.plusplus(source / "Kasthuri++", rng, "mask{:04d}.png")
    Image.fromarray(published.grey(rng, (48, 40))).save(source / "Kasthuri++/Train_In/mask0004.png")
    whole = (source / "Kasthuri++/Test_In/mask0000.png").read_bytes()
    (source / "Kasthuri++/Test_In/mask0000.png").write_bytes(whole[: len(whole) // 2])
    found = lines(lambda: prepared("kasthuri", source, tmp_path))
    assert len(found) == 2
    assert "mask0004.png: image is (1, 48, 40), labels are (1, 40, 48)" in found[0]
    assert "mask0000.png: cannot be read" in found[1]


# --- Perez


def test_perez_pairs_by_what_follows_the_first_dot(source: Path, tmp_path: Path, rng) -> None:
    made = published.perez(source / "supplemental_data", rng)
    assert len(catalog.prepare("perez", source, tmp_path / "data")) == 4
    for name, organelle in (
        ("lyso", "lysosomes"),
        ("mito", "mitochondria"),
        ("nuclei", "nuclei"),
        ("nucleoli", "nucleoli"),
    ):
        with store.Prepared(tmp_path / "data" / f"perez-{name}.h5") as file:
            for split in ("train", "test"):
                pairs = made[f"{organelle}/{split}"]
                expected = {f"{n:03d}": (image[None], mask[None]) for n, (image, mask) in enumerate(pairs)}
                check(arrays(file, split), expected)


def test_perez_masks_of_255_are_refused(source: Path, tmp_path: Path, rng) -> None:
    published.perez(source, rng)
    path = source / "ground_truth/nuclei/nuclei_seg.001.png"
    Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    (found,) = lines(lambda: prepared("perez-nuclei", source, tmp_path))
    assert "nuclei_seg.001.png: label values 255" in found


# --- UroCell


@pytest.mark.parametrize("old", [False, True], ids=["present layout", "old layout"])
def test_urocell_adds_its_masks_and_crops_missing_rows(old: bool, source: Path, tmp_path: Path, rng) -> None:
    made = published.urocell(source / "UroCell-master", rng, old=old)
    with prepared("urocell", source, tmp_path) as file:
        found = {**arrays(file, "train"), **arrays(file, "test")}
        assert sorted(arrays(file, "test")) == ["fib1-0-0-0"]
        for name, (image, lyso, mito) in made.items():
            first = {"fib1-0-0-0": 12, "fib1-1-0-3": 54}.get(name, 0)
            labels = np.where(mito, 2, lyso)[:, first:]
            check({name: found[name]}, {name: (image[:, first:].astype(np.uint8), labels)})
        assert "notes" not in file.card
        assert file.task.voxel_size == (15, 16, 16)


def test_urocell_voxels_that_are_both_become_mitochondria_and_are_noted(source: Path, tmp_path: Path, rng) -> None:
    published.urocell(source, rng, old=False)
    for organelle in ("lyso", "mito"):
        path = source / organelle / "binary/fib1-3-2-1.nii.gz"
        mask = np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0).copy()
        mask[7, 3, 2:5] = 1
        published.nifti(path, mask)
    with prepared("urocell", source, tmp_path) as file:
        (note,) = file.card["notes"]
        assert "fib1-3-2-1" in note
        assert "3 voxels are also mitochondria" in note
        assert file.volumes("train")[1].labels[7, 3, 2:5].tolist() == [2, 2, 2]


def test_urocell_rows_that_were_not_empty_are_noted(source: Path, tmp_path: Path, rng) -> None:
    published.urocell(source, rng, old=False)
    image = published.grey(rng, (10, 70, 14)).astype(np.float32)
    published.nifti(source / "data/fib1-0-0-0.nii.gz", image)
    mask = np.zeros((10, 70, 14))
    mask[4, 3, 2:5] = 1
    published.nifti(source / "lyso/binary/fib1-0-0-0.nii.gz", mask)
    with prepared("urocell", source, tmp_path) as file:
        image_note, label_note = file.card["notes"]
        assert "first 12 y rows, left out as missing data, are not empty" in image_note
        assert "3 labelled voxels are in the first 12 y rows" in label_note


def test_urocell_faults_of_all_volumes_are_named_at_once(source: Path, tmp_path: Path, rng) -> None:
    published.urocell(source, rng, old=False)
    (source / "data/fib1-3-2-1.nii.gz").unlink()
    published.nifti(source / "mito/binary/fib1-4-3-0.nii.gz", np.zeros((10, 14, 70)))
    found = lines(lambda: prepared("urocell", source, tmp_path))
    assert len(found) == 2
    assert "no data/fib1-3-2-1.nii.gz" in found[0]
    assert "(10, 14, 70)" in found[1]


def test_urocell_values_that_cannot_be_are_named(source: Path, tmp_path: Path, rng) -> None:
    published.urocell(source, rng, old=False)
    image = np.full((10, 70, 14), 9, np.float32)
    image[3, 60, 2] = np.nan
    image[4, 60, 2] = 256
    published.nifti(source / "data/fib1-3-3-0.nii.gz", image)
    mask = np.zeros((10, 70, 14), np.float32)
    mask[5, 60, 2] = 0.5
    published.nifti(source / "lyso/binary/fib1-0-0-0.nii.gz", mask)
    found = lines(lambda: prepared("urocell", source, tmp_path))
    assert len(found) == 3
    assert "section 3: 1 voxels are NaN" in found[0]
    assert "section 4: grey values 9..256" in found[1]
    assert "[0.5]" in found[2]


@pytest.mark.parametrize(
    "whole", [("fib1-0-0-0",), pytest.param(published.UROCELL, marks=pytest.mark.slow)], ids=["test volume", "all"]
)
def test_the_real_urocell_labels_prepare(whole: tuple[str, ...], shared: Path, tmp_path: Path) -> None:
    """Real label volumes with made-up images; those that are not taken whole are cut to a few sections."""
    source = tmp_path / "source"
    rng = np.random.default_rng(0)
    expected = {}
    for name in published.UROCELL:
        depth = 256 if name in whole else 4
        masks = {}
        for organelle in ("lyso", "mito"):
            real = shared / f"data/urocell/{organelle}/binary/{name}.nii.gz"
            target = source / f"{organelle}/binary/{name}.nii.gz"
            masks[organelle] = np.asarray(nibabel.load(real).dataobj[..., :depth], np.uint8).transpose(2, 1, 0)
            if name in whole:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(real)
            else:
                published.nifti(target, masks[organelle])
        image = np.broadcast_to(rng.integers(1, 256, (1, 1, 256)), (depth, 256, 256))
        published.nifti(source / f"data/{name}.nii.gz", image)
        first = {"fib1-0-0-0": 12, "fib1-1-0-3": 54}.get(name, 0)
        expected[name] = (masks["lyso"] + 2 * masks["mito"])[:, first:]
        assert expected[name].max() <= 2, "the real masks do not overlap"
    with prepared("urocell", source, tmp_path) as file:
        found = {**arrays(file, "train"), **arrays(file, "test")}
        for name, labels in expected.items():
            np.testing.assert_array_equal(found[name][1], labels)
        assert found["fib1-0-0-0"][0].shape == (256, 244, 256)
        assert any("39904 labelled voxels are in the first 12 y rows" in note for note in file.card["notes"])
        assert file.verify()


# --- All mitochondria


def test_all_mitochondria_come_from_five_benchmarks(source: Path, tmp_path: Path, rng) -> None:
    published.perez(source / "perez/supplemental_data", rng)
    published.plusplus(source / "l/Lucchi++", rng, "{}.png", size=(300, 270))
    made = published.plusplus(source / "k/Kasthuri++", rng, "mask{:04d}.png")
    uro = published.urocell(source / "u", rng, old=False)
    guay = published.guay(source / "g", rng)
    with prepared("all-mito", source, tmp_path) as file:
        train, test = arrays(file, "train"), arrays(file, "test")
        assert {name.split("-")[0] for name in train} == {"perez", "lucchi", "kasthuri", "urocell", "guay"}
        assert {name.split("-")[0] for name in test} == {"lucchi", "kasthuri", "urocell"}
        assert train["lucchi-0000-axis0"][0].shape == (4, 256, 256), "2 x 2 patches cover 300 x 270 pixels"
        image, mask = made["Train"][3]
        check({"": train["kasthuri-0003-axis0"]}, {"": (image[None], mask[None])})
        _, _, mito = uro["fib1-3-2-1"]
        np.testing.assert_array_equal(train["urocell-fib1-3-2-1-axis2"][1], mito.transpose(2, 0, 1))
        np.testing.assert_array_equal(train["guay-train-axis0"][1], guay["train"][1] == 2)
        assert max(labels.max() for _, labels in (*train.values(), *test.values())) == 1


def test_patches_of_padding_are_left_out(source: Path, tmp_path: Path, rng) -> None:
    from embench.data.task import Item
    from embench.datasets.all_mito import _converted

    image = np.zeros((1, 256, 600), np.uint8)
    image[:, :, 300:] = 7
    items = list(_converted(Item("train", "a", image, image), "x", 7, (0,)))
    assert [item.image.shape for item in items] == [(2, 256, 256)]


def test_several_sources_are_taken_together(source: Path, tmp_path: Path, rng) -> None:
    published.perez(source / "a", rng)
    published.plusplus(source / "b" / "Lucchi++", rng, "{}.png")
    published.plusplus(source / "c" / "Kasthuri++", rng, "mask{:04d}.png")
    published.urocell(source / "d", rng, old=True)
    published.guay(source / "e", rng)
    archive = Path(shutil.make_archive(str(tmp_path / "e"), "zip", source / "e"))
    sources = [source / "a", source / "b", source / "c" / "Kasthuri++", source / "d", archive]
    with prepared("all-mito", sources, tmp_path) as file:
        assert len(file.volumes("test")) == 3 + 3 + 1


# --- preparing in general


def test_preparing_twice_does_nothing_and_force_redoes(source: Path, tmp_path: Path, rng) -> None:
    published.cremi(source, rng)
    ((_, path, fresh),) = catalog.prepare("cremi", source, tmp_path)
    before = path.stat().st_mtime_ns, store.Prepared(path).hash
    assert fresh
    ((_, _, fresh),) = catalog.prepare("cremi", None, tmp_path)
    assert not fresh
    assert path.stat().st_mtime_ns == before[0]
    ((_, _, fresh),) = catalog.prepare("cremi", source, tmp_path, force=True)
    assert fresh
    assert path.stat().st_mtime_ns > before[0]
    assert store.Prepared(path).hash == before[1]


def test_a_failed_preparation_keeps_the_old_file(source: Path, tmp_path: Path, rng) -> None:
    published.cremi(source, rng)
    ((_, path, _),) = catalog.prepare("cremi", source, tmp_path / "data")
    before = path.read_bytes()
    (source / "sample_C_20160501.hdf").write_bytes(b"half a file")
    lines(lambda: catalog.prepare("cremi", source, tmp_path / "data", force=True))
    assert path.read_bytes() == before
    assert list(path.parent.glob("[!.]*")) == [path]


def test_what_was_fetched_is_prepared_without_a_source(tmp_path: Path, rng) -> None:
    published.cremi(download.downloads_folder(tmp_path), rng)
    with store.Prepared(catalog.prepare("cremi", None, tmp_path)[0][1]) as file:
        assert [volume.name for volume in file.volumes("train")] == ["A", "B"]


def test_an_absent_source_is_named(tmp_path: Path) -> None:
    assert lines(lambda: catalog.prepare("cremi", tmp_path / "nowhere", tmp_path)) == [
        f"--source {tmp_path / 'nowhere'}: no such file or folder"
    ]

"""Folders as people have them: junk, other formats, sets of files, names of any script, splits from a spreadsheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from embench.core.errors import BadInput
from embench.data import store, summary
from embench.data.listing import gaps, natural, numbers_of
from embench.data.own_task import OwnData, item_name, prepare
from embench.data.readers.open import open_volume

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (6, 40, 48), np.uint8)
MASK = (RNG.random((6, 40, 48)) < 0.3).astype(np.uint8)


def write(folder: Path, stack: np.ndarray, names: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, section in zip(names, stack, strict=True):
        path = folder / name
        Image.fromarray(section).save(path) if path.suffix == ".png" else tifffile.imwrite(path, section)
    return folder


def pictures(tmp_path: Path, names: list[str] | None = None) -> dict[str, Any]:
    names = names or [f"s{z}.png" for z in range(6)]
    return {"images": write(tmp_path / "images", GREY, names), "masks": write(tmp_path / "masks", MASK, names)}


def own(tmp_path: Path, **asked: Any) -> store.Prepared:
    _, path, _ = prepare(OwnData(**{"name": "mine", "classes": "0:background,1:er", **asked}), tmp_path / "data")
    return store.Prepared(path)


def refused(tmp_path: Path, **asked: Any) -> list[str]:
    with pytest.raises(BadInput) as caught:
        own(tmp_path, **asked)
    assert not list((tmp_path / "data").glob("*.h5"))
    return caught.value.lines


def test_junk_is_no_image_and_other_formats_are_counted(tmp_path: Path) -> None:
    files = pictures(tmp_path)
    for side in files.values():
        for junk in ("._s0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (side / junk).write_bytes(b"junk")
        (side / "__MACOSX").mkdir()
        Image.fromarray(GREY[0]).save(side / "s9.bmp")
    with own(tmp_path, **files) as file:
        assert file.card["splits"]["train"]["sections"] == 5
        assert [note for note in file.card["notes"] if "1 of 7 files are not read (1 .bmp): s9.bmp" in note]


def test_names_of_any_script_stay_apart(tmp_path: Path) -> None:
    names = ["α.png", "β.png", "cell 1.png", "cell-1.png", "cell (1).png", "小鼠.png"]
    with own(tmp_path, **pictures(tmp_path, names)) as file:
        found = {volume.name for split in ("train", "test") for volume in file.volumes(split)}  # type: ignore[arg-type]
        assert found == {name.removesuffix(".png") for name in names}


def test_long_names_are_cut_apart_and_it_is_said(tmp_path: Path) -> None:
    assert len(item_name("x" * 240)) <= 100
    assert item_name("x" * 240) != item_name("x" * 239)
    assert item_name("a/b:c") == "a%2Fb%3Ac"
    names = [f"{'x' * 200}{z}.png" for z in range(6)]
    with own(tmp_path, **pictures(tmp_path, names)) as file:
        assert any("6 files are called otherwise" in note for note in file.card["notes"])


@pytest.mark.parametrize(
    ("encoding", "separator", "head"),
    [("utf-8-sig", ",", "name,split"), ("utf-8", ";", "Name;Split"), ("utf-8", "\t", "NAME\tSPLIT")],
)
def test_a_split_as_spreadsheets_write_it(encoding: str, separator: str, head: str, tmp_path: Path) -> None:
    rows = [head, *(f"s{z}{separator}{'test' if z > 3 else 'train'}" for z in range(6))]
    (tmp_path / "split.csv").write_text("\r\n".join(rows), encoding=encoding)
    with own(tmp_path, **pictures(tmp_path), split=str(tmp_path / "split.csv")) as file:
        assert file.card["splits"]["test"]["sections"] == 2


def test_utf16_is_told_to_be_saved_otherwise(tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("name,split\ns0,test", encoding="utf-16")
    assert refused(tmp_path, **pictures(tmp_path), split=str(tmp_path / "split.csv")) == [
        f"{tmp_path / 'split.csv'}: UTF-16; save it as CSV UTF-8"
    ]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_is_one_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    for split, where in (("train", slice(0, 3)), (name, slice(3, 4)), ("test", slice(4, 6))):
        names = [f"s{z}.png" for z in range(6)][where]
        write(tmp_path / "all" / split / "images", GREY[where], names)
        write(tmp_path / "all" / split / "masks", MASK[where], names)
    with own(tmp_path, source=tmp_path / "all") as file:
        assert file.card["splits"]["valid"]["sections"] == 1


def test_a_folder_of_no_split_is_not_left_out_in_silence(tmp_path: Path) -> None:
    for split in ("train", "test", "extra"):
        write(tmp_path / "all" / split / "images", GREY[:1], ["a.png"])
        write(tmp_path / "all" / split / "masks", MASK[:1], ["a.png"])
    (line,) = refused(tmp_path, source=tmp_path / "all")
    assert "extra" in line


def ome_set(folder: Path, stack: np.ndarray) -> Path:
    """Write a file per section, each of which names all."""
    folder.mkdir(parents=True)
    names = [f"v_Z{z}.ome.tif" for z in range(len(stack))]
    data = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{z}</UUID></TiffData>'
        for z, name in enumerate(names)
    )
    for z, name in enumerate(names):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{z}"><Image ID="Image:0">'
            f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="48" SizeY="40" SizeZ="{len(stack)}" '
            f'SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
        )
        tifffile.imwrite(folder / name, stack[z], description=xml.encode(), metadata=None, photometric="minisblack")
    return folder


@pytest.mark.parametrize("scoring", ["2d", "stack"])
def test_a_file_per_section_of_an_ome_set_is_one_section(scoring: str, tmp_path: Path) -> None:
    images, masks = ome_set(tmp_path / "images", GREY), ome_set(tmp_path / "masks", MASK)
    with own(tmp_path, images=images, masks=masks, scoring=scoring) as file:
        found = np.concatenate([v.image[:] for split in ("train", "test") for v in file.volumes(split)])  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, GREY)
    (images / "v_Z5.ome.tif").unlink()
    (masks / "v_Z5.ome.tif").unlink()
    lines = refused(tmp_path / "again", images=images, masks=masks)
    assert ["v_Z5.ome.tif is missing" in line for line in lines] == [True, True]
    lines = refused(tmp_path / "again", images=images / "v_Z0.ome.tif", masks=masks / "v_Z0.ome.tif")
    assert all("give their folder" in line for line in lines)


def test_an_ome_tiff_never_gives_the_pixels_of_another_file(tmp_path: Path) -> None:
    folder = ome_set(tmp_path / "set", np.stack([GREY[0], 255 - GREY[0]]))
    np.testing.assert_array_equal(open_volume(folder / "v_Z0.ome.tif")[0], GREY[0])
    (folder / "v_Z1.ome.tif").unlink()
    np.testing.assert_array_equal(open_volume(folder / "v_Z0.ome.tif")[0], GREY[0])


def test_an_hdf5_link_never_leads_out_of_the_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["group/raw"] = GREY
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["out"] = h5py.ExternalLink("secret.h5", "group")
        file["raw"] = h5py.SoftLink("/out/raw")
        file["mine/raw"] = GREY
        file["again"] = h5py.SoftLink("/mine/raw")
    with pytest.raises(BadInput, match="another file"):
        open_volume(tmp_path / "a.h5:raw")
    np.testing.assert_array_equal(np.stack(list(open_volume(tmp_path / "a.h5:again"))), GREY)


def test_palettes_of_masks_must_agree(tmp_path: Path) -> None:
    files = pictures(tmp_path)
    for z, path in enumerate(sorted(files["masks"].iterdir())):
        picture = Image.fromarray(MASK[z], "P")
        picture.putpalette([0, 0, 0, *((255, 0, 0) if z != 3 else (0, 255, 0))])
        picture.save(path)
    (line,) = refused(tmp_path, **files)
    assert "s3.png: its palette" in line


@pytest.mark.parametrize("how", ["zarr", "hdf5"])
def test_chunks_that_were_never_written_are_background(how: str, tmp_path: Path) -> None:
    """300 MB of labels in 4 kB: the fill value is nothing hostile."""
    shape = (300, 1000, 1000)
    if how == "zarr":
        path = tmp_path / "a.zarr"
        labels: Any = zarr.create_array(str(path), shape=shape, dtype="u1", chunks=(64, 64, 64))
        labels[0, :64, :64] = 1
    else:
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            data = file.create_dataset("labels", shape, "u1", chunks=(64, 64, 64), compression="gzip")
            data[0, :64, :64] = 1
    volume = open_volume(path)
    assert volume.shape == shape
    assert volume[0].sum() == 64 * 64
    assert not volume[299].any()


def test_what_is_too_large_for_the_memory_names_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embench.data.readers import base

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", (1, 10**6, 10**6), "u1", chunks=(1, 64, 64))
    with pytest.raises(BadInput, match="--any-size"):
        open_volume(tmp_path / "a.h5")
    monkeypatch.setenv(base.ANY_SIZE, "1")
    base.check_size("a", (1, 10**6, 10**6), 1)


def test_masks_called_otherwise_are_paired_as_asked(tmp_path: Path) -> None:
    images = write(tmp_path / "images", GREY, [f"img_{z:03d}.tif" for z in range(6)])
    masks = write(tmp_path / "masks", MASK, [f"img_{z:03d}_mask.tif" for z in range(6)])
    (line,) = refused(tmp_path, images=images, masks=masks)
    assert line.endswith("add --mask-suffix _mask")
    with own(tmp_path, images=images, masks=masks, mask_suffix="_mask") as file:
        np.testing.assert_array_equal(file.volumes("train")[2].labels[0], MASK[2])  # type: ignore[index]
    numbered = write(tmp_path / "numbered", MASK, [f"seg{z}.tif" for z in range(6)])
    (line,) = refused(tmp_path / "n", images=images, masks=numbered)
    assert "--pair number" in line
    with own(tmp_path / "n", images=images, masks=numbered, pair="number") as file:
        np.testing.assert_array_equal(file.volumes("train")[2].labels[0], MASK[2])  # type: ignore[index]


def test_images_and_masks_may_lie_in_one_folder(tmp_path: Path) -> None:
    both = write(tmp_path / "one", GREY, [f"img_{z}.tif" for z in range(6)])
    write(both, MASK, [f"img_{z}-labels.tif" for z in range(6)])
    (line,) = refused(tmp_path, images=both, masks=both)
    assert line.endswith("add --mask-suffix -labels")
    with own(tmp_path, images=both, masks=both, mask_suffix="-labels") as file:
        np.testing.assert_array_equal(file.volumes("test")[0].labels[0], MASK[5])  # type: ignore[index]


def test_numbers_that_all_names_share_do_not_count() -> None:
    found = numbers_of([Path("case0_0000.nii.gz"), Path("case1_0000.nii.gz")])
    assert list(found.values()) == ["0", "1"]


def test_sections_are_in_order_of_their_numbers_whatever_the_case_of_letters() -> None:
    names = [f"{'Slice' if z % 2 else 'slice'}_{z}.TIF" for z in range(1, 12)]
    assert sorted(RNG.permutation(names).tolist(), key=natural) == names


def test_missing_numbers_of_a_series_are_noted(tmp_path: Path) -> None:
    assert gaps([Path(f"s{z}.png") for z in (1, 2, 5, 6, 8)]) == [
        ".: 3..4 is missing between s2.png and s5.png",
        ".: 7 is missing between s6.png and s8.png",
    ]
    names = [f"s{z}.png" for z in (1, 2, 3, 6, 7, 8)]
    with own(tmp_path, **pictures(tmp_path, names), scoring="stack") as file:
        assert any("4..5 is missing" in note for note in file.card["notes"])


def test_a_test_image_that_is_in_training_is_refused_unless_asked_for(tmp_path: Path) -> None:
    files = pictures(tmp_path)
    for side in files.values():
        (side / "s5.png").write_bytes((side / "s1.png").read_bytes())
    (line,) = refused(tmp_path, **files)
    assert "s5 section 0 = s1 section 0" in line
    assert "--allow-duplicates" in line
    with own(tmp_path, **files, allow_duplicates=True) as file:
        assert any(line.startswith("warning: 1 test sections") for line in summary.lines(file))


def test_a_class_that_a_split_lacks_is_said(tmp_path: Path) -> None:
    files = pictures(tmp_path)
    with own(tmp_path, **files, classes="0:background,1:er,2:mito") as file:
        assert any("no mask holds mito (class 2)" in line for line in summary.lines(file))
    Image.fromarray(MASK[5] * 0).save(files["masks"] / "s5.png")
    with own(tmp_path / "b", **files) as file:
        assert any("the test split holds no er" in line for line in summary.lines(file))


def test_the_summary_says_crop_budget_norms_and_shares(tmp_path: Path) -> None:
    files = pictures(tmp_path)
    Image.fromarray(np.tile(GREY[0], (5, 5))).save(files["images"] / "s0.png")
    Image.fromarray(np.tile(MASK[0], (5, 5))).save(files["masks"] / "s0.png")
    with own(tmp_path, **files) as file:
        lines = "\n".join(summary.lines(file))
    assert "train: 5 images, 5 sections: background 7" in lines
    assert "crop: 32, the greatest multiple of 32 that fits into s1 (40 x 48); 1 of the others would allow 192" in lines
    assert "budget: 2500 iterations" in lines
    assert "norms: 0.4" in lines or "norms: 0.5" in lines


def test_a_threshold_is_applied_where_asked_for_and_recorded(tmp_path: Path) -> None:
    files = pictures(tmp_path)
    soft = np.where(MASK == 1, RNG.integers(200, 256, MASK.shape), RNG.integers(0, 60, MASK.shape)).astype(np.uint8)
    write(files["masks"], soft, [f"s{z}.png" for z in range(6)])
    assert "--threshold" in refused(tmp_path, **files)[-1]
    with own(tmp_path, **files, threshold=127) as file:
        np.testing.assert_array_equal(file.volumes("test")[0].labels[0], MASK[5])  # type: ignore[index]
        assert file.card["threshold"] == 127
        assert "masks: values above 127 are class 1 (--threshold)" in summary.lines(file)


def test_numbered_objects_are_recognised(tmp_path: Path) -> None:
    numbers = np.zeros((6, 40, 48), np.uint16)
    for n in range(30):
        numbers[n // 5, 8 * (n % 5) : 8 * (n % 5) + 4, :4] = n + 1
    tifffile.imwrite(tmp_path / "i.tif", GREY)
    tifffile.imwrite(tmp_path / "m.tif", numbers)
    lines = refused(tmp_path, images=tmp_path / "i.tif", masks=tmp_path / "m.tif")
    assert "number per object" in lines[-1]


def test_no_path_of_this_machine_is_stored(tmp_path: Path) -> None:
    files = pictures(tmp_path)
    write(files["images"], GREY.astype(np.uint16) * 20, [f"s{z}.png" for z in range(6)])
    with own(tmp_path, **files, grey_range="0,4000") as file:
        assert file.card["notes"]
        assert str(tmp_path) not in str(file.card)


def test_a_folder_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    files = pictures(tmp_path)
    assert refused(tmp_path, images=tmp_path / "imagse", masks=files["masks"]) == [
        f"{tmp_path / 'imagse'}: no such file or folder"
    ]

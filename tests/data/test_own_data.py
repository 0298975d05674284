"""Anyone's own images become a task from the command line, and nothing is mended silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from typer.testing import CliRunner

from embench.cli.app import app
from embench.core.errors import BadInput
from embench.data import catalog, store
from embench.data.own_task import OwnData, prepare

CLASSES = "0:background,1:er"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture
def volume(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    image = rng.integers(0, 256, (10, 64, 72), np.uint8)
    return image, (image > 100).astype(np.uint8)


def pictures(folder: Path, volume: tuple[np.ndarray, np.ndarray], suffix: str = ".png") -> dict[str, Path]:
    """Write sections 1..10 without leading zeros, so that their order is that of the numbers."""
    for name, stack in zip(("images", "masks"), volume, strict=True):
        (folder / name).mkdir(parents=True)
        for z, section in enumerate(stack, start=1):
            path = folder / name / f"s{z}{suffix}"
            Image.fromarray(section).save(path) if suffix == ".png" else tifffile.imwrite(path, section)
    return {"images": folder / "images", "masks": folder / "masks"}


def own(tmp_path: Path, **asked: Any) -> store.Prepared:
    name, path, _ = prepare(OwnData(**{"name": "my-er", "classes": CLASSES, **asked}), tmp_path / "data")
    assert path.name == f"{name}.h5"
    return store.Prepared(path)


def refused(tmp_path: Path, **asked: Any) -> list[str]:
    with pytest.raises(BadInput) as caught:
        own(tmp_path, **asked)
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())
    return caught.value.lines


def joined(file: store.Prepared, split: str) -> tuple[np.ndarray, np.ndarray]:
    volumes = sorted(file.volumes(split), key=lambda each: (len(each.name), each.name))  # type: ignore[arg-type]
    return np.concatenate([v.image[:] for v in volumes]), np.concatenate([v.labels[:] for v in volumes])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_last_fifth_of_the_pictures_is_the_test_split(suffix: str, tmp_path: Path, volume) -> None:
    with own(tmp_path, **pictures(tmp_path, volume, suffix)) as file:
        for split, where in (("train", slice(0, 8)), ("test", slice(8, 10))):
            image, mask = joined(file, split)
            np.testing.assert_array_equal(image, volume[0][where])
            np.testing.assert_array_equal(mask, volume[1][where])
        assert file.task.scoring.planes == "2d"
        assert file.task.crop == 64
        assert file.task.classes == ("background", "er")


def write(path: Path, array: np.ndarray) -> Path:
    """Write a ZYX volume in the format that the name of ``path`` says; return how to name it."""
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, compression="lzw")
    elif path.suffix == ".nrrd":
        header = {"space directions": np.diag([8.0, 8.0, 16.0]), "space units": ["nm"] * 3, "space dimension": 3}
        nrrd.write(str(path), array, header, index_order="C")
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("volumes/here", data=array, chunks=(3, 20, 20), compression="gzip")
            file.create_dataset("other", data=array)
        return Path(f"{path}:volumes/here")
    elif path.suffix == ".zarr":
        group = zarr.open_group(str(path), mode="w", zarr_format=2)
        group.create_array("0", data=array[None, None], chunks=(1, 1, 4, 32, 32))
        axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
        axes += [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
        scale = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 16, 8, 8]}]}
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [scale]}]
    else:
        nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([5e7, -5e7, 5e7, 1])), path)
    return path


@pytest.mark.parametrize("suffix", [".tif", ".nii", ".nii.gz", ".nrrd", ".h5", ".zarr"])
def test_a_volume_of_every_format_is_split_by_sections(suffix: str, tmp_path: Path, volume) -> None:
    images, masks = (write(tmp_path / f"{name}{suffix}", array) for name, array in zip("ab", volume, strict=True))
    with own(tmp_path, images=images, masks=masks, scoring="stack") as file:
        image, mask = (np.concatenate(pair) for pair in zip(joined(file, "train"), joined(file, "test"), strict=True))
        np.testing.assert_array_equal(image, volume[0])
        np.testing.assert_array_equal(mask, volume[1])
        assert [each.image.shape[0] for each in file.volumes("test")] == [2]
        assert file.task.voxel_size == ((16, 8, 8) if suffix in (".nrrd", ".zarr") else None)


def test_pictures_under_volume_scoring_are_sections_of_one_volume(tmp_path: Path, volume) -> None:
    with own(tmp_path, **pictures(tmp_path, volume), scoring="orthoplane", voxel_size="16,8,8") as file:
        assert [each.image.shape for each in file.volumes("train")] == [(8, 64, 72)]
        np.testing.assert_array_equal(joined(file, "test")[0], volume[0][8:])
        assert file.task.training_axes == (0, 1, 2)
        assert file.task.voxel_size == (16, 8, 8)


def test_classes_may_have_any_stored_values(tmp_path: Path, volume) -> None:
    image, mask = volume
    files = pictures(tmp_path, (image, np.choose(mask, [0, 255]).astype(np.uint8)))
    with own(tmp_path, **files, classes="0:background,255:er") as file:
        np.testing.assert_array_equal(joined(file, "train")[1], mask[:8])


def test_wide_label_values_are_mapped_too(tmp_path: Path, volume) -> None:
    image, mask = volume
    tifffile.imwrite(tmp_path / "i.tif", image)
    tifffile.imwrite(tmp_path / "m.tif", mask.astype(np.uint32) * 70000)
    with own(tmp_path, images=tmp_path / "i.tif", masks=tmp_path / "m.tif", classes="0:bg,70000:er") as file:
        np.testing.assert_array_equal(joined(file, "test")[1], mask[8:])


def test_a_csv_file_may_split_files(tmp_path: Path, volume) -> None:
    files = pictures(tmp_path, volume)
    rows = [f"s{z}.png,{'test' if z < 3 else 'valid' if z == 3 else 'train'}" for z in range(1, 11)]
    (tmp_path / "split.csv").write_text("\n".join(["name,split", *rows]))
    with own(tmp_path, **files, split=str(tmp_path / "split.csv")) as file:
        assert [len(file.volumes(split)) for split in ("train", "valid", "test")] == [7, 1, 2]  # type: ignore[arg-type]
        np.testing.assert_array_equal(joined(file, "test")[0], volume[0][:2])


def test_a_csv_file_may_split_sections(tmp_path: Path, volume) -> None:
    for name, array in zip("im", volume, strict=True):
        tifffile.imwrite(tmp_path / f"{name}.tif", array)
    (tmp_path / "split.csv").write_text("name,split,first,last\ni,test,0,3\ni,train,4,9\n")
    with own(tmp_path, images=tmp_path / "i.tif", masks=tmp_path / "m.tif", split=str(tmp_path / "split.csv")) as file:
        np.testing.assert_array_equal(joined(file, "test")[0], volume[0][:4])
        assert [each.name for each in file.volumes("train")] == ["i-z0004-0009"]


def test_every_fault_of_a_csv_file_is_named(tmp_path: Path, volume) -> None:
    files = pictures(tmp_path, volume)
    (tmp_path / "split.csv").write_text(
        "name,split,first,last\nnone,train,,\ns1,training,,\ns2,train,0,5\ns3,test,,\ns3,train,,\n"
    )
    found = refused(tmp_path, **files, split=str(tmp_path / "split.csv"))
    assert [line.split(", line ")[1][0] for line in found] == ["2", "3", "4", "6"]


def test_folders_may_say_the_split(tmp_path: Path, volume) -> None:
    for split, where in (("train", slice(0, 6)), ("valid", slice(6, 7)), ("test", slice(7, 10))):
        pictures(tmp_path / "all" / split, (volume[0][where], volume[1][where]))
    with own(tmp_path, source=tmp_path / "all") as file:
        assert [len(file.volumes(split)) for split in ("train", "valid", "test")] == [6, 1, 3]  # type: ignore[arg-type]
        np.testing.assert_array_equal(joined(file, "test")[0], volume[0][7:])


def test_an_own_task_is_a_task_like_any_other(tmp_path: Path, volume) -> None:
    with own(tmp_path, **pictures(tmp_path, volume)) as file:
        expected = file.task
    data = tmp_path / "data"
    assert catalog.find_task("my-er", data) == expected
    assert catalog.own_tasks(data) == [expected]
    with catalog.open_prepared("my-er", data) as file:
        assert file.verify()


def test_preparing_twice_does_nothing_and_other_settings_need_force(tmp_path: Path, volume) -> None:
    files = pictures(tmp_path, volume)
    asked = OwnData("my-er", CLASSES, **files)
    data = tmp_path / "data"
    assert prepare(asked, data)[2]
    assert not prepare(asked, data)[2]
    other = OwnData("my-er", CLASSES, **files, split="last-50%")
    with pytest.raises(BadInput, match="--force"):
        prepare(other, data)
    assert prepare(other, data, force=True)[2]


# --- refused


def test_antialiased_masks_are_refused_with_their_values(tmp_path: Path, volume) -> None:
    image, mask = volume
    soft = mask * 255
    soft[2, :4, 0], soft[7, 5, 5] = 128, 77
    found = refused(tmp_path, **pictures(tmp_path, (image, soft)), classes="0:background,255:er")
    assert len(found) == 2
    assert "s3.png, section 0: label values 128 (4 voxels)" in found[0]
    assert "s8.png, section 0: label values 77 (1 voxels)" in found[1]
    assert "nothing is thresholded" in found[1]


def test_coloured_masks_are_refused(tmp_path: Path, volume) -> None:
    files = pictures(tmp_path, volume)
    colours = np.zeros((64, 72, 3), np.uint8)
    colours[:9, :9, 0] = 1
    Image.fromarray(colours).save(files["masks"] / "s4.png")
    (found,) = refused(tmp_path, **files)
    assert "s4.png" in found
    assert "3 different channels" in found


def test_grey_pictures_saved_as_rgb_are_taken(tmp_path: Path, volume) -> None:
    files = pictures(tmp_path, volume)
    for side in files.values():
        for file in side.iterdir():
            Image.open(file).convert("RGB").save(file)
    with own(tmp_path, **files) as file:
        np.testing.assert_array_equal(joined(file, "test")[1], volume[1][8:])


def test_wide_grey_values_need_to_be_told_how_to_scale(tmp_path: Path, volume) -> None:
    wide = volume[0].astype(np.uint16) * 16
    tifffile.imwrite(tmp_path / "i.tif", wide)
    tifffile.imwrite(tmp_path / "m.tif", volume[1])
    files = {"images": tmp_path / "i.tif", "masks": tmp_path / "m.tif"}
    (found,) = refused(tmp_path, **files)
    assert "uint16" in found
    assert "--grey-range" in found
    with own(tmp_path, **files, grey_range="auto") as file:
        np.testing.assert_array_equal(joined(file, "test")[0], (wide[8:] / (255 * 16) * 255).astype(np.uint8))
    with own(tmp_path, **files, grey_range="0,2040", name="clipped") as file:
        assert "became 0 or 255" in file.card["notes"][0]


def test_nan_in_images_is_refused_section_by_section(tmp_path: Path, volume) -> None:
    image = volume[0].astype(np.float32)
    image[1, 2, 3] = np.nan
    image[9, 2, :3] = np.inf
    tifffile.imwrite(tmp_path / "i.tif", image)
    tifffile.imwrite(tmp_path / "m.tif", volume[1])
    found = refused(tmp_path, images=tmp_path / "i.tif", masks=tmp_path / "m.tif", grey_range="auto")
    assert len(found) == 2
    assert "section 1: 1 voxels are NaN" in found[0]
    assert "section 9: 3 voxels are NaN" in found[1]


def test_every_missing_partner_and_wrong_shape_is_named(tmp_path: Path, volume) -> None:
    files = pictures(tmp_path, volume)
    (files["masks"] / "s1.png").unlink()
    (files["images"] / "s5.png").unlink()
    found = refused(tmp_path, **files)
    assert ["s1.png: no mask" in found[0], "s5.png: no image" in found[1]] == [True, True]
    (files["images"] / "s1.png").unlink()
    (files["masks"] / "s5.png").unlink()
    for z in (2, 3):
        Image.fromarray(volume[1][0].T).save(files["masks"] / f"s{z}.png")
    found = refused(tmp_path, **files)
    assert len(found) == 2
    assert all("(1, 72, 64)" in line for line in found)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"classes": "background,er"}, "--classes"),
        ({"classes": "0:background"}, "--classes"),
        ({"classes": "0:a,0:b"}, "twice"),
        ({"classes": "1:a,0:b"}, "background comes first"),
        ({"scoring": "3d"}, "--scoring"),
        ({"split": "random"}, "--split"),
        ({"split": "last-100%"}, "cannot split"),
        ({"voxel_size": "16,8"}, "--voxel-size"),
        ({"voxel_size": "16,8,-8"}, "positive"),
        ({"grey_range": "5,5"}, "--grey-range"),
        ({"name": "urocell"}, "built-in"),
        ({"name": "Mine/yours"}, "the name"),
    ],
)
def test_settings_that_cannot_be_are_refused(asked: dict[str, str], says: str, tmp_path: Path, volume) -> None:
    (found,) = refused(tmp_path, **{**pictures(tmp_path, volume), **asked})
    assert says in found


# --- command line


def test_the_command_line_prepares_shows_and_verifies_own_data(tmp_path: Path, volume) -> None:
    files = pictures(tmp_path, volume)
    command = ["prepare", "my-er", "--images", str(files["images"]), "--masks", str(files["masks"])]
    result = CliRunner().invoke(app, [*command, "--classes", CLASSES, "--voxel-size", "16,8,8"], catch_exceptions=False)
    assert "my-er: prepared" in result.output
    for verb, says in (
        (["show", "my-er"], "voxel_size: (16.0, 8.0, 8.0)"),
        (["verify", "my-er"], "holds"),
        (["list", "tasks"], "my-er"),
    ):
        assert says in CliRunner().invoke(app, verb, catch_exceptions=False).output


@pytest.mark.parametrize(
    "arguments", [["cremi", "--images", "x"], ["cremi", "--classes", "0:a,1:b"], ["x", "--images", "y"], ["x"]]
)
def test_the_command_line_refuses_half_a_request(arguments: list[str]) -> None:
    with pytest.raises(BadInput):
        CliRunner().invoke(app, ["prepare", *arguments], catch_exceptions=False)


def test_the_command_line_shows_published_tasks() -> None:
    listed = CliRunner().invoke(app, ["list", "tasks"], catch_exceptions=False).output
    assert all(name in listed for name in catalog.SUITES["published"])
    shown = CliRunner().invoke(app, ["show", "urocell"], catch_exceptions=False).output
    assert "endolysosomes" in shown
    assert "CC BY-NC-SA 4.0" in shown

"""What other tools get: the training split as it is, the test images without a trace of their labels."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from embench.core.errors import BadInput
from embench.data import store
from embench.data.store import Prepared
from embench.data.task import Item, Scoring, Split, Task, UnlabelledSet
from embench.scoring.export import export
from embench.scoring.external import check

SHAPE = (4, 10, 14)
VOLUME = Task(
    "organelles",
    "Organelles",
    "o",
    ("background", "a", "b"),
    Scoring("orthoplane", (1, 2)),
    100,
    voxel_size=(15, 16, 17),
    licence="CC0",
)
FLAT = Task("mito", "M", "m", ("background", "mito"), Scoring("2d"), 100)


def prepared(folder: Path, task: Task) -> Prepared:
    rng = np.random.default_rng(0)
    splits: tuple[Split, ...] = ("train", "valid", "test")
    items = [
        Item(split, name, rng.integers(0, 256, shape, np.uint8), rng.integers(0, len(task.classes), shape, np.uint8))
        for split in splits
        for name, shape in (("000", SHAPE), ("a b", (1, 9, 7)))
    ]
    store.write(folder / f"{task.name}.h5", task, items)
    return Prepared(folder / f"{task.name}.h5")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_nnunet_gets_volumes_x_first_with_their_voxel_size(tmp_path: Path) -> None:
    out = tmp_path / "Dataset501_organelles"
    with prepared(tmp_path, VOLUME) as task:
        assert export(task, "nnunet", out) == 6
        (train, _), (test, _) = task.volumes("train"), task.volumes("test")
        for path, stored in (
            ("imagesTr/000_0000.nii.gz", train.image),
            ("labelsTr/000.nii.gz", train.labels),
            ("imagesTs/000_0000.nii.gz", test.image),
        ):
            image = nibabel.load(out / path)
            assert image.get_data_dtype() == np.uint8
            assert stored is not None
            np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), stored[:])
            np.testing.assert_allclose(image.header.get_zooms(), (0.017, 0.016, 0.015), rtol=1e-6)
            assert image.header.get_xyzt_units()[0] == "micron"
    assert files(out) == {
        "dataset.json", "README.md", "imagesTr/000_0000.nii.gz", "imagesTr/a%20b_0000.nii.gz", "labelsTr/000.nii.gz",
        "labelsTr/a%20b.nii.gz", "imagesTs/000_0000.nii.gz", "imagesTs/a%20b_0000.nii.gz",
    }  # fmt: skip
    facts = json.loads((out / "dataset.json").read_text())
    assert facts["labels"] == {"background": 0, "a": 1, "b": 2}
    assert (facts["numTraining"], facts["file_ending"], facts["channel_names"]) == (2, ".nii.gz", {"0": "EM"})
    assert facts["licence"] == "CC0"


def test_nnunet_gets_the_sections_of_a_2d_task_one_by_one(tmp_path: Path) -> None:
    with prepared(tmp_path, FLAT) as task:
        export(task, "nnunet", tmp_path / "out")
        image = nibabel.load(tmp_path / "out/imagesTr/000-z0002_0000.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj).T, task.volumes("train")[0].image[2])
    assert json.loads((tmp_path / "out/dataset.json").read_text())["numTraining"] == 5


def test_plain_folders_hold_pictures_or_stacks(tmp_path: Path) -> None:
    with prepared(tmp_path, FLAT) as flat, prepared(tmp_path, VOLUME) as volume:
        export(flat, "folder", tmp_path / "flat")
        export(volume, "folder", tmp_path / "volume")
        labels = flat.volumes("valid")[0].labels
        assert labels is not None
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "flat/valid/masks/000-z0001.png")), labels[1])
        np.testing.assert_array_equal(
            tifffile.imread(tmp_path / "volume/test/images/000.tif"), volume.volumes("test")[0].image[:]
        )
    names = {"a%20b.png", *(f"000-z{z:04d}.png" for z in range(4))}
    kinds = ("train/images", "train/masks", "valid/images", "valid/masks", "test/images")
    assert files(tmp_path / "flat") == {"README.md", *(f"{kind}/{name}" for kind in kinds for name in names)}
    assert files(tmp_path / "volume") >= {"train/masks/000.tif", "test/images/a%20b.tif"}


@pytest.mark.parametrize("task", [VOLUME, FLAT], ids=lambda task: task.name)
@pytest.mark.parametrize("layout", ["nnunet", "folder"])
def test_test_labels_are_never_read(task: Task, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Prepared.volumes

    def without_test_labels(self: Prepared, split: Split) -> list[store.Volume]:
        return [store.Volume(v.name, v.image, None if split == "test" else v.labels) for v in read(self, split)]

    with prepared(tmp_path, task) as data:
        export(data, layout, tmp_path / "with")
        monkeypatch.setattr(Prepared, "volumes", without_test_labels)
        export(data, layout, tmp_path / "without")
    assert files(tmp_path / "with") == files(tmp_path / "without")
    assert not [name for name in files(tmp_path / "with") if "labelsTs" in name or name.startswith("test/masks")]


@pytest.mark.parametrize("task", [VOLUME, FLAT], ids=lambda task: task.name)
def test_predictions_named_like_the_exported_images_are_accepted(task: Task, tmp_path: Path) -> None:
    with prepared(tmp_path, task) as data:
        export(data, "nnunet", tmp_path / "out")
        for path in (tmp_path / "out/imagesTs").iterdir():
            image = nibabel.load(path)
            zeros = nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine)
            (tmp_path / "predicted").mkdir(exist_ok=True)
            nibabel.save(zeros, tmp_path / "predicted" / path.name.replace("_0000", ""))
        assert check(data, tmp_path / "predicted").files == len(list((tmp_path / "predicted").iterdir()))


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with prepared(tmp_path, FLAT) as task:
        with pytest.raises(BadInput, match="not an empty folder"):
            export(task, "folder", tmp_path / "out")
        with pytest.raises(BadInput, match="nnunet or folder"):
            export(task, "monai", tmp_path / "new")
    assert files(tmp_path / "out") == {"mine.txt"}
    assert not (tmp_path / "new").exists()


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    (tmp_path / "out").mkdir()
    with prepared(tmp_path, FLAT) as task:
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr(Image.Image, "save", full)
        with pytest.raises(OSError, match="no space"):
            export(task, "folder", tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unlabelled_set_has_nothing_to_export(tmp_path: Path) -> None:
    store.write(tmp_path / "u.h5", UnlabelledSet("u", "U", "u"), [Item("train", "a", np.zeros((1, 32, 32), np.uint8))])
    with Prepared(tmp_path / "u.h5") as data, pytest.raises(BadInput, match="not a task"):
        export(data, "folder", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("background", ["bg", "resin", "background"])
def test_label_0_is_called_background_for_nnunet_whatever_it_is_called_here(background: str, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (2, 20, 24), np.uint8)
    task = Task("mine", "M", "own", (background, "mito"), Scoring("2d"), 100)
    items = [Item(split, "a", grey[n : n + 1], grey[n : n + 1] % 2) for n, split in enumerate(("train", "test"))]
    store.write(tmp_path / "mine.h5", task, items)  # type: ignore[arg-type]
    with store.Prepared(tmp_path / "mine.h5") as prepared:
        export(prepared, "nnunet", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"] == {"background": 0, "mito": 1}
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "There is 1 training case, fewer than nnU-Net's five folds" in readme


@pytest.mark.parametrize("name", ["ignore", "background"])
def test_a_class_that_nnunet_takes_for_another_is_refused(name: str, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (2, 20, 24), np.uint8)
    task = Task("mine", "M", "own", ("bg", name), Scoring("2d"), 100)
    items = [Item(split, "a", grey[n : n + 1], grey[n : n + 1] % 2) for n, split in enumerate(("train", "test"))]
    store.write(tmp_path / "mine.h5", task, items)  # type: ignore[arg-type]
    with store.Prepared(tmp_path / "mine.h5") as prepared, pytest.raises(BadInput, match="another name"):
        export(prepared, "nnunet", tmp_path / "out")
    assert not (tmp_path / "out").exists()

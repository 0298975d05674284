"""Predictions made elsewhere: the score of a trial for the same label maps, and every fault named before any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
from PIL import Image

from embench.core.errors import BadInput
from embench.data import store
from embench.data.store import Prepared
from embench.data.task import Item, Scoring, Split, Task
from embench.scoring import external, predictions, results, schema
from embench.scoring.external import check, score
from embench.scoring.metrics import metrics

SHAPE = (6, 20, 24)
VOLUME = Task(
    "organelles", "O", "o", ("background", "a", "b"), Scoring("orthoplane", (1, 2)), 100, voxel_size=(15, 16, 16)
)
FLAT = Task("mito", "M", "m", ("background", "mito"), Scoring("2d", match_instances=True), 100)


def labels(seed: int, shape: tuple[int, ...], classes: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, shape, np.uint8)


def prepared(folder: Path, task: Task, test: dict[str, tuple[int, int, int]]) -> Prepared:
    shapes: list[tuple[Split, str, tuple[int, int, int]]] = [("train", "first", (1, 20, 24))]
    shapes += [("test", name, shape) for name, shape in test.items()]
    items = [
        Item(split, name, labels(n, shape, 255), labels(n + 50, shape, len(task.classes)))
        for n, (split, name, shape) in enumerate(shapes)
    ]
    store.write(folder / f"{task.name}.h5", task, items)
    return Prepared(folder / f"{task.name}.h5")


@pytest.fixture
def volume(tmp_path: Path) -> Prepared:
    return prepared(tmp_path, VOLUME, {"one": SHAPE, "two": SHAPE})


@pytest.fixture
def images(tmp_path: Path) -> Prepared:
    return prepared(tmp_path, FLAT, {"stack": (3, 20, 24), "single": (1, 30, 26)})


def write(path: Path, map_ZYX: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    match "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix:
        case ".nii.gz" | ".nii":
            nibabel.save(nibabel.Nifti1Image(map_ZYX.T, np.diag([0.016, 0.016, 0.015, 1])), path)
        case ".nrrd":
            nrrd.write(str(path), map_ZYX, index_order="C")
        case ".h5":
            with h5py.File(path, "w") as file:
                file["labels"] = map_ZYX
        case ".tif":
            tifffile.imwrite(path, map_ZYX, photometric="minisblack")
        case ".png":
            Image.fromarray(map_ZYX.squeeze(0) if map_ZYX.ndim == 3 else map_ZYX).save(path)


def faults(data: Prepared, folder: Path) -> dict[str, str]:
    with pytest.raises(BadInput) as caught:
        check(data, folder)
    lines = caught.value.lines
    assert all("\n" not in line for line in lines)
    return {Path(line.partition(": ")[0]).name: line.partition(": ")[2] for line in lines}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".h5", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_every_format_and_type_gives_the_score_of_the_counts(
    volume: Prepared, tmp_path: Path, suffix: str, dtype: type
) -> None:
    guesses = {name: labels(n, SHAPE, 3) for n, name in enumerate(("one", "two"))}
    for name, guess in guesses.items():
        write(tmp_path / "p" / f"{name}{suffix}", guess.astype(dtype))
    result, path = score(volume, tmp_path / "p", "nnunet", 2, tmp_path / "results")
    ious = []
    for stored in volume.volumes("test"):
        assert stored.labels is not None
        for value in (1, 2):
            ours, truth = guesses[stored.name] == value, stored.labels[:] == value
            ious.append((ours & truth).sum() / (ours | truth).sum())
    assert result.score == pytest.approx(np.mean(ious), abs=1e-12)
    assert results.load(path) == result
    assert path.parent.parent.name == "nnunet"
    assert path.name == "seed-2.json"


def test_the_result_says_that_nothing_is_known_of_how_it_was_made(volume: Prepared, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / "p" / f"{name}.tif", labels(1, SHAPE, 3))
    result, path = score(volume, tmp_path / "p", "nnunet", 0, tmp_path / "results")
    assert (result.status, result.track, result.pairing) == ("submitted", "open", "default")
    assert (result.iterations_asked, result.iterations_done, result.loss_curve) == (0, 0, ())
    assert result.model.pretraining == result.model.pretraining_data == "unknown"
    assert result.final is not None
    assert result.final.diagnostics is None
    assert result.leakage is not None
    assert len(result.sections) == len(predictions.kept_sections(VOLUME, volume.volumes("test")))
    assert all((path.parent / section).is_file() for section in result.sections)
    assert result.fingerprint == schema.fingerprint(VOLUME, volume.hash, VOLUME.iterations)


def test_perfect_predictions_score_1_and_none_0(images: Prepared, tmp_path: Path) -> None:
    for stored in images.volumes("test"):
        assert stored.labels is not None
        write(tmp_path / "p" / f"{stored.name}.tif", stored.labels[:])
        write(tmp_path / "q" / f"{stored.name}.tif", 0 * stored.labels[:])
    perfect, _ = score(images, tmp_path / "p", "perfect", 0, tmp_path / "results")
    empty, _ = score(images, tmp_path / "q", "empty", 0, tmp_path / "results")
    assert perfect.score == 1
    assert empty.score is not None
    assert empty.score < 1e-4


def test_sections_and_stacks_of_a_2d_task_score_alike(images: Prepared, tmp_path: Path) -> None:
    stack, single = labels(1, (3, 20, 24), 2), labels(2, (1, 30, 26), 2)
    write(tmp_path / "p" / "stack.tif", stack)
    write(tmp_path / "p" / "single.png", single)
    for z, section in enumerate(stack):
        write(tmp_path / "q" / f"stack-z{z:04d}.png", section)
    write(tmp_path / "q" / "single.nii.gz", single)
    whole, _ = score(images, tmp_path / "p", "whole", 0, tmp_path / "results")
    parts, _ = score(images, tmp_path / "q", "parts", 0, tmp_path / "results")
    assert whole.final is not None
    assert parts.final is not None
    assert whole.final.images == parts.final.images
    assert {image.name for image in whole.final.images} == {"single", *(f"stack-z{z:04d}" for z in range(3))}
    assert whole.final.plain_score is not None


def test_every_fault_is_named_at_once_and_nothing_is_written(images: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    good = labels(0, (20, 24), 2)
    write(folder / "stack-z0000.png", good * 255)
    write(folder / "stack-z0001.png", good.T.copy())
    write(folder / "stack-z0002.png", labels(1, (20, 24), 256))
    write(folder / "stak-z0002.png", good)
    write(folder / "single.tif", labels(3, (30, 26), 2))
    write(folder / "single.nii.gz", labels(3, (30, 26), 2))
    (folder / "deeper").mkdir()
    (folder / "dataset.json").write_text("{}")
    found = faults(images, folder)
    assert set(found) == {
        "stack-z0000.png", "stack-z0001.png", "stack-z0002.png", "stak-z0002.png", "single.tif", "deeper",
    }  # fmt: skip
    assert "255" in found["stack-z0000.png"]
    assert "written as 0 and 1" in found["stack-z0000.png"]
    assert "(1, 24, 20)" in found["stack-z0001.png"]
    assert "transposed" in found["stack-z0001.png"]
    assert "antialiased" in found["stack-z0002.png"]
    assert "stack-z0002" in found["stak-z0002.png"]
    assert "second file for single" in found["single.tif"]
    with pytest.raises(BadInput):
        score(images, folder, "mine", 0, tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m.transpose(2, 1, 0), "with its axes taken as XYZ it would fit"),
        (lambda m: m.transpose(1, 0, 2), "with its axes taken as YZX it would fit"),
        (lambda m: m[:, :-1], "predict at the size of the image"),
        (lambda m: m + np.uint8(1), "values 3 ("),
        (lambda m: m.astype(np.int16) - 1, "values -1 ("),
        (lambda m: m * np.float32(0.5), "probabilities or resampled labels"),
        (lambda m: np.where(m == 1, np.float32(np.nan), m).astype(np.float32), "values nan ("),
        (lambda m: m * np.uint8(100), "values 100 ("),
    ],
)
def test_a_volume_with_a_fault_is_refused_with_advice(
    volume: Prepared, tmp_path: Path, change: Any, expected: str
) -> None:
    write(tmp_path / "p" / "one.nii.gz", labels(1, SHAPE, 3))
    write(tmp_path / "p" / "two.nii.gz", change(labels(2, SHAPE, 3)))
    found = faults(volume, tmp_path / "p")
    assert list(found) == ["two.nii.gz"]
    assert expected in found["two.nii.gz"]


def test_coloured_and_broken_files_are_named(images: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (30, 26, 3), np.uint8)).save(folder / "single.png")
    (folder / "stack.tif").write_bytes(b"II*\0 not a picture")
    found = faults(images, folder)
    assert set(found) == {"single.png", "stack.tif"}
    assert "3 different channels" in found["single.png"]
    assert "cannot be read" in found["stack.tif"]


def test_missing_files_are_named_one_by_one(images: Prepared, tmp_path: Path) -> None:
    write(tmp_path / "p" / "stack-z0001.png", labels(0, (20, 24), 2))
    with pytest.raises(BadInput) as caught:
        check(images, tmp_path / "p")
    assert [line.partition("no label map for ")[2].split()[0] for line in caught.value.lines] == [
        "single", "stack-z0000", "stack-z0002",
    ]  # fmt: skip


def test_a_section_and_its_stack_together_are_refused(images: Prepared, tmp_path: Path) -> None:
    write(tmp_path / "p" / "stack.tif", labels(0, (3, 20, 24), 2))
    write(tmp_path / "p" / "stack-z0001.png", labels(0, (20, 24), 2))
    write(tmp_path / "p" / "single.png", labels(0, (30, 26), 2))
    assert "both given" in faults(images, tmp_path / "p")["stack-z0001.png"]


@pytest.mark.parametrize("name", ["../evil", "a/b", "..", "", "Caps", "a..b", ".hidden", "unet-resnet50"])
def test_a_name_never_forms_a_path_nor_that_of_a_model_trained_here(
    images: Prepared, tmp_path: Path, name: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match="--name"):
        score(images, tmp_path / "p", name, 0, tmp_path / "results")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["..", ".hidden", "a b", "a:b", "å", "%2E", "c\\d"])
def test_item_names_become_single_file_names_that_stay_apart(name: str) -> None:
    made = external.file_name(name)
    assert Path(made).name == made
    assert not made.startswith(".")
    assert "\\" not in made
    assert made != name or name == made
    assert external.file_name("%2E.") != external.file_name("..")


def test_scoring_again_changes_nothing_and_other_predictions_are_refused(volume: Prepared, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / "p" / f"{name}.tif", labels(1, SHAPE, 3))
        write(tmp_path / "q" / f"{name}.nrrd", labels(2, SHAPE, 3))
        write(tmp_path / "r" / f"{name}.nrrd", labels(1, SHAPE, 3).astype(np.int32))
    first, path = score(volume, tmp_path / "p", "nnunet", 0, tmp_path / "results")
    written = path.read_bytes()
    assert score(volume, tmp_path / "r", "nnunet", 0, tmp_path / "results") == (first, path)
    with pytest.raises(BadInput, match="another --seed"):
        score(volume, tmp_path / "q", "nnunet", 0, tmp_path / "results")
    assert path.read_bytes() == written
    _, other = score(volume, tmp_path / "q", "nnunet", 1, tmp_path / "results")
    assert other.parent == path.parent


def test_trials_and_submissions_of_the_same_label_maps_have_the_same_counts(images: Prepared, tmp_path: Path) -> None:
    from embench.runs.options import RunRequest
    from embench.runs.request import trials
    from embench.runs.trial import run

    code = tmp_path / "half.py"
    code.write_text(
        "import numpy as np\nfrom embench.models.base import SegmentationModel\n\n"
        "class Half(SegmentationModel):\n"
        "    def predict(self, image_YX, task):\n        return (image_YX[None] < 100).astype(np.float32)\n"
    )
    request = RunRequest([f"{code}:Half"], ["mito"], seeds=1, iterations=1, results=tmp_path / "r", data=tmp_path)
    trial = run(trials(request)[0])
    assert trial is not None
    assert trial.final is not None
    for stored in images.volumes("test"):
        write(tmp_path / "p" / f"{stored.name}.tif", (stored.image[:] < 100).astype(np.uint8))
    result, _ = score(images, tmp_path / "p", "elsewhere", 0, tmp_path / "r")
    assert result.final is not None
    for image, own in zip(result.final.images, trial.final.images, strict=True):
        of_labels = {
            value: {name: numbers for name, numbers in evidence.items() if "scores" not in metrics()[name].needs}
            for value, evidence in (own.evidence or {}).items()
        }
        assert image == own.model_copy(update={"tuned": None, "evidence": of_labels})
    assert (result.score, result.final.plain_score) == (trial.score, trial.final.plain_score)
    assert result.leakage == trial.leakage


def test_check_only_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from embench.cli.results import score

    prepared(tmp_path / "data", FLAT, {"single": (1, 30, 26)}).close()
    write(tmp_path / "p" / "single.png", labels(0, (30, 26), 2))
    (tmp_path / "p" / "plans.json").write_text(json.dumps({}))
    score("mito", tmp_path / "p", dry_run=True, results=tmp_path / "results", data=tmp_path / "data")
    assert "1 files cover 1 test images" in (shown := capsys.readouterr().out)
    assert "not read: plans.json" in shown
    assert not (tmp_path / "results").exists()
    with pytest.raises(BadInput, match="--name"):
        score("mito", tmp_path / "p", results=tmp_path / "results", data=tmp_path / "data")

"""Label maps of any tool, as its user scores them."""

from __future__ import annotations

import csv
import json
import sys
from functools import partial

import numpy as np
import pytest
import tifffile
from PIL import Image

import embench
from embench.cli import main
from embench.core.errors import BadInput
from embench.scoring.evaluate import evaluate, parsed_classes


def blocks(shape, *boxes):
    """Return a label map in which box k holds value k."""
    labels = np.zeros(shape, np.uint8)
    for value, box in enumerate(boxes, 1):
        labels[tuple(slice(*side) for side in box)] = value
    return labels


TRUTH = blocks((40, 50), ((5, 20), (5, 25)), ((25, 35), (10, 40)))
PREDICTION = blocks((40, 50), ((5, 20), (7, 27)), ((25, 35), (10, 40)))


@pytest.fixture
def files(tmp_path):
    def write(name, labels):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        if name.endswith(".png"):
            Image.fromarray(labels).save(path)
        elif name.endswith(".nii.gz"):
            import nibabel

            nibabel.save(nibabel.Nifti1Image(np.transpose(labels), np.eye(4)), path)
        elif name.endswith(".h5"):
            import h5py

            with h5py.File(path, "w") as file:
                file["labels"] = labels
        else:
            tifffile.imwrite(path, labels, photometric="minisblack")
        return path

    return write


@pytest.fixture
def command(monkeypatch):
    """Run the command and return its exit status."""
    return partial(_command, monkeypatch)


def _command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["embench", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def test_two_files_give_a_table_csv_and_json(files, tmp_path, capsys, command):
    prediction, truth = files("prediction.png", PREDICTION), files("truth.tif", TRUTH)
    out, rows = tmp_path / "scores.json", tmp_path / "scores.csv"
    asked = ["--voxel-size", "40,4,4", "--classes", "0:background,1:mito,2:er", "--tolerance", "6"]
    assert command("evaluate", prediction, truth, *asked, "--json", out, "--csv", rows) == 0
    said = capsys.readouterr().out
    assert "Hausdorff distance, 95 % (nm)" in said
    assert "surfaces agree within 6 nm" in said
    found = json.loads(out.read_text())
    assert found["summary"]["er"] == {**found["summary"]["er"], "iou": 1, "hd95": 0, "nsd": 1}
    mito = found["summary"]["mito"]
    assert mito["iou"] == pytest.approx(18 / 22)
    assert mito["hd95"] == 8  # two pixels of 4 nm
    assert mito["nsd"] < 1
    assert mito["count_error"] == mito["volume_error"] == 0
    assert found["images"]["truth"] == found["summary"]  # of one image
    assert found["voxel_size"] == [40, 4, 4]
    first, *_ = csv.DictReader(rows.open())
    assert first["image"] == "truth"
    assert float(first["iou"]) == mito["iou"]


def test_folders_pair_by_name_whatever_the_format(files, tmp_path, command):
    for number, shift in enumerate((0, 2)):
        files(f"prediction/s{number}.png", np.roll(TRUTH, shift, 1))
        files(f"truth/s{number}.nii.gz", TRUTH[None])
    files("truth/._s0.nii.gz", TRUTH)
    out = tmp_path / "scores.json"
    assert command("evaluate", tmp_path / "prediction", tmp_path / "truth", "--json", out) == 0
    found = json.loads(out.read_text())
    assert list(found["images"]) == ["s0", "s1"]
    each = [image["1"]["iou"] for image in found["images"].values()]
    assert each == [1, pytest.approx(18 / 22)]
    assert found["summary"]["1"]["iou"] == pytest.approx(np.mean(each))
    assert found["pooled"]["1"]["iou"] == pytest.approx(38 / 42)
    assert found["metrics"]["hd95"]["unit"] == "px"


def test_a_volume_is_measured_in_space_and_its_sections_in_the_plane(files):
    truth = np.zeros((6, 20, 20), np.uint8)
    truth[2:4, 5:15, 5:15] = 1
    prediction = np.roll(truth, 1, 0)
    paths = files("p.tif", prediction), files("t.h5", truth)
    whole, notes = evaluate(*paths, voxel_size=(40, 8, 8))
    assert whole.summary()["1"]["hd95"] == 40
    assert any("16 nm" in note for note in notes)  # two pixels of a section
    apart, _ = evaluate(*paths, voxel_size=(40, 8, 8), sections=True)
    assert len(apart.images) == 6
    assert apart.per_image()["t-z0003"]["1"]["hd95"] == 0
    assert apart.per_image()["t-z0002"]["1"]["hd95"] is None  # predicted nowhere
    assert apart.undefined()["1"]["hd95"] == 2


def test_a_voxel_size_is_taken_from_files_that_agree(files):
    import nibabel

    paths = []
    for name, size in (("a.nii.gz", 8), ("b.nii.gz", 8), ("c.nii.gz", 9)):
        path = files(name, TRUTH[None])
        image = nibabel.Nifti1Image(np.transpose(TRUTH[None]), None)
        image.header.set_xyzt_units("micron")
        image.header.set_zooms((size * 1e-3, size * 1e-3, 0.04))
        nibabel.save(image, path)
        paths.append(path)
    found, notes = evaluate(paths[0], paths[1])
    assert found.voxel_size == pytest.approx((40, 8, 8), rel=1e-5)
    assert any("from" in note for note in notes)
    with pytest.raises(BadInput, match=r"voxels of 40 x 9 x 9 nm .*--voxel-size"):
        evaluate(paths[0], paths[2])
    assert evaluate(paths[0], paths[2], voxel_size=(40, 8, 8))[0].voxel_size == (40, 8, 8)


def test_identities_are_compared_as_objects(files):
    truth = np.arange(40, dtype=np.uint32).repeat(50).reshape(40, 50) + 10**9
    found, _ = evaluate(files("p.tif", truth), files("t.tif", truth), instances=True)
    assert found.summary()["objects"]["f1_50"] == 1
    assert found.images["t"]["objects"]["count_error"] == (40, 40)


def test_arrays_are_scored_from_python():
    scores = embench.score(PREDICTION, TRUTH, voxel_size=(4, 4), classes={1: "mito"}, metrics=["hd95", "iou"])
    assert scores == {"mito": {"iou": pytest.approx(18 / 22), "hd95": 8}}
    assert embench.score(TRUTH > 0, TRUTH > 0)["1"]["dice"] == 1
    for bad, message in (((TRUTH, TRUTH[1:]), "shapes differ"), ((TRUTH / 2, TRUTH), "whole numbers")):
        with pytest.raises(BadInput, match=message):
            embench.score(*bad)


@pytest.mark.parametrize(
    ("prediction", "options", "message"),
    [
        (TRUTH[:30], {}, r"shape \(1, 30, 50\).*has \(1, 40, 50\)"),
        (np.ascontiguousarray(TRUTH.T), {}, "its axes taken as ZXY it would fit"),
        (TRUTH * np.float32(0.5), {}, "fractions"),
        (np.full(TRUTH.shape, np.nan, np.float32), {}, "fractions"),
        (TRUTH.astype(np.int16) - 1, {}, "value -1"),
        (TRUTH.astype(np.uint64) << np.uint64(40), {"instances": True}, "identity .* over 4294967295"),
        (TRUTH, {"classes": "0:background,1:mito"}, "label values 2"),
        (TRUTH, {"classes": "1:mito,1:er"}, "occurs twice"),
        (TRUTH, {"classes": "0:background"}, "nothing but background"),
        (TRUTH, {"metrics": ["dicee"]}, "unknown metric 'dicee'"),
        (TRUTH, {"tolerance": -1.0}, "--tolerance -1"),
        (TRUTH, {"tolerance": float("nan")}, "--tolerance nan"),
        (TRUTH, {"voxel_size": (0, 4, 4)}, "--voxel-size 0,4,4"),
        (TRUTH, {"voxel_size": (4,)}, "--voxel-size 4"),
        (np.arange(2000, dtype=np.uint16).reshape(TRUTH.shape), {}, "1999 different values.*--instances"),
    ],
)
def test_what_cannot_be_scored_is_said_in_one_line(files, prediction, options, message):
    with pytest.raises(BadInput, match=message) as refused:
        evaluate(files("p.tif", prediction), files("t.tif", TRUTH), **options)
    assert all("\n" not in line for line in refused.value.lines)


def test_nothing_is_written_when_files_do_not_fit(files, tmp_path, capsys, command):
    files("prediction/a.png", TRUTH)
    files("truth/b.png", TRUTH)
    out = tmp_path / "scores.json"
    assert command("evaluate", tmp_path / "prediction", tmp_path / "truth", "--json", out) == 2
    said = capsys.readouterr().err
    assert "no truth of that name" in said
    assert "no prediction of that name" in said
    assert not out.exists()
    assert command("evaluate", tmp_path / "prediction", tmp_path / "truth" / "b.png") == 2
    assert command("evaluate", tmp_path / "nothing.png", tmp_path / "truth" / "b.png") == 2
    (tmp_path / "empty").mkdir()
    assert command("evaluate", tmp_path / "empty", tmp_path / "truth") == 2


def test_empty_label_maps_need_named_classes(files):
    empty = files("p.tif", np.zeros_like(TRUTH)), files("t.tif", np.zeros_like(TRUTH))
    with pytest.raises(BadInput, match="0 everywhere"):
        evaluate(*empty)
    assert evaluate(*empty, classes="0:background,1:mito")[0].summary()["mito"]["iou"] == 1


def test_classes_are_named_in_three_ways():
    assert parsed_classes("0:background,255:mito") == {0: "background", 255: "mito"}
    assert parsed_classes("1, 2") == {1: "1", 2: "2"}
    assert parsed_classes("background,er,mito") == {0: "background", 1: "er", 2: "mito"}
    assert parsed_classes("mito") == {1: "mito"}
    for wrong in ("", "a:b", "1:", "0:background", "1:a,2:a"):
        with pytest.raises(BadInput, match="--classes"):
            parsed_classes(wrong)

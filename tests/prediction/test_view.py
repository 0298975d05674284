"""A page over predictions shows what they hold, and needs nothing from elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import toy
from PIL import Image

from embench.core.errors import BadInput
from embench.data.writers.base import colour
from embench.prediction.view import write_page
from embench.runs import trial


def sections_of(page: Path) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def prediction(path: Path, labels: np.ndarray, image: Path, classes: tuple[str, ...] = ("background", "disc")) -> Path:
    tifffile.imwrite(path, labels, photometric="minisblack")
    (path.parent / f"{path.name}.json").write_text(json.dumps({"classes": classes, "image": str(image)}))
    return path


def test_predictions_lie_over_their_image(tmp_path: Path) -> None:
    image, labels = toy.discs(1, 3)
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack")
    first = prediction(tmp_path / "first.tif", labels, tmp_path / "image.tif", ("background", "<b>&disc"))
    second = prediction(tmp_path / "second.tif", 1 - labels, tmp_path / "image.tif", ("background", "<b>&disc"))
    page = write_page([first, second], tmp_path / "page")
    shown = sections_of(page)
    assert [section["name"] for section in shown] == ["section 0", "section 1", "section 2"]
    np.testing.assert_array_equal(np.asarray(Image.open(page.parent / shown[1]["image"])), image[1])
    over = np.asarray(Image.open(page.parent / shown[1]["layers"]["first.tif"]["picture"]))
    np.testing.assert_array_equal(over[..., 3] > 0, labels[1] > 0)
    assert tuple(over[labels[1] > 0][0][:3]) == colour(1)
    shares = [shown[1]["layers"][name]["shares"]["<b>&disc"] for name in ("first.tif", "second.tif")]
    assert sum(shares) == pytest.approx(1)
    text = page.read_text()
    assert "<b>&disc" not in text
    assert not re.search(r"https?://", text)


def test_results_are_shown_with_the_truth(tmp_path: Path) -> None:
    data = toy.make_task(tmp_path / "data")
    spec = toy.planned(data, tmp_path / "results", iterations=1, evaluations=1)
    trial.run(spec)
    shown = sections_of(write_page([spec.path], tmp_path / "page", data=data))
    assert [section["name"] for section in shown] == ["test, section 0", "test, section 1"]
    assert set(shown[0]["layers"]) == {"truth", "unet-resnet50, seed 0"}
    truth = np.asarray(Image.open(tmp_path / "page" / shown[0]["layers"]["truth"]["picture"]))
    np.testing.assert_array_equal(truth[..., 3] > 0, toy.discs(2, 2)[1][0] > 0)


def test_what_cannot_be_shown_is_a_line(tmp_path: Path) -> None:
    image, labels = toy.discs(1, 3)
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack")
    good = prediction(tmp_path / "good.tif", labels, tmp_path / "image.tif")
    small = prediction(tmp_path / "small.tif", labels[:2], tmp_path / "image.tif")
    bare = tmp_path / "bare.tif"
    tifffile.imwrite(bare, labels)
    gone = prediction(tmp_path / "gone.tif", labels, tmp_path / "elsewhere.tif")
    for paths, said in (
        ([small], "the image"),
        ([bare], "no card"),
        ([gone], "--image"),
        ([good, gone.with_name("x.tif")], "no such file"),
    ):
        with pytest.raises(BadInput, match=said):
            write_page(paths, tmp_path / "page")
    with pytest.raises(BadInput, match="other files"):
        write_page([good], tmp_path)

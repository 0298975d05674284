"""From Python as from the command line."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy

import embench
import embench.api


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    data = toy.make(tmp_path_factory.mktemp("data"))
    folder = tmp_path_factory.mktemp("results")
    settings = {"seeds": 2, "results": folder, "data": data, "iterations": 4, "evaluations": 1, "device": "cpu"}
    return data, folder, embench.run("unet-resnet50", "toy", **settings), settings  # type: ignore[arg-type]


def test_a_run_gives_the_table_of_its_results_and_does_nothing_twice(ran) -> None:  # type: ignore[no-untyped-def]
    _, folder, frame, settings = ran
    assert frame[["model", "task", "seed"]].values.tolist() == [
        ["unet-resnet50", "toy", 0],
        ["unet-resnet50", "toy", 1],
    ]
    assert frame.score.between(0, 1).all()
    assert frame.weights.nunique() == 2
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("seed-*.json")}
    again = embench.run(["unet-resnet50"], ["toy"], **settings)
    assert again.equals(frame)
    assert embench.results(folder).equals(frame)
    assert files == {path: path.stat().st_mtime_ns for path in folder.rglob("seed-*.json")}


def test_the_table_is_what_the_statistics_take(ran) -> None:  # type: ignore[no-untyped-def]
    import leaderboard

    frame = ran[2]
    other = frame.assign(model="other", score=frame.score / 2)
    ranked = leaderboard.rank(pd.concat([frame, other]))
    assert list(ranked.model) == ["unet-resnet50", "other"]


def test_an_array_and_a_file_are_predicted_alike(ran, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import tifffile

    data, folder, _, _ = ran
    paths = sorted(folder.rglob("seed-*.json"))
    image = toy.discs(3, 2)[0]
    found = embench.predict(paths, image, data=data, probabilities=True)
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack")
    card = embench.predict(paths, tmp_path / "image.tif", tmp_path / "out.tif", data=data)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), found["labels"])
    assert card["shape"] == list(image.shape)
    one = embench.predict(str(paths[0]), image[0], data=data)["labels"]
    assert one.shape == image[0].shape
    scores = embench.score(found["labels"], toy.discs(3, 2)[1], metrics=["iou"])
    assert 0 <= (scores["1"]["iou"] or 0) <= 1


def test_what_cannot_be_is_a_line(ran, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, folder, _, settings = ran
    with pytest.raises(embench.BadInput, match="no option colour"):
        embench.run("unet-resnet50", "toy", colour=1)
    with pytest.raises(embench.BadInput, match="no option colour"):
        embench.predict(next(folder.rglob("seed-*.json")), np.zeros((4, 4), np.uint8), colour=1)
    with pytest.raises(embench.BadInput, match="float64"):
        embench.predict(next(folder.rglob("seed-*.json")), np.zeros((4, 4)), data=settings["data"])  # type: ignore[arg-type]
    with pytest.raises(embench.BadInput, match="out="):
        embench.predict(next(folder.rglob("seed-*.json")), tmp_path)  # type: ignore[call-overload]


def test_the_examples_run() -> None:
    failed, attempted = doctest.testmod(embench.api)
    assert attempted >= 4
    assert not failed

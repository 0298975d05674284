"""Data sets of installed packages: a sample package goes through the whole chain."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embench.core.errors import BadInput
from embench.data import catalog
from embench.data.task import Dataset, Scoring, Task
from embench.scoring.metrics import metrics

PACKAGE = Path(__file__).parents[1] / "sample_package"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The sample package, as pip would have installed it."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    importlib.invalidate_caches()
    metrics.cache_clear()  # as in a new process
    yield
    metrics.cache_clear()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for number in range(2):
            image = rng.integers(0, 120, (70, 80), np.uint8)
            image[20:40, 30 + 4 * number : 50] = 220
            Image.fromarray(image).save(tmp_path / "images" / split / f"{split}{number}.png")
            mask = ((image > 200) * 255).astype(np.uint8)
            Image.fromarray(mask).save(tmp_path / "images" / split / f"{split}{number}-mask.png")
    return tmp_path / "images"


def test_tasks_of_an_installed_package_are_found_by_name_and_listed(installed):
    assert "sample" in catalog.dataset_names()
    assert "sample-spots" in [task.name for task in catalog.all_tasks()]
    assert catalog.is_registered("sample-spots")
    assert catalog.find_dataset("sample-spots").name == "sample"
    assert catalog.find_task("sample-spots").licence == "CC0-1.0"
    with pytest.raises(BadInput, match="did you mean sample-spots"):
        catalog.find_task("sample-spot")


def test_without_the_package_its_tasks_are_unknown():
    assert "sample" not in catalog.dataset_names()
    with pytest.raises(BadInput, match="unknown task"):
        catalog.find_task("sample-spots")


def test_a_sample_package_goes_through_the_whole_chain(installed, images, tmp_path):
    from typer.testing import CliRunner

    from embench.cli.app import app

    data, results, board = tmp_path / "data", tmp_path / "results", tmp_path / "board"
    subprocess.run(["git", "init", "-q", str(board)], check=True)
    (board / "results").mkdir()

    def embench(*words: object) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    where = ("--data-dir", data)
    assert "sample-spots" in embench("prepare", "sample", "--source", images, *where)
    assert "sample-spots" in embench("list", "tasks", *where)
    assert "Bright spots" in embench("show", "sample-spots", *where)
    embench(
        "run", "--model", "sample-small", "--task", "sample-spots", "--seeds", 1, "--jobs", 1, "--device", "cpu",
        "--evaluations", 1, "--results", results, *where,
    )  # fmt: skip
    embench("verify", "sample-spots", *where)
    assert "1 done" in embench("status", "--results", results)
    assert "sample-small" in embench("submit", results, "--results", board / "results")
    (result,) = (board / "results").rglob("seed-0.json")
    assert "sample-found" in result.read_text()


def dataset(name: str, *tasks: Task) -> Dataset:
    return Dataset(name, tasks, lambda source, name: iter(()))


def task(name: str, dataset: str) -> Task:
    return Task(name, "", dataset, ("background", "a"), Scoring("2d"), 1)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (3, "int, not a data set"),
        (dataset("other"), "both names must be the same"),
        (dataset("sample"), "nothing is prepared from it"),
        (dataset("sample", task("cremi", "sample")), "built-in one"),
        (dataset("sample", task("x", "other")), "must be 'sample'"),
        (dataset("sample", task("../x", "sample")), "use lower-case letters"),
    ],
)
def test_what_is_no_data_set_of_the_package_is_refused(found, said):
    assert any(said in fault for fault in catalog.dataset_faults(found, "sample"))

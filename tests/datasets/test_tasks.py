"""Every task is as the protocol says, and every name leads to what it names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from embench.cli.taskdocs import markdown
from embench.core.errors import BadInput
from embench.core.names import is_name
from embench.data import catalog
from embench.data.task import Task

PUBLISHED = ("cremi", "guay", "kasthuri", "perez-lyso", "perez-mito", "perez-nuclei", "perez-nucleoli", "urocell")

# name: classes, planes, scored classes, norms, crop, class weights, iterations, batch size (protocol 1)
TABLE = {
    "cremi": (2, "stack", (1,), (0.50387249, 0.10911144), 512, None, 5000, 16),
    "guay": (
        7,
        "stack",
        (2, 3, 4, 5, 6),
        (0.55412821, 0.15759415),
        512,
        (0.1, 0.1, 1, 1, 0.1, 3, 3),
        1000,
        16,
    ),
    "kasthuri": (2, "2d", (1,), (0.27342241, 0.26917548), 512, None, 10000, 16),
    "perez-lyso": (2, "2d", (1,), (0.35047498, 0.01674651), 480, None, 2500, 16),
    "perez-mito": (2, "2d", (1,), (0.35009244, 0.01705255), 480, None, 2500, 16),
    "perez-nuclei": (2, "2d", (1,), (0.35176219, 0.01545297), 480, None, 2500, 16),
    "perez-nucleoli": (2, "2d", (1,), (0.35167108, 0.01306738), 480, None, 2500, 16),
    "urocell": (3, "orthoplane", (1, 2), (0.76752738, 0.10404078), 224, (0.1, 1, 1), 2500, 16),
    "lucchi": (2, "2d", (1,), (0.55090924, 0.11859143), 512, None, 10000, 16),
    "all-mito": (2, "2d", (1,), (0.555664, 0.09931), 256, None, 10000, 32),
}

# protocol 2
DOWNLOADS = {
    "https://cremi.org/static/data/sample_A_20160501.hdf": (
        "4c563d1b78acb2bcfb3ea958b6fe1533422f7f4a19f3e05b600bfa11430b510d"
    ),
    "https://cremi.org/static/data/sample_B_20160501.hdf": (
        "887e85521e00deead18c94a21ad71f278d88a5214c7edeed943130a1f4bb48b8"
    ),
    "https://cremi.org/static/data/sample_C_20160501.hdf": (
        "2874496f224d222ebc29d0e4753e8c458093e1d37bc53acd1b69b19ed1ae7052"
    ),
    "https://www.dropbox.com/s/68yclbraqq1diza/platelet_data_1219.zip?dl=1": None,
    "http://www.casser.io/files/kasthuri_pp.zip": "bbb78fd205ec9b57feb8f93ebbdf1666261cbc3e0305e7f11583ab5157a3d792",
    "https://www.sci.utah.edu/releases/chm_v2.1.367/chm-supplemental_data.zip": None,
    "https://github.com/MancaZerovnikMekuc/UroCell/archive/refs/heads/master.zip": (
        "a48cf31b06114d7def642742b4fcbe76103483c069122abe10f377d71a1acabc"
    ),
    "http://www.casser.io/files/lucchi_pp.zip": "770ce9e98fc6f29c1b1a250c637e6c5125f2b5f1260e5a7687b55a79e2e8844d",
}


@pytest.mark.parametrize("name", TABLE)
def test_a_published_task_has_the_figures_of_the_protocol(name: str) -> None:
    task = catalog.find_task(name)
    found = (
        len(task.classes),
        task.scoring.planes,
        task.scoring.classes,
        task.norms,
        task.crop,
        task.class_weights,
        task.iterations,
        task.batch_size,
    )
    assert found == TABLE[name]
    assert task.pretraining == "cem500k"
    assert task.scale == "full"
    assert not task.synthetic


@pytest.mark.parametrize("name", TABLE)
def test_the_rules_that_only_some_tasks_have(name: str) -> None:
    task = catalog.find_task(name)
    assert task.scoring.match_instances == name.startswith("perez")
    assert task.scoring.ignore_unlabelled == (name == "guay")
    assert task.crop_nonempty == (name in ("cremi", "kasthuri"))
    assert task.noise_and_blur == (name in ("guay", "all-mito"))
    assert task.training_axes == ((0, 1, 2) if name == "urocell" else (0,))


def test_voxel_sizes_and_licences_are_those_that_are_stated() -> None:
    stated = {name: catalog.find_task(name) for name in TABLE}
    assert {name: task.voxel_size for name, task in stated.items() if task.voxel_size} == {
        "guay": (40, 10, 10),
        "urocell": (15, 16, 16),
    }
    assert {name: stated[name].licence for name in PUBLISHED if stated[name].licence != "unknown"} == {
        "urocell": "CC BY-NC-SA 4.0"
    }


def test_class_names_follow_the_data_sets() -> None:
    assert catalog.find_task("guay").classes == (
        "background",
        "cell",
        "mitochondria",
        "alpha granule",
        "canalicular vessel",
        "dense granule",
        "dense granule core",
    )
    assert catalog.find_task("urocell").classes == ("background", "endolysosomes", "mitochondria")
    assert catalog.find_task("cremi").classes[1] == "synaptic cleft"


def test_the_other_budgets_of_guay_are_recorded() -> None:
    assert sorted(catalog.find_task("guay").budgets.values()) == [1000, 2500, 3000]


def test_the_published_suite_holds_the_eight_tasks() -> None:
    assert [task.name for task in catalog.find_suite("published")] == list(PUBLISHED)


def test_downloads_are_those_of_the_protocol() -> None:
    found = {
        download.url: download.sha256 for name in catalog.DATASETS for download in catalog.find_dataset(name).downloads
    }
    assert found == DOWNLOADS
    (archive,) = catalog.find_dataset("guay").downloads
    assert sorted(archive.members) == [
        f"{split}-{kind}.tif" for split in ("eval", "test", "train") for kind in ("images", "labels")
    ]
    assert all(len(digest) == 64 for digest in archive.members.values())


@pytest.mark.parametrize("task", catalog.all_tasks(), ids=lambda task: task.name)
def test_every_registered_task_is_consistent(task: Task) -> None:
    assert is_name(task.name)
    assert task in catalog.find_dataset(task.dataset).tasks
    assert task.classes[0] == "background"
    assert all(0 < value < len(task.classes) for value in task.scoring.classes)
    assert task.class_weights is None or len(task.class_weights) == len(task.classes)
    assert task.crop % 32 == 0
    assert task.synthetic or task.citation.startswith("@")
    assert dataclasses.replace(task) == task


def test_names_are_unique_over_the_registry() -> None:
    names = [spec.name for name in catalog.DATASETS for spec in catalog.find_dataset(name).specs]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("suite", catalog.SUITES)
def test_every_suite_names_registered_tasks(suite: str) -> None:
    assert [task.name for task in catalog.find_suite(suite)] == list(catalog.SUITES[suite])


def test_an_unknown_task_suggests_near_names() -> None:
    with pytest.raises(BadInput, match="urocell"):
        catalog.find_task("urocel")


def test_what_is_not_prepared_says_how_to_prepare_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"embench fetch urocell.*embench prepare urocell --source"):
        catalog.open_prepared("urocell", tmp_path)
    with pytest.raises(BadInput, match="embench prepare vnc --source"):
        catalog.prepare("vnc-mito", None, tmp_path)


def test_the_page_of_tasks_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "tasks.md"
    assert page.read_text() == markdown(), "write it again: python -m embench.cli.taskdocs > docs/tasks.md"


def test_the_page_of_tasks_holds_every_task_with_its_citation() -> None:
    text = markdown()
    for task in catalog.all_tasks():
        assert f"`{task.name}`" in text
        assert task.citation in text

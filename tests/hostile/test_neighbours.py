"""A neighbour's files among ours: they lie, hurt or stop nothing but themselves."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import made_results as made
import numpy as np
import pytest

from embench.core import locks
from embench.core.console import printable
from embench.core.errors import BadInput
from embench.core.files import sweep, write_atomic
from embench.data import catalog, store
from embench.data.task import Item
from embench.scoring import results, test_sets
from embench.scoring.schema import TrialResult
from leaderboard import boards, cli, trials
from leaderboard.boards import Board

MITO, SYNAPSE, NEW = made.task("made-mito"), made.task("made-synapse"), made.task("made-new")


# Names


@pytest.mark.parametrize("what", ["a file", "a device", "a folder on the way"])
def test_a_claim_that_is_a_link_is_refused_and_its_target_is_whole(what: str, tmp_path: Path) -> None:
    folder, outside = tmp_path / "results", tmp_path / "outside"
    (folder / ".running").mkdir(parents=True)
    outside.mkdir()
    (outside / "t.claim").write_text("mine")
    if what == "a folder on the way":
        (folder / ".running").rmdir()
        (folder / ".running").symlink_to(outside)
    else:
        (folder / ".running" / "t.claim").symlink_to("/dev/zero" if what == "a device" else outside / "t.claim")
    for act in (locks.claimed(folder / ".running" / "t.claim", folder).__enter__,):
        with pytest.raises(BadInput, match="a link"):
            act()
    with pytest.raises(BadInput, match="a link"):
        locks.holder(folder / ".running" / "t.claim", folder)
    assert (outside / "t.claim").read_text() == "mine"


@pytest.mark.parametrize("place", ["results", "data", "model", "index.html", "files.json"])
def test_a_site_is_not_written_or_cleaned_through_a_link(place: str, tmp_path: Path) -> None:
    folder = made.write(made.suite({"retina": 0.6}, [MITO], seeds=3), tmp_path / "results")
    outside, site = tmp_path / "outside", tmp_path / "site"
    outside.mkdir()
    site.mkdir()
    (outside / "kept").write_text("kept")
    if place == "files.json":
        (site / place).write_text('["../outside/kept", "/etc/hostname"]')
    else:
        (site / place).symlink_to(outside / "kept" if "." in place else outside)
    with suppress(BadInput):
        cli.build([folder], site)
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "kept"


def test_only_temporary_files_of_our_own_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".data.zip.part").write_text("a download of the user's")
    (tmp_path / ".embench-x.0123.part").write_text("left by a dead process")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".data.zip.part"]


# The rule


def test_a_prepared_file_with_another_rule_is_not_the_task_of_its_name(tmp_path: Path) -> None:
    from dataclasses import replace

    task = catalog.find_task("vnc-mito")
    rng = np.random.default_rng(0)
    items = [Item(split, split, *rng.integers(0, 2, (2, 2, 24, 24), np.uint8)) for split in ("train", "test")]  # type: ignore[arg-type]
    forged = replace(task, scoring=replace(task.scoring, ignore_unlabelled=True))
    store.write(tmp_path / "vnc-mito.h5", forged, items)
    with store.Prepared(tmp_path / "vnc-mito.h5") as prepared, pytest.raises(BadInput, match="its scoring is"):
        _ = prepared.task
    store.write(tmp_path / "vnc-mito.h5", task, items)
    with store.Prepared(tmp_path / "vnc-mito.h5") as prepared:
        assert prepared.task == task
    shutil.copytree(tmp_path, tmp_path.parent / "elsewhere", dirs_exist_ok=True)
    assert store.is_known(tmp_path / "vnc-mito.h5")
    assert not store.is_known(tmp_path.parent / "elsewhere" / "vnc-mito.h5"), "the check does not travel"


def test_a_trial_short_of_its_budget_is_not_done(tmp_path: Path) -> None:
    path = made.forged(made.result("retina", MITO), tmp_path / "seed-0.json", iterations_asked=5000)
    with pytest.raises(BadInput, match="1000 of 5000 iterations"):
        results.load(path)


# Rows


def first(folder: Path) -> Board:
    return boards.boards(trials.read([folder])[0])[0]


def put(result: TrialResult, folder: Path, name: str = "aaa") -> None:
    results.save(result, folder / result.task / name / f"seed-{result.seed}.json")


def another_truth(result: TrialResult) -> TrialResult:
    """Return a perfect score on a test set of one's own."""
    final = result.snapshots[-1]
    images = tuple(
        image.model_copy(update={"classes": {1: (9, 0, 0)}, "tuned": {1: (9, 0, 0)}}) for image in final.images
    )
    diagnostics = final.diagnostics and final.diagnostics.model_copy(update={"tuned_iou": {1: 1.0}})
    best = {"images": images, "score": 1.0, "class_iou": {1: 1.0}, "diagnostics": diagnostics}
    return result.model_copy(update={"snapshots": (final.model_copy(update=best),)})


def with_weights(result: TrialResult) -> TrialResult:
    return result.model_copy(update={"model": result.model.model_copy(update={"weights_hash": "f" * 64})})


ONE_FILE: dict[str, Callable[[Path], None]] = {
    "other weights of somebody's row": lambda folder: put(with_weights(made.result("retina", MITO, 0)), folder),
    "another test set": lambda folder: put(another_truth(made.result("retina", MITO, 9)), folder),
    "a trial of a new task": lambda folder: put(made.result("retina", NEW, 0), folder),
    "other data": lambda folder: put(made.result("best", MITO, 0, data_hash="f" * 64), folder),
    "another budget": lambda folder: put(made.result("retina", MITO, 0, iterations=10), folder),
    "predictions called retina": lambda folder: put(
        made.result("retina", MITO, 77, 0.01).model_copy(update={"status": "submitted"}), folder
    ),
    "a second file of a trial": lambda folder: put(made.result("retina", MITO, 0, 0.1), folder, "zzz"),
    "a name like a slug": lambda folder: put(made.result(trials.slug("a@crop=96").replace("~", "-"), MITO, 0), folder),
    "who else submitted it": lambda folder: put(made.result("retina", MITO, 99, 0.01, submitter="mallory"), folder),
}


@pytest.mark.parametrize("what", ONE_FILE)
def test_one_file_changes_nobody_elses_row(what: str, tmp_path: Path) -> None:
    honest = {"retina": 0.7, "transunet": 0.5, "unet-resnet50": 0.3}
    folder = made.write(made.suite(honest, [MITO, SYNAPSE], seeds=4), tmp_path / "results")
    before = first(folder)
    ONE_FILE[what](folder)
    after = first(folder)
    assert after.ranked == before.ranked
    for row in before.ranked:
        for column in before.columns:
            assert after.cell(row, column).scores.tolist() == before.cell(row, column).scores.tolist()
    assert len({trials.slug(row) for board in boards.boards(trials.read([folder])[0]) for row in board.rows}) >= 3


def test_results_that_contradict_the_registry_are_named_and_left_out(tmp_path: Path) -> None:
    folder = made.write(made.suite({"retina": 0.7}, [MITO], seeds=3), tmp_path / "results")
    true = made.result("retina", MITO)
    truth = test_sets.truth_of(true)
    assert truth is not None
    test_sets.save({MITO.name: (test_sets.TestSet(data_hash=true.fingerprint.data_hash, images=truth),)}, folder)
    put(another_truth(made.result("best", MITO, 5)), folder)
    put(made.result("best", MITO, 6, data_hash="f" * 64), folder)
    read, refused = trials.read([folder])
    assert [trial.row for trial in read] == ["retina"] * 3
    assert sorted(line.partition(".json: ")[2].partition(",")[0] for line in refused) == [
        "data hash ffffffffffff",
        "its counts imply another test set than registry.json has",
    ]


# Walks and caps


def test_odd_input_costs_one_file(tmp_path: Path) -> None:
    folder = made.write(made.suite({"retina": 0.7}, [MITO], seeds=3), tmp_path / "results")
    os.mkfifo(folder / "seed-5.json")
    (folder / "loop").symlink_to(folder)
    (folder / "seed-6.json").symlink_to("/dev/zero")
    odd = {"sections": ("seed-0.sections/a-z0.png",) * 300, "message": "x" * 10**6, "seed": 10**300}
    for number, (name, value) in enumerate(odd.items()):
        text = made.result("odd", MITO).model_dump(mode="json") | {name: value, "sha256": "0" * 64}
        write_atomic(folder / f"seed-{10 + number}.json", json.dumps(text))
    read, refused = trials.read([folder])
    assert len(read) == 3
    assert len(refused) == 3 + len(odd)
    assert all(line.isprintable() and len(line) < 2100 for line in refused)


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert printable("a\x1b]0;x\x07\x9b2J\u202e[/red]\n") == "a\\x1b]0;x\\x07\\x9b2J\\u202e[/red]\n"

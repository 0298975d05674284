"""One prediction is one result: under several seeds it is refused where it is scored, handed in, and shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embench.core.errors import BadInput
from embench.data import store
from embench.data.store import Prepared
from embench.data.task import Item, Scoring, Task
from embench.scoring import results, submit
from embench.scoring.external import score, summary
from embench.scoring.schema import TrialResult
from leaderboard import boards, trials

TASK = Task("mine", "M", "own", ("background", "mito", "er"), Scoring("2d", (1, 2)), 100)
RNG = np.random.default_rng(3)
GREY, TRUTH = RNG.integers(0, 255, (2, 20, 24), np.uint8), RNG.integers(0, 2, (2, 20, 24), np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Prepared:
    items = [Item(split, "a", GREY[n : n + 1], TRUTH[n : n + 1]) for n, split in enumerate(("train", "test"))]
    store.write(tmp_path / "mine.h5", TASK, items)  # type: ignore[arg-type]
    return Prepared(tmp_path / "mine.h5")


def predicted(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).random(TRUTH[1].shape) < 0.1
    Image.fromarray(np.where(noise, 1 - TRUTH[1], TRUTH[1]).astype(np.uint8)).save(folder / "a.png")
    return folder


def copied(path: Path, seed: int) -> Path:
    """Write a result again under another seed, as somebody who edits files would."""
    facts = json.loads(path.read_text())
    facts["seed"] = seed
    facts.pop("sha256")
    facts["sections"] = [name.replace("seed-0", f"seed-{seed}") for name in facts["sections"]]
    results.save(TrialResult.model_validate(facts), path.with_name(f"seed-{seed}.json"))
    return path.with_name(f"seed-{seed}.json")


def test_the_same_label_maps_under_another_seed_are_refused(data: Prepared, tmp_path: Path) -> None:
    _, path = score(data, predicted(tmp_path / "p", 1), "copycat", 0, tmp_path / "r")
    again = predicted(tmp_path / "q", 1)
    Image.open(again / "a.png").convert("P").save(again / "a.png")  # other bytes, the same values
    with pytest.raises(BadInput, match="label maps of seed 0"):
        score(data, again, "copycat", 1, tmp_path / "r")
    assert [each.name for each in path.parent.glob("seed-*.json")] == ["seed-0.json"]
    score(data, predicted(tmp_path / "q", 2), "copycat", 1, tmp_path / "r")


def test_a_deterministic_method_has_one_result(data: Prepared, tmp_path: Path) -> None:
    score(data, predicted(tmp_path / "p", 1), "my-forest", 0, tmp_path / "r", deterministic=True)
    with pytest.raises(BadInput, match="deterministic"):
        score(data, predicted(tmp_path / "p", 2), "my-forest", 1, tmp_path / "r")


def test_the_board_keeps_the_first_of_several_and_names_the_others(data: Prepared, tmp_path: Path) -> None:
    _, path = score(data, predicted(tmp_path / "p", 1), "copycat", 0, tmp_path / "r")
    for seed in (1, 2):
        copied(path, seed)
    found, refused = trials.read([tmp_path / "r"])
    assert [trial.result.seed for trial in found] == [0]
    assert ["seed 1 has the label maps of seed 0" in refused[0], "seed 2 has" in refused[1]] == [True, True]


def test_submit_refuses_them(data: Prepared, tmp_path: Path) -> None:
    _, path = score(data, predicted(tmp_path / "p", 1), "copycat", 0, tmp_path / "r")
    submitted = []
    for place in (path, copied(path, 1)):
        result = results.load(place)
        submitted.append(submit.Submitted(place, tmp_path / "r", result, submit.place_of(result)))
    (line,) = submit._repeated(tmp_path / "board", submitted)
    assert "seed 1 has the label maps of seed 0" in line


def test_predictions_of_unknown_budget_stand_beside_and_unranked(data: Prepared, tmp_path: Path) -> None:
    for seed in range(3):
        score(data, predicted(tmp_path / f"p{seed}", seed), "unknown", seed, tmp_path / "r")
        score(data, predicted(tmp_path / f"q{seed}", 9 + seed), "known", seed, tmp_path / "r", iterations=100)
    found, refused = trials.read([tmp_path / "r"])
    assert not refused
    (board,) = boards.boards(found)
    assert board.rows == ["known", "unknown"]
    assert board.ranked == ["known"]
    assert board.missing("unknown") == ["mine: budget unknown"]
    assert {trial.result.iterations_done for trial in found if trial.row == "known"} == {100}


def test_a_class_that_no_test_image_holds_is_said_with_the_score(data: Prepared, tmp_path: Path) -> None:
    told = summary(*score(data, predicted(tmp_path / "p", 1), "copycat", 0, tmp_path / "r"))
    assert "warning: no test image holds er: its 1.0000 says only whether any of it was predicted" in told

"""Revisions of the harness: stored with new results, absent from old ones, never ranked together."""

from __future__ import annotations

import json
from pathlib import Path

import made_results as made

from embench.core.revision import SCORING_REVISION, TRAINING_REVISION
from embench.scoring.results import load, save
from embench.scoring.schema import Fingerprint, TrialResult, fingerprint
from embench.scoring.submit import place_of
from leaderboard import boards, trials
from leaderboard.trials import differences

RESULTS = Path(__file__).parents[2] / "results"


def of_revision(result: TrialResult, **revisions: int) -> TrialResult:
    return result.model_copy(update={"fingerprint": result.fingerprint.model_copy(update=revisions)})


def test_results_without_a_revision_keep_their_digest_and_their_place() -> None:
    for path in RESULTS.glob("**/seed-*.json"):
        found = json.loads(path.read_bytes())
        if "training_revision" in found["fingerprint"]:
            continue
        result = load(path)
        assert result.fingerprint.training_revision == 0
        assert found["sha256"] == result.digest
        assert place_of(result) == path.relative_to(RESULTS)


def test_a_new_result_names_its_revisions_and_has_a_fingerprint_of_its_own() -> None:
    stamp = fingerprint(made.task("made-mito"), "0" * 64, 10)
    assert (stamp.scoring_revision, stamp.training_revision) == (SCORING_REVISION, TRAINING_REVISION)
    old = stamp.model_copy(update={"scoring_revision": 0, "training_revision": 0})
    assert old.digest == Fingerprint.model_validate(old.model_dump()).digest != stamp.digest
    assert "scoring_revision" not in old.model_dump()


def test_results_of_different_revisions_stand_on_boards_of_their_own(tmp_path: Path) -> None:
    task = made.task("made-mito")
    for model, revision in (("old", 0), ("new", 1), ("newer", 1)):
        for seed in range(3):
            result = made.result(model, task, seed)
            changed = of_revision(result, scoring_revision=revision, training_revision=revision)
            save(changed, tmp_path / model / f"seed-{seed}.json")
    read, refused = trials.read([tmp_path])
    assert not refused
    assert [sorted(board.ranked) for board in boards.boards(read)] == [["new", "newer"], ["old"]]
    assert [column.label for column in boards.columns_of(read)] == [
        f"made-mito, {task.iterations} iterations, revision 1.1",
        f"made-mito, {task.iterations} iterations, revision 0.0",
    ]


def test_what_keeps_two_revisions_from_being_compared_is_said() -> None:
    stamp = fingerprint(made.task("made-mito"), "0" * 64, 10)
    assert differences(stamp, stamp.model_copy(update={"training_revision": 0})) == [
        f"training revision: {TRAINING_REVISION} against unknown"
    ]

"""The controls hold, can fail, and the board cannot be told a model from itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration import controls, pipeline

from embench.scoring import results
from embench.scoring.results import load
from leaderboard import boards, trials
from leaderboard.stats import bootstrap, tests

pytestmark = pytest.mark.slow


def test_every_control_of_the_statistics_holds() -> None:
    found = list(controls.run(np.random.default_rng(1), repeats=240, draws=500))
    assert len(found) == 23
    assert [control.name for control in found if not control.passed] == []


def test_every_control_from_result_files_to_the_board_holds_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = pipeline.run(np.random.default_rng(1), boards=12)
    assert len(found) == 8
    assert [control.name for control in found if not control.passed] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "name", "wrong", "claim"),
    [
        (bootstrap, "bootstrap_images", lambda tables, *_: np.full((9, len(tables[0])), 0.9), "test images"),
        (bootstrap, "intervals", lambda draws: np.tile(draws.mean(axis=0)[:, None], 2), "interval over seeds"),
        (tests, "critical_count", lambda *_: 18, "shift interval"),
        (bootstrap, "rank_intervals", lambda drawn: np.ones((drawn.shape[1], 2), int), "rank interval"),
        (results, "contradiction", lambda _: None, "quarantined"),
    ],
)
def test_a_fault_anywhere_in_the_chain_fails_its_control(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, wrong: Any, claim: str
) -> None:
    monkeypatch.setattr(module, name, wrong)
    failed = [control.name for control in pipeline.run(np.random.default_rng(0), boards=6) if not control.passed]
    assert [each for each in failed if claim in each]


def test_simulated_files_are_marked_synthetic_so_that_none_could_be_ranked_with_real_ones(tmp_path: Path) -> None:
    truth = pipeline.simulate(np.random.default_rng(0), tmp_path)
    assert len(truth.results) == 4 * 3 * controls.SEEDS
    assert all(load(path).synthetic and load(path) == result for path, result in truth.results[::7])
    assert {board.kind for board in boards.boards(trials.read([tmp_path])[0])} == {"synthetic"}


def test_a_wrong_statistic_fails_its_control(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tests, "hodges_lehmann", lambda x, y, level=0.05: (0.03, 0.031, 0.035))
    failed = [each.name for each in controls.run(np.random.default_rng(0), repeats=100, draws=200) if not each.passed]
    assert any("Hodges-Lehmann interval of 6 against 6 seeds" in name for name in failed)


@pytest.mark.parametrize(
    ("held", "exactly", "passed"), [(950, False, True), (1000, False, True), (1000, True, False), (900, False, False)]
)
def test_a_control_passes_within_sampling_error_of_its_promise(held: int, exactly: bool, passed: bool) -> None:
    assert controls.Control("any", held, 1000, 0.95, exactly).passed is passed

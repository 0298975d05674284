"""The controls hold, can fail, and the board cannot be told a model from itself."""

from __future__ import annotations

import numpy as np
import pytest

from embench.errors import BadInput
from leaderboard import cli, controls, statistics


def test_every_control_of_the_statistics_holds() -> None:
    found = list(controls.run(np.random.default_rng(1), repeats=240, draws=500))
    assert len(found) == 23
    assert [control.name for control in found if not control.passed] == []


def test_a_wrong_statistic_fails_its_control(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(statistics, "hodges_lehmann", lambda x, y, level=0.05: (0.03, 0.031, 0.035))
    with pytest.raises(BadInput, match="Hodges-Lehmann interval of 6 against 6 seeds"):
        cli.controls(100, 0)
    assert "FAILS  Hodges-Lehmann" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("held", "exactly", "passed"), [(950, False, True), (1000, False, True), (1000, True, False), (900, False, False)]
)
def test_a_control_passes_within_sampling_error_of_its_promise(held: int, exactly: bool, passed: bool) -> None:
    assert controls.Control("any", held, 1000, 0.95, exactly).passed is passed


def test_too_few_repeats_are_refused() -> None:
    with pytest.raises(BadInput, match="--repeats 5"):
        cli.controls(5, 0)

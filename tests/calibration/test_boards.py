"""What a board promises about letters, ranks and power, on simulated boards whose truth is known."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from calibration.boards import KINDS, ROWS, SD, SEEDS, TASKS, Kind, errors

from leaderboard.stats.means import mean_of, welch
from leaderboard.stats.power import detectable, power, upper_spread

pytestmark = pytest.mark.slow

BOARDS = 1500
ALLOWED = 0.05 + 3 * sqrt(0.05 * 0.95 / BOARDS)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.holds], ids=lambda kind: kind.name)
def test_a_wrong_letter_or_rank_stands_on_at_most_one_board_in_twenty(kind: Kind, tasks: int) -> None:
    rng = np.random.default_rng(0)
    for rows in ROWS:
        for seeds in SEEDS:
            letters, ranks = errors(kind, rows, tasks, seeds, BOARDS, rng)
            assert letters <= ALLOWED, f"{rows} rows, {seeds} seeds"
            assert ranks <= ALLOWED, f"{rows} rows, {seeds} seeds"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.holds], ids=lambda kind: kind.name)
def test_the_stated_exceptions_are_exceptions_on_one_task_alone(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    assert errors(kind, 5, 1, 6, BOARDS, rng)[0] > ALLOWED
    assert errors(kind, 5, 8, 6, BOARDS, rng)[0] <= ALLOWED


def test_checkpoints_that_differ_are_not_taken_for_methods_that_differ() -> None:
    rng = np.random.default_rng(0)
    wrong = {"seeds": 0, "checkpoints": 0}
    starts = [0, 1, 2] * 2
    for _ in range(BOARDS):
        rows = [0.6 + rng.normal(0, SD, 3)[starts] + rng.normal(0, SD, (8, 6)) for _ in range(2)]
        for name, checkpoints in (("seeds", None), ("checkpoints", [starts] * 8)):
            pair = welch([mean_of(list(row), [1 / 8] * 8, checkpoints) for row in rows])
            wrong[name] += bool(pair.p[0, 1] < 0.05)
    assert wrong["seeds"] / BOARDS > 0.3
    assert wrong["checkpoints"] / BOARDS <= ALLOWED


def test_a_difference_that_was_called_detectable_is_found_four_times_in_five() -> None:
    """For rows of unequal spread, from the spreads that six earlier seeds showed."""
    rng = np.random.default_rng(0)
    true, family = (0.089, 0.035), 10
    reached = []
    for _ in range(300):
        seen = [float(upper_spread(rng.normal(0, spread, 6).std(ddof=1), 6)) for spread in true]
        reached.append(power(detectable((seen[0], seen[1]), (6, 6), family), true, (6, 6), family))
    assert np.mean(reached) >= 0.8
    assert np.mean(np.array(reached) >= 0.8) >= 0.75

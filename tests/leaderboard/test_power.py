"""What seeds can tell apart, against direct simulation and textbook power."""

from __future__ import annotations

from math import inf, isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.power import TTestIndPower

from leaderboard.stats import power, tests


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_without_a_shift_the_test_rejects_as_often_as_its_exact_size() -> None:
    # n = m = 6: U <= 5 or >= 31 has probability 2 * 19 / 924 under the null hypothesis
    assert power.power(0.0, 6, 6, rng())[0] == pytest.approx(38 / 924, abs=0.005)


@given(st.integers(3, 9), st.integers(3, 9))
def test_power_grows_with_the_shift_and_is_the_same_either_way_round(n: int, m: int) -> None:
    shifts = np.linspace(0, 4, 9)
    found = power.power(shifts, n, m, rng(), draws=500)
    assert (np.diff(found) >= 0).all()
    assert found == pytest.approx(power.power(-shifts, m, n, rng(), draws=500), abs=0.15)


@pytest.mark.parametrize(("n", "m", "shift"), [(6, 6, 1.5), (4, 8, 2.0), (10, 5, 1.0)])
def test_power_is_that_of_the_test_that_the_board_uses(n: int, m: int, shift: float) -> None:
    generator = rng()
    samples = [(generator.standard_normal(n) + shift, generator.standard_normal(m)) for _ in range(800)]
    rejected = np.mean([tests.mann_whitney(*pair) < tests.LEVEL for pair in samples])
    assert power.power(shift, n, m, rng())[0] == pytest.approx(rejected, abs=0.05)


@pytest.mark.parametrize("n", [6, 10, 20])
def test_what_is_detectable_is_a_little_more_than_for_the_t_test(n: int) -> None:
    textbook = TTestIndPower().solve_power(nobs1=n, alpha=0.05, power=0.8)
    assert textbook < power.detectable(n, n, rng()) < 1.15 * textbook


def test_what_is_detectable_is_found_with_the_power_asked_for() -> None:
    found = power.detectable(6, 6, rng())
    assert power.power(found, 6, 6, np.random.default_rng(9))[0] == pytest.approx(0.8, abs=0.01)


def test_seeds_too_few_to_reach_the_level_detect_nothing() -> None:
    assert power.detectable(3, 3, rng()) == inf
    assert power.power(100.0, 3, 3, rng())[0] == 0


def test_the_spread_is_pooled_over_rows_whatever_their_means() -> None:
    found = power.spread([[0.1, 0.3], [0.5, 0.6, 0.7], [0.9]])
    assert (found.rows, found.scores) == (2, 5)
    assert found.deviation == pytest.approx(np.sqrt((0.02 + 0.02) / 3))
    assert found.low < found.deviation < found.high


def test_the_interval_of_the_spread_covers_as_often_as_it_says() -> None:
    generator = rng()
    found = [power.spread(generator.normal(0.5, 0.04, (3, 6))) for _ in range(1000)]
    assert np.mean([each.low < 0.04 < each.high for each in found]) == pytest.approx(0.95, abs=0.025)


def test_a_task_without_results_borrows_the_spread_of_all_and_says_so() -> None:
    own, borrowed = power.prospects({"a": [[0.4, 0.5, 0.6]], "c": [[0.1, 0.2]]}, ["a", "b"], 6, rng())
    assert own.own
    assert own.spread == power.spread([[0.4, 0.5, 0.6]])
    assert not borrowed.own
    assert borrowed.spread == power.spread([[0.4, 0.5, 0.6], [0.1, 0.2]])
    assert borrowed.detectable == pytest.approx(power.detectable(6, 6, rng()) * borrowed.spread.deviation)


def test_without_any_results_there_is_no_figure() -> None:
    (found,) = power.prospects({}, ["a"], 6, rng())
    assert isnan(found.detectable)
    assert found.smallest_p == pytest.approx(2 / 924)

"""Power and spreads: what they state holds in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leaderboard.stats.agreement import kendall, summed_up, ways
from leaderboard.stats.components import components, crossed
from leaderboard.stats.power import detectable, power, seeds_to_settle, upper_spread


@pytest.mark.parametrize(("spreads", "seeds"), [((0.03, 0.03), (6, 6)), ((0.09, 0.03), (6, 6)), ((0.03, 0.09), (4, 9))])
def test_power_is_the_share_of_simulated_experiments_that_find_the_difference(
    spreads: tuple[float, float], seeds: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    difference = detectable(spreads, seeds, family=10)
    x = rng.normal(difference, spreads[0], (20_000, seeds[0]))
    y = rng.normal(0, spreads[1], (20_000, seeds[1]))
    found = (stats.ttest_ind(x, y, axis=1, equal_var=False).pvalue < 0.005).mean()
    assert power(difference, spreads, seeds, 10) == pytest.approx(0.8, abs=0.001)
    assert found == pytest.approx(0.8, abs=0.03)


@settings(deadline=None)
@given(st.floats(0.01, 0.3), st.floats(0.01, 0.2), st.floats(0.01, 0.2), st.sampled_from([1, 10, 80]))
def test_the_recommended_seeds_are_about_the_fewest_that_have_the_power(
    difference: float, one: float, two: float, family: int
) -> None:
    seeds = float(seeds_to_settle(difference, one, two, family))
    if np.isinf(seeds):
        assert power(difference, (one, two), (1000, 1000), family) < 0.81
        return
    n = int(seeds)
    assert power(difference, (one, two), (n, n), family) >= 0.78
    fewer = int(n / 1.1) - 1
    assert n <= 3 or power(difference, (one, two), (fewer, fewer), family) < 0.8


def test_a_difference_of_nothing_is_never_settled() -> None:
    assert np.isinf(seeds_to_settle(0.0, 0.03, 0.03))
    assert seeds_to_settle(0.01, 0.0, 0.0) == 2
    assert np.isnan(seeds_to_settle(0.01, np.nan, 0.03))
    assert seeds_to_settle([0.1, 0.2], 0.03, [0.03, 0.0]).shape == (2,)


def test_the_upper_limit_of_a_spread_is_above_it_four_times_in_five() -> None:
    rng = np.random.default_rng(0)
    limits = upper_spread(rng.normal(0, 1, (20_000, 6)).std(axis=1, ddof=1), 6)
    assert (limits >= 1).mean() == pytest.approx(0.8, abs=0.01)


def test_variance_components_are_those_that_the_table_was_made_with() -> None:
    rng = np.random.default_rng(0)
    found = [
        components(rng.normal(0, 0.03, (20, 1)) + rng.normal(0, 0.1, 20) + rng.normal(0, 0.02, (20, 20)))
        for _ in range(200)
    ]
    assert np.mean([each.seed**2 for each in found]) ** 0.5 == pytest.approx(0.03, rel=0.05)
    assert np.mean([each.image**2 for each in found]) ** 0.5 == pytest.approx(0.1, rel=0.05)
    assert np.mean([each.both**2 for each in found]) ** 0.5 == pytest.approx(0.02, rel=0.05)


def test_the_crossed_interval_is_about_both_spreads() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        volumes = rng.normal(0, 0.1, 4)
        one, two = (
            rng.normal(0, 0.03, (6, 1)) + volumes + rng.normal(0, 0.04, 4) + rng.normal(0, 0.01, (6, 4))
            for _ in range(2)
        )
        low, high, p = (each[0, 1] for each in crossed([one, two]))
        held += low <= 0 <= high
        assert (p >= 0.05) == (low <= 0 <= high)
    assert held / 1000 >= 0.93


def test_nothing_is_crossed_with_one_volume_or_one_seed() -> None:
    rng = np.random.default_rng(0)
    assert np.isnan(crossed([rng.random((6, 1)), rng.random((6, 1))])[2]).all()
    assert np.isnan(crossed([rng.random((1, 4)), rng.random((6, 4))])[2][0, 1])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_kendalls_tau_is_scipys(pairs: list[tuple[int, int]]) -> None:
    one, two = (np.array(each, float) for each in zip(*pairs, strict=True))
    expected = stats.kendalltau(one, two).statistic if len(set(one)) > 1 and len(set(two)) > 1 else 0.0
    assert kendall(one, two) == pytest.approx(expected)


def test_other_ways_to_sum_up_rank_the_same_where_nothing_is_odd() -> None:
    rng = np.random.default_rng(0)
    samples = [[rng.normal(0.5 + 0.1 * row, 0.01, 6) for _ in range(3)] for row in range(4)]
    mean = np.array([np.mean(row) for row in samples])
    found = ways({"mean": mean, **summed_up(samples, [1 / 3] * 3)})
    assert all(each.tau == 1 for each in found)
    assert [each.name for each in found] == ["mean", "median", "mean rank", "test, then rank"]

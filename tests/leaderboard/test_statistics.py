"""Statistics of the leaderboard against libraries, worked examples and their own definitions."""

from __future__ import annotations

from itertools import combinations, product
from math import comb, isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leaderboard.stats import bootstrap, several, tests

scores = st.lists(st.floats(0, 1).map(lambda x: round(x, 3)), min_size=1, max_size=6)
coarse = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=5)


def by_enumeration(x: list[float], y: list[float]) -> float:
    """The two-sided p from every way of dealing the pooled scores, by the definition of U."""

    def u(a: list[float], b: list[float]) -> float:
        return sum((i > j) + 0.5 * (i == j) for i in a for j in b)

    pooled, centre = x + y, len(x) * len(y) / 2
    observed = abs(u(x, y) - centre)
    places = range(len(pooled))
    hits = [
        abs(u([pooled[i] for i in chosen], [pooled[i] for i in places if i not in chosen]) - centre) >= observed - 1e-9
        for chosen in combinations(places, len(x))
    ]
    return sum(hits) / len(hits)


@given(coarse, coarse)
@settings(max_examples=60, deadline=None)
def test_mann_whitney_is_the_enumerated_p_with_and_without_ties(x: list[float], y: list[float]) -> None:
    assert tests.mann_whitney(x, y) == pytest.approx(by_enumeration(x, y), abs=1e-9)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (6, 6), (3, 6), (10, 5), (20, 20)])
def test_mann_whitney_is_scipys_exact_p_without_ties(n: int, m: int) -> None:
    generator = np.random.default_rng(n * 100 + m)
    x, y = generator.random(n), generator.random(m) + 0.2
    assert tests.mann_whitney(x, y) == pytest.approx(stats.mannwhitneyu(x, y, method="exact").pvalue, rel=1e-12)


def test_mann_whitney_of_many_scores_is_scipys_approximation_with_tie_correction() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 9, 40) / 9, generator.integers(0, 10, 35) / 9
    assert tests.mann_whitney(x, y) == stats.mannwhitneyu(x, y, method="asymptotic").pvalue
    assert tests.mann_whitney([0.0] * 50, [0.0] * 6) == 1


@given(st.lists(scores | st.just([]), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_all_pairs_at_once_are_what_each_pair_is_by_itself(samples: list[list[float]]) -> None:
    found = tests.compare_all(samples)
    for i, x in enumerate(samples):
        for j, y in enumerate(samples):
            if not x or not y:
                assert isnan(found.p[i, j])
                assert found.verdicts()[i, j] == 0
                continue
            alone = tests.compare(x, y)
            for name in ("p", "smallest_p", "shift", "low", "high", "delta"):
                assert getattr(found, name)[i, j] == pytest.approx(getattr(alone, name), abs=1e-12, nan_ok=True)
            assert tests.VERDICTS[found.verdicts()[i, j]] == alone.verdict
            assert tests.STARS[found.stars()[i, j]] == alone.stars


@given(scores, scores)
@settings(deadline=None)
def test_swapping_two_samples_mirrors_the_comparison(x: list[float], y: list[float]) -> None:
    one, two = tests.compare(x, y), tests.compare(y, x)
    assert one.p == pytest.approx(two.p)
    assert one.delta == -two.delta
    assert one.a12 == pytest.approx(1 - two.a12)
    assert one.shift == pytest.approx(-two.shift, abs=1e-12)
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low), nan_ok=True)
    assert one.verdict == two.verdict


@given(scores, scores)
@settings(deadline=None)
def test_a_monotone_change_of_scale_changes_no_rank_statistic(x: list[float], y: list[float]) -> None:
    def stretch(sample: list[float]) -> list[float]:
        return [3 * score + 1 for score in sample]

    assert tests.mann_whitney(stretch(x), stretch(y)) == pytest.approx(tests.mann_whitney(x, y))
    assert tests.cliffs_delta(stretch(x), stretch(y)) == tests.cliffs_delta(x, y)


@given(scores)
@settings(deadline=None)
def test_a_sample_is_not_different_from_itself(x: list[float]) -> None:
    found = tests.compare(x, x)
    assert (found.p, found.delta, found.shift) == (pytest.approx(1), 0, 0)
    assert found.verdict != "different"


@pytest.mark.parametrize(("n", "m", "smallest"), [(1, 1, 1.0), (3, 3, 0.1), (6, 3, 2 / 84), (6, 6, 2 / 924)])
def test_the_smallest_reachable_p_is_that_of_complete_separation(n: int, m: int, smallest: float) -> None:
    assert tests.smallest_p(n, m) == pytest.approx(smallest)
    separated = tests.compare(np.arange(n) + 100.0, np.arange(m))
    assert separated.p == pytest.approx(smallest)
    assert separated.verdict == ("different" if smallest < 0.05 else "n too small")
    assert separated.delta == 1


def test_too_few_seeds_are_said_to_be_too_few_and_never_tied() -> None:
    found = tests.compare([0.9, 0.8, 0.7], [0.1, 0.2, 0.3])
    assert found.verdict == "n too small"
    assert isnan(found.low)
    assert isnan(found.high)


def test_stars_are_the_papers() -> None:
    assert [tests.stars(p) for p in (0.0099, 0.01, 0.049, 0.05, 1.0)] == ["**", "*", "*", "", ""]


def test_hollander_and_wolfes_example_of_two_samples() -> None:
    # Permeability of chorioamnion at term and at 12 to 26 weeks, the example of R's wilcox.test.
    term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
    early = [1.15, 0.88, 0.90, 0.74, 1.21]
    found = tests.compare(term, early)
    assert found.p == pytest.approx(0.2544, abs=5e-5)
    assert found.a12 == pytest.approx(35 / 50)
    assert found.shift == pytest.approx(0.305)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (6, 6), (5, 9), (3, 6)])
def test_the_shift_interval_holds_what_the_test_does_not_reject(n: int, m: int) -> None:
    generator = np.random.default_rng(n + m)
    x, y = generator.random(n), generator.random(m)
    _, low, high = tests.hodges_lehmann(x, y)
    for shift, inside in ((low + 1e-6, True), (high - 1e-6, True), (low - 1e-6, False), (high + 1e-6, False)):
        assert bool(stats.mannwhitneyu(x - shift, y, method="exact").pvalue > 0.05) is inside


def test_shift_intervals_cover_the_true_shift_as_often_as_they_say() -> None:
    generator = np.random.default_rng(5)
    for n, m in ((6, 6), (30, 25)):
        hits = 0
        for _ in range(600):
            _, low, high = tests.hodges_lehmann(generator.normal(0.3, 1, n), generator.normal(0, 1, m))
            hits += low <= 0.3 <= high
        assert 0.925 < hits / 600 < 0.99


def test_a_model_against_itself_under_other_seeds_differs_in_about_one_of_twenty_comparisons() -> None:
    generator = np.random.default_rng(11)
    x, y = generator.normal(0.6, 0.03, (2, 1000, 6))
    different = sum(tests.mann_whitney(a, b) < 0.05 for a, b in zip(x, y, strict=True))
    # The exact test's true level at 6 against 6 is 0.0411; four standard errors around it.
    assert abs(different / 1000 - 0.0411) < 4 * np.sqrt(0.0411 * 0.96 / 1000)


def test_non_inferiority_needs_the_interval_above_minus_the_margin() -> None:
    good, same = [0.60, 0.61, 0.62, 0.63, 0.64, 0.65], [0.60, 0.61, 0.62, 0.63, 0.64, 0.65]
    assert tests.non_inferior(good, same, margin=0.1) == "non-inferior"
    assert tests.non_inferior(good, same, margin=0.001) == "not distinguished"
    assert tests.non_inferior(good[:2], same[:2], margin=0.1) == "n too small"


def test_percent_difference_is_taken_from_the_baseline_or_from_transunet_where_it_scores_zero() -> None:
    urocell, against = several.percent_difference({"unet": 0.25, "transunet": 0.5, "retina": 0.75}, "unet", "transunet")
    assert (against, urocell["retina"], urocell["unet"]) == ("unet", 200, 0)
    cremi, against = several.percent_difference({"unet": 1e-6, "transunet": 0.3, "retina": 0.33}, "unet", "transunet")
    assert against == "transunet"
    assert cremi["retina"] == pytest.approx(10)
    assert several.percent_difference({"unet": 0.0, "retina": 0.3}, "unet", "transunet") == ({}, None)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(deadline=None, max_examples=25)
def test_holm_is_statsmodels(p: list[float]) -> None:
    from statsmodels.stats.multitest import multipletests

    assert several.holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_leaves_comparisons_that_were_not_made_out_of_the_count() -> None:
    assert several.holm([0.01, np.nan, 0.04]) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)


@pytest.mark.parametrize(("tasks", "seeds"), [(1, 6), (3, 3), (1, 3), (8, 6)])
def test_bootstrap_intervals_cover_the_true_mean_as_often_as_they_say(tasks: int, seeds: int) -> None:
    generator = np.random.default_rng(tasks * 10 + seeds)
    spreads = np.linspace(0.5, 2, tasks)[:, None]
    hits = 0
    for _ in range(400):
        sample = generator.normal(0, spreads, (tasks, seeds))
        low, high = bootstrap.interval(bootstrap.bootstrap_means(list(sample), generator, 1000))
        hits += low <= 0 <= high
    assert 0.90 < hits / 400 < 0.995


@pytest.mark.parametrize(("tasks", "images"), [(1, 4), (3, 12)])
def test_bootstrap_intervals_over_images_cover_the_true_mean_as_often_as_they_say(tasks: int, images: int) -> None:
    generator = np.random.default_rng(tasks * 10 + images)
    hits = 0
    for _ in range(400):
        tables = [generator.normal(0, spread, (1, images)) for spread in np.linspace(0.5, 2, tasks)]
        low, high = bootstrap.interval(bootstrap.bootstrap_images(tables, generator, 1000)[:, 0])
        hits += low <= 0 <= high
    assert 0.90 < hits / 400 < 0.995


def test_images_are_drawn_for_all_rows_together_and_single_volumes_are_kept() -> None:
    generator = np.random.default_rng(1)
    hard, easy = generator.random((2, 1, 20))
    one, two = np.array([[0.5], [0.25]]), np.concatenate([hard, hard - 0.125])
    draws = bootstrap.bootstrap_images([one, two], generator, 300)
    assert draws[:, 0] - draws[:, 1] == pytest.approx((0.25 + 0.125) / 2)
    assert draws.std() > 0
    assert np.isnan(bootstrap.bootstrap_images([one], generator, 5)).all()
    assert bootstrap.bootstrap_images([np.concatenate([easy, easy])], generator, 5).shape == (5, 2)


def test_the_same_generator_gives_the_same_draws() -> None:
    sample = [[0.1, 0.2, 0.4], [0.5, 0.6]]
    first, second = (bootstrap.bootstrap_means(sample, np.random.default_rng(3), 50) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_single_run_has_no_interval_and_may_hold_any_rank() -> None:
    generator = np.random.default_rng(0)
    draws = np.stack(
        [bootstrap.bootstrap_means([each], generator, 200) for each in ([0.9, 0.91], [0.5], [0.1, 0.11])], axis=1
    )
    assert isnan(bootstrap.interval(draws[:, 1])[0])
    assert bootstrap.rank_intervals(draws)[1].tolist() == [1, 3]


def test_rank_intervals_and_groups_recover_clear_and_unclear_orders() -> None:
    generator = np.random.default_rng(2)
    truth = [0.9, 0.9, 0.5, 0.1]
    samples = [[generator.normal(mean, 0.02, 6)] for mean in truth]
    draws = np.stack([bootstrap.bootstrap_means(sample, generator, 2000) for sample in samples], axis=1)
    means = [float(np.mean(sample)) for sample in samples]
    assert bootstrap.rank_intervals(draws).tolist() == [[1, 2], [1, 2], [3, 3], [4, 4]]
    assert bootstrap.tie_groups(draws, means) == [1, 1, 2, 3]


@given(st.integers(1, 400), st.floats(-1, 4), st.integers(0, 2), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_two_rows_are_of_different_groups_exactly_where_the_interval_of_their_difference_is_above_0(
    count: int, distance: float, digits: int, seed: int
) -> None:
    draws = np.random.default_rng(seed).normal([distance, 0], 1, (count, 2)).round(digits)
    apart = bootstrap.interval(draws[:, 0] - draws[:, 1])[0] > 0
    assert bootstrap.tie_groups(draws, [1, 0]) == [1, 2 if apart else 1]


def test_rank_intervals_hold_the_true_rank_as_often_as_they_say() -> None:
    generator = np.random.default_rng(9)
    truth = np.array([0.62, 0.60, 0.55, 0.54, 0.40])
    hits = []
    for _ in range(150):
        draws = np.stack(
            [bootstrap.bootstrap_means(list(generator.normal(m, 0.03, (2, 6))), generator, 400) for m in truth], axis=1
        )
        ranges = bootstrap.rank_intervals(draws)
        hits.append((ranges[:, 0] <= np.arange(1, 6)) & (np.arange(1, 6) <= ranges[:, 1]))
    assert np.mean(hits) > 0.93


def test_interquartile_mean_and_probability_of_improvement_are_their_definitions() -> None:
    assert bootstrap.interquartile_mean([[0.0, 0.4], [0.6, 1.0]]) == pytest.approx(0.5)
    assert several.probability_of_improvement([[1, 2], [1, 2]], [[0, 0], [1, 2]]) == pytest.approx(0.75)


def test_friedman_and_nemenyi_agree_with_scipy_and_scikit_posthocs() -> None:
    posthocs = pytest.importorskip("scikit_posthocs")
    generator = np.random.default_rng(4)
    table = generator.random((8, 4)) + np.array([0, 0.1, 0.2, 0.6])
    found = several.friedman(table)
    assert found.p == stats.friedmanchisquare(*table.T).pvalue
    expected = posthocs.posthoc_nemenyi_friedman(table).to_numpy()
    assert several.nemenyi(found.mean_ranks, 8) == pytest.approx(expected, abs=1e-6)


def test_critical_differences_are_demsars() -> None:
    # Demsar 2006: four classifiers on fourteen data sets, and q of ten classifiers at 0.05 is 3.164.
    assert several.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert several.critical_difference(10, 30) == pytest.approx(3.164 * np.sqrt(110 / 180), abs=0.001)


@pytest.mark.parametrize("n", [3, 6, 25, 40, 60])
def test_signed_ranks_are_scipys(n: int) -> None:
    generator = np.random.default_rng(n)
    x, y = generator.random(n), generator.random(n) + 0.1
    method = "exact" if n <= tests.EXACT_AT_MOST else "asymptotic"
    assert tests.signed_rank(x, y) == pytest.approx(stats.wilcoxon(x, y, method=method).pvalue)


def test_signed_ranks_of_many_pairs_with_ties_are_scipys_approximation() -> None:
    rows = np.random.default_rng(3).integers(0, 40, (4, 90)) / 40
    found = tests.signed_rank_all(rows)
    for i, j in combinations(range(4), 2):
        expected = stats.wilcoxon(rows[i], rows[j], zero_method="wilcox", correction=False, method="asymptotic")
        assert found[i, j] == pytest.approx(expected.pvalue)


@given(st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=7))
@settings(max_examples=80, deadline=None)
def test_signed_ranks_with_ties_and_equal_pairs_are_the_enumerated_p(differences: list[float]) -> None:
    some = np.array([each for each in differences if each])
    ranks = stats.rankdata(np.abs(some))
    observed = abs(ranks[some > 0].sum() - ranks.sum() / 2)
    sums = [np.dot(signs, ranks) for signs in product((0, 1), repeat=len(some))]
    expected = np.mean([abs(each - ranks.sum() / 2) >= observed - 1e-9 for each in sums])
    assert tests.signed_rank(differences, [0.0] * len(differences)) == pytest.approx(expected)


def test_hollander_and_wolfes_example_of_pairs() -> None:
    # Depression scale at first and second visit, the example of R's wilcox.test: V = 40, p = 0.01953 one-sided.
    first = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    second = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    found = tests.compare_pairs(first, second)
    assert found.p == pytest.approx(0.03906, abs=5e-6)
    assert found.shift == pytest.approx(0.46, abs=1e-9)
    assert found.verdict == "different"


@pytest.mark.parametrize(("n", "smallest"), [(1, 1.0), (4, 0.125), (5, 0.0625), (6, 0.03125)])
def test_pairs_too_few_for_the_level_are_said_to_be_too_few(n: int, smallest: float) -> None:
    found = tests.compare_pairs(np.arange(n) + 1.5, np.arange(n))
    assert (found.p, found.smallest_p) == (pytest.approx(smallest), smallest)
    assert found.verdict == ("different" if smallest < 0.05 else "n too small")
    assert tests.signed_rank([0.5] * n, [0.5] * n) == 1


@given(st.integers(1, 9).flatmap(lambda n: st.lists(st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=2)))
@settings(max_examples=30, deadline=None)
def test_all_signed_ranks_at_once_are_what_each_pair_is_by_itself(scores: list[list[float]]) -> None:
    found = tests.signed_rank_all(np.array(scores))
    for i, x in enumerate(scores):
        for j, y in enumerate(scores):
            assert found[i, j] == pytest.approx(tests.signed_rank(x, y))
            assert found[i, j] == found[j, i]


def test_a_row_without_scores_on_the_images_has_no_signed_ranks() -> None:
    found = tests.signed_rank_all(np.array([[0.1, 0.2], [np.nan, np.nan], [0.3, 0.1]]))
    assert np.isnan(found).tolist() == [[False, True, False], [True] * 3, [False, True, False]]


def test_friedmans_p_is_that_of_hollander_and_wolfes_example() -> None:
    # Times of 22 players rounding first base in three ways, the example of R's friedman.test: p = 0.003805.
    times = """5.40 5.50 5.55 5.85 5.70 5.75 5.20 5.60 5.50 5.55 5.50 5.40 5.90 5.85 5.70 5.45 5.55 5.60 5.40 5.40 5.35
        5.45 5.50 5.35 5.25 5.15 5.00 5.85 5.80 5.70 5.25 5.20 5.10 5.65 5.55 5.45 5.60 5.35 5.45 5.05 5.00 4.95
        5.50 5.50 5.40 5.45 5.55 5.50 5.55 5.55 5.35 5.45 5.50 5.55 5.50 5.45 5.25 5.65 5.60 5.40 5.70 5.65 5.55
        6.30 6.30 6.25"""
    found = several.friedman(-np.array(times.split(), float).reshape(22, 3))
    assert found.p == pytest.approx(0.003805, abs=5e-7)
    assert found.mean_ranks == pytest.approx([53 / 22, 47 / 22, 32 / 22])


def test_holms_correction_is_that_of_a_worked_example() -> None:
    # Four hypotheses as worked in the literature on step-down tests: 0.01, 0.04, 0.03, 0.005.
    assert several.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
@settings(deadline=None)
def test_holm_never_lowers_a_p_and_keeps_their_order(p: list[float]) -> None:
    adjusted = several.holm(p)
    assert (adjusted >= np.array(p) - 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= -1e-12).all()


@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=4))
@settings(deadline=None)
def test_the_probability_of_improvement_and_its_interval_mirror_when_swapped(pairs: list[tuple[list, list]]) -> None:
    pairs = [(x * 2, y * 2) for x, y in pairs]  # two seeds at least
    one = [[s[k] for s in pairs] for k in (0, 1)]
    a12 = [(tests.cliffs_delta(x, y) + 1) / 2 for x, y in pairs]
    sizes = [[len(x) for x, _ in pairs], [len(y) for _, y in pairs]]
    centre, low, high = several.improvement_interval(a12, *sizes)
    assert centre == pytest.approx(several.probability_of_improvement(*one))
    assert 0 <= low <= centre <= high <= 1
    assert low < high
    mirrored = several.improvement_interval([1 - each for each in a12], *sizes[::-1])
    assert mirrored == (pytest.approx(1 - centre), pytest.approx(1 - high), pytest.approx(1 - low))


@pytest.mark.parametrize(("tasks", "seeds"), [(1, 6), (8, 3), (8, 6)])
@pytest.mark.parametrize("effect", [0.0, 1.0, 3.0])
def test_intervals_of_the_probability_of_improvement_cover_it(tasks: int, seeds: int, effect: float) -> None:
    generator = np.random.default_rng(tasks + seeds)
    x = generator.normal(effect, 1, (tasks, 600, seeds))
    y = generator.normal(0, 1, (tasks, 600, seeds))
    a12 = (np.sign(x[..., :, None] - y[..., None, :]).mean(axis=(-1, -2)) + 1) / 2
    _, low, high = several.improvement_interval(a12, seeds, seeds)
    truth = stats.norm.cdf(effect / np.sqrt(2))
    assert np.mean((low <= truth) & (truth <= high)) > 0.93


@pytest.mark.parametrize("sample", [[np.nan, 0.1], [[0.1], [0.2]], [np.inf]])
def test_what_is_not_a_sample_is_refused(sample: object) -> None:
    with pytest.raises(ValueError, match="finite scores"):
        tests.compare(sample, [0.1, 0.2])  # type: ignore[arg-type]


def test_the_widest_exact_table_still_sums_to_one() -> None:
    n = tests.EXACT_AT_MOST // 2
    sums = tests._rank_sums(tuple(range(1, 2 * n + 1)), n)
    assert sums.sum() == pytest.approx(1)
    assert sums[n * (n + 1) // 2] == pytest.approx(1 / comb(2 * n, n))

"""Ranking and comparing any table of runs."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from scipy import stats as scipy_stats

from embench.core.errors import BadInput
from leaderboard import compare, rank, ranking, trials
from leaderboard.stats.means import mean_of, welch
from leaderboard.stats.ranking import COLUMNS, Ranking
from leaderboard.stats.runs import benchmark_of, runs_of
from leaderboard.stats.several import holm

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def runs(scores: dict[str, dict[str, list[float]]], **more: Any) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"model": model, "task": task, "seed": seed, "score": score, **more}
            for model, by_task in scores.items()
            for task, values in by_task.items()
            for seed, score in enumerate(values)
        ],
        columns=["model", "task", "seed", "score", *more],
    )


def real() -> pd.DataFrame:
    found = ranking.frame(trials.read([RESULTS])[0])
    found["model"] = found.pop("row").str.partition("@")[0]
    return found


@st.composite
def tables(draw: DrawFn) -> pd.DataFrame:
    """Any table of runs: rows may lack seeds or tasks, fail, be constant, or tie."""
    score = st.one_of(st.just(float("nan")), st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
    keys = draw(
        st.lists(
            st.tuples(
                st.sampled_from("ABCDE"), st.sampled_from(["t", "u", "perez-mito", "perez-lyso"]), st.integers(0, 5)
            ),
            max_size=40,
            unique=True,
        )
    )
    found = pd.DataFrame(keys, columns=["model", "task", "seed"])
    found["score"] = draw(st.lists(score, min_size=len(keys), max_size=len(keys)))
    if draw(st.booleans()):
        found["checkpoint"] = draw(
            st.lists(st.sampled_from(["c", "d", "e", None]), min_size=len(keys), max_size=len(keys))
        )
    return found


@settings(deadline=None, max_examples=150)
@given(tables())
def test_every_table_has_a_whole_ranking_without_a_warning(frame: pd.DataFrame) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rank(frame)
    assert list(found.columns) == list(COLUMNS)
    assert sorted(found["model"]) == sorted(set(frame["model"]))
    assert not found.isna().any().any()
    assert (found["mean"].diff().dropna() <= 0).all()
    assert ((found["rank_low"] <= found["rank"]) & (found["rank"] <= found["rank_high"])).all()
    assert found["rank"].between(1, max(1, len(found))).all()
    assert (
        found["failed"]
        >= frame.groupby("model")["score"].apply(lambda each: each.isna().sum()).reindex(found["model"]).to_numpy()
    ).all()


@settings(deadline=None, max_examples=60)
@given(tables())
def test_two_models_share_no_letter_exactly_when_their_ranks_exclude_a_tie(frame: pd.DataFrame) -> None:
    ranking = Ranking.of(runs_of(frame))
    for i, j in combinations(range(len(ranking.models)), 2):
        assert (not set(ranking.letters[i]) & set(ranking.letters[j])) == ranking.different[i, j]
        if ranking.different[i, j]:
            assert ranking.ranks[i, 1] < ranking.ranks[j, 1]


@settings(deadline=None, max_examples=60)
@given(tables(), st.integers(0, 2**31))
def test_the_order_of_the_lines_changes_nothing(frame: pd.DataFrame, seed: int) -> None:
    pd.testing.assert_frame_equal(rank(frame), rank(frame.sample(frac=1, random_state=seed)))


@settings(deadline=None, max_examples=60)
@given(tables())
def test_every_pair_is_compared_without_a_warning(frame: pd.DataFrame) -> None:
    models = sorted(set(frame["model"]))
    if len(models) < 2:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, other = compare(frame, *models[:2]), compare(frame, models[1], models[0])
    assert "nan" not in found.sentence
    assert json.loads(json.dumps(found.facts(), allow_nan=False))["a"] == models[0]
    assert found.difference == -other.difference
    assert found.verdict == {"better": "worse", "worse": "better"}.get(other.verdict, other.verdict)
    assert found.p == other.p or (np.isnan(found.p) and np.isnan(other.p))


@settings(deadline=None, max_examples=100)
@given(tables())
def test_p_and_interval_never_contradict(frame: pd.DataFrame) -> None:
    ranking = Ranking.of(runs_of(frame))
    low, high = ranking.differences.interval()
    known = ~np.isnan(low) & ~np.eye(len(low), dtype=bool)
    excluded = (low > 0) | (high < 0)
    near = np.isclose(low, 0, atol=1e-12) | np.isclose(high, 0, atol=1e-12)
    assert ((ranking.differences.p < 0.05) == excluded)[known & ~near].all()


@settings(deadline=None, max_examples=100)
@given(tables(), st.floats(0, 1))
def test_a_failed_run_never_ranks_better_than_a_finished_one(frame: pd.DataFrame, score: float) -> None:
    failed = frame.index[frame["score"].isna()]
    if not len(failed):
        return
    model = frame["model"][failed[0]]
    repaired = frame.copy()
    repaired.loc[failed[0], "score"] = score
    before, after = (rank(each).set_index("model").loc[model] for each in (frame, repaired))
    assert before["mean"] <= after["mean"] + 1e-12
    assert before["failed"] == after["failed"] + 1


def test_the_letters_of_the_real_results_are_those_of_welch_and_holm() -> None:
    found = rank(real()).set_index("model")
    assert found["letters"].to_dict() == {
        "unet-resnet50-mocov2": "a",
        "unet-resnet50": "ab",
        "retina": "a",
        "transunet": "b",
        "unet-resnet50+retina": "b",
    }


def test_p_of_one_task_is_scipys_welch_adjusted_by_holm() -> None:
    frame = real()
    ranking = Ranking.of(runs_of(frame))
    samples = {model: group["score"].to_numpy() for model, group in frame.groupby("model")}
    pairs = list(combinations(ranking.models, 2))
    raw = [scipy_stats.ttest_ind(samples[a], samples[b], equal_var=False).pvalue for a, b in pairs]
    found = [ranking.p[ranking.models.index(a), ranking.models.index(b)] for a, b in pairs]
    np.testing.assert_allclose(found, holm(raw), rtol=1e-10)


def test_over_tasks_the_error_is_that_of_the_weighted_mean() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.5, 0.1, (2, 3, 6))
    pair = welch([mean_of(list(x), [1 / 3] * 3), mean_of(list(y), [1 / 3] * 3)])
    variances = np.concatenate([x.var(axis=1, ddof=1), y.var(axis=1, ddof=1)]) / 6 / 9
    freedom = variances.sum() ** 2 / (variances**2 / 5).sum()
    t = (x.mean() - y.mean()) / np.sqrt(variances.sum())
    assert pair.freedom[0, 1] == pytest.approx(freedom)
    assert pair.p[0, 1] == pytest.approx(2 * scipy_stats.t.sf(abs(t), freedom))


def test_four_tasks_of_perez_are_one_benchmark() -> None:
    tasks = {f"perez-{name}": [0.4] * 3 for name in ("lyso", "mito", "nuclei", "nucleoli")}
    found = rank(runs({"a": {**tasks, "cremi": [1.0] * 3}}))
    assert found["mean"].item() == pytest.approx(0.7)
    assert benchmark_of("mini-perez-mito") == "mini-perez"
    assert benchmark_of("urocell") == "urocell"


def test_a_benchmark_column_says_which_tasks_weigh_together() -> None:
    frame = runs({"a": {"x": [0.2] * 3, "y": [0.4] * 3, "z": [0.9] * 3}})
    frame["benchmark"] = frame["task"].map({"x": "one", "y": "one", "z": "two"})
    assert rank(frame)["mean"].item() == pytest.approx(0.6)


def test_a_missing_run_is_a_failed_run() -> None:
    frame = runs({"a": {"x": [0.5, 0.6, 0.7], "y": [0.5, 0.6]}, "b": {"x": [0.1, 0.2, 0.3], "y": [0.1, 0.2, 0.3]}})
    found = rank(frame).set_index("model")
    assert found.loc["a", "failed"] == 1
    assert found.loc["a", "mean"] == pytest.approx((0.6 + 1.1 / 3) / 2)


def test_failed_runs_stand_below_negative_scores_too() -> None:
    found = rank(runs({"a": {"t": [float("nan")] * 3}, "b": {"t": [-0.5, -0.4, -0.3]}}))
    assert found["model"].tolist() == ["b", "a"]


def test_checkpoints_are_the_replicates_of_their_row() -> None:
    frame = runs({"a": {"t": [0.50, 0.60, 0.51, 0.61, 0.49, 0.59]}, "b": {"t": [0.3, 0.4, 0.3, 0.4, 0.3, 0.4]}})
    frame["checkpoint"] = frame["seed"] % 2
    of_runs, of_checkpoints = (Ranking.of(runs_of(each)) for each in (frame.drop(columns="checkpoint"), frame))
    assert of_runs.p[0, 1] < 0.05 < of_checkpoints.p[0, 1]
    means = frame.groupby(["model", "checkpoint"])["score"].mean().unstack()
    expected = scipy_stats.ttest_ind(*means.to_numpy(), equal_var=False).pvalue
    assert of_checkpoints.p[0, 1] == pytest.approx(expected)


def test_images_are_averaged_within_a_run() -> None:
    frame = runs({"a": {"t": [0.2, 0.4, 0.6]}, "b": {"t": [0.3, 0.5, 0.9]}})
    by_image = pd.concat(
        [frame.assign(image="i", score=frame["score"] - 0.1), frame.assign(image="j", score=frame["score"] + 0.1)]
    )
    pd.testing.assert_frame_equal(rank(by_image), rank(frame))
    found = compare(by_image, "a", "b").tasks.iloc[0]
    assert found["images"] == 2
    by_image.loc[(by_image["image"] == "i") & (by_image["seed"] == 0), "score"] = np.nan
    assert rank(by_image)["failed"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: frame.drop(columns="seed"), "no column seed"),
        (lambda frame: frame.assign(score="high"), "score 'high'"),
        (lambda frame: frame.assign(score=np.inf), "infinite"),
        (lambda frame: frame.assign(model=None), "column model"),
        (lambda frame: pd.concat([frame, frame]), "twice"),
        (lambda frame: frame.assign(benchmark=range(len(frame))), "two benchmarks"),
    ],
)
def test_a_table_that_cannot_be_ranked_is_refused_in_a_line(change: Any, said: str) -> None:
    frame = runs({"a": {"t": [0.1, 0.2]}, "b": {"t": [0.3, 0.4]}})
    with pytest.raises(BadInput, match=said) as caught:
        rank(change(frame))
    assert len(caught.value.lines) == 1


def test_ranking_a_table_needs_no_torch() -> None:
    asked = "import sys; from leaderboard import rank, compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


def test_an_unknown_model_is_named_with_the_near_ones() -> None:
    with pytest.raises(BadInput, match="retina"):
        compare(real(), "retna", "transunet")
    with pytest.raises(BadInput, match="itself"):
        compare(real(), "retina", "retina")


def test_not_distinguished_is_not_called_equal() -> None:
    found = compare(real(), "unet-resnet50-mocov2", "unet-resnet50")
    assert found.verdict == "not distinguished"
    assert "does not say that they are equal" in found.sentence
    assert found.p_same < 0.5
    assert found.p_better + found.p_same + found.p_worse == pytest.approx(1)
    assert found.family == "10 pairs of 5 models"


def test_a_single_test_has_a_p_and_no_adjusted_one() -> None:
    found = compare(runs({"a": {"t": [0.1, 0.2, 0.3]}, "b": {"t": [0.3, 0.4, 0.5]}}), "a", "b")
    assert np.isnan(found.p_holm)
    assert "adjusted" not in found.sentence


def test_rows_that_never_vary_are_told_apart_as_far_as_the_exact_test_allows() -> None:
    three = rank(runs({"a": {"t": [0.5] * 3}, "b": {"t": [0.6] * 3}}))
    assert three["letters"].tolist() == ["a", "a"]
    six = rank(runs({"a": {"t": [0.5] * 6}, "b": {"t": [0.6] * 6}}))
    assert six["letters"].tolist() == ["a", "b"]
    assert "too few runs" in compare(runs({"a": {"t": [0.5] * 3}, "b": {"t": [0.6] * 3}}), "a", "b").sentence


def test_hundreds_of_models_are_ranked_in_a_second() -> None:
    rng = np.random.default_rng(0)
    frame = runs({f"m{k}": {f"t{t}": rng.normal(0.5, 0.03, 6).tolist() for t in range(8)} for k in range(200)})
    found = rank(frame)
    assert (found["letters"] == "").all()
    assert (found["rank_high"] >= found["rank"]).all()

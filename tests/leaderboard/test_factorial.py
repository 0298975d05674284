"""Effects of a factorial, against a linear model, Welch's test and simulated truth."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols

from embench.core.errors import BadInput
from leaderboard.stats import factorial

LEVELS = {"architecture": ("cnn", "hybrid"), "recipe": ("unet", "retina"), "start": ("random", "pre-trained")}


def made(rng: np.random.Generator, means: np.ndarray, seeds: int = 6, noise: float = 0.02, task: str = "a"):
    rows = []
    for place in np.ndindex(2, 2, 2):
        cell = {factor: LEVELS[factor][k] for factor, k in zip(LEVELS, place, strict=True)}
        scores = means[place] + noise * rng.standard_normal(seeds)
        rows += [{"task": task, **cell, "seed": seed, "score": score} for seed, score in enumerate(scores)]
    return pd.DataFrame(rows)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_estimates_and_errors_are_those_of_a_linear_model_with_unequal_variances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    trials = made(rng, rng.uniform(0.2, 0.8, (2, 2, 2)))
    coded = trials.assign(**{factor: trials[factor].map({a: -0.5, b: 0.5}) for factor, (a, b) in LEVELS.items()})
    model = ols("score ~ architecture * recipe * start", coded).fit(cov_type="HC2")
    for row in factorial.effects(trials).itertuples():
        names = row.effect.split(" x ")
        # a coefficient of a product of halves is 2^(k - 1) times the half-differences reported here
        scale = 2 ** (len(names) - 1)
        assert row.estimate == pytest.approx(model.params[":".join(names)] / scale)
        error = (row.high - row.low) / 2 / stats.t.ppf(0.975, row.freedom)
        assert error == pytest.approx(model.bse[":".join(names)] / scale)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    means = rng.uniform(0.3, 0.7, (2, 2, 2))
    true = {}
    for names in factorial._effects():
        true[factorial._name(names)] = float((factorial._contrast(names) * means).sum())
    covered = []
    for _ in range(40):
        found = pd.concat([made(rng, means, task=task) for task in ("a", "b")])
        for row in factorial.effects(found).itertuples():
            covered.append(row.low <= true[row.effect] <= row.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.04)


def test_over_tasks_an_effect_is_the_mean_of_the_tasks_effects() -> None:
    rng = np.random.default_rng(5)
    trials = pd.concat([made(rng, rng.uniform(0.3, 0.7, (2, 2, 2)), task=task) for task in ("a", "b", "c")])
    found = factorial.effects(trials)
    for effect in dict.fromkeys(found["effect"]):
        own = found[(found["effect"] == effect) & (found["task"] != factorial.OVER_TASKS)]
        over = found[(found["effect"] == effect) & (found["task"] == factorial.OVER_TASKS)].iloc[0]
        assert over.estimate == pytest.approx(own["estimate"].mean())
        assert over.high - over.low < (own["high"] - own["low"]).mean()


def test_a_pure_interaction_is_no_main_effect() -> None:
    means = np.zeros((2, 2, 2)) + 0.5
    for a, b in product(range(2), range(2)):
        means[a, b] += 0.1 * (1 if a == b else -1)
    found = factorial.effects(made(np.random.default_rng(6), means, noise=1e-6)).set_index("effect")["estimate"]
    assert found["architecture x recipe"] == pytest.approx(0.2, abs=1e-4)
    assert found.drop("architecture x recipe").abs().max() < 1e-4


def test_a_missing_cell_and_a_third_level_are_named() -> None:
    trials = made(np.random.default_rng(7), np.full((2, 2, 2), 0.5))
    lacking = trials[~((trials["architecture"] == "cnn") & (trials["recipe"] == "retina"))]
    with pytest.raises(BadInput) as caught:
        factorial.effects(lacking)
    assert [line.split(":")[0] for line in caught.value.lines] == [
        "a, cnn, retina, random",
        "a, cnn, retina, pre-trained",
    ]
    with pytest.raises(BadInput, match="two levels"):
        factorial.effects(pd.concat([trials, trials.assign(recipe="third")]))


def test_diverged_trials_count_as_none() -> None:
    trials = made(np.random.default_rng(8), np.full((2, 2, 2), 0.5), seeds=3)
    trials.loc[0, "score"] = np.nan
    assert factorial.cells(trials)["n"].tolist() == [2, *[3] * 7]
    assert np.isfinite(factorial.effects(trials)["estimate"]).all()


def test_the_table_for_reading_has_every_effect_and_cell() -> None:
    trials = made(np.random.default_rng(9), np.full((2, 2, 2), 0.5))
    text = factorial.markdown(factorial.effects(trials), factorial.cells(trials))
    assert text.count("architecture x recipe x start") == 1
    assert text.count("| cnn |") + text.count("| hybrid |") == 8

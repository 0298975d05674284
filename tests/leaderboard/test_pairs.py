"""The lines of the pairwise pages, against the tests they are made of."""

from __future__ import annotations

from pathlib import Path

import made_results as made
import numpy as np
import pytest
from scipy import stats

from leaderboard import ranking
from leaderboard.site.content import Content
from leaderboard.stats import pairwise, several, tests
from leaderboard.trials import trial_of

MITO, SYNAPSE, TOY = made.task("made-mito"), made.task("made-synapse"), made.task("made-toy", synthetic=True)
MODELS = {"a": 0.7, "b": 0.55, "c": 0.5}


@pytest.fixture(scope="module")
def content() -> Content:
    results = made.suite(MODELS, [MITO, SYNAPSE, TOY]) + made.suite({"alone": 0.6}, [MITO], seeds=1)
    trials = [trial_of(each, Path(f"{k}/seed-{each.seed}.json")) for k, each in enumerate(results)]
    return Content(trials, [])


def test_every_line_is_what_its_own_tests_say(content: Content) -> None:
    frame = content.pairings.against("a")
    assert len(frame) == 2 * 3 + 1
    for line in frame.to_dict("records"):
        column = next(each for each in content.columns if each.label == line["task"])
        cells = content.by_column[column.key]
        samples = [cells[row].scores for row in ("a", line["other"])]
        found = tests.compare(*samples)
        described = {"n": "n", "m": "m", "p_mann_whitney": "p", "shift": "shift", "delta": "delta", "a12": "a12"}
        for name, of in described.items():
            assert line[name] == pytest.approx(getattr(found, of), nan_ok=True), name
        assert line["stars"] == found.stars
        single = min(map(len, samples)) < 2
        expected = None if single else stats.ttest_ind(*samples, equal_var=False)
        assert line["difference"] == pytest.approx(samples[0].mean() - samples[1].mean())
        if expected is None:
            assert np.isnan([line["p"], line["low"], line["better"]]).all()
            assert line["verdict"] == "n too small"
        else:
            interval = expected.confidence_interval()
            assert (line["p"], line["low"], line["high"]) == pytest.approx((expected.pvalue, *interval))
            assert line["better"] + line["same"] + line["worse"] == pytest.approx(1)
            assert (line["verdict"] == "different") == (line["p_holm"] < 0.05)
        assert np.isnan(line["p_images"])  # sections of one stack


def test_images_that_are_no_neighbours_are_tested_and_crossed_with_seeds() -> None:
    results = made.suite({"a": 0.7, "b": 0.5}, [MITO])
    for k, each in enumerate(results):
        final = each.snapshots[-1]
        images = tuple(image.model_copy(update={"name": f"brain{n}"}) for n, image in enumerate(final.images))
        results[k] = each.model_copy(update={"snapshots": (final.model_copy(update={"images": images}),)})
    content = Content([trial_of(each, Path(f"{k}/seed-{each.seed}.json")) for k, each in enumerate(results)], [])
    (line,) = content.pairings.against("a").to_dict("records")
    cells = content.by_column[content.columns[0].key]
    images = ranking.image_table([cells["a"], cells["b"]])
    assert line["p_images"] == pytest.approx(tests.compare_pairs(*images).p)
    assert line["crossed_low"] < line["difference"] < line["crossed_high"]


def test_p_is_adjusted_over_all_pairs_and_tasks_real_and_synthetic_apart(content: Content) -> None:
    every = {
        (row, line["other"], line["task"]): (line["p"], line["p_holm"], line["synthetic"])
        for row in content.rows
        for line in content.pairings.against(row).to_dict("records")
    }
    for kind in (False, True):
        once = [key for key, found in every.items() if key[0] < key[1] and found[2] is kind]
        adjusted = several.holm([every[key][0] for key in once])
        assert content.pairings.families[kind] == int((~np.isnan(adjusted)).sum())
        assert [every[key][1] for key in once] == pytest.approx(adjusted, nan_ok=True)
        for row, other, task in once:
            assert every[other, row, task] == pytest.approx(every[row, other, task], nan_ok=True)


def test_the_probability_of_improvement_is_over_the_tasks_that_both_rows_have(content: Content) -> None:
    lines = content.pairings.against("a").query("other == 'b' and not synthetic")
    assert lines["improvement"].nunique() == 1
    assert lines["improvement"].iloc[0] == pytest.approx(lines["a12"].mean())
    _, low, high = several.improvement_interval(lines["a12"].to_numpy(), 6, 6)
    assert lines[["improvement_low", "improvement_high"]].iloc[0].tolist() == pytest.approx([float(low), float(high)])
    assert np.isnan(content.pairings.against("a").query("other == 'alone'")["improvement_low"]).all()


def test_a_pair_is_summed_up_in_words(content: Content) -> None:
    frame = content.pairings.against("a")
    of = {other: pairwise.said("a", other, lines.to_dict("records")) for other, lines in frame.groupby("other")}
    assert of.keys() == {"b", "c", "alone"}
    assert of["b"].startswith("a is better than b on 3 of 3 tasks, worse on 0, not distinguished on 0.")
    assert "on real data, 1.00 [" in of["b"]
    assert "with too few seeds on 1" in of["alone"]
    assert "may not be compared" in pairwise.said("a", "apart", [])

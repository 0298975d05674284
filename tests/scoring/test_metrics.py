"""Scores equal the published ones, and behave as counts and probabilities must."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score  # type: ignore[import-untyped]

from embench.scoring.counts import Counts, ScoreHistogram, count, matched_counts
from embench.training.inference import PlaneSum

GOLDEN = Path(__file__).parents[1] / "files" / "golden"
EXPECTED = json.loads((GOLDEN / "metrics.json").read_text())

counts = st.builds(Counts, *[st.integers(0, 10**12)] * 3)
label_pairs = array_shapes(min_dims=1, max_dims=3, max_side=9).flatmap(
    lambda shape: st.tuples(*[arrays(np.uint8, shape, elements=st.integers(0, 3))] * 2)
)
masks = array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(lambda shape: st.tuples(*[arrays(bool, shape)] * 2))
probabilities = st.one_of(
    st.floats(0, 1, width=32),
    st.floats(0, 2**-10, width=32),
    st.floats(1 - 2**-10, 1, width=32),
    st.sampled_from([np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1)), np.float32(-0.0)]),
)
scored = st.lists(st.tuples(probabilities, st.booleans()), min_size=1, max_size=60).map(
    lambda pairs: (np.array([p for p, _ in pairs], np.float32), np.array([t for _, t in pairs]))
)


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN / "metrics.npz", allow_pickle=False) as file:
        return dict(file)


def histogram(scores: NDArray[Any], truth: NDArray[np.bool_]) -> ScoreHistogram:
    result = ScoreHistogram()
    result.add(scores, truth)
    return result


# ---- the published figures


@pytest.mark.parametrize("case", range(12))
def test_2d_iou_equals_the_published_plain_and_instance_matched(golden: dict[str, Any], case: int) -> None:
    prediction, truth = golden["pred2d"][case], golden["gt2d"][case]
    found = {
        "iou": count(prediction, truth, [1])[1].iou_2d(),
        "iou_instance_matched": matched_counts(prediction == 1, truth == 1).iou_2d(),
    }
    assert found == pytest.approx(EXPECTED["2d"][case], abs=1e-9, rel=1e-9)


@pytest.mark.parametrize("name", EXPECTED["3d"])
def test_3d_iou_equals_the_published_for_stack_and_orthoplane(golden: dict[str, Any], name: str) -> None:
    kind = "binary_" if name.startswith("binary") else ""
    scores, truth = golden[f"{kind}scores3d"], golden[f"{kind}gt3d"]
    planes = PlaneSum(truth.shape, scores.shape[1], (0, 1, 2) if "orthoplane" in name else (0,))
    for axis in planes.axes:
        for index, section in enumerate(np.moveaxis(scores[axis], axis + 1, 0)):
            planes.add(axis, index, section)
    expected = {int(label): iou for label, iou in EXPECTED["3d"][name].items()}
    ignore = 0 if name.endswith("masked") else None
    found = {label: c.iou() for label, c in count(planes.labels(), truth, expected, ignore).items()}
    assert found == pytest.approx(expected, abs=1e-9, rel=1e-9)


# ---- counts


@given(label_pairs)
def test_counts_equal_set_operations_on_every_class(pair: tuple[NDArray[Any], NDArray[Any]]) -> None:
    prediction, truth = pair
    for label, found in count(prediction, truth, range(4)).items():
        p, t = prediction == label, truth == label
        assert found == Counts(int((p & t).sum()), int((p & ~t).sum()), int((t & ~p).sum()))


@given(label_pairs)
def test_swapping_prediction_and_truth_swaps_false_positives_and_negatives(
    pair: tuple[NDArray[Any], NDArray[Any]],
) -> None:
    for label, a in count(*pair, range(4)).items():
        b = count(*pair[::-1], range(4))[label]
        assert (a.tp, a.fp, a.fn) == (b.tp, b.fn, b.fp)
        assert a.iou() == b.iou()


@given(label_pairs, st.integers(0, 2**32 - 1))
def test_counts_do_not_depend_on_the_order_of_pixels(pair: tuple[NDArray[Any], NDArray[Any]], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(pair[0].size)
    prediction, truth = (labels.reshape(-1)[order] for labels in pair)
    assert count(prediction, truth, range(4)) == count(*pair, range(4))


@given(label_pairs)
def test_counts_of_the_parts_add_up_to_those_of_the_whole(pair: tuple[NDArray[Any], NDArray[Any]]) -> None:
    whole = count(*pair, [1])[1]
    assert sum((count(p, t, [1])[1] for p, t in zip(*pair, strict=True)), Counts()) == whole


def test_counting_is_exact_across_blocks_and_on_strided_arrays() -> None:
    rng = np.random.default_rng(0)
    prediction, truth = rng.integers(0, 3, (2, 3, 401, 401), dtype=np.uint8)
    for p, t in [(prediction, truth), (prediction.T, truth.T), (prediction[:, ::2], truth[:, ::2])]:
        both = int(((p == 2) & (t == 2)).sum())
        assert count(p, t, [2])[2] == Counts(both, int((p == 2).sum()) - both, int((t == 2).sum()) - both)


def test_ignored_predictions_count_as_background() -> None:
    prediction, truth = np.array([2, 2, 1, 0], np.uint8), np.array([2, 0, 2, 0], np.uint8)
    assert count(prediction, truth, [0, 1, 2], ignore=0) == {0: Counts(2), 1: Counts(0, 1), 2: Counts(1, 0, 1)}
    assert count(prediction, truth, [0, 1, 2], ignore=truth == 0) == count(prediction, truth, [0, 1, 2], ignore=0)
    assert count(prediction, truth, [2])[2] == Counts(1, 1, 1)


def test_counting_refuses_arrays_of_different_shape() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        count(np.zeros((2, 3)), np.zeros((3, 2)), [1])
    with pytest.raises(ValueError, match="ignore"):
        count(np.zeros(3), np.zeros(3), [1], ignore=np.zeros(2, bool))


@given(counts, counts)
def test_counts_add_and_their_ratios_stay_within_bounds(a: Counts, b: Counts) -> None:
    assert a + b == b + a
    assert a + Counts() == a
    for c in (a, b, a + b):
        assert 0 <= c.iou() <= c.dice() <= 1
        assert c.iou() == pytest.approx(c.dice() / (2 - c.dice()))
        assert 0 < c.iou_2d() <= 1


def test_a_class_absent_from_both_is_agreement_and_flagged() -> None:
    assert Counts().undefined
    assert Counts().iou() == Counts().iou_2d() == Counts().dice() == 1
    assert not Counts(fp=1).undefined
    assert Counts(fp=1).iou() == 0


# ---- instance matching


def published_matching(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Counts:
    """The per-object loop of the protocol."""
    instances, _ = ndimage.label(prediction, np.ones((3, 3)))
    objects, n_objects = ndimage.label(truth, np.ones((3, 3)))
    kept = np.zeros_like(prediction)
    for label in range(1, n_objects + 1):
        for instance in set(instances[objects == label]) - {0}:
            kept |= instances == instance
    return count(kept, truth, [True])[True]


@given(masks)
def test_matching_equals_the_per_object_loop(pair: tuple[NDArray[np.bool_], NDArray[np.bool_]]) -> None:
    assert matched_counts(*pair) == published_matching(*pair)


def test_matching_keeps_diagonal_neighbours_and_drops_what_touches_nothing() -> None:
    prediction = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]], bool)
    truth = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]], bool)
    assert matched_counts(prediction, truth) == Counts(tp=1, fp=1, fn=1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1)])
def test_matching_works_on_full_and_empty_images_of_any_size(shape: tuple[int, int]) -> None:
    full, empty, size = np.ones(shape, bool), np.zeros(shape, bool), math.prod(shape)
    assert matched_counts(full, full) == Counts(tp=size)
    assert matched_counts(empty, full) == Counts(fn=size)
    assert matched_counts(full, empty) == matched_counts(empty, empty) == Counts()


def test_matching_refuses_what_are_no_two_images_of_one_shape() -> None:
    for pair in ((np.ones((2, 3), bool), np.ones((3, 2), bool)), (np.ones(3, bool), np.ones(3, bool))):
        with pytest.raises(ValueError, match="two images of one shape"):
            matched_counts(*pair)


# ---- threshold-free diagnostics


@given(scored)
def test_counts_at_one_half_are_those_of_the_protocol(data: tuple[NDArray[Any], NDArray[np.bool_]]) -> None:
    scores, truth = data
    assert histogram(scores, truth).counts_at(0.5) == count(scores > 0.5, truth, [True])[True]


@given(scored, st.integers(0, 10**6))
def test_counts_are_exact_at_every_edge(data: tuple[NDArray[Any], NDArray[np.bool_]], pick: int) -> None:
    scores, truth = data
    edge = ScoreHistogram._edge(pick % ScoreHistogram._BINS)
    assert np.float32(edge) == edge
    assert histogram(scores, truth).counts_at(edge) == count(scores > edge, truth, [True])[True]


def test_edges_rise_from_near_0_to_1_include_one_half_and_close_their_bin_on_the_right() -> None:
    edges = np.array([ScoreHistogram._edge(index) for index in range(ScoreHistogram._BINS)], np.float32)
    assert (np.diff(edges) > 0).all()
    assert (edges[0], edges[-1]) == (2**-32, 1)
    assert 0.5 in edges
    assert np.array_equal(ScoreHistogram._bin(edges), np.arange(len(edges)))
    just_above = np.nextafter(edges[:-1], np.float32(1))
    assert np.array_equal(ScoreHistogram._bin(just_above), np.arange(1, len(edges)))


@given(scored)
def test_no_edge_beats_the_best_threshold(data: tuple[NDArray[Any], NDArray[np.bool_]]) -> None:
    scores, truth = data
    best = histogram(scores, truth)
    threshold, iou = best.best_threshold()
    assert iou == best.iou_at(threshold) == count(scores > threshold, truth, [True])[True].iou()
    assert all(best.iou_at(float(other)) <= iou for other in [*scores, 0.0, 0.5, 1.0])


@given(scored, scored)
def test_merged_histograms_equal_one_of_all_pixels(
    a: tuple[NDArray[Any], NDArray[np.bool_]], b: tuple[NDArray[Any], NDArray[np.bool_]]
) -> None:
    merged, at_once = histogram(*a) + histogram(*b), histogram(np.append(a[0], b[0]), np.append(a[1], b[1]))
    assert np.array_equal(merged._counts, at_once._counts)
    assert merged.average_precision() == at_once.average_precision()


@given(st.lists(st.tuples(st.integers(0, 255), st.booleans()), min_size=1, max_size=80))
def test_average_precision_is_exact_on_the_256_levels_of_a_volume(pairs: list[tuple[int, bool]]) -> None:
    levels, truth = np.array([level for level, _ in pairs]), np.array([t for _, t in pairs])
    scores = np.divide(levels, np.float32(255), dtype=np.float32)
    found = histogram(scores, truth).average_precision()
    assert found is None if not truth.any() else found == pytest.approx(average_precision_score(truth, scores))
    assert histogram(scores, truth).counts_at(0.5) == count(levels > 127, truth, [True])[True]


@pytest.mark.parametrize(("low", "high"), [(0.001, 0.01), (0.0, 1.0), (0.99, 0.999), (1e-6, 1e-5)])
def test_scores_within_any_narrow_range_get_the_exact_precision_and_threshold(low: float, high: float) -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(3000) < 0.2
    scores = (low + (high - low) * rng.beta(2 + 3 * truth, 3)).astype(np.float32)
    found = histogram(scores, truth)
    assert found.average_precision() == pytest.approx(average_precision_score(truth, scores), abs=2e-3)
    _, iou = found.best_threshold()
    exact = max(count(scores > threshold, truth, [True])[True].iou() for threshold in scores)
    assert exact - 0.005 <= iou <= exact


def test_the_threshold_of_separated_classes_lies_well_between_them() -> None:
    scores, truth = np.array([0.001, 0.01], np.float32).repeat(50), np.array([False, True]).repeat(50)
    threshold, iou = histogram(scores, truth).best_threshold()
    assert iou == 1
    assert 0.002 < threshold < 0.006


def test_without_foreground_there_is_no_average_precision() -> None:
    assert histogram(np.array([0.2, 0.9], np.float32), np.zeros(2, bool)).average_precision() is None
    assert ScoreHistogram().average_precision() is None


def test_without_foreground_the_best_threshold_predicts_nothing() -> None:
    scores = np.array([0.2, 0.9], np.float32)
    threshold, iou = histogram(scores, np.zeros(2, bool)).best_threshold()
    assert 0.9 < threshold <= 1
    assert iou == 1


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1, np.inf])
def test_scores_that_are_not_fractions_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"within 0\.\.1"):
        histogram(np.array([0.5, bad], np.float32), np.array([True, False]))


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_adding_whole_images_or_pixel_by_pixel_is_the_same(axes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, truth = rng.random((5,) * axes, np.float32), rng.random((5,) * axes) < 0.5
    one_by_one = ScoreHistogram()
    for score, label in zip(scores.flat, truth.flat, strict=True):
        one_by_one.add(np.array(score), np.array(label))
    assert np.array_equal(histogram(scores.T, truth.T)._counts, one_by_one._counts)

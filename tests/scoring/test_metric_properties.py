"""What holds of every metric on any masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embench.scoring.metrics import Masks, metrics
from embench.scoring.metrics.instances import components
from embench.scoring.metrics.skeletons import skeletons

METRICS = [metric for metric in metrics().values() if "scores" not in metric.needs]
SWAPPED = {"precision": "recall", "recall": "precision", "vi_split": "vi_merge", "vi_merge": "vi_split"}
ONE_SIDED = ("adapted_rand_error", "count_error", "size_error", "volume_error", "surface_error")
"""Relative to the truth."""
some = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def same(one, other, **tolerance):
    return one == other if one is None or other is None else one == pytest.approx(other, **tolerance)


@st.composite
def pairs(draw, dimensions=(2, 3)):
    number = draw(st.sampled_from(dimensions))
    shape = tuple(draw(st.lists(st.integers(2, 12 if number == 2 else 7), min_size=number, max_size=number)))
    spacing = tuple(draw(st.lists(st.sampled_from([1.0, 2.5, 4.0, 40.0]), min_size=number, max_size=number)))
    mask = arrays.arrays(bool, shape)
    return draw(mask), draw(mask), spacing


def scores(prediction, truth, spacing, **options):
    """Return the score of every metric by name."""
    masks = Masks(prediction, truth, spacing, **options)
    return {metric.name: metric(masks) for metric in METRICS}


def assert_same(found, expected, but=()):
    for name, value in expected.items():
        assert name in but or same(found[name], value, rel=1e-5), name


@some
@given(pairs())
def test_a_metric_of_any_masks_is_a_number_in_range_or_undefined(pair):
    masks = Masks(*pair)
    for metric in METRICS:
        evidence = metric.evidence(masks)
        if evidence is None:
            continue
        assert len(evidence) == len(metric.parts)
        assert all(isinstance(part, int | float) and math.isfinite(part) for part in evidence)
        score = metric.score(evidence)
        if score is not None:
            assert math.isfinite(score)
            assert score >= 0
            assert not metric.higher_is_better or score <= 1


@some
@given(pairs())
def test_a_perfect_prediction_has_the_best_score(pair):
    _, truth, spacing = pair
    for name, score in scores(truth, truth, spacing).items():
        assert score == pytest.approx(metrics()[name].best, abs=1e-12)


@some
@given(pairs())
def test_prediction_and_truth_may_be_swapped(pair):
    prediction, truth, spacing = pair
    swapped = scores(truth, prediction, spacing)
    expected = {SWAPPED.get(name, name): value for name, value in scores(prediction, truth, spacing).items()}
    assert_same(swapped, expected, but=ONE_SIDED)


@some
@given(pairs(), st.permutations([0, 1, 2]))
def test_the_order_of_axes_does_not_matter(pair, order):
    prediction, truth, spacing = pair
    order = [axis for axis in order if axis < prediction.ndim]
    sizes = [spacing[axis] for axis in order]
    turned = scores(prediction.transpose(order), truth.transpose(order), sizes, tolerance=5.0)
    # of several lines through the middle of a block one is taken
    assert_same(turned, scores(prediction, truth, spacing, tolerance=5.0), but=("cldice",))


@some
@given(pairs(), st.integers(1, 3))
def test_empty_space_around_an_image_changes_nothing(pair, margin):
    # One voxel of it is there already: the border of the image is no outline, so an object at it changes.
    prediction, truth, spacing = pair
    small, large = (scores(np.pad(prediction, n), np.pad(truth, n), spacing) for n in (1, 1 + margin))
    assert_same(large, small, but=("vi_split", "vi_merge"))  # bits per voxel


@some
@given(pairs(), st.floats(0, 100), st.floats(0, 100))
def test_a_larger_tolerance_never_lowers_surface_dice(pair, one, other):
    prediction, truth, spacing = pair
    low, high = (
        metrics()["nsd"](Masks(prediction, truth, spacing, tolerance=tolerance)) for tolerance in sorted((one, other))
    )
    if low is not None and high is not None:
        assert high >= low


@some
@given(pairs(), st.sampled_from([0.5, 8.0]))
def test_lengths_scale_with_the_voxel_size_and_nothing_else_does(pair, factor):
    prediction, truth, spacing = pair
    plain = scores(prediction, truth, spacing, tolerance=5.0)
    for name, value in plain.items():
        if value is not None and metrics()[name].unit == "nm":
            plain[name] = value * factor
    assert_same(scores(prediction, truth, [factor * size for size in spacing], tolerance=factor * 5.0), plain)


@some
@given(pairs())
def test_evidence_that_adds_up_gives_the_score_of_both_images(pair):
    masks = Masks(*pair)
    for metric in METRICS:
        evidence = metric.evidence(masks)
        if metric.additive and evidence is not None and metric.name != "betti0_error":
            # of an image and itself, a fraction is that of the image
            assert same(metric.pooled([evidence, evidence]), metric.score(evidence))


@some
@given(pairs(dimensions=(2,)))
def test_bits_of_two_images_add_up_to_those_of_one(pair):
    # a partition of two images side by side, its background apart, is known where both are
    prediction, truth, _ = pair
    ids = [np.where(mask, 1, 2).astype(np.uint8) for mask in (prediction, truth)]
    everything = np.ones_like(prediction)
    one = Masks(everything, everything, prediction_ids=ids[0], truth_ids=ids[1])
    beside = [np.concatenate([each, each + 2]) for each in ids]
    both = Masks(np.concatenate([everything] * 2), np.concatenate([everything] * 2), None)
    both.prediction_ids, both.truth_ids = beside
    for name in ("vi_split", "vi_merge"):
        metric = metrics()[name]
        assert metric.pooled([metric.evidence(one)] * 2) == pytest.approx(metric(both), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(pairs())
def test_components_are_those_of_another_library(pair):
    from scipy.ndimage import label

    mask = pair[0]
    ours, (theirs, number) = components(mask), label(mask, np.ones((3,) * mask.ndim))
    assert len(np.unique(np.stack([ours[mask], theirs[mask]]), axis=1).T) == number == ours.max()
    assert not ours[~mask].any()


@some
@given(pairs())
def test_a_skeleton_lies_inside_and_has_the_topology_of_its_mask(pair):
    from scipy.ndimage import generate_binary_structure, label
    from skimage.measure import euler_number

    mask, _, spacing = pair
    thin, _ = skeletons((mask, mask), spacing)
    assert not (thin & ~mask).any()
    whole = generate_binary_structure(mask.ndim, mask.ndim)
    for one, structure in ((lambda a: a, whole), (lambda a: ~np.pad(a, 1), None)):
        assert label(one(thin), structure)[1] == label(one(mask), structure)[1]
    if mask.ndim == 3:
        assert euler_number(np.pad(thin, 1), 3) == euler_number(np.pad(mask, 1), 3)

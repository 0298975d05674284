"""The smallest examples of docs/metrics.md on which other implementations give something else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from embench.scoring.metrics import Masks, find_metric
from embench.scoring.metrics.instances import components
from embench.scoring.metrics.skeletons import skeletons

NOTHING, OBJECT = np.zeros((2, 6, 6), bool)
OBJECT[2:4, 2:4] = True


def ours(name, prediction, truth, spacing=(1.0, 1.0), tolerance=1.0):
    value = find_metric(name)(Masks(prediction, truth, spacing, tolerance=tolerance))
    return value if value is None else round(value, 3)


@pytest.fixture
def surface_distance(monkeypatch):
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)
    monkeypatch.setattr(ndimage, "filters", ndimage, raising=False)
    monkeypatch.setattr(ndimage, "morphology", ndimage, raising=False)
    library = pytest.importorskip("surface_distance")

    def scores(prediction, truth, spacing=(1.0, 1.0), tolerance=1.0):
        found = library.compute_surface_distances(truth, prediction, spacing)
        return (
            round(float(library.compute_surface_dice_at_tolerance(found, tolerance)), 3),
            round(float(library.compute_robust_hausdorff(found, 95)), 3),
        )

    return scores


@pytest.fixture
def monai():
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    def scores(prediction, truth, spacing=(1.0, 1.0), tolerance=1.0):
        given = [torch.tensor(mask[None, None].astype(np.float32)) for mask in (prediction, truth)]
        options = {"include_background": True, "spacing": list(spacing)}
        return tuple(
            round(found.item(), 3)
            for found in (
                compute_surface_dice(*given, [tolerance], **options),
                compute_hausdorff_distance(*given, percentile=95, **options),
                compute_average_surface_distance(*given, symmetric=True, **options),
            )
        )

    return scores


def test_an_object_cut_by_the_border_has_no_surface_there(surface_distance, monai):
    truth, prediction = np.zeros((2, 4, 6), bool)
    truth[:, :2] = prediction[:, :3] = True  # all of the outline is off by one pixel of 4 nm
    case = prediction, truth, (4.0, 4.0), 3.9
    assert ours("nsd", *case) == 0
    assert ours("mean_surface_distance", *case) == 4
    assert surface_distance(*case)[0] == 0.687
    assert monai(*case)[::2] == (0.667, 1.333)


def test_surfaces_lie_between_pixels_and_count_by_their_length(surface_distance, monai):
    line = NOTHING.copy()
    line[2, 1:5] = True
    shorter = line.copy()
    shorter[2, 4] = False
    case = shorter, line, (1.0, 1.0), 0.5
    assert ours("nsd", *case) == surface_distance(*case)[0] == 0.91
    assert ours("hd95", *case) == surface_distance(*case)[1] == 1
    assert monai(*case) == (0.857, 0.85, 0.143)  # pixels of the rim; a percentile between two of them


def test_circles_three_pixels_apart_are_found_a_little_nearer(surface_distance, monai):
    y, x = np.mgrid[:30, :30] - 14.63
    case = np.hypot(y, x) <= 9, np.hypot(y, x) <= 6, (1.0, 1.0), 2.0
    assert ours("mean_surface_distance", *case) == 2.647
    assert ours("nsd", *case) == surface_distance(*case)[0] == 0.086
    assert monai(*case)[2] == 2.833


def test_an_empty_prediction_is_undefined_infinite_or_not_a_number(surface_distance, monai):
    case = NOTHING, OBJECT
    assert ours("hd95", *case) is ours("mean_surface_distance", *case) is None
    assert ours("nsd", *case) == 0
    assert surface_distance(*case) == (0, math.inf)
    surface_dice, hausdorff, mean = monai(*case)
    assert surface_dice == 0
    assert math.isnan(hausdorff)
    assert math.isinf(mean)


def test_nothing_found_where_nothing_is_counts_as_agreement(monai):
    from sklearn.metrics import f1_score

    assert ours("dice", NOTHING, NOTHING) == ours("nsd", NOTHING, NOTHING) == 1
    assert all(map(math.isnan, monai(NOTHING, NOTHING)))
    assert f1_score(NOTHING.ravel(), NOTHING.ravel(), zero_division=0) == 0


def test_an_empty_prediction_of_one_object_is_no_perfect_partition():
    from skimage.metrics import adapted_rand_error

    assert ours("adapted_rand_error", NOTHING, OBJECT) == 1
    assert adapted_rand_error(OBJECT.astype(int), NOTHING.astype(int))[0] == 0


def test_a_false_object_splits_the_background():
    from skimage.metrics import variation_of_information

    with_false = OBJECT.copy()
    with_false[5, 5] = True
    ids = [components(mask) for mask in (OBJECT, with_false)]
    assert ours("vi_split", with_false, OBJECT) == round(variation_of_information(*ids)[0], 3) == 0.178
    assert variation_of_information(*ids, ignore_labels=(0,))[0] == 0  # truth's background left out, as in CREMI


def test_thinning_of_another_library_erases_a_bar():
    from skimage.morphology import skeletonize

    bar = np.zeros((5, 4, 4), bool)
    bar[1:4, 1:3, 1:3] = True
    assert not skeletonize(bar).any()
    assert skeletons((bar, bar), (1, 1, 1))[0].sum() > 0

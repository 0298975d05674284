"""The same inputs through independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from embench.scoring.metrics import Masks, find_metric, metrics

CASES = [((60, 70), (4.0, 4.0)), ((24, 40, 36), (8.0, 8.0, 8.0)), ((18, 40, 36), (40.0, 8.0, 8.0))]


def blobs(shape, seed, inside=True):
    """Prediction and truth: blobs of a smooth field, and the same field a little distorted; none at the border."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 3)
    other = smooth + 0.35 * ndimage.gaussian_filter(rng.normal(size=shape), 3)
    masks = [field > 0.6 * smooth.std() for field in (other, smooth)]
    if inside:
        for mask in masks:
            for axis in range(mask.ndim):
                ends = np.moveaxis(mask, axis, 0)
                ends[:2] = ends[-2:] = False
    return masks


@pytest.fixture(params=[(*case, seed) for case in CASES for seed in range(2)], ids=str)
def case(request):
    shape, spacing, seed = request.param
    prediction, truth = blobs(shape, seed)
    return prediction, truth, spacing


@pytest.fixture
def surface_distance(monkeypatch):
    """DeepMind's library, which was written for NumPy 1."""
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)
    monkeypatch.setattr(ndimage, "filters", ndimage, raising=False)
    monkeypatch.setattr(ndimage, "morphology", ndimage, raising=False)
    return pytest.importorskip("surface_distance")


def test_distances_of_surface_elements_are_those_of_surface_distance(case, surface_distance):
    prediction, truth, spacing = case
    ours = Masks(prediction, truth, spacing).surfaces
    theirs = surface_distance.compute_surface_distances(truth, prediction, spacing)
    for surface, direction in zip(ours, ("pred_to_gt", "gt_to_pred"), strict=True):
        np.testing.assert_allclose(np.sort(surface.distances), theirs[f"distances_{direction}"], rtol=1e-5)
    for surface, name in zip(ours, ("pred", "gt"), strict=True):
        # its table triangulates three of the 14 patterns of a cell otherwise; in 2D there is nothing to triangulate
        tolerance = 1e-5 if prediction.ndim == 2 else 0.03
        assert surface.area == pytest.approx(theirs[f"surfel_areas_{name}"].sum(), rel=tolerance)


def test_surface_scores_are_those_of_surface_distance(case, surface_distance):
    prediction, truth, spacing = case
    theirs = surface_distance.compute_surface_distances(truth, prediction, spacing)
    voxel = max(spacing)
    for tolerance in (voxel, 1.5 * voxel, 3 * voxel):
        masks = Masks(prediction, truth, spacing, tolerance=tolerance)
        expected = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert find_metric("nsd")(masks) == pytest.approx(expected, abs=1e-5 if prediction.ndim == 2 else 0.01)
    masks = Masks(prediction, truth, spacing)
    expected = surface_distance.compute_robust_hausdorff(theirs, 95)
    assert find_metric("hd95")(masks) == pytest.approx(expected, rel=1e-5, abs=0 if prediction.ndim == 2 else voxel / 4)
    both = surface_distance.compute_average_surface_distance(theirs)
    areas = theirs["surfel_areas_gt"].sum(), theirs["surfel_areas_pred"].sum()
    expected = np.average(both, weights=areas)
    assert find_metric("mean_surface_distance")(masks) == pytest.approx(
        expected, rel=1e-5 if prediction.ndim == 2 else 0.02
    )


def test_distances_lie_within_a_voxel_of_those_between_voxels(case):
    """MONAI measures between the centres of boundary voxels, unweighted."""
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    prediction, truth, spacing = case
    given = [torch.tensor(mask[None, None].astype(np.float32)) for mask in (prediction, truth)]
    options = {"include_background": True, "spacing": list(spacing)}
    masks = Masks(prediction, truth, spacing)
    voxel = float(np.linalg.norm(spacing))
    theirs = compute_hausdorff_distance(*given, percentile=95, **options).item()
    assert find_metric("hd95")(masks) == pytest.approx(theirs, abs=voxel)
    theirs = compute_average_surface_distance(*given, symmetric=True, **options).item()
    assert find_metric("mean_surface_distance")(masks) == pytest.approx(theirs, abs=voxel / 2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("inside", [False, True])
def test_instances_are_scored_as_by_scikit_image(seed, inside):
    from skimage.measure import label
    from skimage.metrics import adapted_rand_error, variation_of_information

    for shape, _ in CASES:
        prediction, truth = blobs(shape, seed, inside)
        masks = Masks(prediction, truth)
        ids = [label(mask, connectivity=mask.ndim) for mask in (truth, prediction)]
        split, merge = variation_of_information(*ids)
        assert find_metric("vi_split")(masks) == pytest.approx(split, abs=1e-9)
        assert find_metric("vi_merge")(masks) == pytest.approx(merge, abs=1e-9)
        assert find_metric("adapted_rand_error")(masks) == pytest.approx(adapted_rand_error(*ids)[0], abs=1e-9)
        assert masks.component_counts == (ids[1].max(), ids[0].max())


@pytest.mark.parametrize("seed", range(4))
def test_overlap_is_as_by_scikit_learn(seed):
    from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

    prediction, truth = blobs((40, 50), seed)
    masks = Masks(prediction, truth)
    for name, theirs in {
        "iou": jaccard_score,
        "dice": f1_score,
        "precision": precision_score,
        "recall": recall_score,
    }.items():
        assert find_metric(name)(masks) == pytest.approx(theirs(truth.ravel(), prediction.ravel()))


def matched_one_by_one(prediction, truth, threshold):
    """Objects matched in plain loops, by optimal assignment."""
    from scipy.optimize import linear_sum_assignment

    ids = [ndimage.label(mask, np.ones((3,) * mask.ndim))[0] for mask in (prediction, truth)]
    iou = np.zeros([each.max() for each in ids])
    for i, j in np.ndindex(iou.shape):
        one, two = ids[0] == i + 1, ids[1] == j + 1
        iou[i, j] = (one & two).sum() / (one | two).sum()
    good = np.where(iou > threshold, iou, 0)
    rows, columns = linear_sum_assignment(good, maximize=True)
    matched = good[rows, columns]
    return matched[matched > 0], iou.shape


@pytest.mark.parametrize("seed", range(3))
def test_objects_match_as_by_optimal_assignment(seed):
    for shape, _ in CASES:
        prediction, truth = blobs(shape, seed, inside=False)
        masks = Masks(prediction, truth)
        matched, (predicted, true) = matched_one_by_one(prediction, truth, 0.5)
        assert find_metric("f1_50")(masks) == pytest.approx(2 * len(matched) / (predicted + true))
        assert find_metric("pq_50")(masks) == pytest.approx(2 * matched.sum() / (predicted + true))
        found = [len(matched_one_by_one(prediction, truth, k / 20 + 1e-12)[0]) for k in range(10, 20)]
        assert find_metric("ap_50_95")(masks) == pytest.approx(np.mean([n / (predicted + true - n) for n in found]))


def test_a_rim_is_an_erosion_away_from_the_border():
    """Boundary IoU of its authors: what an erosion by squares takes away."""
    for seed in range(3):
        prediction, truth = blobs((60, 70), seed)
        rims = [mask & ~ndimage.binary_erosion(mask, np.ones((3, 3))) for mask in (prediction, truth)]
        theirs = (rims[0] & rims[1]).sum() / (rims[0] | rims[1]).sum()
        masks = Masks(prediction, truth, (4, 4), tolerance=4 * 2**0.5)
        assert find_metric("boundary_iou")(masks) == pytest.approx(theirs)


@pytest.mark.parametrize("seed", range(3))
def test_cldice_in_the_plane_is_near_that_of_other_skeletons(seed):
    from skimage.morphology import skeletonize

    prediction, truth = blobs((200, 200), seed)
    lines = [skeletonize(mask) for mask in (prediction, truth)]
    precision, recall = (lines[0] & truth).sum() / lines[0].sum(), (lines[1] & prediction).sum() / lines[1].sum()
    expected = 2 * precision * recall / (precision + recall)
    assert metrics()["cldice"](Masks(prediction, truth)) == pytest.approx(expected, abs=0.03)

"""Metrics of solids whose value a formula gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from embench.scoring.metrics import Masks, find_metric

SPACINGS = [(1.0, 1.0, 1.0), (8.0, 8.0, 8.0), (40.0, 8.0, 8.0), (20.0, 5.0, 10.0)]


def grid(spacing, half):
    """Coordinates of voxel centres about a centre that lies on no voxel, out to at least ``half`` along each axis."""
    sides = [2 * math.ceil(half_side / size) + 2 for half_side, size in zip(half, spacing, strict=True)]
    axes = [(np.arange(side) - side / 2 + 0.37) * size for side, size in zip(sides, spacing, strict=True)]
    return np.meshgrid(*axes, indexing="ij", sparse=True)


def ellipsoid(coordinates, radii, centre=(0, 0, 0)):
    return sum(((x - c) / r) ** 2 for x, c, r in zip(coordinates, centre, radii, strict=True)) <= 1


def value(name, prediction, truth, spacing, **options):
    return find_metric(name)(Masks(prediction, truth, spacing, **options))


@pytest.fixture(params=SPACINGS, ids=str)
def spacing(request):
    return request.param


@pytest.fixture
def spheres(spacing):
    """A sphere and one whose radius is three of the largest voxels larger."""
    coarse = max(spacing)
    inner, outer = 9 * coarse, 12 * coarse
    space = grid(spacing, (outer + 3 * coarse,) * 3)
    return ellipsoid(space, (outer,) * 3), ellipsoid(space, (inner,) * 3), inner, outer


def test_concentric_spheres_are_as_far_apart_as_their_radii(spheres, spacing):
    prediction, truth, inner, outer = spheres
    distance = outer - inner
    assert value("mean_surface_distance", prediction, truth, spacing) == pytest.approx(distance, abs=0.5 * max(spacing))
    assert value("hd95", prediction, truth, spacing) == pytest.approx(distance, abs=0.9 * max(spacing))


def test_surface_dice_jumps_at_the_distance_of_concentric_spheres(spheres, spacing):
    prediction, truth, inner, outer = spheres
    distance, voxel = outer - inner, max(spacing)
    assert value("nsd", prediction, truth, spacing, tolerance=distance - 1.5 * voxel) < 0.02
    assert value("nsd", prediction, truth, spacing, tolerance=distance + 1.5 * voxel) == 1


def test_overlap_of_concentric_spheres_follows_from_their_volumes(spheres, spacing):
    prediction, truth, inner, outer = spheres
    part = (inner / outer) ** 3
    for name, expected in {
        "iou": part,
        "precision": part,
        "recall": 1,
        "dice": 2 * part / (1 + part),
        "f1_50": 0.0,
        "volume_error": 1 / part - 1,
    }.items():
        assert value(name, prediction, truth, spacing) == pytest.approx(expected, rel=0.03), name


def test_relative_surface_follows_from_radii(spheres, spacing):
    prediction, truth, inner, outer = spheres
    expected = (outer / inner) ** 2 - 1
    assert value("surface_error", prediction, truth, spacing) == pytest.approx(expected, rel=0.03)


def test_surface_of_a_sphere_is_that_of_its_facets(spheres, spacing):
    # facets between midpoints of edges overestimate a smooth surface, the more the flatter voxels are
    _, truth, inner, _ = spheres
    area = Masks(truth, truth, spacing).surfaces[0].area
    assert 1.0 < area / (4 * math.pi * inner**2) < 1.25


def test_a_shifted_slab_is_off_by_the_shift(spacing):
    """It spans the image, so that its rim at the border must not count as surface."""
    shape = (40, 24, 30)
    for axis, side in enumerate(shape):
        places = np.arange(side).reshape([-1 if axis == each else 1 for each in range(3)])
        truth = np.broadcast_to((places >= 8) & (places < 14), shape)
        prediction = np.broadcast_to((places >= 10) & (places < 16), shape)
        shift = 2 * spacing[axis]
        assert value("mean_surface_distance", prediction, truth, spacing) == pytest.approx(shift, rel=1e-6)
        assert value("hd95", prediction, truth, spacing) == pytest.approx(shift, rel=1e-6)
        assert value("nsd", prediction, truth, spacing, tolerance=0.99 * shift) == 0
        assert value("nsd", prediction, truth, spacing, tolerance=shift) == 1
        assert value("iou", prediction, truth, spacing) == 4 / 8
        assert value("volume_error", prediction, truth, spacing) == 0
        assert value("surface_error", prediction, truth, spacing) == 0
        # rims of three layers hold the whole slab, of two layers nothing in common
        assert value("boundary_iou", prediction, truth, spacing, tolerance=1.5 * shift) == 4 / 8
        assert value("boundary_iou", prediction, truth, spacing, tolerance=shift) == 0


@pytest.mark.parametrize("axis", range(3))
def test_a_tube_and_a_thinner_one_have_the_same_centre_line(axis, spacing):
    half = [14 * max(spacing)] * 3
    space = grid(spacing, half)
    around = [x for number, x in enumerate(space) if number != axis]
    shape = np.broadcast_shapes(*(x.shape for x in space))
    wide, thin = 8 * max(spacing), 5 * max(spacing)
    truth, prediction = (np.broadcast_to(sum(x**2 for x in around) <= r**2, shape) for r in (wide, thin))
    assert value("cldice", prediction, truth, spacing) == pytest.approx(1, abs=0.02)
    assert value("iou", prediction, truth, spacing) == pytest.approx((thin / wide) ** 2, rel=0.05)
    assert value("mean_surface_distance", prediction, truth, spacing) == pytest.approx(
        wide - thin, abs=0.5 * max(spacing)
    )
    assert value("surface_error", prediction, truth, spacing) == pytest.approx(1 - thin / wide, rel=0.05)


def test_a_torn_tube_costs_topology_but_hardly_overlap():
    truth = np.zeros((60, 20, 20), bool)
    truth[:, 8:13, 8:13] = True
    torn = truth.copy()
    torn[29:31] = False
    assert value("iou", torn, truth, None) == 58 / 60
    assert value("betti0_error", torn, truth, None) == 1
    assert value("count_error", torn, truth, None) == 1
    assert value("f1_50", torn, truth, None) == 0  # each half has less than half of it
    # every voxel of the torn line is inside; two of 60 of the whole line are in the gap (its ends may be shorter)
    assert value("cldice", torn, truth, None) == pytest.approx(2 * (58 / 60) / (1 + 58 / 60), abs=0.003)
    assert value("vi_merge", torn, truth, None) > 0
    assert value("vi_split", torn, truth, None) > 0.01


@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 2, 1)])
def test_a_torus_is_one_object_with_its_volume_and_line(shift, spacing):
    coarse = max(spacing)
    ring, tube = 12 * coarse, 5 * coarse
    space = grid(spacing, (tube + 3 * coarse, ring + tube + 3 * coarse, ring + tube + 3 * coarse))

    def torus(radius):
        z, y, x = space
        return (np.sqrt(x**2 + y**2) - ring) ** 2 + z**2 <= radius**2

    truth, thick = torus(tube), torus(tube + 2 * coarse)
    moved = np.roll(thick, shift, (0, 1, 2))
    assert Masks(thick, truth, spacing).component_counts == (1, 1)
    assert value("volume_error", thick, truth, spacing) == pytest.approx((1 + 2 / 5) ** 2 - 1, rel=0.03)
    assert value("surface_error", thick, truth, spacing) == pytest.approx(2 / 5, rel=0.06)
    assert value("mean_surface_distance", thick, truth, spacing) == pytest.approx(2 * coarse, abs=0.5 * coarse)
    assert value("cldice", moved, truth, spacing) > 0.95


@pytest.mark.parametrize("scale", [1.1, 1.3])
def test_a_scaled_ellipsoid_follows_its_volume(scale, spacing):
    radii = [size * factor for size, factor in zip((max(spacing),) * 3, (8, 12, 16), strict=True)]
    space = grid(spacing, [1.4 * radius for radius in radii])
    truth, prediction = ellipsoid(space, radii), ellipsoid(space, [scale * radius for radius in radii])
    part = scale**-3
    assert value("iou", prediction, truth, spacing) == pytest.approx(part, rel=0.02)
    assert value("pq_50", prediction, truth, spacing) == pytest.approx(part if part > 0.5 else 0, rel=0.02)
    passed = sum(part > threshold for threshold in np.arange(0.5, 0.99, 0.05))
    assert value("ap_50_95", prediction, truth, spacing) == pytest.approx(passed / 10)
    assert value("size_error", prediction, truth, spacing) == pytest.approx(scale**3 - 1, rel=0.03)
    # the shells lie between 8 (scale - 1) and 16 (scale - 1) of the largest voxels apart
    distance = value("hd95", prediction, truth, spacing)
    assert (8 * (scale - 1) - 1) * max(spacing) < distance < (16 * (scale - 1) + 1) * max(spacing)


def test_a_disc_in_the_plane_is_measured_in_two_dimensions():
    y, x = np.mgrid[:200, :200] - 99.3
    truth, prediction = (np.hypot(4 * y, 4 * x) <= radius for radius in (160, 200))
    spacing = (4.0, 4.0)
    assert value("mean_surface_distance", prediction, truth, spacing) == pytest.approx(40, abs=2)
    assert value("surface_error", prediction, truth, spacing) == pytest.approx(0.25, rel=0.02)
    assert value("iou", prediction, truth, spacing) == pytest.approx(0.64, rel=0.01)
    assert 1.0 < Masks(truth, truth, spacing).surfaces[0].area / (2 * math.pi * 160) < 1.1
    as_volume = find_metric("mean_surface_distance")(Masks(prediction[None], truth[None], (40.0, *spacing)))
    assert as_volume == value("mean_surface_distance", prediction, truth, spacing)


def test_two_halves_of_a_label_need_one_bit():
    truth, prediction = np.ones((2, 8, 8), np.uint8)
    prediction[:, 4:] = 2
    options = {"prediction_ids": prediction, "truth_ids": truth}
    assert value("vi_split", prediction > 0, truth > 0, None, **options) == 1
    assert value("vi_merge", prediction > 0, truth > 0, None, **options) == 0
    pairs, together = 64 * 63, 2 * 32 * 31
    expected = 1 - 2 * together / (pairs + together)
    assert value("adapted_rand_error", prediction > 0, truth > 0, None, **options) == pytest.approx(expected)

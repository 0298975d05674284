"""The rules of the metrics, each on a drawing."""

from __future__ import annotations

import numpy as np
import pytest

from embench.core.errors import BadInput
from embench.scoring.metrics import Masks, Metric, checked, chosen, find_metric, metrics

NAMES = (
    "iou dice precision recall nsd boundary_iou hd95 mean_surface_distance cldice betti0_error f1_50 pq_50 "
    "ap_50_95 vi_split vi_merge adapted_rand_error count_error volume_error"
)


def drawn(*rows):
    """Return an image: # is inside."""
    return np.array([[mark == "#" for mark in row] for row in rows])


def values(prediction, truth, **options):
    masks = Masks(prediction, truth, **options)
    return {name: metric(masks) for name, metric in metrics().items() if "scores" not in metric.needs}


NOTHING = drawn("......", "......", "......", "......")
OBJECT = drawn("......", ".###..", ".###..", "......")
EVERYTHING = np.ones((4, 6), bool)


def test_every_metric_of_the_field_is_registered_under_its_name():
    assert set(NAMES.split()) <= metrics().keys()


def test_nothing_found_where_nothing_is_agrees_completely():
    for name, value in values(NOTHING, NOTHING).items():
        assert value == metrics()[name].best, name


@pytest.mark.parametrize("is_prediction", [False, True])
def test_where_only_one_side_has_the_class_nothing_agrees(is_prediction):
    pair = (OBJECT, NOTHING) if is_prediction else (NOTHING, OBJECT)
    found = values(*pair)
    for name in ("iou", "dice", "precision", "recall", "nsd", "boundary_iou", "cldice", "f1_50", "pq_50", "ap_50_95"):
        assert found[name] == 0, name
    assert found["adapted_rand_error"] == 1
    assert found["betti0_error"] == 1
    assert found["hd95"] is found["mean_surface_distance"] is None  # infinitely far
    # a fraction of nothing is undefined; all of something is missed
    expected = None if is_prediction else 1.0
    for name in ("count_error", "volume_error", "size_error", "surface_error"):
        assert found[name] == expected, name


def test_a_full_image_and_an_empty_one_have_no_surface_to_compare():
    found = values(EVERYTHING, NOTHING)
    assert found["nsd"] is found["hd95"] is found["mean_surface_distance"] is None
    assert found["iou"] == 0
    same = values(EVERYTHING, EVERYTHING)
    assert same["nsd"] == 1
    assert same["hd95"] == same["mean_surface_distance"] == 0


def test_the_image_border_is_no_surface():
    truth = drawn("##....", "##....", "##....", "##....")
    prediction = drawn("###...", "###...", "###...", "###...")
    found = values(prediction, truth, spacing=(4, 4), tolerance=3.9)
    assert found["nsd"] == 0  # with a surface along the border it would be 0.47
    assert found["hd95"] == found["mean_surface_distance"] == 4
    assert values(prediction, truth, spacing=(4, 4), tolerance=4)["nsd"] == 1
    assert Masks(truth, truth, (4, 4)).surfaces[0].area == 3 * 4  # between the centres of the outermost pixels


def test_a_rim_is_at_least_a_pixel_wide_and_grows_with_the_tolerance():
    truth = drawn(*["." * 9] * 2, *["..#####.."] * 5, *["." * 9] * 2)
    none = np.zeros_like(truth)
    for tolerance, rim in ((0, 16), (1, 16), (1.9, 16), (2, 24), (3, 25)):
        assert Masks(none, truth, (1, 1), tolerance=tolerance).rim_counts == (0, 0, rim)


def test_objects_touch_by_corners():
    corners = drawn("#...", ".#..", "..#.", "...#")
    assert Masks(corners, corners).component_counts == (1, 1)
    in_space = np.zeros((2, 2, 2), bool)
    in_space[0, 0, 0] = in_space[1, 1, 1] = True
    assert Masks(in_space, in_space).component_counts == (1, 1)


def test_a_match_needs_more_than_half():
    truth = drawn("####")
    assert values(drawn("##.."), truth)["f1_50"] == 0  # IoU 1/2
    assert values(drawn("###."), truth)["f1_50"] == 1  # IoU 3/4
    assert values(drawn("###."), truth)["pq_50"] == 0.75
    assert values(drawn("###."), truth)["ap_50_95"] == 0.5  # 0.50 to 0.70; not above 0.75
    six, ten = np.zeros((2, 1, 10), bool)
    six[:, :6], ten[:] = True, True
    assert values(six, ten)["ap_50_95"] == 0.2  # 0.50 and 0.55: exactly 0.6 is not above 0.6


def test_one_object_split_in_two_costs_objects_and_bits_but_no_voxels():
    truth = np.ones((4, 10), bool)
    halves = np.repeat([[1] * 6 + [2] * 4], 4, 0).astype(np.uint32)
    found = values(truth, truth, prediction_ids=halves, truth_ids=truth.astype(np.uint32))
    assert found["iou"] == found["nsd"] == 1
    assert found["f1_50"] == pytest.approx(2 / 3)  # the larger part is a match at IoU 0.6
    assert found["count_error"] == 1
    assert found["size_error"] == 0.5
    assert found["vi_split"] == pytest.approx(-(0.6 * np.log2(0.6) + 0.4 * np.log2(0.4)))
    assert found["vi_merge"] == 0
    assert found["betti0_error"] == 0  # of voxels that touch, identities or not


def test_objects_below_the_smallest_size_are_no_instances():
    truth = drawn("###....", "###....", ".......", ".....#.")
    prediction = drawn("###....", "###....", ".......", ".......")
    assert values(prediction, truth, spacing=(2, 2))["count_error"] == 0.5
    found = values(prediction, truth, spacing=(2, 2), smallest=5.0)  # a pixel has 4 square nanometres
    assert found["count_error"] == 0
    assert found["f1_50"] == found["pq_50"] == found["ap_50_95"] == 1
    assert found["vi_split"] == found["vi_merge"] == 0
    assert found["betti0_error"] == 1
    assert found["volume_error"] == pytest.approx(1 / 7)
    assert values(prediction, truth, spacing=(2, 2), smallest=4.0)["count_error"] == 0.5


def test_identities_may_be_any_numbers_of_32_bits():
    truth = np.zeros((3, 4000), np.uint32)
    truth[0] = np.arange(4000) + 2**32 - 4000
    prediction = np.roll(truth, 1, 0)
    overlap = Masks(prediction > 0, truth > 0, prediction_ids=prediction, truth_ids=truth).overlap
    assert overlap.objects == (4000, 4000)
    same = Masks(truth > 0, truth > 0, prediction_ids=truth, truth_ids=truth)
    assert find_metric("f1_50")(same) == 1


def test_a_torn_line_costs_and_a_wide_one_does_not():
    blank = "..........."
    truth = drawn(blank, blank, ".#########.", blank, blank)
    torn = drawn(blank, blank, ".####.####.", blank, blank)
    wide = drawn(blank, *[".#########."] * 3, blank)
    assert values(torn, truth)["cldice"] == pytest.approx(2 * (8 / 9) / (1 + 8 / 9))
    assert values(torn, truth)["betti0_error"] == 1
    assert values(wide, truth)["cldice"] == 1
    assert values(wide, truth)["iou"] == pytest.approx(1 / 3)


def test_a_section_given_as_a_volume_is_an_image():
    flat = values(OBJECT, np.roll(OBJECT, 1, 1), spacing=(4, 4))
    assert values(OBJECT[None], np.roll(OBJECT, 1, 1)[None], spacing=(40, 4, 4)) == flat


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truth": np.ones((4, 5), bool)}, "shapes differ"),
        ({"spacing": (4, 4, 4)}, "expected 2 positive voxel sizes"),
        ({"spacing": (4, 0)}, "expected 2 positive voxel sizes"),
        ({"spacing": (4, float("nan"))}, "expected 2 positive voxel sizes"),
        ({"prediction": np.ones(4, bool), "truth": np.ones(4, bool)}, "expected an image"),
        ({"prediction": np.ones((0, 4), bool), "truth": np.ones((0, 4), bool)}, "expected an image"),
    ],
)
def test_what_cannot_be_compared_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        Masks(**{"prediction": OBJECT, "truth": OBJECT, **options})


def test_metrics_are_chosen_by_name_in_the_order_of_the_registry():
    assert [metric.name for metric in chosen(["dice", "iou"])] == ["iou", "dice"]
    assert chosen(["all"]) == list(metrics().values())
    with pytest.raises(BadInput, match=r"metric .dicee.*dice"):
        chosen(["dicee"])


def test_a_metric_from_outside_must_be_whole():
    class Half(Metric):
        name = "half"
        title = "Half"
        parts = ("one",)

        def evidence(self, masks):
            return (1.0,)

    with pytest.raises(BadInput, match=r"needs score\(\)"):
        checked(Half, "half.py:Half")
    with pytest.raises(BadInput, match="not a metric"):
        checked(dict, "half.py:dict")


def test_every_metric_says_what_it_is():
    for metric in metrics().values():
        assert metric.description.endswith(".")
        assert metric.title
        assert metric.parts

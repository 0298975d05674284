"""Two views of one image for contrastive pre-training (protocol 4.4)."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_augment import (
    applied,
    close_to_golden,
    formula_image,
    frequencies_are,
    geometry,
    names,
    nearly_equal,
    one,
    replay,
    store,
    watched,
)

from baselines.views import NOISE_VARIANCE, TwoViews
from embench.core.errors import BadInput
from embench.training import augment

GOLDEN = Path(__file__).parents[1] / "files" / "augment" / "views.npz"
"""Our outputs for fixed seeds; after an intended change: `python tests/test_views.py`."""


def pictures() -> dict[str, np.ndarray]:
    """Both views side by side, for six seeds."""
    image, views = formula_image(90, 130), TwoViews(64)
    return {f"seed_{seed}": np.hstack(views(image, np.random.default_rng(seed))) for seed in range(6)}


def test_the_outputs_are_the_stored_pictures() -> None:
    close_to_golden(pictures(), GOLDEN)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    crop=st.integers(1, 48),
    seed=st.integers(0, 2**32),
)
def test_any_image_gives_two_arrays_of_their_own(shape: tuple[int, int], crop: int, seed: int) -> None:
    image = formula_image(*shape)
    before = image.copy()
    first, second = TwoViews(crop)(image, np.random.default_rng(seed))
    assert first.shape == second.shape == (crop, crop)
    assert first.dtype == second.dtype == np.uint8
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(first, image)
    assert not np.shares_memory(second, image)
    assert np.array_equal(image, before)


def test_the_generator_alone_decides_whatever_was_drawn_before() -> None:
    image, used = formula_image(90, 130), TwoViews(48)
    rng = np.random.default_rng(1)
    first = [used(image, rng) for _ in range(5)]
    again = pickle.loads(pickle.dumps(used))
    rng = np.random.default_rng(1)
    for expected in first:
        assert np.array_equal(expected, again(image, rng))
    assert np.array_equal(first[0], used(image, np.random.default_rng(1)))
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize("seed", range(30))
def test_a_whole_view_equals_the_plain_formulas(seed: int) -> None:
    image, views = formula_image(90, 130), watched(TwoViews(56))
    _, second = views(image, np.random.default_rng(seed))
    assert nearly_equal(second, replay(views._chain, image, image)[0])


def test_operations_come_in_the_published_order() -> None:
    assert names(TwoViews()._chain) == [
        "Rotate",
        "RandomResizedCrop",
        "ColorJitter",
        "SigmaBlur",
        "HorizontalFlip",
        "VerticalFlip",
        "GaussNoise",
    ]


def test_each_operation_is_applied_at_its_published_p_and_independently() -> None:
    image, views, rng = formula_image(40, 50), watched(TwoViews(24)), np.random.default_rng(0)
    half = ("Rotate", "SigmaBlur", "HorizontalFlip", "VerticalFlip", "GaussNoise")
    frequencies_are(
        views,
        {"RandomResizedCrop": 1.0, "ColorJitter": 1.0, **dict.fromkeys(half, 0.5)},
        lambda: views(image, rng),
    )


def test_a_view_takes_0_2_to_1_of_the_image_in_ratios_3_4_to_4_3_and_turns_it_any_way() -> None:
    image, views, rng = formula_image(150, 150), watched(TwoViews(16)), np.random.default_rng(0)
    areas, ratios, degrees = geometry(views, lambda: views(image, rng))
    assert 0.19 < areas.min() < 0.22
    assert areas.max() > 0.9
    assert 0.73 < ratios.min() < 0.78
    assert 1.28 < ratios.max() < 1.36
    assert -180 <= degrees.min() < -170
    assert 170 < degrees.max() <= 180


def test_jitter_and_blur_cover_their_ranges() -> None:
    image, views, rng = formula_image(40, 50), watched(TwoViews(24)), np.random.default_rng(0)
    draws = []
    for _ in range(400):
        views(image, rng)
        draws.append(applied(views))
    for factor in ("brightness", "contrast"):
        drawn = [draw["ColorJitter"][factor] for draw in draws]
        assert stats.kstest(drawn, stats.uniform(0.6, 0.8).cdf).pvalue > 0.001
    first = [draw["ColorJitter"]["order"].index(0) < draw["ColorJitter"]["order"].index(1) for draw in draws]
    assert stats.binomtest(sum(first), len(first)).pvalue > 0.001
    sigmas = [draw["SigmaBlur"]["sigma"] for draw in draws if "SigmaBlur" in draw]
    assert stats.kstest(sigmas, stats.uniform(0.1, 1.9).cdf).pvalue > 0.001


def test_noise_is_faint_with_a_log_uniform_variance() -> None:
    rng, grey = np.random.default_rng(0), np.full((96, 96), 128, np.uint8)
    chain = one(augment.GaussNoise(NOISE_VARIANCE, logarithmic=True))
    noises = [chain(rng, grey)[0].astype(float) - 128 for _ in range(300)]
    sigmas = np.array([noise.std() for noise in noises])
    assert 0.8 < sigmas.min() < 1.0  # grey levels; rounding adds a little
    assert 2.4 < sigmas.max() < 2.7


def test_the_two_views_are_drawn_independently() -> None:
    image, rng = np.tile(np.arange(64, dtype=np.uint8), (64, 1)) + 60, np.random.default_rng(0)
    views = TwoViews(16)
    means = np.array([[view.mean() for view in views(image, rng)] for _ in range(400)])
    assert means.std(axis=0).min() > 5
    assert abs(stats.pearsonr(*means.T).statistic) < 0.2


def test_an_even_image_stays_even_but_for_the_noise_and_what_a_rotation_brings_in() -> None:
    views, rng = watched(TwoViews(32)), np.random.default_rng(0)
    for _ in range(120):
        _, view = views(np.full((50, 40), 150, np.uint8), rng)
        if not {"GaussNoise", "Rotate"} & applied(views).keys():
            assert view.min() == view.max() >= 89


def test_as_many_views_have_black_corners_as_those_of_the_published_script() -> None:
    """Of its views 17.6 % are black in more than 1 % of their pixels: torchvision's rotation fills with 0."""
    image, views = np.random.default_rng(0).integers(60, 200, (224, 224), np.uint8), TwoViews(224)
    black = [(view < 3).mean() > 0.01 for seed in range(150) for view in views(image, np.random.default_rng(seed))]
    assert 0.1 < np.mean(black) < 0.25


def test_what_is_no_image_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="image: found uint8 of shape"):
        TwoViews(8)(np.zeros((9, 9, 3), np.uint8), np.random.default_rng(0))
    with pytest.raises(BadInput, match="crop: found"):
        TwoViews(-1)


if __name__ == "__main__":
    store(GOLDEN, pictures())

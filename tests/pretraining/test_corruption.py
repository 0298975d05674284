"""Corrupted and clean images of reconstruction pre-training (protocol 4.3)."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_augment import (
    applied,
    close_to_golden,
    formula_image,
    frequencies_are,
    geometry,
    names,
    nearly_equal,
    replay,
    store,
    watched,
)

from embench.core.errors import BadInput
from retina.corruption import Corruption

GOLDEN = Path(__file__).parents[1] / "files" / "augment" / "corruption.npz"
"""Our outputs for fixed seeds; after an intended change: `python tests/test_corruption.py`."""

NONE = {"brightness_contrast": False, "noise": False, "blur": False, "dropout": False}


def pictures() -> dict[str, np.ndarray]:
    """Corrupted beside clean, for six seeds."""
    image, corruption = formula_image(90, 130), Corruption(64)
    return {f"seed_{seed}": np.hstack(corruption(image, np.random.default_rng(seed))) for seed in range(6)}


def test_the_outputs_are_the_stored_pictures() -> None:
    close_to_golden(pictures(), GOLDEN)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    crop=st.integers(1, 48),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 2**32),
)
def test_any_image_gives_a_pair_of_arrays_of_its_own(
    shape: tuple[int, int], crop: int, flags: tuple[bool, bool, bool, bool], seed: int
) -> None:
    image = formula_image(*shape)
    before = image.copy()
    flags = (*flags[:3], flags[3] and crop >= 16)
    corruption = Corruption(crop, **dict(zip(NONE, flags, strict=True)))
    corrupted, clean = corruption(image, np.random.default_rng(seed))
    assert corrupted.shape == clean.shape == (crop, crop)
    assert corrupted.dtype == clean.dtype == np.uint8
    assert not np.shares_memory(corrupted, clean)
    assert not np.shares_memory(clean, image)
    assert np.array_equal(image, before)


def test_the_generator_alone_decides_whatever_was_drawn_before() -> None:
    image, used = formula_image(90, 130), Corruption(48)
    rng = np.random.default_rng(1)
    first = [used(image, rng) for _ in range(5)]
    again = pickle.loads(pickle.dumps(used))
    rng = np.random.default_rng(1)
    for expected in first:
        assert np.array_equal(expected, again(image, rng))
    assert np.array_equal(first[0], used(image, np.random.default_rng(1)))
    assert not np.array_equal(first[0], first[1])


def test_without_alterations_the_input_is_the_target() -> None:
    corruption, rng = Corruption(48, **NONE), np.random.default_rng(0)
    for _ in range(20):
        corrupted, clean = corruption(formula_image(90, 130), rng)
        assert np.array_equal(corrupted, clean)


@pytest.mark.parametrize("seed", range(30))
def test_a_whole_call_equals_the_plain_formulas(seed: int) -> None:
    image, corruption = formula_image(90, 130), watched(Corruption(56))
    corrupted, clean = corruption(image, np.random.default_rng(seed))
    expected_clean, _ = replay(corruption._geometry, image, image)
    assert nearly_equal(clean, expected_clean)
    assert np.array_equal(corrupted, replay(corruption._corruption, clean, clean)[0])


def test_operations_come_in_the_published_order() -> None:
    corruption = Corruption()
    assert names(corruption._geometry, corruption._corruption) == [
        "HorizontalFlip",
        "VerticalFlip",
        "Rotate",
        "RandomResizedCrop",
        "RandomBrightnessContrast",
        "GaussNoise",
        "GaussianBlur",
        "CoarseDropout",
    ]


def test_each_operation_is_applied_at_its_published_p_and_independently() -> None:
    image, corruption, rng = formula_image(40, 50), watched(Corruption(24)), np.random.default_rng(0)
    geometric = ("HorizontalFlip", "VerticalFlip", "Rotate")
    half = (*geometric, "RandomBrightnessContrast", "GaussNoise", "GaussianBlur", "CoarseDropout")
    frequencies_are(
        corruption,
        {"RandomResizedCrop": 1.0, **dict.fromkeys(half, 0.5)},
        lambda: corruption(image, rng),
    )


def test_it_takes_0_08_to_1_of_the_image_in_ratios_0_5_to_1_5_and_turns_it_by_up_to_90_degrees() -> None:
    image, corruption, rng = formula_image(150, 150), watched(Corruption(16)), np.random.default_rng(0)
    areas, ratios, degrees = geometry(corruption, lambda: corruption(image, rng))
    assert 0.075 < areas.min() < 0.1
    assert areas.max() > 0.9
    assert 0.48 < ratios.min() < 0.52
    assert 1.45 < ratios.max() < 1.52
    assert -90 <= degrees.min() < -80
    assert 80 < degrees.max() <= 90


def test_an_even_image_stays_even_in_the_target() -> None:
    corruption, rng = Corruption(32), np.random.default_rng(0)
    for _ in range(100):
        _, clean = corruption(np.full((50, 40), 200, np.uint8), rng)
        assert np.all(clean == 200)


def test_1_to_32_black_squares_of_16_pixels_hide_the_input_alone() -> None:
    corruption = watched(Corruption(224, **{**NONE, "dropout": True}))
    image, rng, counts = np.full((224, 224), 200, np.uint8), np.random.default_rng(0), []
    for _ in range(400):
        corrupted, clean = corruption(image, rng)
        assert np.all(clean == 200)
        hidden = corrupted == 0
        assert np.all(hidden | (corrupted == 200))
        holes = applied(corruption).get("CoarseDropout", {}).get("holes", [])
        counts.append(len(holes))
        expected = np.zeros_like(hidden)
        for x0, y0, x1, y1 in holes:
            assert (x1 - x0, y1 - y0) == (16, 16)
            expected[y0:y1, x0:x1] = True
        assert np.array_equal(hidden, expected)
    assert set(counts) == set(range(33))


@pytest.mark.parametrize(("crop", "holes"), [(16, 1), (24, 1), (56, 2), (96, 6), (112, 8), (224, 32), (448, 32)])
def test_small_crops_have_fewer_holes_of_the_same_size(crop: int, holes: int) -> None:
    corruption = watched(Corruption(crop, **{**NONE, "dropout": True}))
    assert corruption.max_holes == holes
    image, rng, counts = np.full((crop, crop), 200, np.uint8), np.random.default_rng(0), set()
    for _ in range(300):
        corruption(image, rng)
        drawn = applied(corruption)
        if "CoarseDropout" in drawn:
            counts.add(len(drawn["CoarseDropout"]["holes"]))
            assert np.all(np.diff(drawn["CoarseDropout"]["holes"].reshape(-1, 2, 2), axis=1) == 16)
    assert counts == set(range(1, holes + 1))


def test_what_is_no_image_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="image: found float64"):
        Corruption(16)(np.zeros((9, 9)), np.random.default_rng(0))
    with pytest.raises(BadInput, match="crop: found 0"):
        Corruption(0)
    with pytest.raises(BadInput, match="crop: found 15; give at least 16"):
        Corruption(15)


if __name__ == "__main__":
    store(GOLDEN, pictures())

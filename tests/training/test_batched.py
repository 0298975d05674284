"""Augmentation of whole batches: the same pictures as one by one for the same draws, and the same draws."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_augment import applied, close_to_golden, formula_image, store, watched
from torch import Tensor

from baselines.views import JITTER, TwoViews
from embench.training import augment
from embench.training.augment_batch import (
    Blur,
    BrightnessContrast,
    Geometry,
    Holes,
    Jitter,
    Noise,
    gaussian_kernel,
    kernel_of_sigma,
    reflected,
)
from retina.corruption import HOLE, RATIO, SCALE, BatchedCorruption, Corruption

GOLDEN = Path(__file__).parents[1] / "files" / "augment" / "batched.npz"
"""Our outputs for fixed seeds; after an intended change: `python tests/test_batched.py`."""

CPU = torch.device("cpu")
SIZES = [(64, 64), (64, 40), (33, 64), (48, 48)]
"""Tiles of a batch: whole ones and remainders at an edge."""


def tensor(image: np.ndarray) -> Tensor:
    """A batch of one."""
    return torch.from_numpy(image.astype(np.float32))[None]


def batch(corruption: BatchedCorruption, seed: int = 0, crop: int = 64) -> tuple[Tensor, ...]:
    """Corrupted and clean images of `SIZES`."""
    generators = [np.random.default_rng((seed, n)) for n in range(len(SIZES))]
    return corruption(corruption.draw([formula_image(*size) for size in SIZES], generators, crop), CPU)


def pictures() -> dict[str, np.ndarray]:
    """Corrupted beside clean."""
    made = {}
    for seed in range(2):
        for size, *views in zip(SIZES, *batch(Corruption(64).batched(), seed), strict=True):
            made[f"{size[0]}x{size[1]}_{seed}"] = np.hstack([view.numpy() for view in views])
    return made


def test_the_outputs_are_the_stored_pictures() -> None:
    close_to_golden(pictures(), GOLDEN)


# For the same draws, the same pictures


def close(found: Tensor, expected: np.ndarray) -> None:
    """Equal but for OpenCV's fixed-point interpolation, which places samples to 1/32 of a pixel."""
    difference = np.abs(found[0].numpy() - expected.astype(float))
    assert difference.mean() < 0.75
    assert np.quantile(difference, 0.99) <= 4


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(12))
def test_geometry_equals_that_of_one_image(size: tuple[int, int], seed: int) -> None:
    smooth = cv2.GaussianBlur(formula_image(*size), (0, 0), 1.5)
    corruption = watched(Corruption(64))
    _, expected = corruption(smooth, np.random.default_rng(seed))
    drawn = applied(corruption)
    flips = ["HorizontalFlip" in drawn, "VerticalFlip" in drawn]
    radians = math.radians(drawn["Rotate"]["degrees"]) if "Rotate" in drawn else 0.0
    x0, y0, x1, y1 = drawn["RandomResizedCrop"]["crop_coords"]
    row = [*size, *flips, radians, y0, x0, y1 - y0, x1 - x0]
    padded = np.zeros((64, 64), np.uint8)
    padded[: size[0], : size[1]] = smooth
    close(Geometry(64, 90, SCALE, RATIO)(tensor(padded), torch.tensor([row], dtype=torch.float32)), expected)


@given(length=st.integers(1, 40), at=st.integers(-200, 200))
def test_reflection_is_opencv_s_border_101(length: int, at: int) -> None:
    found = reflected(torch.tensor([float(at)]), torch.tensor([float(length)]))
    assert found.item() == cv2.borderInterpolate(at, length, cv2.BORDER_REFLECT_101)


def test_what_lies_beyond_a_small_tile_is_never_looked_at() -> None:
    batched = Corruption(64).batched()
    generators = [np.random.default_rng(n) for n in range(40)]
    tiles, drawn, seeds = batched.draw([formula_image(41, 50)] * 40, generators, 64)
    other = tiles.clone()
    other[:, 41:], other[:, :, 50:] = 255, 255
    for a, b in zip(batched((tiles, drawn, seeds), CPU), batched((other, drawn, seeds), CPU), strict=True):
        assert torch.equal(a, b)


def test_brightness_and_contrast_equal_those_of_one_image() -> None:
    image = formula_image(64, 64)
    for factor, summand in ((1.0, 0.0), (1.3, 20.5), (0.7, -76.5), (0.81, 76.1)):
        table = np.clip(np.arange(256).astype(np.float32) * factor + summand, 0, 255).astype(np.uint8)
        found = BrightnessContrast()(tensor(image), torch.tensor([[factor, summand]]), [0])
        assert np.abs(found[0].numpy() - table[image]).max() <= 1
        assert (found[0].numpy() != table[image]).mean() < 0.01


@pytest.mark.parametrize("edge", sorted(set(augment.KERNELS)))
def test_published_blur_equals_that_of_one_image(edge: int) -> None:
    image, blur = formula_image(64, 64), Blur(lambda rng: gaussian_kernel(edge, 0), 7)
    row = next(row for row in (blur.draw(np.random.default_rng(seed)) for seed in range(50)) if max(row) < 1)
    expected = cv2.GaussianBlur(image, (edge, edge), 0)
    assert np.abs(blur(tensor(image), torch.tensor([row]), [0])[0].numpy() - expected).max() <= 1


def test_holes_are_black_squares_where_they_were_drawn() -> None:
    holes, image = Holes(8, HOLE, 64), np.full((64, 64), 200, np.uint8)
    for seed in range(30):
        row = holes.draw(np.random.default_rng(seed))
        expected = image.copy()
        for y, x in np.array(row, int).reshape(2, 8).T:
            if y >= 0:
                expected[y : y + HOLE, x : x + HOLE] = 0
        assert np.array_equal(holes(tensor(image), torch.tensor([row], dtype=torch.float32), [0])[0], expected)


def test_noise_is_gaussian_of_the_drawn_deviation_and_of_the_seed_alone() -> None:
    noise, grey = Noise(lambda rng: 0.0), torch.full((3, 128, 128), 128.0)
    found = noise(grey, torch.tensor([[0.0], [20.0], [20.0]]), [5, 6, 7])
    assert torch.equal(found[0], grey[0])
    assert not torch.equal(found[1], found[2])
    assert torch.equal(found[2], noise(grey[:1], torch.tensor([[20.0]]), [7])[0])
    values = found[1].numpy().ravel() - 128 + 0.5  # truncated to whole levels
    values += np.random.default_rng(0).uniform(-0.5, 0.5, values.size)
    assert stats.kstest(values, stats.norm(0, 20).cdf).pvalue > 0.001


# The same draws


DRAWS = 1500


@pytest.fixture(scope="module")
def draws() -> dict[str, np.ndarray]:
    """What `DRAWS` samples of a tile of 64 x 50 drew, by number."""
    corruption, rng = Corruption(64).batched(), np.random.default_rng(0)
    rows = np.array([corruption.draw_one(rng, 64, 50) for _ in range(DRAWS)])
    names = ("height", "width", "flip_x", "flip_y", "radians", "y", "x", "h", "w", "factor", "summand", "sigma")
    named = dict(zip(names, rows.T, strict=False))
    return named | {"kernel": rows[:, 12:19], "holes": rows[:, 19:].reshape(DRAWS, 2, -1)}


@pytest.fixture(scope="module")
def library() -> list[dict[str, dict[str, Any]]]:
    """What as many calls of the augmentation of one image drew."""
    corruption, rng, image = watched(Corruption(64)), np.random.default_rng(1), formula_image(64, 50)
    seen = []
    for _ in range(DRAWS):
        corruption(image, rng)
        seen.append(applied(corruption))
    return seen


def same(ours: Any, theirs: Any) -> None:
    """Drawn from one distribution, as far as two samples can say."""
    assert stats.ks_2samp(ours, theirs, method="asymp").pvalue > 0.001


def test_each_operation_is_applied_at_its_published_p_and_independently(draws: dict[str, np.ndarray]) -> None:
    flags = {
        "flip_x": draws["flip_x"] == 1,
        "flip_y": draws["flip_y"] == 1,
        "turned": draws["radians"] != 0,
        "brightness": draws["factor"] != 1,
        "noise": draws["sigma"] > 0,
        "blur": draws["kernel"].max(axis=1) < 1,
        "holes": draws["holes"].max(axis=(1, 2)) >= 0,
    }
    low, high = stats.binom.interval(0.999, DRAWS, 0.5)
    assert all(low <= flag.sum() <= high for flag in flags.values())
    assert np.abs(np.corrcoef(list(flags.values())) - np.eye(len(flags))).max() < 0.1


def test_geometry_is_drawn_as_by_the_library(draws: dict[str, np.ndarray], library: list[Any]) -> None:
    boxes = np.array([drawn["RandomResizedCrop"]["crop_coords"] for drawn in library])
    x, y = boxes[:, 0], boxes[:, 1]
    w, h = boxes[:, 2] - x, boxes[:, 3] - y
    same(draws["w"] * draws["h"], w * h)
    same(draws["w"] / draws["h"], w / h)
    same(draws["x"], x)
    same(draws["y"], y)
    same((draws["x"] + draws["w"] / 2) - 25, 25 - (x + w / 2))  # and symmetric
    turns = [math.radians(drawn["Rotate"]["degrees"]) for drawn in library if "Rotate" in drawn]
    same(draws["radians"][draws["radians"] != 0], turns)


def test_window_falls_back_like_the_library_where_none_fits() -> None:
    rng = np.random.default_rng(0)
    assert Geometry(64, 90, (1.0, 1.0), (1.0, 1.0)).window(rng, 64, 10) == (27, 0, 10, 10)
    assert Geometry(64, 90, (1.0, 1.0), (1.0, 1.0)).window(rng, 10, 64) == (0, 27, 10, 10)


def test_grey_values_are_altered_as_by_the_library(draws: dict[str, np.ndarray], library: list[Any]) -> None:
    altered = [drawn["RandomBrightnessContrast"] for drawn in library if "RandomBrightnessContrast" in drawn]
    changed = draws["factor"] != 1
    same(draws["factor"][changed], [drawn["alpha"] for drawn in altered])
    same(draws["summand"][changed], [drawn["beta"] for drawn in altered])
    assert abs(stats.pearsonr(draws["factor"][changed], draws["summand"][changed]).statistic) < 0.15
    sigma = draws["sigma"][draws["sigma"] > 0]
    assert stats.kstest(sigma**2, stats.uniform(400, 800).cdf).pvalue > 0.001
    same(sigma, [drawn["GaussNoise"]["noise"].std() for drawn in library if "GaussNoise" in drawn])


def test_kernels_and_holes_are_drawn_as_by_the_library(draws: dict[str, np.ndarray], library: list[Any]) -> None:
    edges = (draws["kernel"] > 0).sum(axis=1)
    ours = [np.sum(edges == edge) for edge in (3, 5, 7)]
    blurred = [drawn["GaussianBlur"]["kernel"] for drawn in library if "GaussianBlur" in drawn]
    assert stats.chi2_contingency([ours, [blurred.count(edge) for edge in (3, 5, 7)]]).pvalue > 0.001
    tops = draws["holes"][:, 0]
    counts = (tops >= 0).sum(axis=1)
    theirs = [drawn["CoarseDropout"]["holes"] for drawn in library if "CoarseDropout" in drawn]
    assert set(counts) == set(range(Corruption(64).max_holes + 1))
    same(counts[counts > 0], [len(holes) for holes in theirs])
    x, y = np.concatenate(theirs)[:, :2].T
    same(tops[tops >= 0], y)
    same(draws["holes"][:, 1][tops >= 0], x)


def test_whole_pictures_have_the_same_statistics() -> None:
    tile, rng = formula_image(64, 64), np.random.default_rng(2)
    one, many = Corruption(64), Corruption(64).batched()
    count = 600
    singles = [one(tile, rng) for _ in range(count)]
    made = many(many.draw([tile] * count, [np.random.default_rng((3, n)) for n in range(count)], 64), CPU)
    for column, views in enumerate(made):
        have_the_same_statistics(views.numpy().astype(float), np.array([single[column] for single in singles], float))


def have_the_same_statistics(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Mean, contrast, roughness and blackness of pictures (B, Y, X)."""
    for statistic in (
        lambda pictures: pictures.mean(axis=(1, 2)),
        lambda pictures: pictures.std(axis=(1, 2)),
        lambda pictures: np.abs(np.diff(pictures, axis=2)).mean(axis=(1, 2)),
        lambda pictures: (pictures == 0).mean(axis=(1, 2)),
    ):
        same(statistic(ours), statistic(theirs))


# Two views


def test_jitter_equals_that_of_one_image() -> None:
    image, jitter = cv2.GaussianBlur(formula_image(48, 48), (0, 0), 2), Jitter(*JITTER)
    for seed in range(20):
        row, expected = jitter.draw(np.random.default_rng(seed)), image
        for factor, share in (row[:2], row[2:]):
            table = np.arange(256).astype(np.float32) * factor + expected.mean() * share
            expected = cv2.LUT(expected, np.clip(table, 0, 255).astype(np.uint8))
        difference = np.abs(jitter(tensor(image), torch.tensor([row], dtype=torch.float32), [0])[0].numpy() - expected)
        assert difference.max() <= 2
        assert difference.mean() < 0.2


def test_views_are_drawn_as_by_the_library() -> None:
    library, rng, image = watched(TwoViews(32)), np.random.default_rng(0), formula_image(40, 32)
    theirs = []
    for _ in range(600):
        library(image, rng)
        theirs.append(applied(library))
    batched = TwoViews(32).batched()
    rows = np.array([batched.draw_one(rng, 40, 32) for _ in range(600)])
    one, other = np.split(rows, 2, axis=1)
    boxes = np.array([drawn["RandomResizedCrop"]["crop_coords"] for drawn in theirs])
    turns = [math.radians(drawn["Rotate"]["degrees"]) for drawn in theirs if "Rotate" in drawn]
    jitters = [drawn["ColorJitter"] for drawn in theirs]
    for view in (one, other):
        same(view[:, 7] * view[:, 8], np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
        same(view[:, 8] / view[:, 7], np.divide(*(boxes[:, 2:] - boxes[:, :2]).T))
        same(view[view[:, 4] != 0, 4], turns)
        bright_first = view[:, 10] == 0
        low, high = stats.binom.interval(0.999, 600, 0.5)
        assert low <= bright_first.sum() <= high
        same(np.where(bright_first, view[:, 9], view[:, 11]), [jitter["brightness"] for jitter in jitters])
        same(np.where(bright_first, view[:, 11], view[:, 9]), [jitter["contrast"] for jitter in jitters])
        sigma = view[view[:, -1] > 0, -1]
        assert low <= len(sigma) <= high
        assert stats.kstest(np.log((sigma / 255) ** 2), stats.uniform(np.log(1e-5), np.log(10)).cdf).pvalue > 0.001
        blurred = view[:, 13:-1].max(axis=1) < 1
        assert low <= blurred.sum() <= high
    assert np.abs(np.corrcoef(one[:, [4, 5, 7, 9]].T, other[:, [4, 5, 7, 9]].T)[:4, 4:]).max() < 0.15


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.1, 2.0])
def test_blur_of_a_sigma_equals_that_of_one_image(sigma: float) -> None:
    image = formula_image(64, 64)
    kernel = kernel_of_sigma(sigma, sigma)(np.random.default_rng(0))
    row = torch.from_numpy(np.pad(kernel, (13 - len(kernel)) // 2)).float()[None]
    expected = cv2.GaussianBlur(image, (0, 0), sigma)
    assert np.abs(Blur(lambda rng: kernel, 13)(tensor(image), row, [0])[0].numpy() - expected).max() <= 1


def test_whole_views_have_the_same_statistics() -> None:
    tile, rng, count = formula_image(64, 64), np.random.default_rng(2), 500
    one, many = TwoViews(64), TwoViews(64).batched()
    theirs = np.array([one(tile, rng)[0] for _ in range(count)], float)
    made = many(many.draw([tile] * count, [np.random.default_rng((3, n)) for n in range(count)], 64), CPU)
    assert not torch.equal(*made)
    for views in made:
        have_the_same_statistics(views.numpy().astype(float), theirs)


# What a sample depends on


def test_a_sample_depends_on_its_generator_and_not_on_its_neighbours() -> None:
    batched = Corruption(64).batched()
    tiles = [formula_image(*size) for size in SIZES]
    together = batch(batched)
    for n, tile in enumerate(tiles):
        alone = batched(batched.draw([tile], [np.random.default_rng((0, n))], 64), CPU)
        assert all(torch.equal(a[0], b[n]) for a, b in zip(alone, together, strict=True))


def test_without_alterations_the_input_is_the_target() -> None:
    none = Corruption(64, brightness_contrast=False, noise=False, blur=False, dropout=False).batched()
    corrupted, clean = batch(none)
    assert torch.equal(corrupted, clean)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_pictures_but_for_the_noise() -> None:
    batched = Corruption(64, noise=False).batched()
    made = batched.draw([formula_image(64, 64)] * 32, [np.random.default_rng(n) for n in range(32)], 64)
    for here, there in zip(batched(made, CPU), batched(made, torch.device("cuda")), strict=True):
        difference = (here.int() - there.cpu().int()).abs()
        assert difference.max() <= 2  # grey levels
        assert (difference > 0).float().mean() < 0.01
    noisy = Corruption(64).batched()
    made = noisy.draw([formula_image(64, 64)] * 8, [np.random.default_rng(n) for n in range(8)], 64)
    first, second = noisy(made, torch.device("cuda")), noisy(made, torch.device("cuda"))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


if __name__ == "__main__":
    store(GOLDEN, pictures())

"""The published training augmentation: its distributions, its formulas, its pictures (protocol 4.1)."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from embench.core.errors import BadInput
from embench.training import augment
from embench.training.augment import TrainingAugmentation

GOLDEN = Path(__file__).parents[1] / "files" / "augment" / "training.npz"
"""Our outputs for fixed seeds; after an intended change: `python tests/test_augment.py`."""


def formula_image(height: int, width: int) -> np.ndarray:
    """A grey picture with slopes, edges and no symmetry, by whole numbers alone: the same on every machine."""
    y, x = np.mgrid[:height, :width]
    return ((3 * y + 2 * x + x * y // 16 + 60 * ((y // 20 + x // 28) % 2)) % 256).astype(np.uint8)


def formula_labels(height: int, width: int) -> np.ndarray:
    """Labels 0, 2 and 5 in blocks."""
    y, x = np.mgrid[:height, :width]
    return np.array([0, 2, 5], dtype=np.uint8)[(y // 16 + x // 24) % 3]


def pictures() -> dict[str, np.ndarray]:
    """One output per setting, image beside labels."""
    image, labels = formula_image(90, 130), formula_labels(90, 130)
    made = {}
    for name, augmentation in {
        "plain": TrainingAugmentation(64),
        "padded": TrainingAugmentation(112),
        "nonempty": TrainingAugmentation(64, crop_nonempty=True),
        "noise_and_blur": TrainingAugmentation(64, noise_and_blur=True),
    }.items():
        for seed in range(3):
            made[f"{name}_{seed}"] = np.hstack(augmentation(image, labels, np.random.default_rng(seed)))
    return made


def store(path: Path, made: dict[str, Any]) -> None:
    """Write golden pictures anew."""
    np.savez_compressed(path, **made)


def close_to_golden(found: dict[str, np.ndarray], path: Path) -> None:
    """Compare with stored pictures; a grey level, which contrast may raise, is left to the last bit of coordinates."""
    with np.load(path, allow_pickle=False) as golden:
        assert set(golden) == set(found)
        for name, picture in found.items():
            difference = np.abs(picture.astype(int) - golden[name])
            assert difference.max() <= 2, name
            assert (difference > 0).mean() < 0.01, name


class Watched(augment.Chain):
    """A chain that remembers what each operation drew in the last call, by class name; those not applied are absent."""

    drawn: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - replaced at every call

    def __call__(self, rng: np.random.Generator, image: np.ndarray, labels: Any = None) -> Any:
        self.drawn = {}
        return super().__call__(rng, image, labels)

    def draw(self, operation: augment.Operation, *state: Any) -> dict[str, Any]:
        drawn = super().draw(operation, *state)
        self.drawn[type(operation).__name__] = {**drawn, "shape": state[2].shape}
        return drawn


def watched(augmentation: Any) -> Any:
    """The augmentation, with every chain of it watched."""
    for name, attribute in vars(type(augmentation)).items():
        if isinstance(attribute, cached_property):
            vars(augmentation)[name] = Watched(*getattr(augmentation, name).operations)
    return augmentation


def applied(augmentation: Any) -> dict[str, dict[str, Any]]:
    """What each operation of a watched augmentation drew in the last call."""
    chains = [chain for chain in vars(augmentation).values() if isinstance(chain, Watched)]
    return {name: drawn for chain in chains for name, drawn in chain.drawn.items()}


def names(*chains: augment.Chain) -> list[str]:
    """Class names of the operations, in order."""
    return [type(operation).__name__ for chain in chains for operation in chain.operations]


def nearly_equal(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal but for the last bit of a rotation's coordinates: hardly a pixel, by hardly a grey level."""
    difference = np.abs(found.astype(int) - expected)
    return found.shape == expected.shape and difference.max() <= 3 and (difference > 0).mean() < 0.002


def replay(chain: Any, image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Do again, in plain OpenCV and with the formulas of albumentations 1.x, what a watched chain did last."""
    for name, drawn in chain.drawn.items():
        height, width = image.shape
        if name == "CropNonEmptyMaskIfExists":
            x0, y0, x1, y1 = drawn["crop_coords"]
            image, labels = image[y0:y1, x0:x1], labels[y0:y1, x0:x1]
        elif name == "RandomResizedCrop":
            x0, y0, x1, y1 = drawn["crop_coords"]
            size = next((each.crop, each.crop) for each in chain.operations if type(each).__name__ == name)
            image = cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_LINEAR)
            labels = cv2.resize(labels[y0:y1, x0:x1], size, interpolation=cv2.INTER_NEAREST)
        elif name == "Rotate":
            matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), drawn["degrees"], 1.0)
            fill = next(each.fill for each in chain.operations if type(each).__name__ == name)
            size, border = (width, height), cv2.BORDER_REFLECT_101 if fill is None else cv2.BORDER_CONSTANT
            image = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border)
            labels = cv2.warpAffine(labels, matrix, size, flags=cv2.INTER_NEAREST, borderMode=border)
        elif name == "RandomBrightnessContrast":
            table = np.arange(256).astype("float32") * drawn["alpha"] + drawn["beta"]
            image = cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8))
        elif name == "GaussNoise":
            image = np.clip(image.astype("float32") + drawn["noise"], 0, 255).astype(np.uint8)
        elif name == "GaussianBlur":
            image = cv2.GaussianBlur(image, ksize=(drawn["kernel"], drawn["kernel"]), sigmaX=0)
        elif name == "HorizontalFlip":
            image, labels = image[:, ::-1], labels[:, ::-1]
        elif name == "VerticalFlip":
            image, labels = image[::-1], labels[::-1]
        elif name == "CoarseDropout":
            image = image.copy()
            for x0, y0, x1, y1 in drawn["holes"]:
                image[y0:y1, x0:x1] = 0
        elif name == "SigmaBlur":
            edge = round(drawn["sigma"] * 6 + 1) | 1
            image = cv2.GaussianBlur(image, ksize=(edge, edge), sigmaX=drawn["sigma"])
        elif name == "ColorJitter":
            for which in drawn["order"]:
                table = np.arange(256).astype("float32")
                if which == 0:
                    table = table * drawn["brightness"]
                elif which == 1:
                    table = table * drawn["contrast"] + image.mean() * (1 - drawn["contrast"])
                image = cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8))
        else:
            raise AssertionError(f"no plain formula for {name}")
    return image, labels


def frequencies_are(augmentation: Any, expected: dict[str, float], draw: Any, n: int = 400) -> None:
    """Each operation is applied at its p (99.9 % of fair draws pass), and no two are applied together by habit."""
    seen = []
    for _ in range(n):
        draw()
        seen.append([name in applied(augmentation) for name in expected])
    table = np.array(seen)
    for name, p, count in zip(expected, expected.values(), table.sum(axis=0), strict=True):
        low, high = stats.binom.interval(0.999, n, p)
        assert low <= count <= high, f"{name}: applied in {count} of {n} draws, p is {p}"
    varying = table[:, [p < 1 for p in expected.values()]].astype(float)
    correlation = np.corrcoef(varying.T) - np.eye(varying.shape[1])
    assert np.abs(correlation).max() < 0.2


def geometry(augmentation: Any, draw: Any, n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Areas (fraction of the image) and ratios (width/height) of the windows, and angles, of n whole calls."""
    areas, ratios, degrees = [], [], []
    for _ in range(n):
        draw()
        drawn = applied(augmentation)
        x0, y0, x1, y1 = drawn["RandomResizedCrop"]["crop_coords"]
        areas.append((x1 - x0) * (y1 - y0) / np.prod(drawn["RandomResizedCrop"]["shape"]))
        ratios.append((x1 - x0) / (y1 - y0))
        if "Rotate" in drawn:
            degrees.append(drawn["Rotate"]["degrees"])
    return np.array(areas), np.array(ratios), np.array(degrees)


def one(operation: augment.Operation) -> Watched:
    """A chain of one operation, applied in every call."""
    return Watched(replace(operation, p=1.0))


# What every call keeps


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    crop=st.integers(1, 48),
    crop_nonempty=st.booleans(),
    noise_and_blur=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_section_gives_a_square_crop_with_labels_of_its_own(
    shape: tuple[int, int], crop: int, crop_nonempty: bool, noise_and_blur: bool, seed: int
) -> None:
    augmentation = TrainingAugmentation(crop, crop_nonempty=crop_nonempty, noise_and_blur=noise_and_blur)
    image, labels = formula_image(*shape), formula_labels(*shape)
    image_before, labels_before = image.copy(), labels.copy()
    out, out_labels = augmentation(image, labels, np.random.default_rng(seed))
    assert out.shape == out_labels.shape == (crop, crop)
    assert out.dtype == out_labels.dtype == np.uint8
    assert set(np.unique(out_labels)) <= set(np.unique(labels))
    assert not np.shares_memory(out, image)
    assert not np.shares_memory(out_labels, labels)
    assert np.array_equal(image, image_before)
    assert np.array_equal(labels, labels_before)


def test_the_generator_alone_decides_whatever_was_drawn_before() -> None:
    image, labels = formula_image(90, 130), formula_labels(90, 130)
    used = TrainingAugmentation(48, noise_and_blur=True)
    rng = np.random.default_rng(1)
    first = [used(image, labels, rng) for _ in range(5)]
    again = pickle.loads(pickle.dumps(used))
    rng = np.random.default_rng(1)
    for expected in first:
        assert np.array_equal(expected, again(image, labels, rng))
    assert np.array_equal(first[0], used(image, labels, np.random.default_rng(1)))
    assert not np.array_equal(first[0], first[1])


def test_the_outputs_are_the_stored_pictures() -> None:
    close_to_golden(pictures(), GOLDEN)


@pytest.mark.parametrize(
    ("image", "labels", "words"),
    [
        (np.zeros((9, 9), np.float32), np.zeros((9, 9), np.uint8), "image: found float32"),
        (np.zeros((9, 9, 1), np.uint8), np.zeros((9, 9), np.uint8), "image: found uint8 of shape"),
        (np.zeros((0, 9), np.uint8), np.zeros((0, 9), np.uint8), "image: found"),
        (np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.int64), "labels: found int64"),
        (np.zeros((9, 9), np.uint8), np.zeros((9, 8), np.uint8), "labels: found shape"),
    ],
)
def test_what_is_no_section_is_refused_by_name(image: np.ndarray, labels: np.ndarray, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        TrainingAugmentation(8)(image, labels, np.random.default_rng(0))


@pytest.mark.parametrize("crop", [0, -3, 2.5, True])
def test_a_crop_that_is_no_size_is_refused(crop: Any) -> None:
    with pytest.raises(BadInput, match="crop: found"):
        TrainingAugmentation(crop)


# Against the formulas of albumentations 1.x


@pytest.mark.parametrize("seed", range(40))
def test_a_whole_call_equals_the_plain_formulas(seed: int) -> None:
    augmentation = watched(TrainingAugmentation(56, crop_nonempty=True, noise_and_blur=True))
    image, labels = formula_image(90, 130), formula_labels(90, 130)
    found = augmentation(image, labels, np.random.default_rng(seed))
    expected = replay(augmentation._chain, image, labels)
    assert nearly_equal(found[0], expected[0])
    assert np.mean(found[1] != expected[1]) < 0.002


@pytest.fixture(scope="module")
def published() -> Any:
    """The script that measures the speed of the augmentation, and so builds the library's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        import augmentation

        return augmentation


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(48, 120), st.integers(48, 120)),
    crop=st.integers(1, 48),
    crop_nonempty=st.booleans(),
    noise_and_blur=st.booleans(),
    labelled=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_a_generator_gives_the_picture_that_it_gives_in_albumentations(
    published: Any,
    shape: tuple[int, int],
    crop: int,
    crop_nonempty: bool,
    noise_and_blur: bool,
    labelled: bool,
    seed: int,
) -> None:
    options = {"crop_nonempty": crop_nonempty, "noise_and_blur": noise_and_blur}
    image, labels = formula_image(*shape), formula_labels(*shape) * labelled
    library = published.seeded(published.pipeline(crop, **options), np.random.default_rng(seed))
    expected = library(image=image, mask=labels)
    found = TrainingAugmentation(crop, **options)(image, labels, np.random.default_rng(seed))
    difference = np.abs(found[0].astype(int) - expected["image"])
    assert difference.max() <= 3
    assert np.count_nonzero(difference) <= 2 + 0.001 * difference.size
    assert np.count_nonzero(found[1] != expected["mask"]) <= 1


def test_operations_come_in_the_published_order() -> None:
    assert names(TrainingAugmentation(56, crop_nonempty=True, noise_and_blur=True)._chain) == [
        "CropNonEmptyMaskIfExists",
        "RandomResizedCrop",
        "Rotate",
        "RandomBrightnessContrast",
        "GaussNoise",
        "GaussianBlur",
        "HorizontalFlip",
        "VerticalFlip",
    ]


def test_a_small_section_is_padded_around_its_middle_by_reflection_without_repeating_the_edge() -> None:
    image, labels = formula_image(21, 40), formula_labels(21, 40)
    padded, padded_labels = TrainingAugmentation(32)._pad(np.random.default_rng(0), image, labels)
    assert np.array_equal(padded, np.pad(image, ((5, 6), (0, 0)), mode="reflect"))
    assert np.array_equal(padded_labels, np.pad(labels, ((5, 6), (0, 0)), mode="reflect"))


@pytest.mark.parametrize(
    ("edge", "weights"),
    [(3, [1, 2, 1]), (5, [1, 4, 6, 4, 1]), (7, [2, 7, 14, 18, 14, 7, 2])],
)
def test_a_blur_is_the_convolution_with_the_kernel_of_its_size(edge: int, weights: list[int]) -> None:
    image = formula_image(40, 50)
    blurred = augment.GaussianBlur().image(image, {"kernel": edge})
    reach = edge // 2
    padded = np.pad(image.astype(int), reach, mode="reflect")
    rows = np.sum([w * padded[k : k + 40] for k, w in enumerate(weights)], axis=0)
    both = np.sum([w * rows[:, k : k + 50] for k, w in enumerate(weights)], axis=0)
    total = sum(weights) ** 2
    assert np.array_equal(blurred, (2 * both + total) // (2 * total))


# Distributions


def test_each_operation_is_applied_at_its_published_p_and_independently() -> None:
    augmentation = watched(TrainingAugmentation(24, crop_nonempty=True, noise_and_blur=True))
    image, labels = formula_image(40, 50), formula_labels(40, 50)
    rng = np.random.default_rng(0)
    half = ("Rotate", "RandomBrightnessContrast", "GaussNoise", "GaussianBlur", "HorizontalFlip", "VerticalFlip")
    expected = {"CropNonEmptyMaskIfExists": 0.8, "RandomResizedCrop": 1.0, **dict.fromkeys(half, 0.5)}
    frequencies_are(augmentation, expected, lambda: augmentation(image, labels, rng))


def test_training_takes_0_08_to_1_of_the_section_in_ratios_0_5_to_1_5_and_turns_it_any_way() -> None:
    augmentation, rng = watched(TrainingAugmentation(16)), np.random.default_rng(0)
    image, labels = formula_image(150, 150), formula_labels(150, 150)
    areas, ratios, degrees = geometry(augmentation, lambda: augmentation(image, labels, rng))
    assert 0.075 < areas.min() < 0.1
    assert areas.max() > 0.9
    assert 0.48 < ratios.min() < 0.52
    assert 1.45 < ratios.max() < 1.52
    assert -180 <= degrees.min() < -170
    assert 170 < degrees.max() <= 180


def test_noise_has_a_variance_uniform_in_400_to_1200() -> None:
    chain, rng = one(augment.GaussNoise()), np.random.default_rng(0)
    grey = np.full((128, 128), 128, np.uint8)
    noises = [chain(rng, grey)[0].astype(float) - 128 for _ in range(300)]
    variances = np.array([noise.var() for noise in noises])
    assert 19.5 < variances.min() ** 0.5 < 22
    assert 33 < variances.max() ** 0.5 < 35.5
    assert stats.kstest(variances, stats.uniform(400, 800).cdf).pvalue > 0.001
    assert np.mean(noises) == pytest.approx(-0.5, abs=0.1)  # truncated, not rounded
    assert stats.kurtosis(noises[0].ravel()) == pytest.approx(0, abs=0.2)


def test_noise_is_clipped_to_the_grey_scale() -> None:
    chain, rng = one(augment.GaussNoise()), np.random.default_rng(0)
    black = chain(rng, np.zeros((64, 64), np.uint8))[0]
    white = chain(rng, np.full((64, 64), 255, np.uint8))[0]
    assert (black == 0).mean() == pytest.approx(0.5, abs=0.05)
    assert black.max() < 160
    assert (white == 255).mean() == pytest.approx(0.5, abs=0.05)
    assert white.min() > 95


def test_blur_takes_the_kernel_3_half_as_often_as_5_and_7() -> None:
    chain, rng = one(augment.GaussianBlur()), np.random.default_rng(0)
    drawn = []
    for _ in range(600):
        chain(rng, np.zeros((4, 4), np.uint8))
        drawn.append(chain.drawn["GaussianBlur"]["kernel"])
    kernels, counts = np.unique(drawn, return_counts=True)
    assert kernels.tolist() == [3, 5, 7]
    assert stats.chisquare(counts, counts.sum() * np.array([0.2, 0.4, 0.4])).pvalue > 0.001


def test_brightness_moves_black_by_up_to_0_3_of_the_scale_and_contrast_the_slope_by_0_3() -> None:
    chain, rng = one(augment.RandomBrightnessContrast()), np.random.default_rng(0)
    grey = np.array([[0, 100]], np.uint8)
    low, high = np.array([chain(rng, grey)[0][0] for _ in range(600)], dtype=float).T
    assert low.max() == pytest.approx(0.3 * 255, abs=2)  # by the scale's maximum, not by the image's mean
    assert (low == 0).mean() == pytest.approx(0.5, abs=0.07)
    slope = (high - low)[low > 0] / 100
    assert slope.min() == pytest.approx(0.7, abs=0.02)
    assert slope.max() == pytest.approx(1.3, abs=0.02)
    assert stats.kstest(slope, stats.uniform(0.69, 0.62).cdf).pvalue > 0.001


def test_rotation_covers_all_angles_and_fills_the_corners_by_reflection() -> None:
    chain, rng = one(augment.Rotate(180)), np.random.default_rng(0)
    image, labels = np.full((40, 60), 200, np.uint8), np.full((40, 60), 3, np.uint8)
    degrees = []
    for _ in range(300):
        out, out_labels = chain(rng, image, labels)
        assert np.all(out == 200)
        assert np.all(out_labels == 3)
        degrees.append(chain.drawn["Rotate"]["degrees"])
    assert stats.kstest(degrees, stats.uniform(-180, 360).cdf).pvalue > 0.001


def test_an_even_section_stays_even_through_padding_crop_and_rotation() -> None:
    rng = np.random.default_rng(0)
    augmentation = TrainingAugmentation(48, crop_nonempty=True)
    for _ in range(60):
        out, labels = augmentation(np.full((30, 20), 200, np.uint8), np.full((30, 20), 3, np.uint8), rng)
        assert out.min() == out.max() > 60
        assert np.all(labels == 3)


def windows(chain: Watched, height: int, width: int, n: int) -> np.ndarray:
    """x0, y0, x1, y1 of n random resized crops."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(n):
        chain(rng, np.zeros((height, width), np.uint8))
        drawn.append(chain.drawn["RandomResizedCrop"]["crop_coords"])
    return np.array(drawn)


def published_windows(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], n: int
) -> np.ndarray:
    """Height and width of n windows by the rule of torchvision and albumentations 1.x, drawn independently."""
    rng = np.random.default_rng(1)
    drawn: list[tuple[int, int]] = []
    while len(drawn) < n:  # ten attempts at most, then a central crop: that is too rare to matter here
        area = rng.uniform(*scale) * height * width
        aspect = np.exp(rng.uniform(*np.log(ratio)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            drawn.append((h, w))
    return np.array(drawn)


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (0.5, 1.5)), ((0.2, 1.0), (3 / 4, 4 / 3))], ids=["training", "views"]
)
def test_crops_have_the_published_areas_ratios_and_places(
    scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    height, width = 300, 300
    chain = one(augment.RandomResizedCrop(8, scale, ratio))
    x0, y0, x1, y1 = windows(chain, height, width, 1500).T
    h, w = published_windows(height, width, scale, ratio, 6000).T
    area = (y1 - y0) * (x1 - x0) / (height * width)
    assert area.min() > scale[0] - 0.01
    assert stats.ks_2samp(area, h * w / (height * width)).pvalue > 0.001
    assert stats.ks_2samp((x1 - x0) / (y1 - y0), w / h).pvalue > 0.001
    for start, edge, length in ((x0, x1 - x0, width), (y0, y1 - y0, height)):
        free = edge < 200  # a window that fills the section has no choice of place
        assert stats.kstest(start[free] / (length - edge[free]), stats.uniform.cdf).pvalue > 0.001


def test_the_labelled_window_holds_a_label_and_its_absence_leaves_the_whole_section() -> None:
    augmentation = watched(TrainingAugmentation(32, crop_nonempty=True))
    image, labels = formula_image(200, 200), np.zeros((200, 200), np.uint8)
    labels[150:153, 20:23] = 4
    rng = np.random.default_rng(0)
    kept: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for _ in range(100):
        augmentation(image, labels, rng)
        drawn = applied(augmentation)
        looked = "CropNonEmptyMaskIfExists" in drawn
        if looked:
            x0, y0, x1, y1 = drawn["CropNonEmptyMaskIfExists"]["crop_coords"]
            assert labels[y0:y1, x0:x1].any()
        kept[looked].append(drawn["RandomResizedCrop"]["shape"])
    assert set(kept[True]) == {(32, 32)}
    assert set(kept[False]) == {(200, 200)}


def test_opencv_is_imported_at_the_first_use_and_kept_to_one_thread() -> None:
    script = """
import sys
import numpy as np
from embench.training.augment import TrainingAugmentation
augment = TrainingAugmentation(8)
assert not {"albumentations", "cv2", "torch"} & set(sys.modules)
augment(np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8), np.random.default_rng(0))
import cv2
assert cv2.getNumThreads() <= 1, cv2.getNumThreads()
assert not {"albumentations", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=240)


if __name__ == "__main__":
    store(GOLDEN, pictures())

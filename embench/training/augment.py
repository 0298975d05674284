"""The published training augmentation: operations as albumentations 1.x has them, and chains of them (protocol 4.1).

Every operation is written out here, in OpenCV: albumentations 2.x changed what several of them do, and most of its time
goes into its own bookkeeping. The draws are kept in its order, so that a generator gives here the picture that it gives
there (tests/test_augment.py holds every chain against the library's). The operations are shared by the augmentation of
training (here), by the corruption of pre-training (`retina.corruption`) and by the views of contrastive pre-training
(`baselines.views`).

OpenCV is imported at the first use, never at the import of this module.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from functools import cache, cached_property
from types import ModuleType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput

Grey = NDArray[np.uint8]
Drawn = dict[str, Any]
"""What an operation drew, by name."""

VARIANCE = (400.0, 1200.0)
"""Variance of the Gaussian noise, uniform, in squared grey levels of 0..255 (protocol 4.1)."""

KERNELS = (3, 5, 5, 7, 7)
"""Edges of the Gaussian blur's kernel, pixels, drawn with equal chances (protocol 4.1).

albumentations 1.x draws a whole number of 3..7 and raises the even ones by 1, so that 3 comes half as often as 5
and as 7.
"""

_LEVELS = np.arange(256, dtype=np.float32)


@cache
def opencv() -> ModuleType:
    """Import OpenCV, kept to one thread."""
    import cv2

    cv2.setNumThreads(0)  # data workers are the parallelism; OpenCV's own threads would fight them
    return cv2


# Chains


@dataclass(frozen=True)
class Operation:
    """One random alteration of an image (Y, X) uint8 and, where it moves pixels, of its labels.

    Parameters
    ----------
    p : float
        The probability with which it is applied.
    """

    p: float = field(default=0.5, kw_only=True)

    def draw(self, chance: random.Random, rng: np.random.Generator, image: Grey, labels: Grey | None) -> Drawn:
        """Return what decides about one call: single numbers from `chance`, arrays from `rng`."""
        return {}

    def image(self, pixels: Grey, drawn: Drawn) -> Grey:
        """Return the altered image, a new array or a view of `pixels`, which is left unchanged."""
        raise NotImplementedError

    def labels(self, pixels: Grey, drawn: Drawn) -> Grey:
        """Return the labels of the altered image."""
        return pixels


class Chain:
    """Operations one after the other."""

    def __init__(self, *operations: Operation | None) -> None:
        self.operations = tuple(operation for operation in operations if operation is not None)

    @overload
    def __call__(self, rng: np.random.Generator, image: Grey, labels: None = None) -> tuple[Grey, None]: ...

    @overload
    def __call__(self, rng: np.random.Generator, image: Grey, labels: Grey) -> tuple[Grey, Grey]: ...

    def __call__(self, rng: np.random.Generator, image: Grey, labels: Grey | None = None) -> tuple[Grey, Grey | None]:
        """Alter an image with its labels, `rng` being the only source of randomness.

        All operations draw from one shared state. Returns `image` itself where none of them was applied.
        """
        chance = random.Random(int(rng.integers(2**63)))
        chance.random()  # the library draws whether to apply the chain as a whole
        for operation in self.operations:
            if operation.p >= 1 or chance.random() < operation.p:
                drawn = self.draw(operation, chance, rng, image, labels)
                image = operation.image(image, drawn)
                labels = None if labels is None else operation.labels(labels, drawn)
        return image, labels

    def draw(self, operation: Operation, *state: Any) -> Drawn:
        """Return what one operation draws."""
        return operation.draw(*state)


# Where pixels come from


@dataclass(frozen=True)
class PadIfNeeded(Operation):
    """Reflect around the middle to at least `least` pixels a side, the edge itself not repeated."""

    least: int
    p: float = field(default=1.0, kw_only=True)

    def draw(self, chance: random.Random, rng: np.random.Generator, image: Grey, labels: Grey | None) -> Drawn:
        lacking = [max(0, self.least - side) for side in image.shape]
        return {"before": [each // 2 for each in lacking], "after": [each - each // 2 for each in lacking]}

    def image(self, pixels: Grey, drawn: Drawn) -> Grey:
        return reflected(pixels, drawn["before"], drawn["after"])

    labels = image


@dataclass(frozen=True)
class CropNonEmptyMaskIfExists(Operation):
    """A window of `crop` pixels a side around a labelled pixel; anywhere, where nothing is labelled."""

    crop: int
    p: float = field(default=0.8, kw_only=True)

    def draw(self, chance: random.Random, rng: np.random.Generator, image: Grey, labels: Grey | None) -> Drawn:
        assert labels is not None
        cv2 = opencv()
        # The labelled pixels are counted, not listed: a section has millions.
        in_row = cv2.reduce(np.minimum(labels, 1), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0]
        rows = in_row.cumsum()
        free = [side - self.crop for side in labels.shape]
        if not rows[-1]:
            x, y = (chance.randint(0, room) for room in reversed(free))
        else:
            chosen = chance.randrange(int(rows[-1]))
            row = int(np.searchsorted(rows, chosen, side="right"))
            column = int(np.flatnonzero(labels[row])[chosen - (rows[row] - in_row[row])])
            x, y = (at - chance.randint(0, self.crop - 1) for at in (column, row))
            x, y = (min(max(at, 0), room) for at, room in zip((x, y), reversed(free), strict=True))
        return {"crop_coords": (x, y, x + self.crop, y + self.crop)}

    def image(self, pixels: Grey, drawn: Drawn) -> Grey:
        return _window(pixels, drawn)

    labels = image


@dataclass(frozen=True)
class RandomResizedCrop(Operation):
    """A window of `scale` of the area, `ratio` width/height, resized to the crop: linear, labels nearest."""

    crop: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    p: float = field(default=1.0, kw_only=True)

    def draw(self, chance: random.Random, rng: np.random.Generator, image: Grey, labels: Grey | None) -> Drawn:
        height, width = image.shape
        whole, (least, most) = height * width, self.scale
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = chance.uniform(least * whole, most * whole)
            ratio = math.exp(chance.uniform(low, high))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                y = int((height - h + 1) * chance.random())
                x = int((width - w + 1) * chance.random())
                break
        else:  # the largest window of an allowed ratio, in the middle
            w, h = min(width, round(height * self.ratio[1])), min(height, round(width / self.ratio[0]))
            y, x = (height - h) // 2, (width - w) // 2
        return {"crop_coords": (x, y, x + w, y + h)}

    def image(self, pixels: Grey, drawn: Drawn) -> Grey:
        cv2 = opencv()
        return cv2.resize(_window(pixels, drawn), (self.crop, self.crop), interpolation=cv2.INTER_LINEAR)

    def labels(self, pixels: Grey, drawn: Drawn) -> Grey:
        cv2 = opencv()
        return cv2.resize(_window(pixels, drawn), (self.crop, self.crop), interpolation=cv2.INTER_NEAREST)


@dataclass(frozen=True)
class Rotate(Operation):
    """Rotate about the middle by -degrees..degrees: linear, labels nearest.

    At the border the image is reflected, or with ``fill`` continued by that grey value (labels by 0).

    What the corners reach for is reflected first: OpenCV turns pixels inside an image half as fast again as those that
    it has to reflect one by one. Its coordinates are then rounded elsewhere in their last bit (float32), so about one
    pixel of 100,000 is a grey level off what it would be otherwise.
    """

    degrees: float
    fill: int | None = None

    def draw(self, chance: random.Random, rng: np.random.Generator, image: Grey, labels: Grey | None) -> Drawn:
        degrees = chance.uniform(-self.degrees, self.degrees)
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        height, width = image.shape
        y, x = (height - 1) / 2, (width - 1) / 2
        # pixels that the corners reach beyond the image
        above = max(0, math.ceil(abs(cos) * y + abs(sin) * x - y)) + 1
        left = max(0, math.ceil(abs(cos) * x + abs(sin) * y - x)) + 1
        from_result = [[cos, -sin, x - cos * x + sin * y + left], [sin, cos, y - sin * x - cos * y + above]]
        return {"degrees": degrees, "reach": [above, left], "from_result": np.array(from_result)}

    def image(self, pixels: Grey, drawn: Drawn) -> Grey:
        return self._rotated(pixels, drawn, opencv().INTER_LINEAR, self.fill)

    def labels(self, pixels: Grey, drawn: Drawn) -> Grey:
        return self._rotated(pixels, drawn, opencv().INTER_NEAREST, None if self.fill is None else 0)

    def _rotated(self, pixels: Grey, drawn: Drawn, interpolation: int, fill: int | None) -> Grey:
        cv2 = opencv()
        above, left = drawn["reach"]
        if fill is None:
            wide = reflected(pixels, drawn["reach"], drawn["reach"])
        else:
            wide = cv2.copyMakeBorder(pixels, above, above, left, left, cv2.BORDER_CONSTANT, value=fill)
        how = interpolation | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(wide, drawn["from_result"], pixels.shape[::-1], flags=how)


@dataclass(frozen=True)
class HorizontalFlip(Operation):
    """Mirror left and right."""

    def image(self, pixels: Grey, drawn: Drawn) -> Grey:
        return opencv().flip(pixels, 1)

    labels = image


@dataclass(frozen=True)
class VerticalFlip(Operation):
    """Mirror top and bottom."""

    def image(self, pixels: Grey, drawn: Drawn) -> Grey:
        return opencv().flip(pixels, 0)

    labels = image


def reflected(image: Grey, before: list[int], after: list[int]) -> Grey:
    """Return an image with so many more pixels (y, x) before and after it, reflected at the outermost pixels (101)."""
    cv2 = opencv()
    return cv2.copyMakeBorder(image, before[0], after[0], before[1], after[1], cv2.BORDER_REFLECT_101)


def _window(image: Grey, drawn: Drawn) -> Grey:
    x0, y0, x1, y1 = drawn["crop_coords"]
    return image[y0:y1, x0:x1]


# Grey values


@dataclass(frozen=True)
class RandomBrightnessContrast(Operation):
    """Grey value v becomes v (1 + c) + 255 b, with b and c uniform in -0.3..0.3."""

    def draw(self, chance: random.Random, rng: np.random.Generator, image: Grey, labels: Grey | None) -> Drawn:
        return {"alpha": 1.0 + chance.uniform(-0.3, 0.3), "beta": chance.uniform(-0.3, 0.3) * 255}

    def image(self, pixels: Grey, drawn: Drawn) -> Grey:
        return _looked_up(pixels, _LEVELS * drawn["alpha"] + drawn["beta"])


@dataclass(frozen=True)
class ColorJitter(Operation):
    """Brightness and contrast multiplied by factors uniform in low..high, in random order (torchvision's jitter).

    The contrast is about the mean of the image as it is then.
    """

    low: float
    high: float
    p: float = field(default=1.0, kw_only=True)

    def draw(self, chance: random.Random, rng: np.random.Generator, image: Grey, labels: Grey | None) -> Drawn:
        brightness, contrast = (chance.uniform(self.low, self.high) for _ in range(2))
        chance.random(), chance.random()  # saturation and hue, which grey images lack
        order = [0, 1, 2, 3]
        rng.shuffle(order)
        return {"brightness": brightness, "contrast": contrast, "order": order}

    def image(self, pixels: Grey, drawn: Drawn) -> Grey:
        for which in drawn["order"]:
            if which == 0:
                pixels = _looked_up(pixels, _LEVELS * drawn["brightness"])
            elif which == 1:
                contrast = drawn["contrast"]
                pixels = _looked_up(pixels, _LEVELS * contrast + pixels.mean() * (1 - contrast))
        return pixels


@dataclass(frozen=True)
class GaussNoise(Operation):
    """Add N(0, variance) to every pixel.

    Parameters
    ----------
    variance : (float, float)
        Its least and its greatest, in squared grey levels.
    logarithmic : bool
        Whether its logarithm is drawn uniformly, not itself.
    """

    variance: tuple[float, float] = VARIANCE
    logarithmic: bool = False

    def draw(self, chance: random.Random, rng: np.random.Generator, image: Grey, labels: Grey | None) -> Drawn:
        if self.logarithmic:
            variance = math.exp(chance.uniform(*map(math.log, self.variance)))
        else:
            variance = chance.uniform(*self.variance)
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        noise *= np.float32(math.sqrt(variance))
        return {"noise": noise}

    def image(self, pixels: Grey, drawn: Drawn) -> Grey:
        total = pixels + drawn["noise"]
        return np.clip(total, 0, 255, out=total).astype(np.uint8)  # truncated, as 1.x does


@dataclass(frozen=True)
class GaussianBlur(Operation):
    """Blur with a kernel of `KERNELS`, sigma following from its size."""

    def draw(self, chance: random.Random, rng: np.random.Generator, image: Grey, labels: Grey | None) -> Drawn:
        return {"kernel": chance.choice(KERNELS)}

    def image(self, pixels: Grey, drawn: Drawn) -> Grey:
        return opencv().GaussianBlur(pixels, ksize=(drawn["kernel"],) * 2, sigmaX=0)  # 0: sigma from the kernel


@dataclass(frozen=True)
class SigmaBlur(Operation):
    """Blur with sigma uniform in low..high pixels, the kernel following from it."""

    low: float
    high: float

    def draw(self, chance: random.Random, rng: np.random.Generator, image: Grey, labels: Grey | None) -> Drawn:
        return {"sigma": chance.uniform(self.low, self.high)}

    def image(self, pixels: Grey, drawn: Drawn) -> Grey:
        return opencv().GaussianBlur(pixels, ksize=(0, 0), sigmaX=drawn["sigma"])  # (0, 0): kernel from sigma


@dataclass(frozen=True)
class CoarseDropout(Operation):
    """Blacken 1 to `most` squares of `edge` pixels."""

    most: int
    edge: int

    def draw(self, chance: random.Random, rng: np.random.Generator, image: Grey, labels: Grey | None) -> Drawn:
        count = chance.randint(1, self.most)
        # an array of equal bounds draws otherwise than one bound, and the library gives an array
        y, x = (rng.integers(0, np.full(count, side - self.edge + 1)) for side in image.shape)
        return {"holes": np.stack([x, y, x + self.edge, y + self.edge], axis=-1)}

    def image(self, pixels: Grey, drawn: Drawn) -> Grey:
        pixels = pixels.copy()
        for x0, y0, x1, y1 in drawn["holes"]:
            pixels[y0:y1, x0:x1] = 0
        return pixels


def _looked_up(image: Grey, table: NDArray[np.floating[Any]]) -> Grey:
    return opencv().LUT(image, np.minimum(np.maximum(table, 0), 255).astype(np.uint8))


# Whole augmentations


@dataclass(frozen=True)
class Augmentation:
    """What every augmentation here shares: frozen settings, and chains built from them.

    Parameters
    ----------
    crop : int
        Edge of the square output, pixels.

    Raises
    ------
    BadInput
        `crop` is not a positive whole number.
    """

    crop: int

    def __post_init__(self) -> None:
        if isinstance(self.crop, bool) or not isinstance(self.crop, int) or self.crop < 1:
            raise BadInput(f"crop: found {self.crop!r}; give a positive whole number of pixels")


def check_grey(name: str, array: np.ndarray) -> None:
    """Raise `BadInput` unless the array is a non-empty two-dimensional uint8 picture."""
    if array.ndim != 2 or array.dtype != np.uint8 or array.size == 0:
        raise BadInput(f"{name}: found {array.dtype} of shape {array.shape}; give uint8 of shape (Y, X)")


@dataclass(frozen=True)
class TrainingAugmentation(Augmentation):
    """The augmentation of every fine-tuning recipe (protocol 4.1 and 4.2).

    In this order: padding to at least `crop` by reflection; [`crop_nonempty`: at p 0.8 a window of `crop`
    that holds a labelled pixel, where there is one]; random resized crop (area 0.08..1, ratio 0.5..1.5);
    rotation by up to 180 degrees; brightness and contrast; [`noise_and_blur`]; flips.

    Crop and rotation interpolate one after the other, as published. One warp for both would be quicker where a section
    is rotated, but its pictures are sharper.

    Parameters
    ----------
    crop : int
        Edge of the square output, pixels.
    crop_nonempty : bool
        Whether to look for labels first (the recipes of `cremi` and `kasthuri`).
    noise_and_blur : bool
        Whether to add noise and blur (the recipe of `guay`).
    """

    crop_nonempty: bool = field(default=False, kw_only=True)
    noise_and_blur: bool = field(default=False, kw_only=True)

    @cached_property
    def _pad(self) -> Chain:
        return Chain(PadIfNeeded(self.crop))

    @cached_property
    def _chain(self) -> Chain:
        return Chain(
            CropNonEmptyMaskIfExists(self.crop) if self.crop_nonempty else None,
            RandomResizedCrop(self.crop, scale=(0.08, 1.0), ratio=(0.5, 1.5)),
            Rotate(180),
            RandomBrightnessContrast(),
            GaussNoise() if self.noise_and_blur else None,
            GaussianBlur() if self.noise_and_blur else None,
            HorizontalFlip(),
            VerticalFlip(),
        )

    def __call__(
        self, image_YX: np.ndarray, labels_YX: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment one section with its labels.

        Parameters
        ----------
        image_YX, labels_YX : uint8, shape (Y, X)
            Grey values, and class indices. Left unchanged.
        rng : numpy.random.Generator
            The only source of randomness: the same state gives the same bytes.

        Returns
        -------
        image_YX, labels_YX : uint8, shape (crop, crop)
            New arrays; every label is one of the input's.

        Raises
        ------
        BadInput
            An array that is not uint8 of shape (Y, X), or two that differ in shape.
        """
        check_grey("image", image_YX)
        check_grey("labels", labels_YX)
        if image_YX.shape != labels_YX.shape:
            raise BadInput(f"labels: found shape {labels_YX.shape}; give the image's, {image_YX.shape}")
        if min(image_YX.shape) < self.crop:
            image_YX, labels_YX = self._pad(rng, image_YX, labels_YX)
        return self._chain(rng, image_YX, labels_YX)

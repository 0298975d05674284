"""The published training augmentation, every argument explicit (protocol 4.1).

The recipes were published with albumentations 1.x. Where albumentations 2.x gives the same operation for
the same stated arguments it is used; noise and blur, which it draws differently, are written out here. The
functions that build one operation each are shared by the augmentation of training (here), by the corruption
of pre-training (`retina.corruption`) and by the views of contrastive pre-training (`baselines.views`).

albumentations and OpenCV are imported at the first use, never at the import of this module.
"""

from __future__ import annotations

import math
import os
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from embench.errors import BadInput

VARIANCE = (400.0, 1200.0)
"""Variance of the Gaussian noise, uniform, in squared grey levels of 0..255 (protocol 4.1)."""

KERNELS = (3, 5, 5, 7, 7)
"""Edges of the Gaussian blur's kernel, pixels, drawn with equal chances (protocol 4.1).

albumentations 1.x draws a whole number of 3..7 and raises the even ones by 1, so that 3 comes half as often as 5
and as 7.
"""


# The library


@cache
def albumentations() -> ModuleType:
    """Import albumentations, without its look-up of newer versions and with OpenCV kept to one thread."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks a server at import otherwise
    import albumentations
    import cv2

    cv2.setNumThreads(0)  # data workers are the parallelism; OpenCV's own threads would fight them
    return albumentations


def compose(*operations: Callable[[], Any] | None) -> Any:
    """Chain operations into one pipeline, refusing whatever albumentations would only warn of.

    Parameters
    ----------
    operations : callables that build one operation each, or None
        They are called here, so that a renamed or ignored argument raises instead of changing the
        distribution in silence. None is left out.
    """
    library = albumentations()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return library.Compose([build() for build in operations if build is not None], p=1.0, strict=True)


def apply(pipeline: Any, rng: np.random.Generator, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    """Run a pipeline of `compose` with `rng` as the only source of randomness.

    All operations draw from one shared state. (`Compose.set_random_seed` would give each operation its own
    generator with the same seed, and then operations of equal p are applied all together or not at all.)
    """
    pipeline.set_random_state(rng, random.Random(int(rng.integers(2**63))))
    return pipeline(**arrays)


# One operation each


def random_resized_crop(crop: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Any:
    """A window of `scale` of the area, `ratio` width/height, resized to the crop: linear, labels nearest."""
    import cv2

    return albumentations().RandomResizedCrop(
        size=(crop, crop),
        scale=scale,
        ratio=ratio,
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        area_for_downscale=None,
        p=1.0,
    )


def rotate(degrees: float) -> Any:
    """Rotate by -degrees..degrees at p 0.5, reflecting at the border: linear, labels nearest."""
    import cv2

    return albumentations().Rotate(
        limit=(-degrees, degrees),
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        border_mode=cv2.BORDER_REFLECT_101,
        rotate_method="largest_box",
        crop_border=False,
        fill=0,
        fill_mask=0,
        p=0.5,
    )


def brightness_contrast() -> Any:
    """Grey value v becomes v (1 + c) + 255 b, with b and c uniform in -0.3..0.3, at p 0.5."""
    return albumentations().RandomBrightnessContrast(
        brightness_limit=(-0.3, 0.3),
        contrast_limit=(-0.3, 0.3),
        brightness_by_max=True,
        ensure_safe_range=False,
        p=0.5,
    )


def horizontal_flip() -> Any:
    """Mirror left and right at p 0.5."""
    return albumentations().HorizontalFlip(p=0.5)


def vertical_flip() -> Any:
    """Mirror top and bottom at p 0.5."""
    return albumentations().VerticalFlip(p=0.5)


def gauss_noise() -> Any:
    """Add N(0, var) to every pixel, var uniform in `VARIANCE`, at p 0.5 (albumentations 1.x)."""
    return _own().GaussNoise(lambda draw: draw.uniform(*VARIANCE))


def faint_gauss_noise(low: float, high: float) -> Any:
    """Add N(0, var) to every pixel, var log-uniform in low..high on the 0..1 scale, at p 0.5."""
    return _own().GaussNoise(lambda draw: 255**2 * math.exp(draw.uniform(math.log(low), math.log(high))))


def gaussian_blur() -> Any:
    """Blur with a kernel of `KERNELS`, sigma following from its size, at p 0.5."""
    return _own().KernelBlur(p=0.5)


def sigma_blur(low: float, high: float) -> Any:
    """Blur with sigma uniform in low..high pixels, the kernel following from it, at p 0.5."""
    return _own().SigmaBlur(low, high, p=0.5)


@cache
def _own() -> SimpleNamespace:
    """Our own operations; made at the first use because their base class is albumentations'."""
    import cv2

    base = albumentations().ImageOnlyTransform

    class GaussNoise(base):  # type: ignore[misc, valid-type]
        def __init__(self, variance: Callable[[Any], float]) -> None:
            super().__init__(p=0.5)
            self.variance = variance

        def get_params_dependent_on_data(self, params: dict[str, Any], data: object) -> dict[str, Any]:
            sigma = self.variance(self.py_random) ** 0.5
            noise = self.random_generator.standard_normal(params["shape"], dtype=np.float32)
            noise *= np.float32(sigma)
            return {"noise": noise}

        def apply(self, img: np.ndarray, noise: np.ndarray, **params: Any) -> np.ndarray:
            total = img + noise
            return np.clip(total, 0, 255, out=total).astype(np.uint8)  # truncated, as 1.x does

    class KernelBlur(base):  # type: ignore[misc, valid-type]
        def get_params(self) -> dict[str, Any]:
            return {"kernel": self.py_random.choice(KERNELS)}

        def apply(self, img: np.ndarray, kernel: int, **params: Any) -> np.ndarray:
            return cv2.GaussianBlur(img, ksize=(kernel, kernel), sigmaX=0)  # 0: sigma from the kernel

    class SigmaBlur(base):  # type: ignore[misc, valid-type]
        def __init__(self, low: float, high: float, p: float) -> None:
            super().__init__(p=p)
            self.low, self.high = low, high

        def get_params(self) -> dict[str, Any]:
            return {"sigma": self.py_random.uniform(self.low, self.high)}

        def apply(self, img: np.ndarray, sigma: float, **params: Any) -> np.ndarray:
            return cv2.GaussianBlur(img, ksize=(0, 0), sigmaX=sigma)  # (0, 0): kernel from sigma

    return SimpleNamespace(GaussNoise=GaussNoise, KernelBlur=KernelBlur, SigmaBlur=SigmaBlur)


# Whole augmentations


@dataclass(frozen=True)
class Augmentation:
    """What every augmentation here shares: frozen settings, and pipelines built from them.

    The settings alone are pickled, so that an augmentation travels to a data worker. One object holds no
    state between calls, but must not be called by two threads at once.

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

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


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

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pad, self._pipeline  # noqa: B018 - a wrong argument shows here, not at the first image

    @cached_property
    def _pad(self) -> Any:
        import cv2

        return compose(
            lambda: albumentations().PadIfNeeded(
                min_height=self.crop,
                min_width=self.crop,
                pad_height_divisor=None,
                pad_width_divisor=None,
                position="center",
                border_mode=cv2.BORDER_REFLECT_101,
                fill=0,
                fill_mask=0,
                p=1.0,
            )
        )

    @cached_property
    def _pipeline(self) -> Any:
        def crop_nonempty() -> Any:
            return albumentations().CropNonEmptyMaskIfExists(
                height=self.crop, width=self.crop, ignore_values=None, ignore_channels=None, p=0.8
            )

        return compose(
            crop_nonempty if self.crop_nonempty else None,
            lambda: random_resized_crop(self.crop, scale=(0.08, 1.0), ratio=(0.5, 1.5)),
            lambda: rotate(180),
            brightness_contrast,
            gauss_noise if self.noise_and_blur else None,
            gaussian_blur if self.noise_and_blur else None,
            horizontal_flip,
            vertical_flip,
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
        arrays = {"image": image_YX, "mask": labels_YX}
        if min(image_YX.shape) < self.crop:  # padding by nothing would copy the whole section
            arrays = apply(self._pad, rng, **arrays)
        arrays = apply(self._pipeline, rng, **arrays)
        return own(arrays["image"], image_YX), own(arrays["mask"], labels_YX)


def own(result: np.ndarray, source: np.ndarray) -> np.ndarray:
    """`result`, copied if it may be a view of `source` (a pipeline that happened to change nothing)."""
    return result.copy() if np.may_share_memory(result, source) else result

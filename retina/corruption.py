"""Corrupted images and the clean images to be reconstructed from them (protocol 4.3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from embench.core.errors import BadInput
from embench.training import augment
from embench.training.augment import Augmentation

if TYPE_CHECKING:
    pass

HOLE = 16
"""Edge of a hole, pixels, whatever the crop."""

SCALE = (0.08, 1.0)
"""Area of the random resized crop, of the image's."""
RATIO = (0.5, 1.5)
"""Its width / height."""


@dataclass(frozen=True)
class Corruption(Augmentation):
    """One pair of input and target of reconstruction pre-training (protocol 4.3).

    Both are flipped, rotated by up to 90 degrees and cropped (area 0.08..1, ratio 0.5..1.5) alike. The input
    alone is then corrupted, by each alteration at p 0.5 (protocol 7.7): brightness and contrast, Gaussian
    noise, Gaussian blur, and 1 to 32 holes of 16x16 pixels filled with 0.

    The holes keep their size in smaller crops, but at most 32 (crop / 224)^2 of them, rounded and at least 1,
    are made, so that the same fraction of the image may be hidden (0.16). A larger crop has 32, as published.

    Parameters
    ----------
    crop : int
        Edge of the square output, pixels.
    brightness_contrast, noise, blur, dropout : bool
        Which alterations may be applied; with none the input equals the target.

    Raises
    ------
    BadInput
        `crop` is not a positive whole number, or smaller than a hole.
    """

    crop: int = 224
    brightness_contrast: bool = field(default=True, kw_only=True)
    noise: bool = field(default=True, kw_only=True)
    blur: bool = field(default=True, kw_only=True)
    dropout: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout and self.crop < HOLE:
            raise BadInput(f"crop: found {self.crop}; give at least {HOLE}, the edge of a hole, or dropout=False")

    @property
    def max_holes(self) -> int:
        """The largest number of holes in one image."""
        return max(1, round(32 * min(1.0, self.crop / 224) ** 2))

    @cached_property
    def _geometry(self) -> augment.Chain:
        return augment.Chain(
            augment.HorizontalFlip(),
            augment.VerticalFlip(),
            augment.Rotate(90),
            augment.RandomResizedCrop(self.crop, scale=SCALE, ratio=RATIO),
        )

    @cached_property
    def _corruption(self) -> augment.Chain:
        return augment.Chain(
            augment.RandomBrightnessContrast() if self.brightness_contrast else None,
            augment.GaussNoise() if self.noise else None,
            augment.GaussianBlur() if self.blur else None,
            augment.CoarseDropout(self.max_holes, HOLE) if self.dropout else None,
        )

    def __call__(self, image_YX: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw one pair from an image of any size.

        Parameters
        ----------
        image_YX : uint8, shape (Y, X)
            Grey values. Left unchanged. An image smaller than the crop is enlarged.
        rng : numpy.random.Generator
            The only source of randomness: the same state gives the same bytes.

        Returns
        -------
        corrupted_YX, clean_YX : uint8, shape (crop, crop)
            The network's input and its target, two arrays of their own.

        Raises
        ------
        BadInput
            An array that is not uint8 of shape (Y, X).
        """
        augment.check_grey("image", image_YX)
        clean_YX, _ = self._geometry(rng, image_YX)
        corrupted_YX, _ = self._corruption(rng, clean_YX)
        return corrupted_YX.copy() if corrupted_YX is clean_YX else corrupted_YX, clean_YX

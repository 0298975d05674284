"""Views of one image: two for contrastive pre-training (protocol 4.4), one for masked autoencoding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from embench.training import augment
from embench.training.augment import Augmentation

if TYPE_CHECKING:
    pass

NOISE_VARIANCE = (255**2 * 1e-5, 255**2 * 1e-4)
"""In squared grey levels of 0..255."""
SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
"""Area of the random resized crop, of the image's, and its width / height."""
JITTER = (0.6, 1.4)
"""Factors on brightness and contrast."""
SIGMA = (0.1, 2.0)
"""Of the blur, pixels."""


@dataclass(frozen=True)
class TwoViews(Augmentation):
    """Two independent draws of the augmentation of MoCoV2 (protocol 4.4).

    In this order: rotation by up to 180 degrees (p 0.5); random resized crop (area 0.2..1, ratio 3/4..4/3,
    torchvision's default); brightness and contrast jitter by factors 0.6..1.4, in random order; blur with
    sigma 0.1..2 pixels (p 0.5); flips (p 0.5 each); Gaussian noise (p 0.5).

    Protocol 4.4 gives no variance for the noise: it is log-uniform in 1e-5..1e-4 on the 0..1 scale, as in the
    pre-training script published with CEM500K. Beyond the border a rotation finds 0, as torchvision's does there.

    Parameters
    ----------
    crop : int
        Edge of the square views, pixels.
    """

    crop: int = 224

    @cached_property
    def _chain(self) -> augment.Chain:
        return augment.Chain(
            augment.Rotate(180, fill=0),
            augment.RandomResizedCrop(self.crop, scale=SCALE, ratio=RATIO),
            augment.ColorJitter(*JITTER),
            augment.SigmaBlur(*SIGMA),
            augment.HorizontalFlip(),
            augment.VerticalFlip(),
            augment.GaussNoise(NOISE_VARIANCE, logarithmic=True),
        )

    def __call__(self, image_YX: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw two views of an image of any size.

        Parameters
        ----------
        image_YX : uint8, shape (Y, X)
            Grey values. Left unchanged. An image smaller than the crop is enlarged.
        rng : numpy.random.Generator
            The only source of randomness: the same state gives the same bytes.

        Returns
        -------
        view1_YX, view2_YX : uint8, shape (crop, crop)
            Two arrays of their own.

        Raises
        ------
        BadInput
            An array that is not uint8 of shape (Y, X).
        """
        augment.check_grey("image", image_YX)
        view1_YX, _ = self._chain(rng, image_YX)
        view2_YX, _ = self._chain(rng, image_YX)
        return view1_YX, view2_YX


@dataclass(frozen=True)
class OneView(Augmentation):
    """Flips (p 0.5 each) and a random resized crop (area 0.2..1, ratio 3/4..4/3), as for a masked autoencoder.

    Parameters
    ----------
    crop : int
        Edge of the square view, pixels.
    """

    crop: int = 224

    @cached_property
    def _chain(self) -> augment.Chain:
        return augment.Chain(
            augment.HorizontalFlip(),
            augment.VerticalFlip(),
            augment.RandomResizedCrop(self.crop, scale=SCALE, ratio=RATIO),
        )

    def __call__(self, image_YX: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray]:
        """Draw the view (crop, crop) of a uint8 image (Y, X) of any size; see :meth:`TwoViews.__call__`."""
        augment.check_grey("image", image_YX)
        return (self._chain(rng, image_YX)[0],)

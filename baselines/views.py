"""Two views of one image for contrastive pre-training (protocol 4.4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from embench import augment
from embench.augment import Augmentation

NOISE_VARIANCE = (1e-5, 1e-4)
"""Of grey values as fractions."""


@dataclass(frozen=True)
class TwoViews(Augmentation):
    """Two independent draws of the augmentation of MoCoV2 (protocol 4.4).

    In this order: rotation by up to 180 degrees (p 0.5); random resized crop (area 0.2..1, ratio 3/4..4/3,
    torchvision's default); brightness and contrast jitter by factors 0.6..1.4, in random order; blur with
    sigma 0.1..2 pixels (p 0.5); flips (p 0.5 each); Gaussian noise (p 0.5).

    Protocol 4.4 gives no variance for the noise: it is log-uniform in 1e-5..1e-4 on the 0..1 scale, as in the
    pre-training script published with CEM500K. Nor does it say what a rotation brings in at the border: the image
    is reflected, as in protocol 4.1.

    Parameters
    ----------
    crop : int
        Edge of the square views, pixels.
    """

    crop: int = 224

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pipeline  # noqa: B018 - a wrong argument shows here, not at the first image

    @cached_property
    def _pipeline(self) -> Any:
        def jitter() -> Any:
            return augment.albumentations().ColorJitter(
                brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(1.0, 1.0), hue=(0.0, 0.0), p=1.0
            )

        return augment.compose(
            lambda: augment.rotate(180),
            lambda: augment.random_resized_crop(self.crop, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3)),
            jitter,
            lambda: augment.sigma_blur(0.1, 2.0),
            augment.horizontal_flip,
            augment.vertical_flip,
            lambda: augment.faint_gauss_noise(*NOISE_VARIANCE),
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
        view1_YX = augment.own(augment.apply(self._pipeline, rng, image=image_YX)["image"], image_YX)
        view2_YX = augment.own(augment.apply(self._pipeline, rng, image=image_YX)["image"], image_YX)
        return view1_YX, view2_YX

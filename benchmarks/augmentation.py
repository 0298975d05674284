"""How fast the training augmentation is on one core, against the albumentations pipeline that it stands for.

    python benchmarks/augmentation.py

The reference is the published pipeline (protocol 4.1), every argument explicit, as `albumentations.Compose` runs it on
an image with its labels. The two take turns on the same sections. They draw the same numbers from the same generator,
so that agreement is counted pixel by pixel: OpenCV's rotation of an image reflected beforehand rounds its coordinates
elsewhere, which moves about one pixel of 100,000 by a grey level.

Seconds are those of the processor, so that other programs on the machine count as little as possible.
"""

from __future__ import annotations

import argparse
import os
import random
import time
import warnings
from typing import Any

import numpy as np
from alternating import alternate

from embench.training.augment import KERNELS, VARIANCE, TrainingAugmentation

CROP, IMAGES = 224, 64
SIDES = (256, 512, 1250)
"""Of square sections: UroCell's, a common tile, CREMI's."""


def library() -> Any:
    """Import albumentations without its look-up of newer versions and with OpenCV kept to one thread."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations
    import cv2

    cv2.setNumThreads(0)
    return albumentations


def pipeline(crop: int, *, crop_nonempty: bool = False, noise_and_blur: bool = False) -> Any:
    """Return the published augmentation as an `albumentations.Compose` (2.0.8).

    Whatever the library would only warn of is an error. It draws noise and blur otherwise than 1.x, so these two are
    written out.
    """
    import cv2

    A = library()

    class GaussNoise(A.ImageOnlyTransform):  # type: ignore[misc, name-defined]
        def get_params_dependent_on_data(self, params: dict[str, Any], data: object) -> dict[str, Any]:
            sigma = self.py_random.uniform(*VARIANCE) ** 0.5
            return {
                "noise": self.random_generator.standard_normal(params["shape"], dtype=np.float32) * np.float32(sigma)
            }

        def apply(self, img: np.ndarray, noise: np.ndarray, **params: Any) -> np.ndarray:
            return np.clip(img + noise, 0, 255).astype(np.uint8)

    class GaussianBlur(A.ImageOnlyTransform):  # type: ignore[misc, name-defined]
        def get_params(self) -> dict[str, Any]:
            return {"kernel": self.py_random.choice(KERNELS)}

        def apply(self, img: np.ndarray, kernel: int, **params: Any) -> np.ndarray:
            return cv2.GaussianBlur(img, ksize=(kernel, kernel), sigmaX=0)

    interpolations = {"interpolation": cv2.INTER_LINEAR, "mask_interpolation": cv2.INTER_NEAREST}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        operations = [
            A.CropNonEmptyMaskIfExists(height=crop, width=crop, ignore_values=None, ignore_channels=None, p=0.8)
            if crop_nonempty
            else None,
            A.RandomResizedCrop(
                size=(crop, crop), scale=(0.08, 1.0), ratio=(0.5, 1.5), area_for_downscale=None, p=1.0, **interpolations
            ),
            A.Rotate(
                limit=(-180, 180),
                border_mode=cv2.BORDER_REFLECT_101,
                rotate_method="largest_box",
                crop_border=False,
                fill=0,
                fill_mask=0,
                p=0.5,
                **interpolations,
            ),
            A.RandomBrightnessContrast(
                brightness_limit=(-0.3, 0.3),
                contrast_limit=(-0.3, 0.3),
                brightness_by_max=True,
                ensure_safe_range=False,
                p=0.5,
            ),
            GaussNoise(p=0.5) if noise_and_blur else None,
            GaussianBlur(p=0.5) if noise_and_blur else None,
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
        ]
        return A.Compose([each for each in operations if each is not None], p=1.0, strict=True)


def seeded(made: Any, rng: np.random.Generator) -> Any:
    """Return a pipeline with `rng` as its only source of randomness."""
    made.set_random_state(rng, random.Random(int(rng.integers(2**63))))
    return made


def section(side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a smooth grey picture and a mask of its bright parts."""
    import cv2

    noise = np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32)
    image = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
    return image, (image > 150).astype(np.uint8)


def measure(side: int, pairs: int, options: dict[str, bool]) -> None:
    """Time both on sections of one size, compare what they make, and print it."""
    reference, ours, rng = pipeline(CROP, **options), TrainingAugmentation(CROP, **options), np.random.default_rng(0)
    sections = [section(side, seed) for seed in range(8)] * (IMAGES // 8)
    wrong, worst, labels = 0, 0, 0
    for seed, (image, mask) in enumerate(sections):
        expected = seeded(reference, np.random.default_rng(seed))(image=image, mask=mask)
        found = ours(image, mask, np.random.default_rng(seed))
        apart = np.abs(found[0].astype(int) - expected["image"])
        wrong, worst = wrong + np.count_nonzero(apart), max(worst, int(apart.max()))
        labels += np.count_nonzero(found[1] != expected["mask"])
    ratio = alternate(
        lambda: [reference(image=image, mask=mask) for image, mask in sections],
        lambda: [ours(image, mask, rng) for image, mask in sections],
        pairs,
        time.process_time,
    )
    pixels = len(sections) * CROP**2
    agreement = (
        f"of {pixels} pixels {wrong} differ, by at most {worst} grey levels, and {labels} labels; "
        f"{IMAGES / np.median(ratio.reference):.0f} and {IMAGES / np.median(ratio.ours):.0f} images/s"
    )
    print(ratio.line(f"{side} x {side}{''.join(f', {name}' for name in options)}", agreement, 2.3), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=25)
    asked = parser.parse_args()
    for side in SIDES:
        measure(side, asked.pairs, {})
    measure(512, asked.pairs, {"noise_and_blur": True})
    measure(1250, asked.pairs, {"crop_nonempty": True})

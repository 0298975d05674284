"""Pixel classification as ilastik does it: filters at several scales, and a random forest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embench.data.task import Task
from embench.models.base import SegmentationModel
from embench.training.augment import opencv
from embench.training.sampler import TrainingSections

if TYPE_CHECKING:
    from collections.abc import Sequence

SIGMAS = (0.7, 1.0, 1.6, 3.5, 5.0, 10.0)
"""Pixels; ilastik's scales."""
FEATURES = 6
"""Of each scale: smoothed grey, gradient, Laplacian, the two eigenvalues of the Hessian, difference of Gaussians."""
TREES = 100
PIXELS = 60_000
"""Training pixels, at most; equally many of each class as far as there are any."""
_BORDER = 4
"""OpenCV's name for mirroring without repeating the last pixel."""
_STRIP = 2**18
"""Pixels that are classified at a time."""


class RandomForest(SegmentationModel):
    """A hundred trees on 36 features of a pixel's surroundings; its budget is one pass over the training sections.

    The features are those of ilastik's pixel classification in 2D without its structure tensor; the forest is
    scikit-learn's with its defaults and leaves of at least five pixels. It learns from at most 60,000 pixels, drawn
    by the seed, equally many of each class.
    """

    name = "random-forest"
    group = "classical"
    title = "Random forest on pixel features"
    licence = "BSD-3-Clause"
    citation = """@article{berg2019ilastik,
  title = {ilastik: interactive machine learning for (bio)image analysis},
  author = {Berg, Stuart and others}, journal = {Nature Methods}, volume = {16}, pages = {1226--1232}, year = {2019}
}"""

    forest: Any = None

    def fit(self, sections: TrainingSections, task: Task, iterations: int, rng: np.random.Generator) -> None:
        from sklearn.ensemble import RandomForestClassifier

        if not len(sections):
            raise ValueError("no training sections")
        of_section = max(PIXELS // (len(sections) * len(task.classes)), 50)
        features, labels = [], []
        for number in range(len(sections)):
            image_YX, labels_YX = sections[number]
            chosen = _drawn(labels_YX, len(task.classes), of_section, rng)
            if len(chosen):
                features.append(pixel_features(image_YX).reshape(-1, FEATURES * len(SIGMAS))[chosen])
                labels.append(labels_YX.ravel()[chosen])
        every, targets = np.concatenate(features), np.concatenate(labels)
        if len(targets) > PIXELS:
            kept = np.sort(rng.choice(len(targets), PIXELS, replace=False))
            every, targets = every[kept], targets[kept]
        self.forest = RandomForestClassifier(
            TREES, min_samples_leaf=5, n_jobs=1, random_state=int(rng.integers(2**31))
        ).fit(every, targets)

    def predict(self, image_YX: NDArray[np.uint8], task: Task) -> NDArray[np.float32]:
        known = [int(value) for value in self.forest.classes_]
        scores_CYX = np.zeros((len(task.classes), *image_YX.shape), np.float32)
        flat_CN = scores_CYX.reshape(len(task.classes), -1)
        features = pixel_features(image_YX).reshape(-1, FEATURES * len(SIGMAS))
        for first in range(0, len(features), _STRIP):
            part = slice(first, first + _STRIP)
            flat_CN[known, part] = self.forest.predict_proba(features[part]).T
        return scores_CYX[1:] if task.outputs == 1 else scores_CYX


def pixel_features(image_YX: NDArray[np.uint8], sigmas: Sequence[float] = SIGMAS) -> NDArray[np.float32]:
    """Return (Y, X, features) float32 of a section: six filters at each scale, borders mirrored.

    Parameters
    ----------
    image_YX : ndarray of uint8
    sigmas : sequence of float
        Pixels.
    """
    cv2 = opencv()
    image = image_YX.astype(np.float32)
    maps: list[Any] = []
    for sigma in sigmas:
        smooth, wider = (cv2.GaussianBlur(image, (0, 0), each, borderType=_BORDER) for each in (sigma, 1.6 * sigma))
        # differences of neighbours, times the scale: no scale is small for being coarse
        y, x, yy, xx, yx = (
            sigma ** (dy + dx)
            / 2 ** (dy % 2 + dx % 2)
            * cv2.Sobel(smooth, cv2.CV_32F, dx, dy, ksize=1, borderType=_BORDER)
            for dy, dx in ((1, 0), (0, 1), (2, 0), (0, 2), (1, 1))
        )
        middle, spread = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
        maps += [smooth, np.hypot(y, x), yy + xx, middle + spread, middle - spread, smooth - wider]
    return np.stack(maps, axis=-1)


def _drawn(labels_YX: NDArray[np.uint8], classes: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the places of up to ``most`` pixels of each class."""
    flat = labels_YX.ravel()
    chosen = []
    for value in range(classes):
        places = np.flatnonzero(flat == value)
        chosen.append(places if len(places) <= most else rng.choice(places, most, replace=False))
    return np.sort(np.concatenate(chosen))

"""What a recipe names as its augmentation: the published one, small ones, and anybody's in albumentations.

An augmentation is called ``(image_YX, labels_YX, rng) -> (image_YX, labels_YX)`` with uint8 arrays; it returns new ones
of the recipe's crop, and takes all randomness from ``rng``. Several threads may call it at once.
"""

from __future__ import annotations

import inspect
import os
import random
import threading
from collections.abc import Callable
from copy import deepcopy
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.task import Task
from embench.training.augment import Chain, HorizontalFlip, TrainingAugmentation, VerticalFlip, opencv, reflected
from embench.training.recipe import Recipe
from embench.training.registries import AUGMENTATIONS, is_albumentations, name_of, parts_of

Image = NDArray[np.uint8]
Pair = tuple[Image, Image]
Augmentation = Callable[[Image, Image, np.random.Generator], Pair]


def augmentation_of(recipe: Recipe, task: Task) -> Augmentation:
    """Return the augmentation of a recipe, at its crop.

    Raises
    ------
    BadInput
        A transform that changes the values or the size of labels or the type of images; it is named.
    """
    assert recipe.crop is not None
    value = recipe.augmentation
    if isinstance(value, str):
        return AUGMENTATIONS.find(value)(recipe.crop, task)
    if is_albumentations(value):
        return Library(value, recipe.crop)
    assert callable(value)
    return OwnFunction(value, recipe.crop)


# By name


def published(crop: int, task: Task) -> Augmentation:
    """Return the augmentation of every published recipe, with what the task adds to it (protocol 4.1)."""
    return TrainingAugmentation(crop, crop_nonempty=task.crop_nonempty, noise_and_blur=task.noise_and_blur)


def flips(crop: int, task: Task) -> Augmentation:
    """Return a random crop, mirrored along each axis with p 0.5."""
    chain = Chain(HorizontalFlip(), VerticalFlip())

    def augment(image_YX: Image, labels_YX: Image, rng: np.random.Generator) -> Pair:
        return chain(rng, *cropped(image_YX, labels_YX, crop, rng))

    return augment


def crop_alone(crop: int, task: Task) -> Augmentation:
    """Return a random crop and nothing else."""
    return lambda image_YX, labels_YX, rng: cropped(image_YX, labels_YX, crop, rng)


def cropped(image_YX: Image, labels_YX: Image, crop: int, rng: np.random.Generator) -> Pair:
    """Return a random window of ``crop`` pixels a side; a smaller section is reflected around its middle first."""
    lacking = [max(0, crop - side) for side in image_YX.shape]
    if any(lacking):
        before, after = [each // 2 for each in lacking], [each - each // 2 for each in lacking]
        image_YX, labels_YX = reflected(image_YX, before, after), reflected(labels_YX, before, after)
    y, x = (int(rng.integers(side - crop + 1)) for side in image_YX.shape)
    window = slice(y, y + crop), slice(x, x + crop)
    return np.ascontiguousarray(image_YX[window]), np.ascontiguousarray(labels_YX[window])


# A function of the user's


class OwnFunction:
    """A user's function, given a random crop; with a fourth parameter ``crop`` it makes that itself."""

    def __init__(self, function: Callable[..., Any], crop: int) -> None:
        self.function, self.crop = function, crop
        self.name = name_of(function)
        self.makes_crop = "crop" in inspect.signature(function).parameters

    def __call__(self, image_YX: Image, labels_YX: Image, rng: np.random.Generator) -> Pair:
        if self.makes_crop:
            image, labels = self.function(image_YX, labels_YX, rng, crop=self.crop)
        else:
            image, labels = self.function(*cropped(image_YX, labels_YX, self.crop, rng), rng)
        if fault := _fault(image, labels, labels_YX, self.crop):
            raise BadInput(f"augmentation: {self.name} {fault}")
        return np.ascontiguousarray(image), np.ascontiguousarray(labels)


# albumentations


def albumentations() -> ModuleType:
    """Import albumentations without its look-up of newer versions, OpenCV kept to one thread."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)
    return A


class Library:
    """A transform of albumentations, every draw of it from the sample's own generator.

    It is given a random crop, and the whole section where one of its parts makes a crop itself. A transform keeps its
    generator, so every thread has a copy of its own.
    """

    def __init__(self, transform: Any, crop: int) -> None:
        A = albumentations()
        composed = transform if isinstance(transform, A.BaseCompose) else A.Compose([transform])
        self._transform, self.crop, self._threads = composed, crop, threading.local()
        self.makes_crop = any(map(_makes_crop, parts_of(composed)))

    def __call__(self, image_YX: Image, labels_YX: Image, rng: np.random.Generator) -> Pair:
        before = (image_YX, labels_YX) if self.makes_crop else cropped(image_YX, labels_YX, self.crop, rng)
        if not hasattr(self._threads, "transform"):
            self._threads.transform = deepcopy(self._transform)
        image, labels = _applied(self._threads.transform, *before, rng)
        if fault := _fault(image, labels, labels_YX, self.crop):
            named = self._culprit(*before) or f"{type(self._transform).__name__} {fault}"
            raise BadInput(f"augmentation: {named}")
        return np.ascontiguousarray(image), np.ascontiguousarray(labels)

    def _culprit(self, image_YX: Image, labels_YX: Image) -> str | None:
        """Name the transform that alone, always applied, does what may not be done."""
        for each in parts_of(self._transform):
            alone = deepcopy(each)
            alone.p = 1.0
            size = self.crop if _makes_crop(each) else image_YX.shape
            for seed in range(20):
                image, labels = _applied(alone, image_YX, labels_YX, np.random.default_rng(seed))
                if fault := _fault(image, labels, labels_YX, size):
                    return f"{type(each).__name__} {fault}"
        return None


def _makes_crop(transform: Any) -> bool:
    return any(base.__module__.startswith("albumentations.augmentations.crops") for base in type(transform).__mro__)


def _applied(transform: Any, image_YX: Image, labels_YX: Image, rng: np.random.Generator) -> tuple[Any, Any]:
    transform.set_random_state(rng, random.Random(int(rng.integers(2**63))))
    found = transform(image=image_YX, mask=labels_YX)
    return found["image"], found["mask"]


def _fault(image: Any, labels: Any, labels_before: Image, size: int | tuple[int, ...]) -> str:
    """Say what an augmentation may not have returned; empty where all is well."""
    wanted = (size, size) if isinstance(size, int) else tuple(size)
    for what, array in (("image", image), ("labels", labels)):
        if not isinstance(array, np.ndarray):
            return (
                f"returns the {what} as {type(array).__name__}: it must be an array of uint8 (the harness normalises)"
            )
        if array.dtype != np.uint8:
            return f"returns the {what} as {array.dtype}: it must stay uint8 (the harness normalises)"
        if array.shape != wanted:
            return f"changes the size of the {what} to {array.shape}: it must be {wanted}"
    strange = np.flatnonzero(_values(labels) & ~_values(labels_before))
    if strange.size:
        values = ", ".join(map(str, strange[:5]))
        return f"changes the labels' values to {values}: labels have to be resampled by nearest neighbour, not altered"
    return ""


def _values(labels: Image) -> NDArray[np.bool_]:
    """Return which of the 256 values there are."""
    return opencv().calcHist([np.ascontiguousarray(labels)], [0], None, [256], [0, 256]).ravel() > 0

"""3D patches of the training split, and how deep they are: what networks of volumes are trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.store import Prepared
from embench.data.task import Split, Task
from embench.training.recipe import Recipe
from embench.training.registries import AUGMENTATIONS, is_albumentations

Shape = tuple[int, int, int]
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Augmentation = Callable[[NDArray[np.uint8], NDArray[np.uint8], np.random.Generator], Pair]

DEEP = 8.0
"""Depth of a voxel over its width where it is not known, of tasks scored as stacks: these are cut one way for that."""
FOREGROUND = 1 / 3
"""Fraction of the patches that are drawn until they show any class besides the background (as nnU-Net does)."""
TRIES = 10
"""Places that are drawn for such a patch, at most."""
CACHE_BYTES = 2**31
"""Of volumes, images and labels together, that are read whole and kept; larger ones are read patch by patch."""


def spacing_of(task: Task) -> tuple[float, float, float]:
    """Return the size of the task's voxels (Z, Y, X), relative to X."""
    if task.voxel_size is None:
        return (DEEP if task.scoring.planes == "stack" else 1.0), 1.0, 1.0
    return tuple(length / task.voxel_size[2] for length in task.voxel_size)  # type: ignore[return-value]


def levels_of(spacing: Sequence[float], levels: int) -> list[tuple[Shape, Shape]]:
    """Return kernel and stride (Z, Y, X) of each level of a network, by nnU-Net's rule for anisotropic voxels.

    From one level to the next an axis is halved when its voxels are less than twice as long as the shortest ones. A
    kernel has length 1 along axes that are not halved yet, 3 along the others.
    """
    now = np.array(spacing, float)
    found: list[tuple[Shape, Shape]] = []
    stride = (1, 1, 1)
    for _ in range(levels):
        halved = now / now.min() < 2
        found.append((tuple(np.where(halved, 3, 1).tolist()), stride))
        stride = tuple(np.where(halved, 2, 1).tolist())
        now = now * stride
    return found


def multiple_of(spacing: Sequence[float], levels: int) -> Shape:
    """Return what must divide the sides (Z, Y, X) of what such a network gets."""
    strides = np.array([stride for _, stride in levels_of(spacing, levels)])
    return tuple(strides.prod(axis=0).tolist())


def patch_of(crop: int, spacing: Sequence[float], multiple: Sequence[int]) -> Shape:
    """Return the patch (Z, Y, X) that is as deep as it is wide, in nanometres, each side a multiple of ``multiple``."""
    sides = [
        max(1, round(crop * spacing[2] / length / step)) * step for length, step in zip(spacing, multiple, strict=True)
    ]
    return sides[0], sides[1], sides[2]


class TrainingPatches:
    """Patches of the volumes of a split, each drawn with a random stream of its own.

    Parameters
    ----------
    prepared : Prepared
    patch : (int, int, int)
        (Z, Y, X) voxels.
    split : {"train", "valid"}
        The test split cannot be opened here.
    """

    def __init__(self, prepared: Prepared, patch: Shape, split: Split = "train") -> None:
        if split == "test":
            raise ValueError("a model never sees the test split")
        self.volumes = prepared.volumes(split)
        self.patch = patch
        sizes = np.array([np.prod(volume.image.shape, dtype=float) for volume in self.volumes])
        self._shares = sizes / sizes.sum()
        whole = 2 * sizes.sum() <= CACHE_BYTES
        self._arrays: list[tuple[Any, Any]] = [
            (volume.image[:], volume.labels[:]) if whole else (volume.image, volume.labels)  # type: ignore[index]
            for volume in self.volumes
        ]

    def batch(self, number: int, size: int, entropy: list[int], augment: Augmentation) -> Pair:
        """Return the augmented batch of a step: a pure function of its number, whoever calls it.

        Parameters
        ----------
        number : int
            The step, from 0.
        size : int
        entropy : list of int
            Of the trial.
        augment : callable
            ``(image_ZYX, labels_ZYX, rng) -> (image_ZYX, labels_ZYX)``, of the same size.

        Returns
        -------
        images_BZYX, labels_BZYX : ndarray of uint8
        """
        pairs = [self.sample(sample, entropy, augment) for sample in range(number * size, (number + 1) * size)]
        return np.stack([image for image, _ in pairs]), np.stack([labels for _, labels in pairs])

    def sample(self, number: int, entropy: list[int], augment: Augmentation) -> Pair:
        """Return one augmented patch and its labels, of the size of a patch."""
        rng = np.random.default_rng([*entropy, 1, number])
        image, labels = self._arrays[int(rng.choice(len(self._arrays), p=self._shares))]
        wants_foreground = rng.random() < FOREGROUND
        for _ in range(TRIES if wants_foreground else 1):
            place = tuple(
                slice(start := int(rng.integers(max(length - side, 0) + 1)), start + side)
                for length, side in zip(image.shape, self.patch, strict=True)
            )
            if not wants_foreground or labels[place].any():
                break
        found = augment(_filled(image[place], self.patch), _filled(labels[place], self.patch), rng)
        for what, array in zip(("image", "labels"), found, strict=True):
            if array.dtype != np.uint8 or array.shape != self.patch:
                raise BadInput(
                    f"augmentation: returns the {what} as {array.dtype} {array.shape}: expected {self.patch}"
                )
        return np.ascontiguousarray(found[0]), np.ascontiguousarray(found[1])


def _filled(part_ZYX: NDArray[np.uint8], patch: Shape) -> NDArray[np.uint8]:
    """Mirror what is smaller than a patch around its middle."""
    lacking = [side - length for side, length in zip(patch, part_ZYX.shape, strict=True)]
    return np.pad(part_ZYX, [(each // 2, each - each // 2) for each in lacking], "symmetric")


def augmentation_of(recipe: Recipe, task: Task) -> Augmentation:
    """Return the augmentation of patches that a recipe names (``volume``, or one of an installed package) or holds.

    Raises
    ------
    BadInput
        One that is made for sections.
    """
    value = recipe.augmentation
    if value in ("published", "flips", "none") or is_albumentations(value):
        raise BadInput(
            f"recipe {recipe.name}: augmentation {value if isinstance(value, str) else type(value).__name__} is made "
            "for sections; for volumes: volume, or a function (image_ZYX, labels_ZYX, rng) -> (image_ZYX, labels_ZYX)"
        )
    assert recipe.crop is not None
    if isinstance(value, str):
        return AUGMENTATIONS.find(value)(recipe.crop, task)
    assert callable(value)
    return value


def volume(crop: int, task: Task) -> Augmentation:
    """Return the augmentation of patches: :func:`augmented` with the task's voxels."""
    spacing = spacing_of(task)
    return lambda image_ZYX, labels_ZYX, rng: augmented(image_ZYX, labels_ZYX, spacing, rng)


def augmented(
    image_ZYX: NDArray[np.uint8],
    labels_ZYX: NDArray[np.uint8],
    spacing: Sequence[float],
    rng: np.random.Generator,
) -> Pair:
    """Alter a patch: mirrored, turned by quarters where sides and voxels are equal, other grey levels.

    Each axis is mirrored with p 0.5; each pair of axes of one voxel size and one length is turned by 0 to 3 quarters;
    with p 0.8 contrast and brightness change by up to a fifth of the range, as in the published 2D augmentation; with
    p 0.2 Gaussian noise of up to 0.05 of the range is added.
    """
    flips = tuple(axis for axis in range(3) if rng.random() < 0.5)
    image, labels = np.flip(image_ZYX, flips), np.flip(labels_ZYX, flips)
    for first, second in ((1, 2), (0, 1), (0, 2)):
        turns = int(rng.integers(4))
        if image.shape[first] == image.shape[second] and np.isclose(spacing[first], spacing[second], rtol=0.1):
            image, labels = (np.rot90(each, turns, (first, second)) for each in (image, labels))
    if rng.random() < 0.8:
        contrast, brightness = 1 + rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2) * 255
        levels = np.clip(np.arange(256) * contrast + brightness, 0, 255).astype(np.uint8)
        image = levels[image]
    if rng.random() < 0.2:
        noise = rng.normal(0, rng.uniform(0, 0.05) * 255, image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)

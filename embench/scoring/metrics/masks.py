"""Prediction and truth of one class in one image, and what several metrics need of them, computed once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embench.scoring.metrics.instances import Overlap, components, overlap
from embench.scoring.metrics.skeletons import skeletons
from embench.scoring.metrics.surfaces import Surface, rim, surfaces

if TYPE_CHECKING:
    from embench.scoring.counts import ScoreHistogram

Mask = NDArray[np.bool_]


class Masks:
    """Prediction and truth of one class in one image.

    Parameters
    ----------
    prediction, truth : ndarray of bool, (Y, X) or (Z, Y, X)
        Of one shape. A single section given as (1, Y, X) is an image (Y, X).
    spacing : sequence of float, optional
        Voxel size along the same axes, in nm; one pixel where it is not given, and lengths are then in pixels.
    tolerance : float, optional
        Distance, in the unit of ``spacing``, within which two surfaces agree; two pixels of a section where not given.
    smallest : float
        Objects of less area (2D) or volume (3D), in the unit of ``spacing``, are no instances.
    prediction_ids, truth_ids : ndarray of unsigned int, optional
        Identities of the objects, 0 outside them; connected components where not given.
    histogram : ScoreHistogram, optional
        Of the predicted probabilities.

    Raises
    ------
    ValueError
        Shapes that differ, a number of axes other than 2 or 3, an empty image, or a spacing that is not positive.
    """

    def __init__(
        self,
        prediction: Mask,
        truth: Mask,
        spacing: Sequence[float] | None = None,
        tolerance: float | None = None,
        smallest: float = 0.0,
        prediction_ids: NDArray[Any] | None = None,
        truth_ids: NDArray[Any] | None = None,
        histogram: ScoreHistogram | None = None,
    ) -> None:
        arrays = [prediction, truth, prediction_ids, truth_ids]
        shape = truth.shape
        if any(array is not None and array.shape != shape for array in arrays):
            found = ", ".join(str(array.shape) for array in arrays if array is not None)
            raise ValueError(f"shapes differ: {found}")
        if len(shape) not in (2, 3) or 0 in shape:
            raise ValueError(f"expected an image (Y, X) or a volume (Z, Y, X): found shape {shape}")
        spacing = tuple(map(float, spacing)) if spacing is not None else (1.0,) * len(shape)
        if len(spacing) != len(shape) or not all(0 < size < math.inf for size in spacing):
            raise ValueError(f"expected {len(shape)} positive voxel sizes: found {spacing}")
        if len(shape) == 3 and shape[0] == 1:
            arrays = [None if array is None else array[0] for array in arrays]
            spacing = spacing[1:]
        first, second, self.prediction_ids, self.truth_ids = arrays
        assert first is not None
        assert second is not None
        self.prediction: Mask = np.ascontiguousarray(first, bool)
        self.truth: Mask = np.ascontiguousarray(second, bool)
        self.spacing = spacing
        self.tolerance = 2 * max(spacing[-2:]) if tolerance is None else tolerance
        self.smallest = smallest
        self.histogram = histogram

    @property
    def voxel(self) -> float:
        """Area or volume of one voxel."""
        return math.prod(self.spacing)

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Voxels truly found, wrongly found, missed."""
        return counts(self.prediction, self.truth)

    @property
    def disagree_without_surface(self) -> bool:
        """Whether neither mask has a surface inside the image although they differ: one fills it, one is empty."""
        return not any(len(surface.areas) for surface in self.surfaces) and any(self.counts[1:])

    @cached_property
    def surfaces(self) -> tuple[Surface, Surface]:
        """Surface of the prediction and of the truth, each with its distances to the other."""
        return surfaces(self.prediction, self.truth, self.spacing)

    @cached_property
    def rim_counts(self) -> tuple[int, int, int]:
        """As :attr:`counts`, of the voxels within the tolerance of the outline of either mask."""
        return counts(rim(self.prediction, self.tolerance, self.spacing), rim(self.truth, self.tolerance, self.spacing))

    @cached_property
    def components(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Connected components of prediction and truth, numbered from 1."""
        return components(self.prediction), components(self.truth)

    @cached_property
    def component_counts(self) -> tuple[int, int]:
        """Number of connected components of prediction and truth."""
        first, second = self.components
        return int(first.max()), int(second.max())

    @cached_property
    def overlap(self) -> Overlap:
        """How the objects of prediction and truth overlap, without those that are too small."""
        first = self.components[0] if self.prediction_ids is None else self.prediction_ids
        second = self.components[1] if self.truth_ids is None else self.truth_ids
        return overlap(first, second).without_small(self.smallest / self.voxel)

    @cached_property
    def skeletons(self) -> tuple[Mask, Mask]:
        """Skeletons of prediction and truth."""
        first, second = skeletons((self.prediction, self.truth), self.spacing)
        return first, second


def counts(prediction: Mask, truth: Mask) -> tuple[int, int, int]:
    """Count voxels truly found, wrongly found, missed."""
    found, true, both = (int(np.count_nonzero(mask)) for mask in (prediction, truth, prediction & truth))
    return both, found - both, true - both

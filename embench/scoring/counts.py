"""Counts of agreeing pixels, and what is made of them: IoU, Dice, threshold-free diagnostics (protocol 5).

Everything is kept as integer counts for as long as possible, so that any mean can be recomputed from a
result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.data.task import Scoring

EPSILON = 1e-5
"""Added to intersection and union of every 2D image (protocol 5)."""

_BLOCK = 1 << 20
"""Pixels compared at a time: small enough for the processor's cache, whatever the size of the volume."""


@dataclass(frozen=True)
class Counts:
    """Pixels of one class: truly found, wrongly found, missed.

    Counts of several images add up to those of the images taken as one.

    Where the published code is undefined (0/0: the class is neither predicted nor labelled anywhere in a
    volume) agreement is complete, so IoU and Dice are 1, and :attr:`undefined` says that this value is our
    rule. In 2D the published epsilon gives the same 1.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def union(self) -> int:
        """Pixels predicted or labelled."""
        return self.tp + self.fp + self.fn

    @property
    def undefined(self) -> bool:
        """Whether the class is absent from both prediction and truth."""
        return self.union == 0

    def iou(self, epsilon: float = 0.0) -> float:
        """Return intersection over union, 0..1: with ``epsilon`` 0 the score of a volume (protocol 5)."""
        return iou((self.tp, self.fp, self.fn), epsilon)

    def iou_2d(self) -> float:
        """Return the score of a 2D image: IoU with the published epsilon on both sides (protocol 5)."""
        return self.iou(EPSILON)

    def dice(self) -> float:
        """Return the Dice coefficient, 0..1."""
        return 1.0 if self.undefined else 2 * self.tp / (2 * self.tp + self.fp + self.fn)


def count(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    classes: Iterable[int],
    ignore: NDArray[np.bool_] | int | None = None,
) -> dict[int, Counts]:
    """Count agreement per class, in one pass over both arrays.

    Parameters
    ----------
    prediction, truth : ndarray
        Label values, of one shape.
    classes : iterable of int
        The label values to count.
    ignore : ndarray of bool, int, or None
        Where predictions are set to 0 before counting: a mask of the same shape, or the value that the truth
        has there (Guay: 0, "predictions where ground truth is 0 are ignored", protocol 5).

    Returns
    -------
    dict
        :class:`Counts` by class.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    mask = ignore if isinstance(ignore, np.ndarray) else None
    if prediction.shape != truth.shape or (mask is not None and mask.shape != truth.shape):
        shapes = f"prediction {prediction.shape}, truth {truth.shape}"
        raise ValueError(f"shapes differ: {shapes}" + ("" if mask is None else f", ignore {mask.shape}"))
    classes = tuple(classes)
    prediction, truth = prediction.reshape(-1), truth.reshape(-1)
    mask = None if mask is None else mask.reshape(-1)
    # (intersection, predicted, labelled) by class. Comparing block by block is faster than a joint histogram
    # up to about six classes, and takes any label value.
    sums = np.zeros((len(classes), 3), np.int64)
    room = np.empty((2, min(truth.size, _BLOCK)), bool)
    for here in _blocks(truth.size):
        predicted, labelled = prediction[here], truth[here]
        if ignore is not None:
            ignored = labelled == ignore if mask is None else mask[here]
            predicted = np.where(ignored, predicted.dtype.type(0), predicted)
        in_prediction, in_truth = room[:, : len(labelled)]
        for row, label in zip(sums, classes, strict=True):
            np.equal(predicted, label, out=in_prediction)
            np.equal(labelled, label, out=in_truth)
            row[1:] += _true(in_prediction), _true(in_truth)
            row[0] += _true(np.logical_and(in_prediction, in_truth, out=in_truth))
    return {
        label: Counts(int(both), int(predicted - both), int(labelled - both))
        for label, (both, predicted, labelled) in zip(classes, sums, strict=True)
    }


def matched_counts(prediction_YX: NDArray[np.bool_], truth_YX: NDArray[np.bool_]) -> Counts:
    """Count agreement of the predicted objects that touch a labelled one; the others are left out (protocol 5, Perez).

    Objects are connected components of the prediction, neighbours by edge or corner. The truth need not be labelled:
    a component is kept if a labelled pixel lies under it, whichever object that pixel belongs to.

    Known weakness of the protocol: an image without labelled objects scores 1 whatever is predicted, and
    objects that are wholly false cost nothing. (The published loop takes the lowest label of the truth for
    background, so an image labelled on every pixel matches nothing there; here it is an object like any
    other.)

    Parameters
    ----------
    prediction_YX, truth_YX : ndarray of bool

    Raises
    ------
    ValueError
        If the shapes differ or the arrays are not 2D.
    """
    import cv2

    if prediction_YX.ndim != 2 or prediction_YX.shape != truth_YX.shape:
        raise ValueError(f"expected two images of one shape: {prediction_YX.shape}, {truth_YX.shape}")
    image_YX = prediction_YX.astype(np.uint8)
    components, component_YX = cv2.connectedComponents(image_YX, connectivity=8, ltype=cv2.CV_32S)
    # pixels by component on and beside labelled ones; component 0 is what is not predicted
    on = np.bincount(component_YX[truth_YX], minlength=components)
    beside = np.bincount(component_YX[prediction_YX & ~truth_YX], minlength=components)
    return Counts(tp=int(on[1:].sum()), fp=int(beside[on > 0].sum()), fn=int(on[0]))


def touching(prediction_YX: NDArray[np.bool_], truth_YX: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the predicted objects that :func:`matched_counts` counts, (Y, X)."""
    import cv2

    _, component_YX = cv2.connectedComponents(prediction_YX.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    return prediction_YX & np.isin(component_YX, np.unique(component_YX[truth_YX]))


class ScoreHistogram:
    """Scores of foreground and background pixels, binned: enough for any threshold, in bounded memory.

    A bin is a range of float32 bit patterns, so its width is relative to the distance from 0 or from 1,
    whichever is nearer: under 1 % of it, from 2**-32 up to 1 - 2**-17. Networks whose scores all lie within
    0.001..0.01, or above 0.999, are resolved as finely as others. The 256 levels of a volume's summed scores
    have a bin each.

    A pixel is foreground when ``score > threshold``, strictly, as everywhere in the protocol. Bins are closed
    on the right, so 0.5 is exactly a bin's upper edge, and the counts at 0.5 are those of the protocol's
    score.

    Pixels that the protocol ignores must be left out by the caller.
    """

    _SHIFT = 16  # of 23 mantissa bits, 7 are kept: 128 bins to an octave
    _LOW = (127 - 32) << (23 - _SHIFT)  # bits of 2**-32, shifted
    _HALF = (127 - 1) << (23 - _SHIFT)  # bits of 0.5, shifted
    _HIGH = (127 - 17) << (23 - _SHIFT)  # bits of 2**-17: nearer to 1 float32 has no 128 values to an octave
    _BELOW = _HALF - _LOW + 1  # bins up to 0.5; the first is [0, 2**-32]
    _BINS = _BELOW + _HALF - _HIGH + 1  # the last is (1 - 2**-17, 1]

    def __init__(self) -> None:
        self._counts = np.zeros((self._BINS, 2), np.int64)  # background, foreground

    def add(self, scores: NDArray[np.floating[Any]], truth: NDArray[np.bool_]) -> None:
        """Add pixels.

        Parameters
        ----------
        scores : ndarray of float
            Within 0..1; used as float32.
        truth : ndarray of bool
            Whether each is foreground; same shape.

        Raises
        ------
        ValueError
            If the shapes differ, or a score is outside 0..1 or not a number.
        """
        if scores.shape != truth.shape:
            raise ValueError(f"shapes differ: scores {scores.shape}, truth {truth.shape}")
        scores, truth = scores.reshape(-1), truth.reshape(-1)
        for here in _blocks(scores.size):
            rows = 2 * self._bin(scores[here]) + truth[here].astype(bool)
            self._counts += np.bincount(rows, minlength=2 * self._BINS).reshape(self._BINS, 2)

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        merged = ScoreHistogram()
        merged._counts = self._counts + other._counts
        return merged

    def average_precision(self) -> float | None:
        """Return the precision averaged over the recall gained at each score (no interpolation, ties as one).

        Returns
        -------
        float or None
            0..1; ``None`` where no pixel is foreground.
        """
        predicted, found = (sums[::-1] for sums in self._above())
        predicted, found = predicted + self._counts[::-1].sum(1), found + self._counts[::-1, 1]
        if not found[-1]:
            return None
        gained = np.diff(found, prepend=0)
        return float(np.sum(gained[gained > 0] * (found / np.maximum(predicted, 1))[gained > 0]) / found[-1])

    def counts_at(self, threshold: float) -> Counts:
        """Return the counts of ``score > threshold``; inside a bin, a threshold acts as its upper edge."""
        predicted, found = (int(sums[self._bin(np.array([threshold]))[0]]) for sums in self._above())
        return Counts(found, predicted - found, int(self._counts[:, 1].sum()) - found)

    def iou_at(self, threshold: float) -> float:
        """Return the IoU of ``score > threshold`` over all pixels added, without epsilon."""
        return self.counts_at(threshold).iou()

    def best_threshold(self) -> tuple[float, float]:
        """Return the threshold with the highest IoU over all pixels added, and that IoU.

        Of several such thresholds (any between the scores of two separated classes) it is the middle one,
        counted in bins: the geometric middle near 0. To be used on training images only.
        """
        predicted, found = self._above()
        union = predicted + self._counts[:, 1].sum() - found
        iou = np.where(union > 0, found / np.maximum(union, 1), 1.0)
        best = np.flatnonzero(iou == iou.max())
        chosen = int(best[len(best) // 2])
        return self._edge(chosen), float(iou[chosen])

    def squared_error(self) -> float:
        """Return the sum over pixels of the squared difference of score and truth, 0 or 1."""
        background, foreground = self._counts.T
        centres = self._centres()
        return float(np.dot(background, centres**2) + np.dot(foreground, (1 - centres) ** 2))

    def gaps(self, bins: int) -> NDArray[np.float64]:
        """Return the sum of score minus truth over the pixels of each of ``bins`` equal ranges of score.

        What lies on the edge of two ranges belongs to the lower one.
        """
        centres = self._centres()
        gap = self._counts.sum(1) * centres - self._counts[:, 1]
        sums = np.zeros(bins)
        np.add.at(sums, (np.ceil(centres * bins).astype(int) - 1).clip(0, bins - 1), gap)
        return sums

    @property
    def pixels(self) -> int:
        """Pixels added."""
        return int(self._counts.sum())

    @classmethod
    @cache
    def _centres(cls) -> NDArray[np.float64]:
        """The score in the middle of each bin."""
        edges = np.array([0.0, *(cls._edge(index) for index in range(cls._BINS))])
        return (edges[:-1] + edges[1:]) / 2

    def _above(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pixels, and foreground pixels, scored above each bin."""
        sums = self._counts[::-1].cumsum(0)[::-1] - self._counts
        return sums.sum(1), sums[:, 1]

    @classmethod
    def _bin(cls, scores: NDArray[Any]) -> NDArray[np.int64]:
        """The bin of each score, in rising order of score."""
        scores = np.ascontiguousarray(scores, np.float32)
        if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
            raise ValueError(f"scores must be within 0..1: found {scores.min()} to {scores.max()}")
        scores = np.abs(scores)  # no negative zero
        # Bit patterns of positive floats are ordered as their values. One less than the pattern makes (a, b]
        # a bin up to 0.5; 1 - score is exact above it, and mirrors [a, b) to (1 - b, 1 - a].
        low = (scores.view(np.int32) - 1) >> cls._SHIFT
        high = np.maximum(np.float32(1) - scores, np.float32(0)).view(np.int32) >> cls._SHIFT
        return np.where(
            scores <= 0.5,
            np.maximum(low - (cls._LOW - 1), 0),
            cls._BELOW + (cls._HALF - 1) - np.maximum(high, cls._HIGH - 1),
        ).astype(np.int64)

    @classmethod
    def _edge(cls, index: int) -> float:
        """The upper edge of a bin: a float32 value."""
        if index < cls._BELOW:
            bits, mirrored = index + cls._LOW, False
        else:
            bits, mirrored = cls._BELOW + cls._HALF - 1 - index, True
            if bits < cls._HIGH:
                return 1.0
        value = np.array(bits << cls._SHIFT, np.int32).view(np.float32)
        return float(1 - value if mirrored else value)


def _true(values: NDArray[np.bool_]) -> int:
    """Count what is true, by OpenCV: NumPy takes twice as long."""
    import cv2

    return cv2.countNonZero(values.view(np.uint8))


def _blocks(size: int) -> Iterator[slice]:
    """Cut ``size`` pixels into slices."""
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))


def score(scoring: Scoring, images: Iterable[dict[int, tuple[int, int, int]]]) -> tuple[float, dict[int, float]]:
    """Return the protocol's score and the mean IoU per class from counts (protocol 5).

    2D: IoU per image and class with epsilon 1e-5, mean over both. Volumes: IoU per class without epsilon, mean
    over the task's classes. A class absent from truth and prediction scores 1 (the published code divides 0 by 0).
    """
    epsilon = 0.0 if scoring.is_volume else EPSILON
    counts = list(images)
    per_class = {value: sum([iou(each[value], epsilon) for each in counts]) / len(counts) for value in scoring.classes}
    return sum(per_class.values()) / len(per_class), per_class


def iou(counts: Sequence[float], epsilon: float = 0.0) -> float:
    """Return the IoU of (TP, FP, FN); 1 where the union is empty and ``epsilon`` is 0."""
    overlap, errors, misses = counts
    union = overlap + errors + misses + epsilon
    return (overlap + epsilon) / union if union else 1.0


ClassCounts = dict[int, tuple[int, int, int]]


def tuned_iou(scoring: Scoring, images: Sequence[ClassCounts]) -> dict[int, float | None]:
    """Return IoU per class at its chosen threshold, reduced as the score is; ``None`` where none was chosen."""
    chosen = tuple(value for value in scoring.classes if value in images[0])
    found = score(replace(scoring, classes=chosen), images)[1] if chosen else {}
    return {value: found.get(value) for value in scoring.classes}

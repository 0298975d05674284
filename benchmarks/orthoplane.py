"""How fast the sections of a volume become labels and a score, against NumPy as published (protocol 5).

    python benchmarks/orthoplane.py

Orthoplane aggregation: the scores of every section along z, y and x, scaled to a third of 255, truncated to uint8 and
added up in place; then the threshold. 3D IoU: intersection and union of two label volumes by `numpy.logical_and` and
`numpy.logical_or`. The two take turns on the same arrays, on one core; label volumes have to be equal in every byte,
and so do the counts.

Seconds are those of the processor, so that other programs on the machine count as little as possible.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import cv2
import numpy as np
from alternating import alternate
from numpy.typing import NDArray

from embench.scoring.counts import count
from embench.training.inference import PlaneSum

SHAPE = (165, 1024, 768)
AXES = (0, 1, 2)
Sections = tuple[NDArray[np.float32], ...]


def scores(shape: tuple[int, ...], seed: int = 0) -> Sections:
    """Return float32 scores (1, ...) of a few sections along each axis, to be used in turn."""
    rng = np.random.default_rng(seed)
    sides = [tuple(np.delete(shape, axis)) for axis in AXES]
    return tuple(rng.random((3, 1, *side), np.float32) for side in sides)


def published_planes(shape: tuple[int, ...], sections: Sections) -> NDArray[np.uint8]:
    """Return the labels as the published program adds them up."""
    total_ZYX = np.zeros(shape, np.uint8)
    for axis in AXES:
        for index in range(shape[axis]):
            scaled = (sections[axis][index % 3][0] * (255 / len(AXES))).astype(np.uint8)
            total_ZYX[(slice(None),) * axis + (index,)] += scaled
    return (total_ZYX > 127).astype(np.uint8)


def our_planes(shape: tuple[int, ...], sections: Sections) -> NDArray[np.uint8]:
    """Return the labels as a trial makes them."""
    planes = PlaneSum(shape, 1, AXES)
    for axis in AXES:
        for index in range(shape[axis]):
            planes.add(axis, index, sections[axis][index % 3])
    return planes.labels()


def published_iou(prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the IoU of class 1 of two label volumes by whole boolean volumes."""
    predicted, labelled = prediction == 1, truth == 1
    return float(np.logical_and(predicted, labelled).sum() / np.logical_or(predicted, labelled).sum())


def our_iou(prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the IoU of class 1 of two label volumes."""
    return count(prediction, truth, (1,))[1].iou()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    cv2.setNumThreads(0)
    shape = " x ".join(map(str, SHAPE))
    sections = scores(SHAPE)
    prediction = our_planes(SHAPE, sections)
    same = np.array_equal(prediction, published_planes(SHAPE, sections))
    ratio = alternate(
        partial(published_planes, SHAPE, sections), partial(our_planes, SHAPE, sections), pairs, time.process_time
    )
    agreement = "every byte is equal" if same else "THE LABELS DIFFER"
    print(ratio.line(f"orthoplane aggregation, {shape}", agreement, 2.5), flush=True)
    truth = np.roll(prediction, 1, axis=2)
    found, expected = our_iou(prediction, truth), published_iou(prediction, truth)
    ratio = alternate(
        partial(published_iou, prediction, truth), partial(our_iou, prediction, truth), 4 * pairs, time.process_time
    )
    agreement = f"both give {found:.12f}" if found == expected else f"THEY DIFFER: {found}, {expected}"
    print(ratio.line(f"3D IoU, {shape}", agreement, 5.0), flush=True)

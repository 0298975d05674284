"""How fast instance-matched IoU is, against the loop over objects of the protocol (5, Perez).

    python benchmarks/instances.py

The reference labels prediction and truth with scikit-image and goes through the labelled objects one by one, keeping
every predicted one that it touches. The two take turns on the same masks, on one core; their counts have to be equal.

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

from embench.scoring.counts import Counts, matched_counts

GOALS = {(2048, 260): 25.0, (4096, 1000): 100.0}
"""Side of the image and number of labelled objects, and how many times faster it should be."""


def masks(side: int, objects: int, seed: int = 0) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return a prediction and a truth of so many discs: most are found, a little off, some missed, some made up."""
    rng = np.random.default_rng(seed)
    cells = int(np.ceil(np.sqrt(objects * 1.5)))
    pitch = side / cells
    prediction, truth = np.zeros((2, side, side), np.uint8)
    for place, cell in enumerate(rng.permutation(cells**2)):
        y, x = (np.array(divmod(int(cell), cells)) + 0.5) * pitch
        radius = int(pitch * rng.uniform(0.2, 0.38))
        if place < objects:
            cv2.circle(truth, (int(x), int(y)), radius, 1, -1)
        if place < 0.9 * objects or place >= 1.2 * objects:
            dx, dy = rng.integers(-radius // 4, radius // 4 + 1, 2)
            cv2.circle(prediction, (int(x + dx), int(y + dy)), radius, 1, -1)
    return prediction.astype(bool), truth.astype(bool)


def published(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Counts:
    """Return the counts by the loop over objects."""
    from skimage.measure import label

    instances, labelled = label(prediction, connectivity=2), label(truth, connectivity=2)
    kept = np.zeros_like(prediction)
    for each in np.unique(labelled)[1:]:
        for touched in np.unique(instances[labelled == each]):
            if touched:
                kept |= instances == touched
    both = np.count_nonzero(kept & truth)
    return Counts(both, np.count_nonzero(kept) - both, np.count_nonzero(truth) - both)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    cv2.setNumThreads(0)
    for (side, objects), goal in GOALS.items():
        prediction, truth = masks(side, objects)
        found, expected = matched_counts(prediction, truth), published(prediction, truth)
        same = "counts are equal" if found == expected else f"COUNTS DIFFER: {found}, {expected}"
        both = (partial(count, prediction, truth) for count in (published, matched_counts))
        ratio = alternate(*both, pairs, time.process_time)
        print(ratio.line(f"{side} x {side}, {objects} objects", f"{same} ({found})", goal), flush=True)

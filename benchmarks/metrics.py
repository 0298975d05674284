"""How fast the metrics are, and what memory they take.

    python benchmarks/metrics.py [--panoptica /path/to/python]

- Every metric of a volume as large as CREMI's (125 x 1250 x 1250, 300 ellipsoids, predictions a little off): seconds
  and memory beside the two label maps, in a process of its own.
- Surface Dice, against the library surface-distance (its surface elements, SciPy's distance transform).
- Matching of instances (objects to matched pairs, F1 and panoptic quality), against panoptica, which pins other
  packages and so runs in an environment of its own, named by its interpreter; left out without one.
- A section of 1024 x 1024, every metric.

Ours and the reference take turns on the same arrays; what they give has to agree.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from alternating import Ratio, alternate
from numpy.typing import NDArray

from embench.scoring.metrics import Masks, find_metric, metrics

CREMI = (125, 1250, 1250)
SPACING = (40.0, 4.0, 4.0)
OF_LABELS = [metric for metric in metrics().values() if "scores" not in metric.needs]


def objects(shape: tuple[int, ...], number: int, seed: int = 0) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Return prediction and truth: ellipsoids that are numbered, those of the prediction moved by about a voxel."""
    rng = np.random.default_rng(seed)
    prediction, truth = np.zeros((2, *shape), np.uint16)
    scale = np.array(shape) / CREMI[-len(shape) :]
    for name in range(1, number + 1):
        centre = rng.uniform(0, shape)
        radii = rng.uniform((4, 30, 30), (12, 80, 80))[-len(shape) :] * np.maximum(scale, 0.1)
        for labels, shift in ((truth, 0), (prediction, rng.normal(0, 1.5, len(shape)))):
            low = np.maximum((centre + shift - radii).astype(int), 0)
            high = np.minimum((centre + shift + radii).astype(int) + 2, shape)
            box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            inside = sum(
                ((place - middle) / radius) ** 2
                for place, middle, radius in zip(np.ogrid[box], centre + shift, radii, strict=True)
            )
            labels[box][np.asarray(inside) <= 1] = name
    return prediction, truth


def volume(number: int) -> None:
    """Print seconds and memory of all metrics of a volume; in a process of its own."""
    prediction, truth = (labels > 0 for labels in objects(CREMI, number))
    started, worked, before = time.perf_counter(), time.process_time(), _peak()
    masks = Masks(prediction, truth, SPACING, tolerance=16.0)
    shown = {}
    for metric in OF_LABELS:
        begun = time.process_time()
        metric(masks)
        shown[metric.name] = round(time.process_time() - begun, 1)
    taken = {"seconds": time.perf_counter() - started, "processor": time.process_time() - worked}
    print(json.dumps({**taken, "bytes": _peak() - before, "each": shown}))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def theirs_nsd(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: tuple[float, ...]) -> float:
    import surface_distance

    found = surface_distance.compute_surface_distances(truth, prediction, spacing)
    return float(surface_distance.compute_surface_dice_at_tolerance(found, 16.0))


def our_nsd(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: tuple[float, ...]) -> float:
    value = find_metric("nsd")(Masks(prediction, truth, spacing, tolerance=16.0))
    assert value is not None
    return value


def our_matching(prediction: NDArray[Any], truth: NDArray[Any]) -> tuple[int, float]:
    masks = Masks(prediction > 0, truth > 0, prediction_ids=prediction, truth_ids=truth)
    matched, *_ = find_metric("f1_50").evidence(masks) or (0,)
    return int(matched), float(find_metric("pq_50")(masks) or 0)


THEIRS = """
import sys, time
import numpy as np
from panoptica import InputType, Metric, NaiveThresholdMatching, Panoptica_Evaluator
prediction, truth = np.load(sys.argv[1]), np.load(sys.argv[2])
evaluator = Panoptica_Evaluator(
    expected_input=InputType.UNMATCHED_INSTANCE, instance_matcher=NaiveThresholdMatching(),
    instance_metrics=[Metric.IOU], global_metrics=[], log_times=False, verbose=False,
)
for _ in range(int(sys.argv[3]) + 1):
    started = time.perf_counter()
    found = list(evaluator.evaluate(prediction, truth, verbose=False).values())[0]
    pairs = found.tp, found.pq
    print("RESULT", time.perf_counter() - started, *pairs)
"""


def matching(python: Path, pairs: int) -> str:
    """Return how many times faster objects are matched."""
    prediction, truth = objects((60, 512, 512), 300)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{name}.npy" for name in ("prediction", "truth")]
        for file, labels in zip(files, (prediction, truth), strict=True):
            np.save(file, labels)
        said = subprocess.run(
            [python, "-c", THEIRS, *files, str(pairs)], capture_output=True, text=True, check=True
        ).stdout
    theirs = [line.split()[1:] for line in said.splitlines() if line.startswith("RESULT")]
    ours = []
    for _ in range(pairs + 1):
        started = time.perf_counter()
        found = our_matching(prediction, truth)
        ours.append(time.perf_counter() - started)
    same = found[0] == int(theirs[0][1]) and np.isclose(found[1], float(theirs[0][2]))
    agreement = f"{found[0]} pairs, PQ {found[1]:.4f}: " + ("equal" if same else f"THEIRS {theirs[0][1:]}")
    ratio = Ratio(tuple(float(line[0]) for line in theirs[1:]), tuple(ours[1:]))
    return ratio.line("matching of 300 instances in 60 x 512 x 512", agreement, 5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--panoptica", type=Path, help="interpreter of an environment with panoptica")
    parser.add_argument("--objects", type=int, default=300)
    parser.add_argument("--volume", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.volume:
        volume(asked.objects)
        sys.exit()
    np.inf = np.inf  # type: ignore[attr-defined]  # surface-distance was written for NumPy 1
    for shape, spacing in (((1024, 1024), (4.0, 4.0)), ((40, 256, 256), SPACING)):
        prediction, truth = (labels > 0 for labels in objects(shape, 60))
        for axis in range(len(shape)):  # at the border they differ on purpose
            for mask in (prediction, truth):
                ends = np.moveaxis(mask, axis, 0)
                ends[:2] = ends[-2:] = False
        values = our_nsd(prediction, truth, spacing), theirs_nsd(prediction, truth, spacing)
        both = (partial(call, prediction, truth, spacing) for call in (theirs_nsd, our_nsd))
        ratio = alternate(*both, asked.pairs, time.process_time)
        what = " x ".join(map(str, shape))
        print(ratio.line(f"surface Dice, {what}", "{:.4f} and {:.4f}".format(*values), 3), flush=True)
    if asked.panoptica:
        print(matching(asked.panoptica, asked.pairs), flush=True)
    else:
        print("matching of instances: no --panoptica given, not compared", flush=True)
    prediction, truth = (labels > 0 for labels in objects((1024, 1024), 60))
    for metric in OF_LABELS:
        metric(Masks(prediction, truth, (4.0, 4.0)))
    masks = Masks(prediction, truth, (4.0, 4.0))
    taken = {}
    for metric in OF_LABELS:
        started = time.process_time()
        metric(masks)
        taken[metric.name] = 1000 * (time.process_time() - started)
    slow = ", ".join(f"{name} {each:.0f}" for name, each in taken.items() if each >= 1)
    print(f"a section of 1024 x 1024, 60 objects: {sum(taken.values()):.0f} ms in all ({slow})", flush=True)
    command = [sys.executable, __file__, "--volume", "--objects", str(asked.objects)]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(
        f"every metric of {' x '.join(map(str, CREMI))}, {asked.objects} objects: {said['seconds']:.0f} s on "
        f"{len(os.sched_getaffinity(0))} cores (goal 60), {said['processor']:.0f} s of the processor, "
        f"{said['bytes'] / 2**30:.2f} GiB beside the masks (goal 2); "
        "seconds of the processor: " + ", ".join(f"{name} {each}" for name, each in said["each"].items() if each >= 0.5)
    )

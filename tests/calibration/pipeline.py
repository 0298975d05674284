"""Controls of the whole chain: result files of known truth in, and what the board then says must hold.

A score is what a run got on a test image: the row's quality on the task, plus how hard the image is (for all rows
alike), plus an error of the run, plus one of the run on that image. Counts with that IoU are written as result files of
the synthetic suite to a temporary folder and read back as the site does it: checked, put on boards, ranked, compared.
Counts and promises are those of :class:`calibration.controls.Control`; no two of the events counted
together share runs, so that sampling error is that of independent ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import erf, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from calibration import simulate as simulated
from calibration.controls import SEEDS, SPREAD, Control
from numpy.typing import ArrayLike, NDArray

from embench.data.catalog import find_task
from embench.scoring.results import save
from embench.scoring.schema import TrialResult
from leaderboard import trials as trials_module
from leaderboard.site.content import Content
from leaderboard.stats.tests import Floats

ROWS = ("best", "near", "twin-1", "twin-2")
QUALITIES = np.array([0.62, 0.605, 0.5, 0.5])
"""True scores: two near ones, and far below a model that is there twice, under other seeds."""
IMAGES = {"mini-kasthuri": 12, "mini-perez-nuclei": 8, "mini-urocell": 1}
"""Test images by task; the last is a volume with two classes."""
EASE = (0.05, 0.0, -0.05)
"""What a task adds to every row's quality."""
SPREAD_OF_IMAGES, SPREAD_WITHIN = 0.08, 0.02
"""Standard deviations: of how hard an image is, and of a run on an image."""


@dataclass(frozen=True)
class Truth:
    """What a simulated board is to find.

    ``over_seeds`` is what each row would score on the same images, the mean over all seeds; ``over_images`` what its
    runs would score on all images of the kind.
    """

    results: list[tuple[Path, TrialResult]]
    over_seeds: Floats
    over_images: Floats


def run(generator: np.random.Generator, boards: int = 100) -> list[Control]:
    """Simulate boards and return the controls, each added up over all of them.

    Parameters
    ----------
    generator : numpy.random.Generator
    boards : int
    """
    sums: dict[str, Control] = {}
    with TemporaryDirectory(prefix="embench-controls-") as folder:
        for k in range(boards):
            for found in _board(generator, Path(folder, str(k)), k):
                before = sums.get(found.name, replace(found, held=0, of=0))
                sums[found.name] = replace(found, held=before.held + found.held, of=before.of + found.of)
    return list(sums.values())


def simulate(generator: np.random.Generator, folder: Path) -> Truth:
    """Write the result files of one board."""
    results = []
    over_seeds, over_images = np.zeros((2, len(ROWS)))
    for (name, count), ease in zip(IMAGES.items(), EASE, strict=True):
        task = find_task(name)
        several = count > 1  # a single volume is never drawn again, so it is as hard as any
        image = generator.normal(0, SPREAD_OF_IMAGES, count) * several
        of_run = generator.normal(0, SPREAD, (len(ROWS), SEEDS, 1))
        within = generator.normal(0, SPREAD_WITHIN, (len(ROWS), SEEDS, count)) * several
        quality = QUALITIES + ease
        over_seeds += (quality + image.mean()) / len(IMAGES)
        over_images += (quality + of_run.mean(axis=(1, 2))) / len(IMAGES)
        scores = quality[:, None, None] + image + of_run + within
        labels = task.scoring.classes
        by_label = dict(zip(labels, np.arange(len(labels)) - (len(labels) - 1) / 2, strict=True))
        for row, of_row in zip(ROWS, scores, strict=True):
            for seed, levels in enumerate(of_row):
                classes = {label: (levels + 0.1 * place).clip(0, 1) for label, place in by_label.items()}
                made = simulated.result(row, task, seed, [simulated.snapshot(task, task.iterations, classes)])
                path = folder / name / row / f"seed-{seed}.json"
                save(made, path)
                results.append((path, made))
    return Truth(results, over_seeds, over_images)


def corrupt(generator: np.random.Generator, result: TrialResult, path: Path) -> None:
    """Write a result with one of the faults that must be found: scores or counts that do not belong together."""
    (final,) = result.snapshots
    kind = generator.integers(3)
    if kind == 0:
        simulated.forged(result, path, snapshots=[final.model_copy(update={"score": 0.99})])
    elif kind == 1:
        claimed = {"score": 0.99, "class_iou": dict.fromkeys(final.class_iou, 0.99)}
        simulated.forged(result, path, snapshots=[final.model_copy(update=claimed)])
    else:  # the counts of one image, in a file that still carries its old digest
        save(result, path)
        facts = json.loads(path.read_text())
        for counts in facts["snapshots"][0]["images"][0]["classes"].values():
            counts[0] += 1
        path.write_text(json.dumps(facts))


def _board(generator: np.random.Generator, folder: Path, number: int) -> Iterator[Control]:
    """Yield the controls of one simulated board."""
    truth = simulate(generator, folder)
    _, result = truth.results[-1]
    bad = folder / result.task / result.model.name / f"seed-{SEEDS}.json"
    corrupt(generator, result.model_copy(update={"seed": SEEDS}), bad)
    trials, refused = trials_module.read([folder])
    content = Content(trials, refused)
    ranking = _ranking(content)

    found = ranking.set_index("row").reindex(ROWS)
    yield _control("interval over seeds holds the true mean", _within(truth.over_seeds, found["low"], found["high"]))
    one = number % len(ROWS)  # rows share the images and the ranks, so each board is asked of one
    of_images = _within(truth.over_images, found["image_low"], found["image_high"])
    yield _control("interval over test images holds the true mean", of_images[[one]])
    better, as_good = (QUALITIES[one] < QUALITIES).sum(), (QUALITIES[one] <= QUALITIES).sum()
    in_ranks = (found["rank_low"] <= as_good) & (better < found["rank_high"])
    yield _control("rank interval holds the true rank", in_ranks.iloc[[one]])
    for a, b in ((0, 1), (2, 3)):
        lines = content.pairings.against(ROWS[a])
        lines = lines[lines["other"] == ROWS[b]]
        shift = QUALITIES[a] - QUALITIES[b]
        rounded = 0.5 / simulated.TRUTH
        yield _control(
            "shift interval of a pair holds the true shift",
            _within(shift, lines["low"] - rounded, lines["high"] + rounded),
        )
        if shift == 0:  # at the level of the exact test of 6 against 6
            different = lines["verdict"] == "different"
            yield _control("a model is different from itself on a task", different, 38 / 924, exactly=True)
    means = found["mean"].to_numpy()
    yield _control("rows far apart are in their true order", [means[:2].min() > means[2:].max()], 1)
    yield _control("two near rows are in their true order", [means[0] > means[1]], _chance_of_order(), exactly=True)

    clean = Content([trials_module.trial_of(result, path) for path, result in truth.results], [])
    unmoved = ranking.equals(_ranking(clean))
    named = len(refused) == 1 and refused[0].startswith(f"{bad}: quarantined")
    yield _control("a file that contradicts itself is quarantined and moves nothing", [named and unmoved], 1)


def _ranking(content: Content) -> pd.DataFrame:
    (board,) = content.boards
    return content.rankings[board.slug, "score"]


def _control(claim: str, held: ArrayLike, promise: float = 0.95, exactly: bool = False) -> Control:
    each = np.asarray(held, bool)
    return Control(f"result files to board: {claim}", int(each.sum()), each.size, promise, exactly)


def _within(truth: ArrayLike, low: ArrayLike, high: ArrayLike) -> NDArray[np.bool_]:
    return (np.asarray(low) <= truth) & (truth <= np.asarray(high))


def _chance_of_order() -> float:
    """Return how often the better of the two near rows has the larger mean: Phi of the difference of the means."""
    variance = sum((SPREAD**2 + (count > 1) * SPREAD_WITHIN**2 / count) / SEEDS for count in IMAGES.values())
    apart = (QUALITIES[0] - QUALITIES[1]) / (sqrt(2 * variance) / len(IMAGES))
    return (1 + erf(apart / sqrt(2))) / 2

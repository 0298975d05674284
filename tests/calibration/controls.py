"""Controls of the statistics: on simulated scores whose truth is known, what the board says must hold.

Scores of a run are a row's true quality on a task, plus a normal error of the seed. Every control counts how often a
claim is right, and passes when the count is within sampling error of the promise: a 95 % interval may cover more often
than it says, but not less often than chance allows (four standard errors).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from leaderboard.stats import bootstrap, several, tests

SEEDS = 6
STANDARD_ERRORS = 4
"""Between a count and its promise: some 30 comparisons are made, and 4 is passed by chance once in 16,000."""
QUALITIES = np.array([0.62, 0.60, 0.55, 0.54, 0.40])
"""True means of the simulated rows: two near ones twice, and a clear last."""
SPREAD = 0.03
"""Standard deviation over seeds."""


@dataclass(frozen=True)
class Control:
    """How often a claim held.

    ``promise`` is the probability that was claimed; with ``exactly`` more often is a fault as well.
    """

    name: str
    held: int
    of: int
    promise: float
    exactly: bool = False

    @property
    def share(self) -> float:
        """How often it held."""
        return self.held / self.of

    @property
    def passed(self) -> bool:
        """Whether the share is within sampling error of the promise, or above it where that is no fault."""
        allowed = STANDARD_ERRORS * sqrt(self.promise * (1 - self.promise) / self.of)
        distance = self.share - self.promise
        return abs(distance) <= allowed if self.exactly else distance >= -allowed


def run(generator: np.random.Generator, repeats: int = 1000, draws: int = 2000) -> Iterator[Control]:
    """Run every control and yield its outcome.

    Parameters
    ----------
    generator : numpy.random.Generator
    repeats : int
        Simulated boards, or comparisons, of each control.
    draws : int
        Bootstrap draws of each interval.
    """
    yield same_model(generator, repeats)
    yield same_model_on_images(generator, repeats)
    for n, m in ((6, 6), (4, 6), (30, 25)):
        yield shift_interval(generator, repeats, n, m)
    for tasks, seeds in ((1, 6), (3, 3), (8, 6)):
        yield mean_interval(generator, repeats, tasks, seeds, draws)
    for tasks, seeds in ((1, 6), (3, 3), (8, 6)):
        yield middle_interval(generator, repeats, tasks, seeds, draws)
    for tasks, images in ((1, 4), (3, 20)):
        yield image_interval(generator, repeats, tasks, images, draws)
    for tasks, seeds in ((1, 6), (8, 3)):
        yield improvement_interval(generator, repeats, tasks, seeds)
    yield from ranks(generator, repeats, draws)
    yield non_inferiority(generator, repeats)


def same_model(generator: np.random.Generator, repeats: int) -> Control:
    """A model against itself under other seeds: called different as often as the exact test's own level, 0.041."""
    x, y = generator.normal(0.6, SPREAD, (2, repeats, SEEDS))
    different = sum(tests.compare(a, b).verdict == "different" for a, b in zip(x, y, strict=True))
    return Control("a model against itself under other seeds is different", different, repeats, 38 / 924, exactly=True)


def same_model_on_images(generator: np.random.Generator, repeats: int) -> Control:
    """The same over 20 test images that both share: images differ far more than the two do."""
    images = generator.normal(0.5, 0.2, (repeats, 1, 20))
    scores = images + generator.normal(0, SPREAD, (repeats, 2, 20))
    different = sum(tests.compare_pairs(*pair).verdict == "different" for pair in scores)
    # The exact level of the signed-rank test of 20 pairs at 0.05.
    level = 2 * float(tests._signed_sums(tuple(range(1, 21)))[:53].sum())
    return Control("a model against itself over test images is different", different, repeats, level, exactly=True)


def shift_interval(generator: np.random.Generator, repeats: int, n: int, m: int) -> Control:
    """The Hodges-Lehmann interval holds the true shift."""
    held = 0
    for _ in range(repeats):
        _, low, high = tests.hodges_lehmann(generator.normal(0.63, SPREAD, n), generator.normal(0.6, SPREAD, m))
        held += low <= 0.03 <= high
    return Control(f"Hodges-Lehmann interval of {n} against {m} seeds", held, repeats, 0.95)


def mean_interval(generator: np.random.Generator, repeats: int, tasks: int, seeds: int, draws: int) -> Control:
    """The bootstrap interval over seeds holds the true mean over tasks, which differ in spread."""
    spreads = SPREAD * np.linspace(0.5, 2, tasks)[:, None]
    held = 0
    for _ in range(repeats):
        scores = generator.normal(0.6, spreads, (tasks, seeds))
        low, high = bootstrap.interval(bootstrap.bootstrap_means(list(scores), generator, draws))
        held += low <= 0.6 <= high
    return Control(f"bootstrap interval over {seeds} seeds on {tasks} tasks", held, repeats, 0.95)


def middle_interval(generator: np.random.Generator, repeats: int, tasks: int, seeds: int, draws: int) -> Control:
    """The interval of the interquartile mean holds it: of one normal, that is its mean."""
    held = 0
    for _ in range(repeats):
        scores = generator.normal(0.6, SPREAD, (tasks, seeds))
        low, high = bootstrap.interval(bootstrap.bootstrap_interquartile_means(list(scores), generator, draws))
        held += low <= 0.6 <= high
    return Control(f"interval of the interquartile mean, {seeds} seeds on {tasks} tasks", held, repeats, 0.95)


def image_interval(generator: np.random.Generator, repeats: int, tasks: int, images: int, draws: int) -> Control:
    """The bootstrap interval over test images holds the mean over all images of the kind."""
    held = 0
    for _ in range(repeats):
        tables = [generator.normal(0.6, 0.1, (1, images)) for _ in range(tasks)]
        low, high = bootstrap.interval(bootstrap.bootstrap_images(tables, generator, draws)[:, 0])
        held += low <= 0.6 <= high
    return Control(f"bootstrap interval over {images} images on {tasks} tasks", held, repeats, 0.95)


def improvement_interval(generator: np.random.Generator, repeats: int, tasks: int, seeds: int) -> Control:
    """The interval of the probability of improvement holds it, for a shift of one standard deviation."""
    x = generator.normal(1, 1, (tasks, repeats, seeds))
    y = generator.normal(0, 1, (tasks, repeats, seeds))
    a12 = (np.sign(x[..., :, None] - y[..., None, :]).mean(axis=(-1, -2)) + 1) / 2
    _, low, high = several.improvement_interval(a12, seeds, seeds)
    truth = 0.760250  # of two normals one standard deviation apart: Phi(1 / sqrt 2)
    held = int(((low <= truth) & (truth <= high)).sum())
    return Control(f"interval of the probability of improvement, {seeds} seeds on {tasks} tasks", held, repeats, 0.95)


def ranks(generator: np.random.Generator, repeats: int, draws: int) -> Iterator[Control]:
    """Rank intervals hold the true ranks, and a row that opens a tie group is really below the leader before it."""
    truth = np.arange(1, len(QUALITIES) + 1)
    inside = np.zeros(len(QUALITIES), int)
    wrong, best_in_front = 0, 0
    boards = max(1, repeats // 4)
    for _ in range(boards):
        scores = generator.normal(QUALITIES[:, None, None], SPREAD, (len(QUALITIES), 2, SEEDS))
        drawn = _drawn(scores, generator, draws)
        ranges = bootstrap.rank_intervals(drawn)
        inside += (ranges[:, 0] <= truth) & (truth <= ranges[:, 1])
        best_in_front += bootstrap.tie_groups(drawn, scores.mean(axis=(1, 2)))[0] == 1
        same = generator.normal(0.6, SPREAD, (2, 2, SEEDS))
        groups = bootstrap.tie_groups(_drawn(same, generator, draws), same.mean(axis=(1, 2)))
        wrong += len(set(groups)) > 1
    for rank, held in zip(truth, inside, strict=True):
        yield Control(f"rank interval of the row of true rank {rank}", int(held), boards, 0.95)
    yield Control("the truly best row is in the first tie group", int(best_in_front), boards, 0.95)
    yield Control("two equal rows share a tie group", boards - wrong, boards, 0.95)


def non_inferiority(generator: np.random.Generator, repeats: int) -> Control:
    """A row that is worse by the very margin is not called non-inferior, but for one time in twenty."""
    x, y = generator.normal(0, SPREAD, (2, repeats, SEEDS)) + np.array([0.58, 0.6])[:, None, None]
    called = sum(tests.non_inferior(a, b, 0.02) == "non-inferior" for a, b in zip(x, y, strict=True))
    return Control("a row worse by the margin is not called non-inferior", repeats - called, repeats, 0.95)


def _drawn(scores: NDArray[np.float64], generator: np.random.Generator, draws: int) -> NDArray[np.float64]:
    return np.stack([bootstrap.bootstrap_means(list(row), generator, draws) for row in scores], axis=1)

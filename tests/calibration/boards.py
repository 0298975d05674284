"""How often a board says something false: boards whose truth is known, ranked by the board's own functions.

    python tests/calibration/boards.py [boards of each kind]

prints the table of docs/statistics.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaderboard.stats.means import mean_of
from leaderboard.stats.ranking import Ranking

Floats = NDArray[np.float64]

ROWS, TASKS, SEEDS = (2, 5, 10, 20), (1, 8), (3, 6, 10)
SD = 0.03


@dataclass(frozen=True)
class Kind:
    """One way that scores come about.

    ``make`` returns scores (rows, tasks, seeds), ``truth`` the true mean of every row. ``holds`` is false where no
    method can keep the promise, with ``because``.
    """

    name: str
    make: Callable[[np.random.Generator, int, int, int], Floats]
    truth: Callable[[int], Floats]
    holds: bool = True
    because: str = ""


def _normal(rng: np.random.Generator, rows: int, tasks: int, seeds: int) -> Floats:
    return rng.normal(0.6, SD, (rows, tasks, seeds))


def _skewed(rng: np.random.Generator, rows: int, tasks: int, seeds: int) -> Floats:
    return 0.6 + SD - rng.exponential(SD, (rows, tasks, seeds))


def _wide(rows: int) -> Floats:
    """Spreads of 7 to 1, row by row."""
    return 0.02 * np.where(np.arange(rows) % 2, 7.0, 1.0)[:, None, None]


def _uneven(rng: np.random.Generator, rows: int, tasks: int, seeds: int) -> Floats:
    return 0.6 + _wide(rows) * rng.standard_normal((rows, tasks, seeds))


def _uneven_skewed(rng: np.random.Generator, rows: int, tasks: int, seeds: int) -> Floats:
    return 0.6 + _wide(rows) * (1 - rng.exponential(1, (rows, tasks, seeds)))


def _near(rng: np.random.Generator, rows: int, tasks: int, seeds: int) -> Floats:
    return _normal(rng, rows, tasks, seeds) + (_gaps(rows) - 0.6)[:, None, None]


def _one_fails(rng: np.random.Generator, rows: int, tasks: int, seeds: int) -> Floats:
    scores = _normal(rng, rows, tasks, seeds)
    scores[0][rng.random((tasks, seeds)) < 1 / 6] = 0
    return scores


def _one_fails_but_is_equal(rng: np.random.Generator, rows: int, tasks: int, seeds: int) -> Floats:
    scores = _normal(rng, rows, tasks, seeds)
    scores[0] *= 1.2
    scores[0][rng.random((tasks, seeds)) < 1 / 6] = 0
    return scores


def _all_fail(rng: np.random.Generator, rows: int, tasks: int, seeds: int) -> Floats:
    scores = _normal(rng, rows, tasks, seeds)
    scores[rng.random(scores.shape) < 1 / 6] = 0
    return scores


def _equal(rows: int) -> Floats:
    return np.full(rows, 0.6)


def _gaps(rows: int) -> Floats:
    return 0.6 - 0.002 * np.arange(rows)


def _first_worse(rows: int) -> Floats:
    return np.where(np.arange(rows) == 0, 0.5, 0.6)


KINDS = (
    Kind("normal", _normal, _equal),
    Kind("normal, means 0.002 apart", _near, _gaps),
    Kind("skewed", _skewed, _equal),
    Kind("spreads 7:1", _uneven, _equal),
    Kind("a row fails one time in six", _one_fails, _first_worse),
    Kind("every row fails one time in six", _all_fail, _equal),
    Kind(
        "spreads 7:1 and skewed",
        _uneven_skewed,
        _equal,
        holds=False,
        because="the mean of a few skewed scores against rows that hardly vary: no test of means keeps its level",
    ),
    Kind(
        "a row fails one time in six and makes up for it",
        _one_fails_but_is_equal,
        _equal,
        holds=False,
        because="with no failure among a few seeds nothing in the data shows that there are any",
    ),
)


def ranking_of(scores: Floats) -> Ranking:
    """Rank scores (rows, tasks, seeds) as the board does."""
    rows, tasks, seeds = scores.shape
    means = [mean_of(list(row), [1 / tasks] * tasks) for row in scores]
    order = np.argsort([-mean.value for mean in means], kind="stable").tolist()
    return Ranking(
        tuple(str(row) for row in order), tuple(means[row] for row in order), (0,) * rows, (tasks * seeds,) * rows
    )


def errors(kind: Kind, rows: int, tasks: int, seeds: int, boards: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return how often a board tells rows apart that are equal, or the wrong way round, and how often a true rank
    lies outside its row's interval."""
    truth = kind.truth(rows)
    better = 1 + (truth[None, :] > truth[:, None]).sum(axis=1)
    worse = rows - (truth[None, :] < truth[:, None]).sum(axis=1)
    letters = ranks = 0
    for _ in range(boards):
        ranking = ranking_of(kind.make(rng, rows, tasks, seeds))
        own = truth[[int(row) for row in ranking.models]]
        said = ranking.different & (ranking.differences.difference > 0)
        letters += bool((said & (own[:, None] <= own[None, :])).any())
        place = [int(row) for row in ranking.models]
        # Equal rows share their ranks: every one of these has to lie in the interval.
        ranks += bool(((ranking.ranks[:, 1] > better[place]) | (ranking.ranks[:, 2] < worse[place])).any())
    return letters / boards, ranks / boards


def table(boards: int, seed: int = 0) -> str:
    """Return the whole table as Markdown: per cent of boards with a wrong letter, with three, six and ten seeds."""
    rng = np.random.default_rng(seed)
    head = [f"{rows} rows, {tasks} task{'s' if tasks > 1 else ''}" for tasks in TASKS for rows in ROWS]
    lines = ["| scores | " + " | ".join(head) + " |", "|---|" + "---:|" * len(head)]
    for kind in KINDS:
        cells = []
        for tasks in TASKS:
            for rows in ROWS:
                found = [errors(kind, rows, tasks, seeds, boards, rng)[0] for seeds in SEEDS]
                cells.append(" / ".join(f"{100 * each:.1f}" for each in found))
        lines.append(f"| {kind.name} | " + " | ".join(cells) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))

"""Two rows of a table of runs compared: everything that a pairwise page shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from embench.core.errors import BadInput
from embench.core.names import unknown
from leaderboard.stats import components
from leaderboard.stats import tests as statistics
from leaderboard.stats.means import LEVEL, ROPE, Mean, non_inferior, welch
from leaderboard.stats.power import in_words, seeds_to_settle, upper_spread
from leaderboard.stats.ranking import OnTasks, Ranking
from leaderboard.stats.runs import Runs, Sample, runs_of

VERDICTS = ("better", "worse", "not distinguished", "n too small")


@dataclass(frozen=True)
class Comparison:
    """What is known of ``a - b``, over all tasks and on each.

    A number is NaN where nothing can be said: an interval or p of single runs, Holm's p of a single test.

    Parameters
    ----------
    a, b : str
    mean_a, mean_b : float
        Over benchmarks of the mean over seeds, as rows are ranked.
    failed_a, failed_b : str
        As ``2 of 18``: runs without a score. They count as the worst there can be.
    difference, low, high, p : float
        Of the means: Welch's 95 % interval and two-sided p.
    p_holm : float
        P adjusted for all pairs of the table.
    family : str
        What ``p_holm`` is adjusted for, in words.
    verdict : {"better", "worse", "not distinguished", "n too small"}
        Of ``a``, at 0.05 of ``p_holm`` (of ``p`` where there is a single test).
    rope : float
        Differences up to this are practically none.
    p_better, p_same, p_worse : float
        Probabilities that ``a`` is better by more than ``rope``, practically the same, worse.
    seeds_to_settle : float
        Seeds of each row on each task with which the observed difference would be found 8 times in 10 in this
        family; from each row's own spread, at its upper limit. Infinite above 1,000.
    tasks : DataFrame
        The same on every task, ``p_holm`` there adjusted for all pairs on all tasks of the table
        (``family_on_tasks``). And as descriptions that no verdict is built from: ``shift`` (Hodges-Lehmann),
        ``delta`` (Cliff), ``a12``, ``p_mann_whitney`` with the paper's ``stars``; with images also ``images``,
        ``p_images`` and the crossed interval over seeds and images.
    """

    a: str
    b: str
    mean_a: float
    mean_b: float
    failed_a: str
    failed_b: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    family: str
    verdict: str
    rope: float
    p_better: float
    p_same: float
    p_worse: float
    seeds_to_settle: float
    family_on_tasks: str
    tasks: pd.DataFrame = field(repr=False)

    @property
    def sentence(self) -> str:
        """The comparison in a sentence or two."""
        a, b = self.a, self.b
        said = {
            "better": f"{a} is better than {b}",
            "worse": f"{a} is worse than {b}",
            "not distinguished": f"{a} and {b} are not distinguished (which does not say that they are equal)",
            "n too small": f"there are too few runs to tell {a} from {b}",
        }[self.verdict]
        found = f"{said}: means {self.mean_a:.3f} and {self.mean_b:.3f}, difference {self.difference:+.3f}"
        if not np.isnan(self.low):
            found += f" [{self.low:+.3f}, {self.high:+.3f}]"
        if not np.isnan(self.p):
            found += f", p = {statistics.as_text(self.p)}"
        if not np.isnan(self.p_holm):
            found += f", {statistics.as_text(self.p_holm)} adjusted for {self.family}"
        found += "."
        if not np.isnan(self.p_same):
            found += (
                f" Probability that it is better by more than {self.rope:g}: {self.p_better:.2f}, "
                f"practically the same: {self.p_same:.2f}, worse: {self.p_worse:.2f}."
            )
        if self.verdict == "not distinguished" and self.difference:
            found += f" Seeds that would settle it: {in_words(self.seeds_to_settle)} each."
        failed = [
            f"{count} runs of {row} failed and count as the worst there can be"
            for row, count in ((self.a, self.failed_a), (self.b, self.failed_b))
            if not count.startswith("0 ")
        ]
        return found + "".join(f" {each}." for each in failed)

    def facts(self) -> dict[str, Any]:
        """Return everything as values that JSON has, None for what is NaN or infinite."""
        facts = {**asdict(self), "sentence": self.sentence}
        facts["tasks"] = self.tasks.to_dict("records")
        return {name: _known(value) for name, value in facts.items()}


def compare(frame: pd.DataFrame, a: str, b: str, rope: float = ROPE, margin: float | None = None) -> Comparison:
    """Compare two models of a table of runs, over all of its tasks and on each.

    Parameters
    ----------
    frame : DataFrame
        One line a run; see :func:`leaderboard.stats.runs.runs_of`. The other models of the table are the family that
        p is adjusted for.
    a, b : str
    rope : float
        Differences up to this are practically none.
    margin : float, optional
        Say also, per task, whether ``a`` is worse than ``b`` by less than this, one-sided at 0.025.

    Raises
    ------
    BadInput
        A table that :func:`leaderboard.stats.runs.runs_of` refuses, or a model that it does not have.
    """
    runs = runs_of(frame)
    for name in (a, b):
        if name not in runs.models:
            raise unknown("model", name, runs.models)
    if a == b:
        raise BadInput(f"{a}: a model compared with itself; name two")
    ranking = Ranking.of(runs)
    on_tasks, tests = OnTasks.of(runs, ranking.models), ranking.family
    overall = _pair(runs.mean(a), runs.mean(b), rope)
    i, j = ranking.models.index(a), ranking.models.index(b)
    p_holm = float(ranking.p[i, j]) if tests > 1 else np.nan
    spreads = (_seed_spread(runs, a), _seed_spread(runs, b))
    return Comparison(
        a=a,
        b=b,
        mean_a=runs.mean(a).value,
        mean_b=runs.mean(b).value,
        failed_a=f"{runs.failed(a)} of {runs.count(a)}",
        failed_b=f"{runs.failed(b)} of {runs.count(b)}",
        **{name: overall[name] for name in ("difference", "low", "high", "p", "p_better", "p_same", "p_worse")},
        p_holm=p_holm,
        family=f"{tests} pairs of {len(ranking.models)} models",
        verdict=verdict(overall["difference"], overall["p"] if tests < 2 else p_holm, bool(ranking.too_small[i, j])),
        rope=rope,
        seeds_to_settle=_settled(overall["difference"], spreads, tests),
        family_on_tasks=f"{on_tasks.family} tests: {tests} pairs on {len(runs.tasks)} tasks",
        tasks=_by_task(runs, a, b, on_tasks, rope, margin),
    )


def verdict(difference: float, p: float, too_small: bool = False, level: float = LEVEL) -> str:
    """Return what an adjusted p says of a difference of means."""
    if too_small or np.isnan(p):
        return "n too small"
    return "not distinguished" if p >= level else "better" if difference > 0 else "worse"


def _by_task(runs: Runs, a: str, b: str, tests: OnTasks, rope: float, margin: float | None) -> pd.DataFrame:
    i, j = tests.models.index(a), tests.models.index(b)
    lines: list[dict[str, Any]] = []
    for place, task in enumerate(runs.tasks):
        first, second = runs.samples[a, task], runs.samples[b, task]
        one, two = runs.mean_on(a, task), runs.mean_on(b, task)
        pair, ranked = _pair(one, two, rope), statistics.compare(first.scores, second.scores)
        p_holm = float(tests.p[place, i, j]) if tests.family > 1 else np.nan
        decisive = pair["p"] if tests.family < 2 else p_holm
        spreads = (spread_of(one), spread_of(two))
        lines.append(
            {
                "task": task,
                "n": len(first.scores),
                "m": len(second.scores),
                "failed_a": int(first.failed.sum()),
                "failed_b": int(second.failed.sum()),
                "mean_a": one.value,
                "mean_b": two.value,
                "verdict": verdict(pair["difference"], decisive, bool(tests.too_small[place, i, j])),
                **pair,
                "p_holm": p_holm,
                "seeds_to_settle": _settled(pair["difference"], spreads, tests.family),
                "shift": ranked.shift,
                "delta": ranked.delta,
                "a12": ranked.a12,
                "p_mann_whitney": ranked.p,
                "stars": ranked.stars,
                **({} if margin is None else {"non_inferior": non_inferior(pair["low"], margin)}),
                **_over_images(first, second),
            }
        )
    return pd.DataFrame(lines)


def _pair(one: Mean, two: Mean, rope: float) -> dict[str, float]:
    pair = welch([one, two])
    low, high = pair.interval()
    better, same, worse = pair.rope(rope)
    tables = {
        "difference": pair.difference,
        "low": low,
        "high": high,
        "p": pair.p,
        "p_better": better,
        "p_same": same,
        "p_worse": worse,
    }
    return {name: float(each[0, 1]) for name, each in tables.items()}


def _over_images(first: Sample, second: Sample) -> dict[str, float | int]:
    """Return the tests over test images, which the runs that did not fail have in common."""
    if first.images is None or second.images is None:
        return {}
    one, two = (sample.images[~sample.failed] for sample in (first, second) if sample.images is not None)
    count = one.shape[1]
    found: dict[str, float | int] = {"images": count, "p_images": np.nan, "crossed_low": np.nan, "crossed_high": np.nan}
    if count > 1 and len(one) and len(two):
        found["p_images"] = statistics.compare_pairs(one.mean(axis=0), two.mean(axis=0)).p
        low, high, _ = components.crossed([one, two])
        found["crossed_low"], found["crossed_high"] = float(low[0, 1]), float(high[0, 1])
    return found


def _seed_spread(runs: Runs, model: str) -> float:
    """Return the upper limit of the standard deviation that one seed on every task would leave in the mean."""
    mean = runs.mean(model)
    seeds = min(len(runs.samples[model, task].scores) for task in runs.tasks)
    return float(upper_spread(np.sqrt(mean.variance * seeds), mean.freedom + 1)) if mean.variance else 0.0


def spread_of(mean: Mean) -> float:
    """Return the upper limit of the standard deviation over seeds on one task; NaN for a single run."""
    part = mean.parts[0]
    return float(upper_spread(np.sqrt(part.variance * part.runs), part.runs))


def _settled(difference: float, spreads: tuple[float, float], family: int) -> float:
    return float(seeds_to_settle(difference, *spreads, max(family, 1)))


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _known(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value

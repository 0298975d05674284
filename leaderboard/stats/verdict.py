"""A ranking in a sentence: who leads, from whom the leader cannot be told, whom it beats, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leaderboard.stats.ranking import Ranking

MOST_NAMED = 4
"""Rows that a sentence names; more are counted."""


def verdict(
    ranking: Ranking,
    names: Mapping[str, str] | None = None,
    budget: str = "",
    leaders: Mapping[str, str] | None = None,
) -> str:
    """Return what the tests say of the leading row.

    Parameters
    ----------
    ranking : Ranking
    names : mapping, optional
        Shorter names of rows.
    budget : str
        What is to be said of the training, as ``240 of the protocol's 1,000 iterations: early training``.
    leaders : mapping, optional
        By other measure, the row that leads by it; those that are not the leader are named.
    """
    own = names or {}
    if not ranking.models:
        return "No row is complete, so nothing is ranked."
    rows = [own.get(row, row) for row in ranking.models]
    if len(rows) == 1:
        said = [f"{rows[0]} is the only complete row, with {_mean(ranking, 0)}: there is nothing to compare it with"]
    else:
        different, too_small = ranking.different, ranking.too_small
        better = [row for k, row in enumerate(rows) if k and different[0, k]]
        unknown = [row for k, row in enumerate(rows) if k and too_small[0, k] and not different[0, k]]
        alike = [row for row in rows[1:] if row not in better and row not in unknown]
        tied = [row for k, row in enumerate(rows) if k and ranking.ranks[k, 0] == 1]
        said = [f"{listed([rows[0], *tied])} {'lead together' if tied else 'leads'} with {_mean(ranking, 0)}"]
        if alike:
            said.append(f"not distinguished from {listed(alike)}")
        if better:
            said.append(f"significantly better than {listed(better)}")
        if unknown:
            said.append(f"too few runs to tell it from {listed(unknown)}")
    by_leader: dict[str, list[str]] = {}
    for measure, row in (leaders or {}).items():
        by_leader.setdefault(own.get(row, row), []).append(measure)
    said += [f"{row} leads by {listed(measures)}" for row, measures in by_leader.items() if row != rows[0]]
    if any(ranking.failed):
        said.append(f"{sum(ranking.failed)} of {sum(ranking.runs)} runs failed and count as the worst there can be")
    if budget:
        said.append(budget)
    return "; ".join(said) + "."


def listed(rows: Sequence[str]) -> str:
    """Return names as a sentence lists them, the first few by name."""
    if len(rows) > MOST_NAMED + 1:
        return f"{', '.join(rows[:MOST_NAMED])} and {len(rows) - MOST_NAMED} others"
    return f"{', '.join(rows[:-1])} and {rows[-1]}" if len(rows) > 1 else "".join(rows)


def _mean(ranking: Ranking, place: int) -> str:
    mean = ranking.means[place]
    low, high = mean.interval(ranking.level)
    return f"a mean of {mean.value:.3f}" + ("" if low != low else f" [{low:.3f}, {high:.3f}]")

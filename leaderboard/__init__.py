"""Statistics and the static site, made from result files and from nothing else.

From Python, on any table of runs: :func:`rank` and :func:`compare`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leaderboard.stats.comparison import compare
    from leaderboard.stats.ranking import rank

__all__ = ["compare", "rank"]


def __getattr__(name: str) -> Any:
    if name == "rank":
        from leaderboard.stats.ranking import rank

        return rank
    if name == "compare":
        from leaderboard.stats.comparison import compare

        return compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

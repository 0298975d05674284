"""The sentence about a ranking."""

from __future__ import annotations

import numpy as np

from leaderboard.stats.means import mean_of
from leaderboard.stats.ranking import Ranking
from leaderboard.stats.verdict import listed, verdict


def ranking(*rows: tuple[str, list[float]], failed: tuple[int, ...] | None = None) -> Ranking:
    ordered = sorted(rows, key=lambda row: -np.mean(row[1]))
    return Ranking(
        tuple(name for name, _ in ordered),
        tuple(mean_of([scores], [1.0]) for _, scores in ordered),
        failed or (0,) * len(rows),
        tuple(len(scores) for _, scores in ordered),
    )


HIGH, MIDDLE, LOW = [0.60, 0.62, 0.61, 0.63], [0.59, 0.64, 0.58, 0.62], [0.30, 0.31, 0.29, 0.32]


def test_the_leader_is_named_with_those_it_cannot_be_told_from_and_those_it_beats() -> None:
    said = verdict(ranking(("one", HIGH), ("two", MIDDLE), ("three", LOW)), budget="240 of 1,000 iterations")
    assert said == (
        "one leads with a mean of 0.615 [0.594, 0.636]; not distinguished from two; significantly better than three; "
        "240 of 1,000 iterations."
    )


def test_a_measure_by_which_another_row_leads_is_named() -> None:
    said = verdict(
        ranking(("one", HIGH), ("two", MIDDLE)), leaders={"IoU": "one", "average precision": "two", "Dice": "two"}
    )
    assert "two leads by average precision and Dice" in said
    assert "by IoU" not in said


def test_single_runs_are_too_few() -> None:
    said = verdict(ranking(("one", [0.5]), ("two", [0.4])))
    assert said == "one leads with a mean of 0.500; too few runs to tell it from two."


def test_rows_of_one_mean_lead_together() -> None:
    assert verdict(ranking(("one", HIGH), ("two", HIGH))).startswith("one and two lead together")


def test_one_row_and_none_are_said_so() -> None:
    assert "only complete row" in verdict(ranking(("one", HIGH)))
    assert verdict(Ranking((), (), (), ())) == "No row is complete, so nothing is ranked."


def test_failed_runs_are_counted() -> None:
    said = verdict(ranking(("one", HIGH), ("two", LOW), failed=(1, 2)))
    assert "3 of 8 runs failed" in said


def test_a_long_list_names_a_few() -> None:
    assert listed(["a", "b"]) == "a and b"
    assert listed(list("abcdefg")) == "a, b, c, d and 3 others"

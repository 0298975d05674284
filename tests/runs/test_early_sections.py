"""Early evaluations on a fixed part of the test volumes: marked as such, and without a trace in the last one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy

from embench.data.store import Volume
from embench.data.task import Scoring
from embench.runs import trial
from embench.scoring.score import part_of
from embench.scoring.verify import contradiction


def test_early_evaluations_are_of_a_part_and_the_last_is_whole(toy_data: Path, tmp_path: Path) -> None:
    spec = toy.planned(toy_data, tmp_path, "unet-resnet50", iterations=3, evaluations=3)
    whole = trial.run(replace(spec, results_folder=tmp_path / "whole"))
    result = trial.run(replace(spec, early_sections=1))
    assert whole is not None
    assert result is not None
    assert [(snapshot.sections, len(snapshot.images)) for snapshot in result.snapshots] == [(1, 1), (1, 1), (None, 2)]
    assert [snapshot.sections for snapshot in whole.snapshots] == [None] * 3
    assert result.snapshots[-1].images == whole.snapshots[-1].images
    last = result.snapshots[-1].model_copy(update={"sections": 2})
    told = contradiction(result.model_copy(update={"snapshots": (*result.snapshots[:-1], last)}))
    assert told == "its last snapshot is of 2 sections of each volume, not of the whole"


@pytest.mark.parametrize(
    ("planes", "expected"), [("2d", [0, 3, 6, 9]), ("stack", [0, 3, 6, 9]), ("orthoplane", [3, 4, 5, 6])]
)
def test_a_part_is_spread_evenly_or_a_block_where_three_axes_are_predicted(planes: str, expected: list[int]) -> None:
    image = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    task = replace(toy.TOY, scoring=Scoring(planes))  # type: ignore[arg-type]
    part = part_of(task, Volume("a", image, image), 4)  # type: ignore[arg-type]
    assert part.image[:, 0, 0].tolist() == expected
    assert part.labels is not None
    assert part.labels[:, 0, 0].tolist() == expected
    whole = Volume("a", image, image)  # type: ignore[arg-type]
    assert part_of(task, whole, 10) is whole

"""What trivial predictions score, from the counts of any result."""

from __future__ import annotations

from pathlib import Path

import made_results as made
import pytest

from embench.scoring.results import load
from leaderboard.ranking import stack_of
from leaderboard.trials import read
from leaderboard.trivial import NAMES, trivial

RESULTS = Path(__file__).parents[2] / "results"


def test_trivial_predictions_are_scored_by_the_definition_of_the_iou(tmp_path: Path) -> None:
    made.write([made.result("retina", made.task("made-mito"))], tmp_path)
    (trial,), _ = read([tmp_path])
    images = load(trial.path).snapshots[-1].images
    size = 50_000
    found = trivial(trial, {stack_of(image.name): size for image in images})
    positive = [image.classes[1][0] + image.classes[1][2] for image in images]
    share = sum(positive) / (size * len(images))
    assert found[NAMES[0]] < 1e-6
    assert found[NAMES[1]] == pytest.approx(share, rel=1e-3)
    expected = [share * p / (share * size + p - share * p) for p in positive]
    assert found[NAMES[2]] == pytest.approx(sum(expected) / len(expected), rel=1e-3)


def test_without_the_size_of_the_images_only_the_background_is_known(tmp_path: Path) -> None:
    made.write([made.result("retina", made.task("made-mito"))], tmp_path)
    (trial,), _ = read([tmp_path])
    assert list(trivial(trial, {})) == [NAMES[0]]


def test_kept_sections_tell_the_size_of_images() -> None:
    trial = next(each for each in read([RESULTS])[0] if each.result.sections)
    found = trivial(trial, {})
    assert 0 <= found[NAMES[0]] < found[NAMES[2]] < found[NAMES[1]] < 0.1

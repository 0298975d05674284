"""What a plan predicts: windows as they are really laid, times that add up, and what cannot be known said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from embench.cli.app import app
from embench.core.errors import BadInput
from embench.data import catalog
from embench.data.task import Scoring
from embench.runs import estimate
from embench.runs.estimate import Line, Pace, makespan, windows
from embench.runs.options import RunRequest
from embench.runs.request import choices
from embench.training.inference import predict_section
from embench.training.recipe import SlidingWindow, WholeImage


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "SECONDS", 0.05)


class Counting(torch.nn.Module):
    """Counts the images it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return images


@given(st.integers(8, 200), st.integers(8, 200), st.sampled_from([0.0, 0.3, 0.5, 0.7]))
@settings(max_examples=15)
def test_as_many_windows_are_foreseen_as_are_predicted(height: int, width: int, overlap: float) -> None:
    way = SlidingWindow(32, overlap, overlap)
    network = Counting()
    image_YX = np.zeros((height, width), np.uint8)
    predict_section(network, image_YX, inference=way, norms=(0.5, 0.1), device="cpu", volume=False)
    assert windows(toy.TOY, (1, height, width), way) == network.seen


def test_an_orthoplane_volume_is_foreseen_along_every_axis() -> None:
    task = replace(toy.TOY, scoring=Scoring("orthoplane"))
    assert windows(task, (40, 50, 70), SlidingWindow(32, 0.5, 0.0)) == 40 * 2 * 3 + 50 * 2 * 3 + 70 * 2 * 2
    assert windows(task, (32, 64, 32), WholeImage(32)) * 2**20 == pytest.approx(3 * 32 * 64 * 32)


def line(seconds: float, trials: int) -> Line:
    return Line("m", "t", trials, 1, 1, Pace(0, 0, 0, 0), seconds, None)


def test_trials_at_the_same_time_end_when_the_last_does() -> None:
    assert makespan([line(3, 2), line(1, 2)], 1) == 8
    assert makespan([line(3, 2), line(1, 2)], 2) == 4
    assert makespan([line(3, 2), line(1, 2)], 9) == 3


def foreseen(data: Path, names: list[str], on: list[str], **asked: object) -> list[Line]:
    request = RunRequest(models=names, tasks=on, data=data, **asked)  # type: ignore[arg-type]
    return estimate.forecast(choices(request, data), data, "cpu", 1, request.seeds, 1)


def test_a_line_is_the_sum_of_its_parts(toy_data: Path) -> None:
    (found,) = foreseen(toy_data, ["transunet"], ["toy"], iterations=1000, evaluations=4, seeds=3)
    pace = found.pace
    assert min(pace.start, pace.step, pace.window, pace.voxel) > 0
    assert found.training == pytest.approx(pace.start + 1000 * pace.step)
    # two test sections of 96 x 96 under windows of 64 at a stride of 32, and four training images
    assert found.scoring == pytest.approx(4 * (8 * pace.window + 2 * 96**2 * pace.voxel) + 4 * 4 * pace.window)
    assert (found.trials, found.iterations, found.snapshots) == (3, 1000, 4)


def test_neither_data_nor_weights_are_needed_and_what_is_then_unknown_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [replace(catalog.find_task(name), scale="tiny") for name in ("kasthuri", "guay")]
    monkeypatch.setattr("embench.runs.request.choose_tasks", lambda *_: small)
    kasthuri, guay = foreseen(tmp_path, ["retina"], ["kasthuri", "guay"], iterations=10)
    assert kasthuri.scoring is None
    assert guay.scoring is not None
    assert guay.scoring > 0
    assert not list(tmp_path.iterdir())


def test_choices_that_differ_only_in_data_or_budget_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    monkeypatch.setattr(estimate, "_measure", lambda part, **_: measured.append(part) or Pace(0, 1, 1, 1))
    lines = foreseen(Path("nowhere"), ["transunet"], list(catalog.SUITES["published"]))
    assert len(lines) == 8
    # cremi and kasthuri differ in scoring; the four tasks of perez are alike
    assert len(measured) == 5


def test_a_long_step_is_extrapolated_from_small_batches() -> None:
    asked = []

    def step_of(batch: int) -> float:
        asked.append(batch)
        return 3.0 + 2.0 * batch

    assert estimate._extrapolated(step_of, 16) == 35.0
    assert asked == [2, 4]
    assert estimate._extrapolated(lambda batch: 0.1 * batch, 16) == pytest.approx(1.6)


def test_a_model_that_is_no_network_cannot_be_foreseen(toy_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "constant.py"
    file.write_text("from embench.models.base import SegmentationModel\nclass Constant(SegmentationModel): pass\n")
    with pytest.raises(BadInput, match="no torch network"):
        foreseen(toy_data, [f"{file}:Constant"], ["toy"])


def test_the_commands_print_hours_and_what_can_be_told_apart(toy_data: Path, tmp_path: Path) -> None:
    asked = ["estimate", "--model", "transunet", "--task", "toy", "--seeds", "6", "--jobs", "1", "--device", "cpu"]
    found = CliRunner().invoke(app, [*asked, "--data-dir", str(toy_data)])
    assert found.exit_code == 0, found.output
    assert "6 trials" in found.output
    (tmp_path / "none").mkdir()
    found = CliRunner().invoke(app, ["power", "--task", "toy", "--results", str(tmp_path / "none")])
    assert found.exit_code == 0, found.output
    assert "no earlier results" in found.output

"""Pieces of one's own, tried in seconds: what works passes, what does not is told with what to mend."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from embench.core.errors import BadInput
from embench.models.registry import find_model
from embench.runs.check import check

GOOD = """
import time
import numpy as np
import torch
from torch import nn
from embench import (Dataset, Item, Metric, Pretraining, Recipe, Scoring, SegmentationModel, Task, TorchModel,
                     TorchVolumeModel)

def net(outputs, *more):
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), *more, nn.Conv2d(4, outputs, 3, padding=1))

class Own(TorchModel):
    recipe = Recipe(name="own", optimiser="Adam", learning_rate=0.01, crop=64, batch_size=2)
    def network(self, outputs):
        return net(outputs)

class Level(SegmentationModel):
    def fit(self, sections, task, iterations, rng):
        image, labels = sections[0]
        self.levels = [image[labels == value].mean() for value in range(len(task.classes))]
    def predict(self, image_YX, task):
        far = np.stack([np.abs(image_YX - level) for level in self.levels])
        nearest = (far.argmin(0) == np.arange(len(far))[:, None, None]).astype(np.float32)
        return nearest[1:] if task.outputs == 1 else nearest

class Started(Own):
    pretraining = "retina"
    transferred = ("0.",)
    frozen = ("0.",)

class Deep(TorchVolumeModel):
    multiple = 1
    recipe = Recipe(name="thin", optimiser="sgd", learning_rate=0.01, crop=16, batch_size=1, augmentation="volume")
    def network(self, outputs):
        return nn.Conv3d(1, outputs, 3, padding=1)

RECIPE = Recipe(name="mine", loss=lambda logits, target: nn.functional.soft_margin_loss(
    logits[:, 0], 2.0 * target - 1), optimiser="NAdam", learning_rate=0.001, crop=32, batch_size=2)

class Found(Metric):
    name, title, parts = "found", "Found", ("found", "there")
    def evidence(self, masks):
        return float((masks.prediction & masks.truth).sum()), float(masks.truth.sum())
    def score(self, evidence):
        return evidence[0] / evidence[1] if evidence[1] else None

def made(source, name):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        image = rng.integers(0, 256, (3, 70, 80), np.uint8)
        yield Item(split, split, image, (image > 200).astype(np.uint8))

TASK = Task(name="own-task", title="t", dataset="own-data", classes=("background", "a"), scoring=Scoring("2d"),
            iterations=2, scale="tiny")
DATASET = Dataset(name="own-data", tasks=(TASK,), read=made, generated=True)
"""

BAD = (
    GOOD
    + """
class WithFit(Own):
    def fit(self, sections, task, iterations, rng):
        pass

class NoNetwork(TorchModel):
    pass

class Even(Own):
    def network(self, outputs):
        return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ConvTranspose2d(4, outputs, 2, stride=2))

class OneChannel(Own):
    def network(self, outputs):
        return net(1)

class Drawing(nn.Module):
    def forward(self, x):
        return x + np.random.default_rng().normal()

class Random(Own):
    def network(self, outputs):
        return net(outputs, Drawing())

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
    def forward(self, x):
        self.calls += self.training
        return x * (1 + 0.1 * self.calls)

class Forgetful(Own):
    def network(self, outputs):
        return net(outputs, Counting())

class Wild(Own):
    recipe = Recipe(name="wild", loss=lambda logits, target: logits.mean() / (logits.mean() * 0), crop=32, batch_size=1)

class Misnamed(Started):
    transferred = ("encoder.",)

class Beyond(Level):
    def predict(self, image_YX, task):
        return super().predict(image_YX, task) + 1

class Short(Found):
    def evidence(self, masks):
        return (1.0,)

class Wrong(Found):
    def score(self, evidence):
        return 0.5

class Mean(Found):
    def evidence(self, masks):
        return float((masks.prediction & masks.truth).sum() / max(masks.truth.sum(), 1)), 1.0

def strange(source, name):
    for item in made(source, name):
        yield Item(item.split, item.name, item.image, item.labels * 7)

VALUES = Dataset(name="own-data", tasks=(TASK,), read=strange, generated=True)
TAKEN = Dataset(name="own-data", tasks=(Task(name="cremi", title="", dataset="own-data", classes=("background", "a"),
    scoring=Scoring("2d"), iterations=1),), read=made, generated=True)
NUMBER = 3
"""
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "good.py").write_text(GOOD)
    (folder / "bad.py").write_text(BAD)
    return folder


@pytest.mark.parametrize(
    ("name", "tried"),
    [
        ("Own", ("builds a network", "predicts an image of 75 x 91", "same bytes again", "resumes", "3 classes")),
        pytest.param("Level", ("no torch network", "same bytes again", "3 classes"), marks=pytest.mark.slow),
        pytest.param("Started", ("starts from retina: 2 tensors given", "resumes"), marks=pytest.mark.slow),
        pytest.param("Deep", ("builds a network", "resumes"), marks=pytest.mark.slow),
        pytest.param("RECIPE", ("mine: loss <lambda>", "resumes"), marks=pytest.mark.slow),
        ("Found", ("higher is better", "finite evidence", "perfect prediction scores 1", "adds up")),
        pytest.param("DATASET", ("3 sections in 1 volumes to train", "can be trained on"), marks=pytest.mark.slow),
    ],
)
def test_what_works_passes_and_says_what_was_tried(name, tried, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = list(check(f"{files / 'good.py'}:{name}"))
    assert [finding.fault for finding in found if finding.fault] == []
    text = "\n".join(finding.what for finding in found)
    assert all(part in text for part in tried), text
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NoNetwork", "NotImplementedError: NoNetwork builds no network"),
        pytest.param("Even", "must be the same as input size", marks=pytest.mark.slow),
        pytest.param(
            "OneChannel",
            "its network gives 1 channels; check-classes needs 3; return one channel",
            marks=pytest.mark.slow,
        ),
        pytest.param("Random", "it does not; draw from torch or the rng that is given", marks=pytest.mark.slow),
        pytest.param(
            "Forgetful",
            "it does not; keep everything that changes in training in the network's state_dict",
            marks=pytest.mark.slow,
        ),
        pytest.param("Wild", "look at the learning rate", marks=pytest.mark.slow),
        ("Misnamed", "no tensor of the network begins with what is `transferred`"),
        pytest.param("Beyond", "predict returned scores outside 0..1", marks=pytest.mark.slow),
        ("Short", r"evidence \(1.0,\), parts \('found', 'there'\)"),
        ("Wrong", "it scores 0.5; mend `best` or `score`"),
        ("Mean", "set `additive = False`"),
        ("VALUES", "mend what `read` yields"),
        ("TAKEN", "is that of a built-in one; choose another"),
    ],
)
def test_what_does_not_work_is_told_with_what_to_mend(name, said, files):
    faults = [finding.fault for finding in check(f"{files / 'bad.py'}:{name}") if finding.fault]
    assert faults
    assert re.search(said, faults[0]), faults
    assert all("\n" not in fault for fault in faults)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("bad.py:WithFit", "never calls its `fit`"),
        ("bad.py:NUMBER", "int, which is no model"),
        ("bad.py:Ownn", "did you mean Own"),
        ("none.py:Own", "no such file"),
        ("bad.py:TASK", "name the data set"),
        ("retinaa", "did you mean retina"),
    ],
)
def test_what_cannot_be_checked_is_refused(spec, said, files):
    with pytest.raises(BadInput, match=said):
        list(check(str(files / spec) if ".py" in spec else spec))


def test_a_network_with_a_fit_is_refused_wherever_it_is_named(files):
    with pytest.raises(BadInput, match="derive from SegmentationModel and train in `fit`"):
        find_model(f"{files / 'bad.py'}:WithFit")


@pytest.mark.slow
def test_a_pretraining_method_is_tried(files, tmp_path):
    (tmp_path / "method.py").write_text("from baselines.simclr import SimCLR\n\nclass Own(SimCLR):\n    name = 'own'\n")
    found = list(check(f"{tmp_path / 'method.py'}:Own"))
    assert [finding.fault for finding in found if finding.fault] == []
    assert any("writes" in finding.what for finding in found)


def test_the_command_ends_with_2_where_anything_does_not_work(files, capsys):
    from typer.testing import CliRunner

    from embench.cli.app import app

    done = CliRunner().invoke(app, ["check", f"{files / 'bad.py'}:Wrong"])
    assert done.exit_code == 2
    assert "FAULT a perfect prediction scores 1: it scores 0.5" in done.stdout
    done = CliRunner().invoke(app, ["check", f"{files / 'good.py'}:Found"])
    assert done.exit_code == 0
    assert "FAULT" not in done.stdout


def test_masks_of_two_images_side_by_side_are_those_of_each():
    from embench.runs.check import _masks

    both, first = _masks(0, 1), _masks(0)
    assert np.array_equal(both.truth[:, :64], first.truth)
    assert np.array_equal(both.prediction[:, :64], first.prediction)

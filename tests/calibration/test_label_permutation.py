"""Labels of other images teach nothing, and the control that says so can fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import toy
from calibration import label_permutation
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from embench.core.errors import BadInput
from embench.core.paths import prepared_path
from embench.data.store import Prepared, write
from embench.data.task import SPLITS, Item, Scoring, Task
from embench.models.base import TorchModel
from embench.scoring.counts import count
from embench.scoring.results import result_files

pytestmark = pytest.mark.slow


DISCS = Task(
    name="discs",
    title="Bright discs on noise, an image each",
    dataset="toy",
    classes=("background", "disc"),
    scoring=Scoring("2d"),
    iterations=80,
    batch_size=8,
    crop=64,
    synthetic=True,
    scale="tiny",
)


class SmallNetwork(TorchModel):
    """Learns what is bright within some dozens of steps."""

    def network(self, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, outputs, 1))


MODEL = f"{__file__}:SmallNetwork"
masks = arrays(bool, (5, 7))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    items = [
        Item(split, f"{split}-{k}", *toy.discs(100 * len(split) + k, 1))  # type: ignore[arg-type]
        for split, number in (("train", 8), ("test", 4))
        for k in range(number)
    ]
    write(prepared_path("discs", folder), DISCS, items)
    return folder


@given(masks, masks)
@settings(deadline=None, max_examples=50)
def test_a_prediction_laid_anywhere_on_a_mask_expects_an_iou_within_the_stated_bounds(
    prediction: np.ndarray, truth: np.ndarray
) -> None:
    q, f = prediction.mean(), truth.mean()
    shifted = [np.roll(prediction, (y, x), (0, 1)) for y in range(5) for x in range(7)]
    found = [count(each, truth, (True,))[True] for each in shifted]
    assert sum(each.tp for each in found) == prediction.sum() * truth.sum()  # the mean is q f N
    if q and f:
        iou = fmean(each.iou() for each in found)
        assert q * f / (q + f - q * f) - 1e-12 <= iou <= min(q, f) + 1e-12


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_perfect_predictions_score_at_chance_against_masks_of_other_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    _, discs_ZYX = toy.discs(seed, 40)
    truth_ZYX = np.stack([np.roll(each, rng.integers(0, 96, 2), (0, 1)) for each in discs_ZYX])  # none prefers a place
    others_ZYX = np.roll(truth_ZYX, 1, axis=0)

    def score(predictions: np.ndarray) -> float:
        return fmean(count(p, t, (1,))[1].iou_2d() for p, t in zip(predictions, truth_ZYX, strict=True))

    assert score(truth_ZYX) == 1
    assert score(others_ZYX) <= truth_ZYX.mean()


def test_every_training_image_gets_the_mask_of_another_and_the_test_split_stays(data: Path, tmp_path: Path) -> None:
    with Prepared(prepared_path("discs", data)) as prepared:
        write(tmp_path / "discs.h5", DISCS, label_permutation.permuted(prepared, np.random.default_rng(0)))
        again = list(label_permutation.permuted(prepared, np.random.default_rng(0)))
        other = list(label_permutation.permuted(prepared, np.random.default_rng(1)))
        with Prepared(tmp_path / "discs.h5") as found:
            before, after = ([np.array(v.labels) for v in each.volumes("train")] for each in (prepared, found))
            assert all(not np.array_equal(*pair) for pair in zip(before, after, strict=True))
            assert sorted(mask.tobytes() for mask in before) == sorted(mask.tobytes() for mask in after)
            for kind in ("image", "labels"):
                for old, new in zip(prepared.volumes("test"), found.volumes("test"), strict=True):
                    assert np.array_equal(getattr(old, kind), getattr(new, kind))
            for old, new in zip(prepared.volumes("train"), found.volumes("train"), strict=True):
                assert np.array_equal(old.image, new.image)
            assert found.hash != prepared.hash  # so that no score on it could be compared with a real one
            assert all(np.array_equal(a, b.labels) for a, b in zip(after, again, strict=False))
            assert any(not np.array_equal(a, b.labels) for a, b in zip(after, other, strict=False))


def test_an_image_without_another_of_its_shape_is_refused(tmp_path: Path) -> None:
    toy.make_task(tmp_path)
    with (
        Prepared(prepared_path("toy", tmp_path)) as prepared,
        pytest.raises(BadInput, match=r"toy\.h5: .*choose another task"),
    ):
        list(label_permutation.permuted(prepared, np.random.default_rng(0)))


def test_a_task_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"unknown task 'nothing': did you mean .*vnc-mito"):
        label_permutation.run("nothing", "unet-resnet50", 1, data=tmp_path)


def test_chance_is_the_score_of_calling_everything_foreground(data: Path) -> None:
    with Prepared(prepared_path("discs", data)) as prepared:
        truths = [np.array(volume.labels)[0] for volume in prepared.volumes("test")]
        all_foreground = fmean(count(np.ones_like(truth), truth, (1,))[1].iou() for truth in truths)
        assert label_permutation.chance(prepared) == pytest.approx(all_foreground)


def test_permuted_labels_score_at_chance_and_right_ones_above_and_nothing_is_left(data: Path) -> None:
    found = label_permutation.run("discs", MODEL, 2, 0, data)
    assert (found.above, found.at_chance) == (True, True)
    assert len(found.right) == len(found.permuted) == 2
    assert result_files(data).files == []
    assert [path.name for path in data.glob("[!.]*")] == ["discs.h5"]


def test_labels_that_are_not_permuted_fail_the_control(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leak(prepared: Prepared, _: np.random.Generator) -> Iterator[Item]:
        """Each image keeps its own mask."""
        for split in SPLITS:
            for volume in prepared.volumes(split):
                yield Item(split, volume.name, volume.image, volume.labels)

    monkeypatch.setattr(label_permutation, "permuted", leak)
    assert not label_permutation.run("discs", MODEL, 1, 0, data).at_chance


@pytest.mark.parametrize(
    ("right", "permuted_scores", "above", "at_chance"),
    [
        ((0.5, 0.6), (0.0, 0.1), True, True),
        ((0.5, 0.6), (0.3, 0.4), True, False),  # half of what is learned leaks
        ((0.05, 0.6), (0.0, 0.1), False, True),  # a run that learned nothing
    ],
)
def test_an_outcome_is_judged_by_chance_and_by_the_right_labels(
    right: tuple[float, ...], permuted_scores: tuple[float, ...], above: bool, at_chance: bool
) -> None:
    found = label_permutation.Outcome(0.1, right, permuted_scores)
    assert (found.above, found.at_chance) == (above, at_chance)


@pytest.mark.slow
def test_permuted_labels_of_the_synthetic_suite_score_at_chance() -> None:
    found = label_permutation.run("mini-kasthuri", "transunet", 3, 0)
    assert (found.above, found.at_chance) == (True, True)

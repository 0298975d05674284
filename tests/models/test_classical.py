"""Rows without a network."""

from __future__ import annotations

import numpy as np
import pytest
import toy

from baselines.random_forest import FEATURES, SIGMAS, pixel_features
from embench.core.paths import prepared_path
from embench.data.store import Prepared
from embench.data.task import Scoring, Task
from embench.models.registry import find_model
from embench.runs.trial import run
from embench.training.sampler import TrainingSections


def test_features_see_structure_at_their_scale_and_nothing_in_a_flat_image():
    flat = pixel_features(np.full((40, 50), 90, np.uint8))
    assert flat.shape == (40, 50, FEATURES * len(SIGMAS))
    smooth, *others = np.moveaxis(flat.reshape(40, 50, len(SIGMAS), FEATURES), -1, 0)
    np.testing.assert_allclose(smooth, 90, rtol=1e-5)
    for each in others:
        np.testing.assert_allclose(each, 0, atol=1e-3)


def test_eigenvalues_of_the_hessian_tell_ridges_from_blobs():
    y, x = np.mgrid[:41, :41] - 20.0
    sigma = 3.5
    number = SIGMAS.index(sigma)
    ridge, blob = (
        pixel_features((200 * np.exp(-distance / (2 * sigma**2))).astype(np.uint8)).reshape(41, 41, -1, FEATURES)
        for distance in (x**2, x**2 + y**2)
    )
    larger, smaller = ridge[20, 20, number, 3:5]
    assert smaller < -10
    assert abs(larger) < 1
    larger, smaller = blob[20, 20, number, 3:5]
    assert larger == pytest.approx(smaller, rel=0.05)


def test_the_forest_learns_the_discs_and_follows_its_seed(toy_data, tmp_path, monkeypatch):
    monkeypatch.setattr("baselines.random_forest.PIXELS", 3000)
    monkeypatch.setattr("baselines.random_forest.TREES", 20)
    first, again, other = (
        run(toy.planned(toy_data, tmp_path / str(number), "random-forest", first_seed=seed))
        for number, seed in enumerate((0, 0, 1))
    )
    assert first.score > 0.8
    assert toy.comparable(first) == toy.comparable(again)
    assert first.final.images != other.final.images


@pytest.mark.parametrize(("classes", "scored"), [(("background", "a"), (1,)), (("background", "a", "b", "c"), (2, 3))])
def test_constant_rows_say_one_class_everywhere(classes, scored, toy_data):
    task = Task("t", "", "t", classes, Scoring("2d", classes=scored), 1)
    image_YX = np.zeros((5, 7), np.uint8)

    class Labels:
        def __len__(self):
            return 1

        def __getitem__(self, number):
            return image_YX, np.array([[0, 1, 1, 1, 1, 3, 3, 2]], np.uint8)[:, : 5 if len(classes) == 2 else 8]

    background, foreground = find_model("background"), find_model("foreground")
    foreground.fit(Labels(), task, 1, np.random.default_rng(0))
    for model, value in ((background, 0), (foreground, scored[-1])):
        scores_CYX = model.predict(image_YX, task)
        assert scores_CYX.shape == (task.outputs, 5, 7)
        assert scores_CYX.dtype == np.float32
        labels = scores_CYX.argmax(0) if task.outputs > 1 else scores_CYX[0] > 0.5
        assert (labels == value).all()


def test_rows_that_draw_nothing_have_one_result(toy_data, tmp_path):
    from embench.runs.request import trials

    planned = trials(toy.request(toy_data, tmp_path, ["background", "foreground", "random-forest"], seeds=3))
    assert sorted(trial.key.model for trial in planned) == ["background", "foreground", *["random-forest"] * 3]
    assert "draws nothing at random" in run(planned[0]).message


def test_the_forest_takes_equally_many_pixels_of_every_class(toy_data, monkeypatch):
    monkeypatch.setattr("baselines.random_forest.PIXELS", 1200)
    monkeypatch.setattr("baselines.random_forest.TREES", 5)
    forest = find_model("random-forest")
    with Prepared(prepared_path("toy", toy_data)) as prepared:
        forest.fit(TrainingSections(prepared), prepared.task, 1, np.random.default_rng(0))
    shares = forest.forest.estimators_[0].tree_.value[0].ravel()
    assert shares.min() / shares.sum() > 0.4

"""The metrics of a task: stored with a result, computed again when it is read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embench.core.errors import BadInput
from embench.data import catalog
from embench.data.task import TUBULAR, Scoring, Task
from embench.scoring import results
from embench.scoring.counts import ScoreHistogram
from embench.scoring.evidence import applying, means, measurement_of, of_image
from embench.scoring.metrics import metrics
from embench.scoring.metrics.overlap import OverlapMetric
from embench.scoring.score import image_counts, snapshot
from tests.made_results import result as made_result

RNG = np.random.default_rng(0)


def task(**scoring):
    return Task(
        name="own",
        title="Own",
        dataset="own",
        classes=("background", "mito", "er"),
        scoring=Scoring(**{"planes": "2d", "classes": (1, 2), **scoring}),
        iterations=1,
        voxel_size=(40.0, 8.0, 8.0),
    )


def maps(seed, shape=(1, 40, 40)):
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.normal(size=shape), (0, 3, 3))
    other = truth + 0.3 * gaussian_filter(rng.normal(size=shape), (0, 3, 3))
    return [np.digitize(each, [0.05, 0.15]).astype(np.uint8) for each in (other, truth)]


def scored(of=None, seeds=(0, 1)):
    of = of or task()
    images = []
    for seed in seeds:
        predicted, truth = maps(seed)
        images.append(image_counts(of, f"s{seed}", predicted, truth, evidence=of_image(of, predicted, truth)))
    return images


def test_a_result_keeps_the_mean_of_every_metric_that_applies():
    images = scored()
    found = snapshot(task(), 1, images, None, 0.0)
    assert found.metrics is not None
    expected = {m.name for m in metrics().values() if not {"scores", "tubular"} & m.needs}
    assert found.metrics.keys() == expected
    for name, by_class in found.metrics.items():
        metric = metrics()[name]
        assert by_class.keys() == {1, 2}
        each = [
            metric.score(image.classes[1] if isinstance(metric, OverlapMetric) else image.evidence[1][name])
            for image in images
        ]
        assert by_class[1] == pytest.approx(np.mean(each))


def test_sections_are_measured_in_the_plane_and_volumes_in_space():
    predicted, truth = np.zeros((2, 3, 12, 12), np.uint8)
    truth[1, 3:8, 3:8] = 1
    predicted[2, 3:8, 3:8] = 1
    assert of_image(task(planes="stack"), predicted, truth)[1]["hd95"] == (40.0,)
    predicted[1, 3:8, 4:9] = 1
    assert of_image(task(), predicted[1:2], truth[1:2])[1]["hd95"] == (8.0,)


def test_what_the_rule_leaves_out_is_left_out_of_every_metric():
    truth = np.zeros((1, 20, 20), np.uint8)
    truth[0, 2:8, 2:8] = 1
    predicted = truth.copy()
    predicted[0, 12:18, 12:18] = 1  # touches no labelled object, lies where nothing is labelled
    assert of_image(task(), predicted, truth)[1]["count_error"] == (2, 1)
    assert of_image(task(match_instances=True), predicted, truth)[1]["count_error"] == (1, 1)
    assert of_image(task(ignore_unlabelled=True), predicted, truth)[1]["count_error"] == (1, 1)


def test_identities_of_true_objects_count_as_objects():
    truth = np.ones((1, 10, 10), np.uint8)
    identities = np.repeat([[[7] * 5 + [9] * 5]], 10, 1).astype(np.uint32)
    assert of_image(task(), truth, truth, identities_ZYX=identities)[1]["count_error"] == (1, 2)


def test_probabilities_give_brier_score_and_calibration():
    truth = RNG.random(20000) < 0.5
    scores = np.where(RNG.random(20000) < 0.2, ~truth, truth) * 0.6 + 0.2  # 0.8 or 0.2, wrong one time in five
    histogram = ScoreHistogram()
    histogram.add(scores.astype(np.float32), truth)
    maps_ = np.zeros((2, 1, 4, 4), np.uint8)
    found = of_image(task(), *maps_, {1: histogram, 2: ScoreHistogram()})[1]
    brier, error = (metrics()[name].score(found[name]) for name in ("brier", "calibration_error"))
    assert brier == pytest.approx(np.mean((scores - truth) ** 2), rel=0.01)
    assert error == pytest.approx(0, abs=0.01)  # as often right as it says
    sure = ScoreHistogram()
    sure.add(np.full(1000, 0.9, np.float32), np.arange(1000) < 500)
    gaps = metrics()["calibration_error"].evidence(type("Masks", (), {"histogram": sure})())
    assert metrics()["calibration_error"].score(gaps) == pytest.approx(0.4, abs=0.01)


def result_with_metrics():
    result = made_result()
    final = result.snapshots[-1]
    found = scored()
    images = tuple(
        image.model_copy(update={"evidence": {1: found[number % 2].evidence[1]}})
        for number, image in enumerate(final.images)
    )
    final = final.model_copy(update={"images": images, "metrics": means(images)})
    return result.model_copy(update={"snapshots": (*result.snapshots[:-1], final)})


def test_a_stored_metric_that_its_evidence_does_not_give_is_refused(tmp_path):
    result, path = result_with_metrics(), tmp_path / "seed-0.json"
    results.save(result, path)
    assert results.load(path).final.metrics == result.final.metrics
    for change, message in (
        (lambda final: final["metrics"]["nsd"].__setitem__("1", 0.999), "nsd 1: 0.999, but its evidence gives"),
        (lambda final: final["metrics"]["dice"].__setitem__("1", 0.999), "dice 1: 0.999"),
        (
            lambda final: final["images"][0]["evidence"]["1"].__setitem__("nsd", [3, 2]),
            "of nsd that gives 1.5",
        ),
        (lambda final: final["images"][0]["evidence"]["1"].__setitem__("nsd", [1]), "1 numbers of evidence of nsd"),
        (lambda final: final["images"][0]["evidence"]["1"].pop("nsd"), "evidence that other images lack"),
        (lambda final: final["images"][0]["evidence"]["1"].__setitem__("vi_split", [1, 0]), "gives no score"),
    ):
        facts = json.loads(result.model_dump_json())
        change(facts["snapshots"][-1])
        forged = type(result).model_validate_json(json.dumps(facts))
        path.write_text(json.dumps({**facts, "sha256": forged.digest}))
        with pytest.raises(BadInput, match=message):
            results.load(path)


def test_results_without_evidence_keep_their_digest(tmp_path):
    result = made_result()
    facts = json.loads(result.model_dump_json())
    for each in facts["snapshots"]:
        each.pop("metrics")
        for image in each["images"]:
            image.pop("evidence")
    bare = type(result).model_validate_json(json.dumps(facts))
    assert '"evidence"' not in bare.model_dump_json(exclude_unset=True)
    path = tmp_path / "seed-0.json"
    path.write_text(json.dumps({**facts, "sha256": bare.digest}))
    loaded = results.load(path)
    assert loaded.final.metrics is None
    assert means(loaded.final.images).keys() == {"iou", "dice", "precision", "recall"}  # from counts


def test_centre_lines_are_for_tubes_and_sheets():
    for each in catalog.all_tasks():
        structures = dict(zip(each.scoring.classes, measurement_of(each).structures, strict=True))
        for value in each.scoring.classes:
            names = {metric.name for metric in applying(each, value)}
            assert ("cldice" in names) == (structures[value] in TUBULAR)
            assert "nsd" in names


def test_every_task_states_a_tolerance_with_its_reason():
    for each in catalog.all_tasks():
        measurement = measurement_of(each)
        assert measurement.reason
        size = each.voxel_size or measurement.voxel_size
        assert measurement.tolerance is None or size is not None
        assert measurement.tolerance is None or measurement.tolerance >= min(size)

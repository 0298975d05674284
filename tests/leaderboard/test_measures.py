"""A metric that results store is a measure: of rankings, pages and downloads, without a line of its own there."""

from __future__ import annotations

import csv
from pathlib import Path

import made_results as made
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from embench.scoring import results
from embench.scoring.evidence import means, of_image
from embench.scoring.metrics import metrics
from embench.scoring.metrics.recommended import RECOMMENDED
from leaderboard import boards, cli, measures, trials

TASK = made.task()


def with_metrics(result, noise):
    """Return a result that has evidence too: of blobs, the more noise the worse."""
    final = result.snapshots[-1]
    images = []
    for number, image in enumerate(final.images):
        rng = np.random.default_rng([result.seed, number])
        truth = gaussian_filter(rng.normal(size=(1, 40, 40)), (0, 3, 3))
        other = truth + noise * gaussian_filter(rng.normal(size=truth.shape), (0, 3, 3))
        maps = ((each > 0.1).astype(np.uint8) for each in (other, truth))
        images.append(image.model_copy(update={"evidence": of_image(TASK, *maps)}))
    final = final.model_copy(update={"images": tuple(images), "metrics": means(images)})
    return result.model_copy(update={"snapshots": (*result.snapshots[:-1], final)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """UNet leads by IoU, RETINA by everything that looks at outlines and objects."""
    folder = tmp_path_factory.mktemp("results")
    for model, quality, noise in (("unet-resnet50", 0.7, 0.6), ("retina", 0.5, 0.1)):
        for seed in range(3):
            result = with_metrics(made.result(model, seed=seed, quality=quality), noise)
            results.save(result, folder / "vnc-mito" / model / "x" / f"seed-{seed}.json")
    return folder


def test_every_metric_that_may_rank_is_a_measure():
    ranking = {
        metric.name
        for metric in metrics().values()
        if metric.ranks and metric.higher_is_better and metric.name not in ("iou", "dice", "precision", "recall")
    }
    assert measures.REGISTRY.keys() == {"score", "average_precision", *ranking}
    assert not {"hd95", "mean_surface_distance"} & measures.REGISTRY.keys()


def test_a_board_ranks_by_the_measures_that_its_trials_have(folder):
    read, refused = trials.read([folder])
    assert not refused
    board = boards.boards(read)[0]
    assert board.measures[0] == "score"
    assert {"nsd", "f1_50", "pq_50", "ap_50_95", "boundary_iou"} <= set(board.measures)
    assert "cldice" not in board.measures  # of tubes and sheets only
    assert board.ranking("score").models[0].startswith("unet-resnet50")
    assert board.ranking("nsd").models[0].startswith("retina")


def test_results_without_metrics_rank_by_what_they_have():
    result = made.result()
    trial = trials.trial_of(result, Path("seed-0.json"))
    assert trial.value("score") == result.score
    assert np.isnan(trial.value("nsd"))


def test_page_and_downloads_hold_every_measure(folder, tmp_path):
    cli.build([folder], tmp_path, tmp_path / "none")
    index = (tmp_path / "index.html").read_text()
    assert '<option value="nsd">Surface Dice</option>' in index
    (task,) = (tmp_path / "task").glob("*.html")
    page = task.read_text()
    assert "Every metric, by class" in page
    assert "Mean surface distance (nm)" in page
    assert "mitochondrion (blob): look first at Surface Dice and Object F1" in page
    (table,) = (tmp_path / "data").glob("vnc-mito-*-metrics.csv")
    lines = list(csv.DictReader(table.open()))
    assert {line["metric"] for line in lines} >= {"hd95", "vi_split", "count_error"}
    assert {line["n"] for line in lines} == {"3"}
    assert (tmp_path / "data" / "published-ranking-nsd.csv").exists()


def test_every_kind_of_structure_has_its_metrics_and_a_reason():
    for names, reason in RECOMMENDED.values():
        assert set(names) <= metrics().keys()
        assert len(reason.split()) > 4

"""From the command line to result files, on small generated data: every model, resuming, refusing, diverging."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy import TOY, card, comparable, discs, planned, request
from typer.testing import CliRunner

from embench.cli.app import app
from embench.cli.run import run as run_command
from embench.core import locks, paths
from embench.core.errors import BadInput
from embench.data import store
from embench.data.catalog import SUITES
from embench.data.task import Item
from embench.models.base import SegmentationModel, TorchModel
from embench.models.checkpoints import load_weights, save_weights, weights_path
from embench.models.registry import chosen_models, find_model, model_names
from embench.runs import trial
from embench.runs.executors import Local
from embench.runs.options import ExecutorOptions, RunRequest
from embench.runs.request import snapshot_iterations, trials
from embench.scoring import results, schema
from embench.training.state import load_state


@pytest.fixture(scope="module")
def data(toy_data: Path) -> Path:
    return toy_data


@pytest.mark.parametrize("model", chosen_models(["published"])[1])
def test_every_published_model_trains_and_is_scored(model: str, data: Path, tmp_path: Path) -> None:
    spec = planned(data, tmp_path, model)
    result = trial.run(spec)
    assert result is not None
    assert [snapshot.iteration for snapshot in result.snapshots] == [4, 8]
    assert result.status == "done"
    assert result.model.parameters > result.model.trained_parameters - 1 > 0
    assert results.load(spec.path) == result
    adapter = find_model(model)
    pretrained = isinstance(adapter, TorchModel) and adapter.pretraining is not None
    assert (result.model.weights_hash is not None) == pretrained
    if pretrained:
        assert result.model.trained_parameters < result.model.parameters
    assert result.track == "published"
    assert {image.name for image in result.snapshots[-1].images} == {"test-z0000", "test-z0001"}
    assert all((spec.path.parent / section).is_file() for section in result.sections)
    diagnostics = result.snapshots[-1].diagnostics
    assert diagnostics is not None
    assert diagnostics.threshold is not None


def test_a_trial_learns_what_is_plain_to_see(data: Path, tmp_path: Path) -> None:
    result = trial.run(planned(data, tmp_path, recipe="unet", iterations=60, evaluations=1))
    assert result is not None
    assert result.score is not None
    assert result.score > 0.5


class _Killed(Exception):
    pass


def killed_at(iteration: int) -> trial.Report:
    def report(stage: str, reached: int, loss: float) -> None:
        if stage == "training" and reached == iteration:
            raise _Killed

    return report


@pytest.mark.parametrize("model", ["transunet", "unet-resnet50"])
@pytest.mark.parametrize("stop", [2, 6])
def test_a_trial_that_was_cut_short_ends_with_the_same_bytes(model: str, stop: int, data: Path, tmp_path: Path) -> None:
    whole = trial.run(planned(data, tmp_path / "whole", model, save_every=0.0))
    spec = planned(data, tmp_path / "cut", model, save_every=0.0)
    with pytest.raises(_Killed):
        trial.run(spec, killed_at(stop))
    assert not spec.path.exists()
    assert load_state(spec.state_path) is not None
    resumed = trial.run(spec)
    assert whole is not None
    assert resumed is not None
    assert comparable(resumed) == comparable(whole)
    assert not spec.state_path.exists()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(data: Path, tmp_path: Path) -> None:
    first, again = (trial.run(planned(data, tmp_path / name)) for name in ("a", "b"))
    other = trial.run(planned(data, tmp_path / "c", first_seed=1))
    assert first is not None
    assert again is not None
    assert other is not None
    assert comparable(first) == comparable(again)
    assert first.loss_curve != other.loss_curve


def test_two_worker_processes_give_the_bytes_of_one(data: Path, tmp_path: Path) -> None:
    asked = {"models": ["transunet"], "seeds": 2, "iterations": 2, "evaluations": 1}
    one, two = (trials(request(data, tmp_path / name, **asked)) for name in ("one", "two"))  # type: ignore[arg-type]
    alone, pooled = Local(jobs=1).run(one), Local(jobs=2).run(two)
    for a, b in zip(alone, pooled, strict=True):
        assert isinstance(a, schema.TrialResult)
        assert isinstance(b, schema.TrialResult)
        assert comparable(a) == comparable(b)


def test_a_done_trial_is_skipped_and_another_budget_does_not_mix(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def go(**changes: object) -> None:
        asked = {"models": ["transunet"], "tasks": ["toy"], "seeds": 1, "iterations": 1, "evaluations": 1}
        asked |= {"device": "cpu", "results": tmp_path, "data": data}
        run_command(RunRequest(**(asked | changes)), ExecutorOptions(jobs=1))  # type: ignore[arg-type]

    caplog.set_level("INFO")
    go()
    files = sorted(tmp_path.rglob("seed-*.json"))
    before = files[0].read_bytes()
    go()
    assert "1 of 1 trials are already done" in caplog.text
    assert files[0].read_bytes() == before
    go(iterations=2)
    go(crop=32)
    assert len(set(tmp_path.rglob("seed-*.json"))) == 3
    loaded, refused = results.load_all([tmp_path])
    assert not refused
    assert len({result.fingerprint.digest for result in loaded}) == 2
    assert {result.track for result in loaded} == {"open"}


def test_a_trial_that_another_process_holds_is_left_to_it(data: Path, tmp_path: Path) -> None:
    spec = planned(data, tmp_path, iterations=1, evaluations=1)
    with locks.claimed(spec.claim_path):
        assert trial.run(spec) is None
    assert trial.run(spec) is not None


USER_FILE = """
import torch
from embench import SegmentationModel, TorchModel

class Diverging(TorchModel):
    def network(self, outputs):
        class Net(torch.nn.Conv2d):
            calls = 0
            def forward(self, image):
                Net.calls += 1
                return super().forward(image) * (float("nan") if Net.calls == 3 else 1)
        return Net(1, outputs, 3, padding=1)

class Threshold(SegmentationModel):
    def predict(self, image, task):
        return (image[None] / 255).astype("float32")

class Wrong(SegmentationModel):
    def predict(self, image, task):
        return image[None].astype("float32")

class NotAModel:
    pass
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "mymodel.py"
    path.write_text(USER_FILE)
    return path


def test_a_diverged_trial_is_stored_and_stays_visible(data: Path, tmp_path: Path, user_file: Path) -> None:
    result = trial.run(planned(data, tmp_path / "r", f"{user_file}:Diverging"))
    assert result is not None
    assert (result.status, result.message) == ("diverged", "not finite at iteration 3")
    assert result.score is None
    assert results.load_all([tmp_path / "r"])[0] == [result]


def test_a_model_that_only_predicts_runs_too(data: Path, tmp_path: Path, user_file: Path) -> None:
    result = trial.run(planned(data, tmp_path / "r", f"{user_file}:Threshold"))
    assert result is not None
    assert result.score is not None
    assert result.score > 0.5


def test_scores_outside_0_to_1_are_refused(data: Path, tmp_path: Path, user_file: Path) -> None:
    with pytest.raises(BadInput, match=r"predict returned scores outside 0\.\.1"):
        trial.run(planned(data, tmp_path / "r", f"{user_file}:Wrong"))


def test_a_file_without_the_class_names_those_it_has(user_file: Path) -> None:
    with pytest.raises(BadInput, match="Threshold"):
        find_model(f"{user_file}:Treshold")
    with pytest.raises(BadInput, match="not a model adapter"):
        find_model(f"{user_file}:NotAModel")
    with pytest.raises(BadInput, match="no such file"):
        find_model("nowhere.py:Model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "--seeds 0: must be at least 1"),
        ({"iterations": -5}, "--iterations -5: must be at least 1"),
        ({"first_seed": -1}, "--first-seed -1"),
        ({"crop": 100}, "--crop 100: must be a multiple of 32"),
        ({"overlap": 1.0}, "--overlap 1.0"),
        ({"tasks": ["toi"], "models": ["retina"]}, "unknown task 'toi'"),
        ({"models": ["retinna"]}, "did you mean retina"),
        ({"tasks": [], "suite": "mimi"}, "did you mean mini"),
        ({"tasks": ["vnc-mito"]}, "run: embench prepare vnc --source DIR"),
        ({"recipe": "unett"}, "did you mean unet"),
        ({"init_from": [Path("no.safetensors")]}, r"no\.safetensors: no such checkpoint"),
        ({"device": "tpu"}, "--device tpu"),
    ],
)
def test_bad_requests_are_refused_before_any_training(
    changes: dict[str, object], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        trials(request(data, tmp_path / "r", **({"models": ["transunet"]} | changes)))  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("*.json"))


def test_a_results_folder_that_cannot_be_written_is_found_before_training(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"results: cannot be written \(Not a directory\); choose another place"):
        trials(request(data, tmp_path / "file" / "results", ["transunet"]))


def test_a_pretrained_model_never_starts_from_random_weights(data: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    items = [Item(split, split, *discs(1, 2)) for split in ("train", "test")]  # type: ignore[arg-type]
    store.write(paths.prepared_path("toy", bare), TOY, items)
    with pytest.raises(BadInput, match="run: embench pretrain retina --data toy-unlabelled --scale tiny"):
        trials(request(bare, tmp_path / "r", ["retina"]))


def test_a_checkpoint_of_another_method_or_scale_is_refused(data: Path, tmp_path: Path) -> None:
    mocov2 = weights_path("mocov2", "toy-unlabelled", "tiny", data)
    with pytest.raises(
        BadInput,
        match=r"mocov2 weights of .*, which no model asked for starts from \(retina starts from retina weights",
    ):
        trials(request(data, tmp_path, ["retina"], init_from=[mocov2]))
    loaded = load_weights(mocov2)
    other = tmp_path / "other.safetensors"
    save_weights(other, loaded.tensors, card("retina", scale="full"))
    with pytest.raises(BadInput, match="scale full, but retina is wanted at tiny"):
        trials(request(data, tmp_path, ["retina"], init_from=[other]))


def test_weights_of_other_names_are_listed_and_refused(data: Path, tmp_path: Path) -> None:
    loaded = load_weights(weights_path("mocov2", "toy-unlabelled", "tiny", data))
    wrong = tmp_path / "wrong.safetensors"
    save_weights(wrong, loaded.tensors, card("retina"))
    with pytest.raises(BadInput, match=r"lacks transformer\.embeddings"):
        trial.run(planned(data, tmp_path / "r", "retina", init_from=[wrong]))


def test_another_recipe_is_a_row_of_its_own_in_the_open_track(data: Path, tmp_path: Path) -> None:
    result = trial.run(planned(data, tmp_path, "unet-resnet50", recipe="retina", iterations=1, evaluations=1))
    assert result is not None
    assert (result.row, result.track, result.recipe["name"]) == ("unet-resnet50+retina", "open", "retina-tiny")


def test_data_that_changed_after_planning_are_refused(data: Path, tmp_path: Path) -> None:
    spec = planned(data, tmp_path)
    stamp = spec.key.fingerprint.model_copy(update={"data_hash": "f" * 64})
    with pytest.raises(BadInput, match="changed since the run was planned"):
        trial.run(replace(spec, key=replace(spec.key, fingerprint=stamp)))


def test_snapshots_are_evenly_spaced_and_end_at_the_budget() -> None:
    assert snapshot_iterations(1000, 5) == (200, 400, 600, 800, 1000)
    assert snapshot_iterations(2, 5) == (1, 2)


def test_the_default_is_the_mini_suite_with_a_banner_when_nothing_published_is_prepared(tmp_path: Path) -> None:
    from embench.runs.request import choose_tasks

    chosen = choose_tasks(RunRequest(models=["transunet"]), tmp_path)
    assert tuple(task.name for task in chosen) == SUITES["mini"]
    assert all(task.synthetic for task in chosen)


def test_everything_that_is_missing_is_said_at_once_a_line_each_with_exit_2(tmp_path: Path) -> None:
    asked = [
        "run",
        "--model",
        "retina",
        "--task",
        "vnc-mito",
        "--results",
        str(tmp_path / "r"),
        "--data-dir",
        str(tmp_path),
    ]
    done = subprocess.run([sys.executable, "-m", "embench", *asked], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    data, checkpoint = done.stderr.splitlines()
    assert "embench prepare vnc --source DIR" in data
    assert "run: embench pretrain retina --data vnc-unlabelled" in checkpoint
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_names_of_registered_models_are_those_of_their_classes() -> None:
    for name in model_names():
        adapter = find_model(name)
        assert isinstance(adapter, SegmentationModel)
        assert adapter.name == name


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES["mini"])
def test_a_trained_network_beats_the_trivial_predictions_on_every_synthetic_task(
    name: str, mini_data: Path, tmp_path: Path
) -> None:
    asked = {"tasks": [name], "evaluations": 1}
    (spec,) = trials(request(mini_data, tmp_path, ["transunet"], **asked))
    result = trial.run(spec)
    assert result is not None
    final = result.final
    assert final is not None
    # All background scores 0; all one class scores that class's share of the pixels (and 0 on the others).
    trivial = 0.0
    for value in spec.key.fingerprint.scoring["classes"]:
        counts = np.array([image.classes[value] for image in final.images])
        with store.Prepared(paths.prepared_path(name, mini_data)) as prepared:
            pixels = sum(int(np.prod(volume.image.shape)) for volume in prepared.volumes("test"))
        trivial = max(trivial, (counts[:, 0] + counts[:, 2]).sum() / pixels / len(final.class_iou))
    assert result.score is not None
    assert result.score > 1.5 * trivial


def test_a_factorial_runs_every_combination_once_and_writes_its_tables(toy_data: Path, tmp_path: Path) -> None:
    asked = ["factorial", "--task", "toy", "--seeds", "2", "--iterations", "2", "--evaluations", "1", "--jobs", "1"]
    where = ["--data-dir", str(toy_data), "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, [*asked, *where])
    assert found.exit_code == 0, found.output
    assert len(list((tmp_path / "results").rglob("seed-*.json"))) == 16
    effects = pd.read_csv(tmp_path / "out" / "effects.csv")
    assert effects["effect"].tolist()[:3] == ["architecture", "recipe", "start"]
    assert len(effects) == 7
    assert pd.read_csv(tmp_path / "out" / "cells.csv")["n"].tolist() == [2] * 8
    assert "architecture x recipe x start" in (tmp_path / "out" / "factorial.md").read_text()


def test_a_factorial_of_unfit_models_is_refused_before_anything_runs(toy_data: Path, tmp_path: Path) -> None:
    for pair, said in (
        ("A=transunet", "give ARCHITECTURE=RANDOM,PRETRAINED"),
        ("A=retina,transunet", "retina does not start random"),
        ("B=transunet,retina", "two architectures"),
    ):
        asked = ["factorial", "--task", "toy", "--pair", pair, "--pair", "B=unet-resnet50,unet-resnet50-mocov2"]
        where = ["--data-dir", str(toy_data), "--results", str(tmp_path), "--out", str(tmp_path / "out")]
        found = CliRunner().invoke(app, [*asked, *where])
        assert isinstance(found.exception, BadInput)
        assert said in str(found.exception)
    assert not list(tmp_path.rglob("*.json"))

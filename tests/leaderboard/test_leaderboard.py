"""From result files to boards and pages: who is ranked with whom, what is missing, what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import made_results as made
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from embench.core import paths
from embench.core.errors import BadInput
from embench.data import store
from embench.data.task import Item, Scoring
from embench.scoring.results import load, save
from embench.scoring.schema import TrialResult
from leaderboard import boards, cli, comparison, paper
from leaderboard import ranking as ranking_module
from leaderboard import trials as trials_module
from leaderboard.reference_scores import PUBLISHED
from leaderboard.site import writer
from leaderboard.site.content import Content
from leaderboard.site.pages import index_page

MITO = made.task("made-mito")
SYNAPSE = made.task("made-synapse")
TOY = made.task("made-toy", synthetic=True)
MODELS = {"retina": 0.7, "transunet": 0.55, "unet-resnet50": 0.4}


def trials(results: list[TrialResult]) -> list[trials_module.Trial]:
    return [trials_module.trial_of(each, Path(f"{k}/seed-{each.seed}.json")) for k, each in enumerate(results)]


def board(results: list[TrialResult], kind: str) -> boards.Board:
    return next(each for each in boards.boards(trials(results)) if each.kind == kind)


def rank(results: list[TrialResult], kind: str = "published") -> pd.DataFrame:
    return ranking_module.rank(board(results, kind), 0, draws=500)


# ---- boards


def test_complete_rows_are_ranked_by_their_mean_over_tasks() -> None:
    ranking = rank(made.suite(MODELS, [MITO, SYNAPSE]))
    assert ranking["row"].tolist() == ["retina", "transunet", "unet-resnet50"]
    assert ranking["rank"].tolist() == [1, 2, 3]
    assert (ranking["low"] <= ranking["mean"]).all()
    assert (ranking["mean"] <= ranking["high"]).all()


def test_synthetic_and_real_trials_stand_on_different_boards() -> None:
    found = boards.boards(trials(made.suite(MODELS, [MITO, TOY], seeds=3)))
    assert [(each.kind, [c.task for c in each.columns]) for each in found] == [
        ("published", ["made-mito"]),
        ("synthetic", ["made-toy"]),
    ]


def test_rows_with_different_fingerprints_share_no_ranking() -> None:
    results = made.suite(MODELS, [MITO], seeds=3)
    results += made.suite({"retina": 0.9}, [MITO], seeds=3, data_hash="ab" * 32)
    first, second = boards.boards(trials(results))
    assert (first.rows, second.rows) == (["retina", "transunet", "unet-resnet50"], ["retina"])
    assert first.columns[0].key != second.columns[0].key
    assert first.columns[0].label != second.columns[0].label


@pytest.mark.parametrize("changed", ["iterations", "classes", "scoring"])
def test_budget_classes_and_scoring_each_make_another_fingerprint(changed: str) -> None:
    other = {
        "iterations": made.result(iterations=10, data_hash="0" * 64),
        "classes": made.result(on=made.task(classes=("background", "synapse")), data_hash="0" * 64),
        "scoring": made.result(on=made.task(scoring=Scoring("2d", match_instances=True)), data_hash="0" * 64),
    }[changed]
    one = made.result(data_hash="0" * 64)
    assert one.fingerprint.digest != other.fingerprint.digest
    assert [line.partition(":")[0] for line in trials_module.differences(one.fingerprint, other.fingerprint)] == [
        changed
    ]
    assert trials_module.differences(one.fingerprint, one.fingerprint) == []


def test_another_recipe_is_its_own_row_of_the_open_track_beside_the_published_pairing() -> None:
    results = made.suite(MODELS, [MITO, SYNAPSE], seeds=3)
    results += [made.result("unet-resnet50", MITO, seed, 0.6, recipe="retina") for seed in range(3)]
    assert "unet-resnet50+retina" not in board(results, "published").rows
    opened = board(results, "open")
    assert [column.task for column in opened.columns] == ["made-mito"]
    assert opened.ranked == ["retina", "transunet", "unet-resnet50", "unet-resnet50+retina"]
    assert "unet-resnet50+retina" not in opened.published_rows


def test_overrides_of_the_recipe_are_stated_in_the_row() -> None:
    changed = made.result("retina", MITO, crop=96, batch=8)
    (trial,) = trials([changed])
    assert trial.row == "retina@crop=96"  # the task is not registered: its batch size is not known here
    assert trial.kind == "open"
    assert trials_module.overrides(changed.recipe, MITO) == "crop=96,batch=8"
    assert trials_module.overrides({**changed.recipe, "crop": 224, "batch_size": 16}, MITO) == "inference"
    assert trials_module.overrides(made.result("retina", MITO).recipe, MITO) == ""
    own = made.result("retina", MITO).recipe
    sparse = {**own, "inference": {**own["inference"], "overlap_2d": 0.25, "overlap_3d": 0.25}}
    assert trials_module.overrides(sparse, MITO) == "overlap=0.25"
    assert trials_module.overrides({**own, "schedule": "<b>none</b>"}, MITO) == "schedule"
    assert (
        trials_module.overrides({**made.result("retina", MITO).recipe, "learning_rate": 0.1}, MITO)
        == "learning_rate=0.1"
    )


def test_a_recipe_of_ones_own_is_a_row_and_what_is_changed_of_it_another(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nR = None\n")
    base = made.result("retina", MITO).recipe
    assert trials_module.overrides({**base, "ema": 0.9, "augmentation": "flips"}, MITO) == "augmentation=flips,ema=0.9"
    own = {**base, "name": "own", "loss": {"name": "mine", "source": "0" * 12, "settings": None}}
    assert trials_module.overrides(own, MITO) == ""
    assert trials_module.overrides({**own, "changed": ["crop=96", "loss=/x.py:y", "<b>=1"]}, MITO) == "crop=96"
    assert trials_module.overrides({**own, "name": f"{code}:R"}, MITO) == ""  # a result file has no code run
    assert not (tmp_path / "ran").exists()


def test_a_track_that_its_own_recipe_contradicts_is_not_believed() -> None:
    (trial,) = trials([made.result("retina", MITO, crop=96, track="published")])
    assert trial.kind == "open"


def test_incomplete_rows_are_unranked_and_say_what_is_missing() -> None:
    results = made.suite(MODELS, [MITO, SYNAPSE], seeds=4)
    results += [made.result("one-task", MITO, seed) for seed in range(4)]
    results += [made.result("few-seeds", on, seed) for on in (MITO, SYNAPSE) for seed in range(2)]
    results += [made.result("gap", MITO, seed) for seed in range(4)]
    results += [made.result("gap", SYNAPSE, seed) for seed in (0, 1, 3)]
    results += [
        made.result("diverges", on, seed, status="diverged" if (on, seed) == (MITO, 2) else "done")
        for on in (MITO, SYNAPSE)
        for seed in range(4)
    ]
    found = board(results, "published")
    assert found.ranked == ["diverges", "gap", "retina", "transunet", "unet-resnet50"]
    assert found.missing("one-task") == ["no trial on made-synapse"]
    assert found.missing("few-seeds") == ["made-mito: 2 of at least 3 seeds", "made-synapse: 2 of at least 3 seeds"]
    assert found.cell("diverges", found.columns[0]).diverged == [2]
    assert found.lacking("gap", found.columns[1]) == [2]


def test_a_run_that_diverged_or_is_missing_counts_as_the_worst_there_can_be() -> None:
    results = made.suite({"a": 0.6, "b": 0.5}, [MITO, SYNAPSE], seeds=4)
    broken = [
        each.model_copy(update={"status": "diverged", "snapshots": (), "iterations_done": 3})
        if (each.model.name, each.task, each.seed) == ("a", "made-mito", 2)
        else each
        for each in results
        if (each.model.name, each.task, each.seed) != ("b", "made-synapse", 1)
    ]
    whole, found = rank(results).set_index("row"), rank(broken).set_index("row")
    assert found["failed"].to_dict() == {"a": 1, "b": 1}
    assert found["runs"].to_dict() == {"a": 8, "b": 8}
    assert (found["mean"] < whole["mean"] - 0.05).all()
    assert (found["high"] - found["low"] > whole["high"] - whole["low"]).all()


def test_average_precision_is_a_second_ranking_that_needs_no_threshold() -> None:
    results = [*made.suite(MODELS, [MITO], seeds=3), *made.suite({"labels-only": 0.9}, [MITO], seeds=3)]
    for k, each in enumerate(results):
        final = each.snapshots[-1]
        precision = {"retina": 0.3, "transunet": 0.5, "unet-resnet50": 0.4}.get(each.model.name)
        diagnostics = precision and final.diagnostics.model_copy(update={"average_precision": {1: precision}})
        snapshots = (*each.snapshots[:-1], final.model_copy(update={"diagnostics": diagnostics}))
        results[k] = each.model_copy(update={"snapshots": snapshots})
    found = board(results, "published")
    assert found.ranked == ["labels-only", "retina", "transunet", "unet-resnet50"]
    ranking = ranking_module.rank(found, 0, draws=200, measure="average_precision")
    assert ranking["row"].tolist() == ["transunet", "unet-resnet50", "retina"]
    assert ranking["mean"].tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert ranking["image_low"].isna().all()
    assert found.missing("labels-only", "average_precision") == ["made-mito: no average precision"]


def test_the_spreads_over_seeds_and_over_test_images_are_told_apart() -> None:
    steady = made.suite({"a": 0.6, "b": 0.4}, [MITO], seeds=4, noise=0.0001)
    volume = made.task("made-volume", scoring=Scoring("stack"))
    first = rank(steady).iloc[0]
    assert first["high"] - first["low"] != first["image_high"] - first["image_low"]
    both = rank(made.suite({"a": 0.6, "b": 0.4}, [MITO, volume], seeds=4))
    assert both["image_tasks"].tolist() == [1, 1]
    assert (both["image_low"] < both["mean"]).all()
    alone = rank(made.suite({"a": 0.6, "b": 0.4}, [volume], seeds=4))
    assert alone["image_low"].isna().all()
    assert alone["low"].notna().all()


def test_a_cell_has_both_its_intervals_and_other_images_than_its_columns_have_none() -> None:
    results = made.suite({"a": 0.6, "b": 0.4, "c": 0.5}, [MITO], seeds=3)
    strange = [each for each in results if each.model.name == "c"]
    for each in strange:
        final = each.snapshots[-1]
        images = tuple(image.model_copy(update={"name": f"x{image.name}"}) for image in final.images)
        results[results.index(each)] = each.model_copy(
            update={"snapshots": (final.model_copy(update={"images": images}),)}
        )
    found = board(results, "published")
    cells = {row: found.cell(row, found.columns[0]) for row in found.rows}
    intervals = ranking_module.spreads(found, found.columns[0], found.rows, 0)
    for row in ("a", "b"):
        for low, high in (("low", "high"), ("image_low", "image_high")):
            assert 0 <= intervals.loc[row, low] < cells[row].mean < intervals.loc[row, high] <= 1
    assert intervals["images"].tolist() == [4, 4, 4]
    assert np.isnan(intervals.loc["c", "image_low"])
    assert intervals.loc["c", "low"] < cells["c"].mean


def test_the_ranking_is_the_same_whatever_the_order_of_files() -> None:
    results = made.suite(MODELS, [MITO, SYNAPSE], seeds=3)
    pd.testing.assert_frame_equal(rank(results), rank(results[::-1]))


def test_equal_rows_share_a_rank_and_a_letter() -> None:
    results = made.suite({"a": 0.5, "b": 0.5}, [MITO], seeds=4)
    twins = [each.model_copy(update={"snapshots": results[k % 4].snapshots}) for k, each in enumerate(results)]
    ranking = rank(twins)
    assert ranking["rank"].tolist() == [1, 1]
    assert ranking["letters"].tolist() == ["a", "a"]


def test_rows_made_with_different_weights_get_different_names() -> None:
    """The more common one keeps its name, so that nobody is renamed by somebody else's file."""
    results = [made.result("retina", MITO, seed) for seed in range(3)]
    other = [
        each.model_copy(update={"model": each.model.model_copy(update={"weights_hash": "f" * 64})})
        for each in results[:2]
    ]
    kept, refused = trials_module.distinct(trials(results + other))
    assert refused == []
    assert [trial.row for trial in kept[:3]] == ["retina"] * 3
    assert {trial.row.partition("=")[0] for trial in kept[3:]} == {"retina#weights"}


def test_a_zero_that_is_only_a_threshold_artefact_is_marked() -> None:
    zero, artefact, good = (made.result(quality=q, noise=0, tuned=t) for q, t in ((0, 0.05), (0, 0.5), (0.6, 0.9)))
    assert [trial.artefact for trial in trials([zero, artefact, good])] == [False, True, False]


def test_the_frame_has_one_line_per_trial() -> None:
    results = [*made.suite(MODELS, [MITO], seeds=2), made.result("bad", MITO, status="diverged")]
    frame = ranking_module.frame(trials(results))
    assert len(frame) == 7
    assert frame["score"].isna().tolist() == [False] * 6 + [True]


def test_the_command_that_makes_a_row_again_names_everything_that_departs_from_the_defaults() -> None:
    made_with = [made.result("unet-resnet50", MITO, s, recipe="retina", crop=96, iterations=800) for s in (0, 2)]
    assert trials_module.command(trials(made_with)) == (
        "embench run --model unet-resnet50 --task made-mito --recipe retina --crop 96 --iterations 800 "
        "--evaluations 5 --seeds 3"
    )


def test_file_names_of_rows_are_safe_and_distinct() -> None:
    rows = ["retina", "a+b", "a-b", "a@crop=96", "a@crop-96", "..", "a/../b"]
    slugs = [trials_module.slug(row) for row in rows]
    assert len(set(slugs)) == len(rows)
    assert all(re.fullmatch(r"[a-z0-9_~-][a-z0-9._~-]*", slug) for slug in slugs)


# ---- reading


def test_unusable_files_are_refused_with_a_reason_and_the_rest_is_read(tmp_path: Path) -> None:
    made.write(made.suite(MODELS, [MITO], seeds=3), tmp_path)
    good = next(tmp_path.rglob("seed-0.json"))
    facts = json.loads(good.read_text())
    nan = json.loads(good.read_text())
    nan["snapshots"][-1]["score"] = float("nan")
    lie = json.loads(good.read_text())
    lie["snapshots"][-1]["score"] = 0.99
    bad = {
        "cut/seed-0.json": good.read_text()[:500],
        "version/seed-0.json": json.dumps({**facts, "schema_version": 1}),
        "name/seed-0.json": json.dumps({**facts, "task": "../../etc"}),
        "nan/seed-0.json": json.dumps(nan),
        "lie/seed-0.json": json.dumps(lie),
        "copy/seed-0.json": good.read_text(),
    }
    for name, text in bad.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    read, refused = trials_module.read([tmp_path])
    assert len(read) == 9
    assert len(refused) == len(bad)
    # Whichever of the two copies comes second is the one left out.
    for name in ("cut", "version", "name", "nan", "lie"):
        assert any(f"{tmp_path}/{name}/seed-0.json" in line for line in refused)
    assert any("the same trial as" in line for line in refused)


def test_folders_given_twice_are_read_once(tmp_path: Path) -> None:
    made.write([made.result(seed=s) for s in range(3)], tmp_path)
    read, refused = trials_module.read([tmp_path, tmp_path])
    assert (len(read), refused) == (3, [])


# ---- commands


def test_compare_reports_medians_spread_and_the_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made.write(made.suite(MODELS, [MITO, SYNAPSE], noise=0.01), tmp_path)
    comparison.compare([tmp_path], "retina", "transunet", ["made-mito"], as_json=True)
    (entry,) = json.loads(capsys.readouterr().out)["tasks"]
    assert entry["task"] == "made-mito"
    assert (entry["n"], entry["m"]) == (6, 6)
    assert entry["p_mann_whitney"] == pytest.approx(2 / 924)
    assert entry["stars"] == "**"
    assert entry["p"] < 0.01
    assert entry["verdict"] == "different"
    assert entry["first"]["median"] > entry["second"]["median"]
    assert entry["first"]["min"] <= entry["first"]["q1"] <= entry["first"]["q3"] <= entry["first"]["max"]
    comparison.compare([tmp_path], "retina", "transunet")
    printed = capsys.readouterr().out
    assert "made-synapse" in printed
    assert "**" in printed
    assert "\x1b" not in printed


def test_compare_of_single_seeds_says_that_n_is_too_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made.write(made.suite(MODELS, [MITO], seeds=1), tmp_path)
    comparison.compare([tmp_path], "retina", "transunet")
    assert "n too small" in capsys.readouterr().out


def test_compare_says_who_is_non_inferior_by_the_stated_margin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.write(made.suite({"a": 0.60, "b": 0.64}, [MITO], noise=0.001), tmp_path)
    for margin, expected in ((0.2, "non-inferior"), (0.005, "not distinguished")):
        comparison.compare([tmp_path], "a", "b", as_json=True, margin=margin)
        (entry,) = json.loads(capsys.readouterr().out)["tasks"]
        assert entry["non_inferiority"] == {"margin": margin, "first": expected, "second": "non-inferior"}
    comparison.compare([tmp_path], "a", "b", margin=0.2)
    assert "a with margin 0.2: non-inferior" in capsys.readouterr().out
    for margin in (-0.1, 0.0, 1.0, float("nan")):
        with pytest.raises(BadInput, match="--margin"):
            comparison.compare([tmp_path], "a", "b", margin=margin)


def test_compare_pairs_test_images_and_those_seeds_that_draw_the_same_streams(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = made.suite({"a": 0.60, "b": 0.64}, [MITO], seeds=4)
    results += [made.result("a", MITO, seed, crop=96) for seed in range(1, 5)]
    made.write(results, tmp_path)
    comparison.compare([tmp_path], "a", "b", as_json=True)
    (entry,) = json.loads(capsys.readouterr().out)["tasks"]
    assert entry["paired_by_image"] is None  # sections of one stack
    assert entry["paired_by_seed"] is None
    comparison.compare([tmp_path], "a", "a@crop=96", as_json=True)
    (entry,) = json.loads(capsys.readouterr().out)["tasks"]
    assert entry["paired_by_seed"]["n"] == 3


def test_compare_keeps_real_and_synthetic_tasks_apart_over_tasks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.write(made.suite({"a": 0.60, "b": 0.64}, [MITO, SYNAPSE, TOY], seeds=4), tmp_path)
    comparison.compare([tmp_path], "a", "b", as_json=True)
    found = json.loads(capsys.readouterr().out)
    real, synthetic = found["over_tasks"]
    assert (real["tasks"], synthetic["tasks"]) == (["made-mito", "made-synapse"], ["made-toy"])
    assert real["low"] <= real["probability_of_improvement"] <= real["high"]
    assert found["adjusted_for"] == {"real": 2, "synthetic": 1}
    by_task = {entry["task"]: entry for entry in found["tasks"]}
    assert by_task["made-toy"]["p_holm"] == by_task["made-toy"]["p"]
    assert by_task["made-mito"]["p_holm"] >= by_task["made-mito"]["p"]
    comparison.compare([tmp_path], "a", "b", ["made-toy"])
    assert "p Holm" not in capsys.readouterr().out


def test_compare_by_average_precision_uses_it_throughout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made.write(made.suite({"a": 0.60, "b": 0.64}, [MITO], seeds=4), tmp_path)
    comparison.compare([tmp_path], "a", "b", as_json=True, measure="average_precision")
    (entry,) = json.loads(capsys.readouterr().out)["tasks"]
    for name in ("first", "second"):
        assert entry[name]["mean"] == pytest.approx(entry[name]["average_precision"])
        assert entry[name]["mean"] != pytest.approx(entry[name]["mean_iou"])
    with pytest.raises(BadInput, match="unknown measure 'avarage_precision': did you mean average_precision"):
        comparison.compare([tmp_path], "a", "b", measure="avarage_precision")


def test_an_iou_that_another_threshold_would_change_is_shown_with_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = made.suite({"a": 0.6}, [MITO], seeds=3, tuned=0.8) + made.suite({"b": 0.6}, [MITO], seeds=3, noise=0)
    for each in results:
        if each.model.name == "b":
            assert each.final is not None
            images = tuple(image.model_copy(update={"tuned": image.classes}) for image in each.final.images)
            tuned = each.final.diagnostics.model_copy(update={"tuned_iou": each.final.class_iou})
            last = each.final.model_copy(update={"diagnostics": tuned, "images": images})
            results[results.index(each)] = each.model_copy(update={"snapshots": (last,)})
    made.write(results, tmp_path)
    comparison.compare([tmp_path], "a", "b")
    printed = capsys.readouterr().out
    assert re.search(r"made-mito: a has IoU 0\.\d{3} at the protocol's threshold and 0\.800 at the one chosen", printed)
    assert "†" not in printed  # which is for scores near 0
    assert "made-mito: b has" not in printed


def test_compare_suggests_near_names_and_finds_the_only_row_of_a_model(tmp_path: Path) -> None:
    made.write(made.suite({"transunet": 0.5}, [MITO], seeds=3), tmp_path)
    made.write([made.result("retina", MITO, s, crop=96) for s in range(3)], tmp_path)
    with pytest.raises(BadInput, match="did you mean transunet"):
        comparison.compare([tmp_path], "transnet", "retina")
    with pytest.raises(BadInput, match="unknown task 'made-mitos': did you mean made-mito"):
        comparison.compare([tmp_path], "transunet", "retina", ["made-mitos"])
    comparison.compare([tmp_path], "transunet", "retina")


def test_compare_never_compares_across_fingerprints_and_says_why(tmp_path: Path) -> None:
    made.write(made.suite({"transunet": 0.5}, [MITO], seeds=3), tmp_path)
    made.write(made.suite({"retina": 0.5}, [MITO], seeds=3, iterations=10), tmp_path)
    with pytest.raises(BadInput, match="made-mito: not comparable, iterations: 10 against 1000"):
        comparison.compare([tmp_path], "retina", "transunet")


def test_comparable_names_every_fact_in_which_two_results_differ(tmp_path: Path) -> None:
    one, two = tmp_path / "a.json", tmp_path / "b.json"
    save(made.result("retina", MITO), one)
    save(made.result("transunet", MITO, seed=4), two)
    obstacles, circumstances = cli.comparable(one, two)
    assert obstacles == []
    assert "row: retina against transunet" in circumstances
    assert "seed: 0 against 4" in circumstances
    save(made.result("transunet", TOY, status="diverged", iterations=20), two)
    assert [line.partition(":")[0] for line in cli.comparable(one, two)[0]] == [
        "task",
        "data_hash",
        "iterations",
        "data",
        str(two),
    ]
    with pytest.raises(BadInput, match="no such file"):
        cli.comparable(one, tmp_path / "c.json")


# ---- the site


def test_the_site_is_whole_and_links_only_to_what_is_in_it(tmp_path: Path) -> None:
    results = made.suite(MODELS, [MITO, SYNAPSE, TOY], seeds=3)
    results += [made.result("unet-resnet50", MITO, s, recipe="retina", crop=96, iterations=800) for s in range(3)]
    results += [made.result("diverges", MITO, s, status="diverged") for s in range(2)]
    page = cli.build([made.write(results, tmp_path / "results")], tmp_path / "site", tmp_path / "none")
    assert page == tmp_path / "site/index.html"
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) == 1 + 1 + 4 + 2 * 5
    for each in pages:
        text = each.read_text()
        assert "Content-Security-Policy" in text
        assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)
        assert " style=" not in text
        for link in re.findall(r'(?:href|src)="([^"#]+)', text):
            assert (each.parent / link).is_file(), f"{each}: {link}"


def test_every_download_says_what_the_page_says(tmp_path: Path) -> None:
    results = made.suite(MODELS, [MITO, SYNAPSE], seeds=3)
    cli.build([made.write(results, tmp_path / "results")], tmp_path / "site", tmp_path)
    ranking = pd.read_csv(tmp_path / "site/data/published-ranking.csv")
    same = pd.DataFrame(json.loads((tmp_path / "site/data/published-ranking.json").read_text()))
    pd.testing.assert_frame_equal(ranking, same, check_dtype=False)
    text = (tmp_path / "site/index.html").read_text()
    for mean in ranking["mean"]:
        assert f"<b>{mean:.3f}</b>" in text
    assert len(pd.read_csv(tmp_path / "site/data/trials.csv")) == len(results)
    assert len(list((tmp_path / "site/results").rglob("seed-*.json"))) == len(results)


def test_refused_files_are_listed_and_reported_after_the_rest_of_the_board_is_built(tmp_path: Path) -> None:
    folder = made.write(made.suite(MODELS, [MITO], seeds=3), tmp_path / "results")
    (folder / "seed-9.json").write_text("{")
    with pytest.raises(BadInput, match=r"seed-9\.json") as error:
        cli.build([folder], tmp_path / "site", tmp_path)
    assert len(error.value.lines) == 2
    text = (tmp_path / "site/index.html").read_text()
    assert "1 result file left out" in text
    assert "seed-9.json" in text
    assert "retina" in text


def test_no_results_at_all_is_bad_input_and_builds_nothing(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with pytest.raises(BadInput, match="no result files"):
        cli.build([tmp_path / "results"], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_same_results_give_the_same_bytes_and_a_second_build_rewrites_nothing(tmp_path: Path) -> None:
    folder = made.write(made.suite(MODELS, [MITO], seeds=3), tmp_path / "results")
    for out in ("one", "two"):
        cli.build([folder], tmp_path / out, tmp_path)
    one, two = ({p.relative_to(tmp_path / out): p for p in (tmp_path / out).rglob("*.*")} for out in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(one[name].read_bytes() == two[name].read_bytes() for name in one)
    before = {name: path.stat().st_mtime_ns for name, path in one.items()}
    cli.build([folder], tmp_path / "one", tmp_path)
    assert {name: path.stat().st_mtime_ns for name, path in one.items()} == before


def test_published_scores_stand_only_on_the_tasks_they_were_printed_for(tmp_path: Path) -> None:
    cremi = made.task("cremi", scoring=Scoring("stack"), iterations=5000)
    results = made.suite(MODELS, [cremi, MITO, replace(TOY, name="mini-cremi")], seeds=3)
    cli.build([made.write(results, tmp_path / "results")], tmp_path / "site", tmp_path)
    pages = {path.name.rpartition("-")[0]: path.read_text() for path in (tmp_path / "site/task").glob("*.html")}
    assert "Conrad &amp; Narayan 2021" in pages["cremi"]
    assert "0.254" in pages["cremi"]
    assert "Conrad" not in pages["made-mito"]
    assert "Conrad" not in pages["mini-cremi"]
    ranking = (tmp_path / "site/data/published-ranking.csv").read_text()
    assert not any(row.title in ranking for row in PUBLISHED if row.title != "RETINA")


def test_synthetic_tasks_are_marked_on_every_page_that_shows_them(tmp_path: Path) -> None:
    results = made.suite(MODELS, [TOY], seeds=3)
    cli.build([made.write(results, tmp_path / "results")], tmp_path / "site", tmp_path)
    for path in (tmp_path / "site").rglob("*.html"):
        if path.name != "about.html":
            assert "synthetic" in path.read_text().lower(), path
    assert "Synthetic data only." in (tmp_path / "site/index.html").read_text()


def test_the_front_page_of_twenty_models_on_eight_tasks_is_below_one_megabyte(tmp_path: Path) -> None:
    tasks = [made.task(f"made-{k}") for k in range(8)]
    models = {f"model-{k:02d}": 0.3 + 0.02 * k for k in range(20)}
    one = trials(made.suite(models, tasks, seeds=1))
    found = [replace(each, result=each.result.model_copy(update={"seed": seed})) for each in one for seed in range(6)]
    rendered = writer.Site(tmp_path)
    content = Content(found, [])
    rendered.page("index.html", "index.html", **index_page(content, rendered, {}))
    assert (tmp_path / "index.html").stat().st_size < 2**20


# ---- sections


@pytest.fixture
def with_sections(tmp_path: Path) -> tuple[Path, Path]:
    """Return results with stored sections, and the prepared data they were made from."""
    generator = np.random.default_rng(0)
    labels = np.zeros((3, 40, 48), np.uint8)
    labels[:, 8:24, 10:30] = 1
    image = generator.integers(0, 255, labels.shape, dtype=np.uint8)
    data = tmp_path / "data"
    data_hash = store.write(
        paths.prepared_path(MITO.name, data),
        MITO,
        [Item(split, f"stack-{split}", image, labels) for split in ("train", "test")],
    )
    names = tuple(f"seed-0.sections/stack-test-z{z}.png" for z in (0, 2))
    result = made.result("retina", MITO, 0, data_hash=data_hash, texts={"sections": names})
    folder = made.write([result], tmp_path / "results")
    (path,) = folder.rglob("seed-0.json")
    (path.parent / "seed-0.sections").mkdir()
    for name in names:
        Image.fromarray(np.roll(labels[0], 4, axis=1)).save(path.parent / name)
    return folder, data


def task_page(out: Path) -> str:
    (page,) = (out / "task").glob("*.html")
    return page.read_text()


def test_sections_show_image_truth_prediction_and_error(with_sections: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = with_sections
    cli.build([folder], tmp_path / "site", data)
    (pictures,) = (tmp_path / "site/sections").iterdir()
    assert (len(list(pictures.rglob("*.png"))), len(list(pictures.rglob("*.webp")))) == (2 * 3, 2)
    text = task_page(tmp_path / "site")
    assert "seed 0, IoU 0.667" in text
    (error,) = pictures.glob("retina/*z0-error.png")
    with Image.open(error) as picture:
        rgba = np.asarray(picture.convert("RGBA"))
    assert rgba[16, 31, :3].tolist() == [213, 94, 0]
    assert rgba[16, 11, :3].tolist() == [0, 114, 178]
    assert rgba[16, 20, 3] == 0


def test_without_the_scored_data_the_page_shows_predictions_and_says_how_to_prepare(
    with_sections: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, data = with_sections
    cli.build([folder], tmp_path / "none", tmp_path / "nowhere")
    assert "embench prepare made-mito" in task_page(tmp_path / "none")
    assert len(list((tmp_path / "none/sections").rglob("*.png"))) == 2
    other = np.zeros((1, 40, 48), np.uint8)
    store.write(
        paths.prepared_path(MITO.name, data), MITO, [Item(s, f"stack-{s}", other, other) for s in ("train", "test")]
    )
    cli.build([folder], tmp_path / "changed", data)
    assert "differ from what was scored" in task_page(tmp_path / "changed")
    assert len(list((tmp_path / "changed/sections").rglob("*.png"))) == 2


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "seed-0.sections/../../x-z0.png", "notes.txt"])
def test_a_result_with_section_names_that_leave_its_folder_is_refused(
    with_sections: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    folder, data = with_sections
    (path,) = folder.rglob("seed-0.json")
    facts = json.loads(path.read_text())
    facts["sections"] = [name]
    path.write_text(json.dumps(facts))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path.parent.parent / "secret.png")
    with pytest.raises(BadInput, match=r"sections\.0"):
        cli.build([folder], tmp_path / "site", data)
    assert not (tmp_path / "site").exists()


def test_sections_that_are_not_there_are_reported(with_sections: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = with_sections
    (path,) = folder.rglob("seed-0.json")
    save(load(path).model_copy(update={"sections": ("seed-0.sections/absent-z0.png",)}), path)
    with pytest.raises(BadInput, match="absent-z0"):
        cli.build([folder], tmp_path / "site", data)
    assert not (tmp_path / "site/sections").exists()
    assert "retina" in (tmp_path / "site/index.html").read_text()


# ---- export


def test_table_1_has_one_column_per_benchmark_and_perez_is_the_mean_of_its_tasks(tmp_path: Path) -> None:
    perez = [made.task(name) for name in paper.PEREZ]
    results = made.suite({"retina": 0.8, "transunet": 0.6}, [MITO, *perez], seeds=3)
    results += [made.result("half", on, seed) for on in (MITO, perez[0]) for seed in range(3)]
    means = paper.table_1(board(results, "published"))
    assert list(means.columns) == ["perez", "made-mito"]
    assert list(means.index) == ["retina", "transunet", "half"]
    of_retina = [each.score for each in results if each.model.name == "retina" and each.task in paper.PEREZ]
    assert means.loc["retina", "perez"] == pytest.approx(np.mean(of_retina))
    assert np.isnan(means.loc["half", "perez"])
    made.write(results, tmp_path)
    markdown = paper.export([tmp_path])
    assert markdown.splitlines()[:2] == ["| model | perez | made-mito |", "| --- | ---: | ---: |"]
    assert f"| retina | {means.loc['retina', 'perez']:.3f} |" in markdown
    latex = paper.export([tmp_path], style="latex")
    assert latex.startswith("\\begin{tabular}{lrr}")
    assert latex.count("\\\\") == 4
    with pytest.raises(BadInput, match="unknown board 'publishd': did you mean published"):
        paper.export([tmp_path], "publishd")


def test_what_latex_would_read_as_a_command_is_escaped() -> None:
    assert paper._escaped(r"a_b%\x{}–") == r"a\_b\%\textbackslash{}x\{\}--"


def test_figure_s1_is_in_percent_of_the_baseline_and_of_transunet_where_that_scores_nothing() -> None:
    cremi = made.task("cremi")
    results = made.suite({"retina": 0.6, "transunet": 0.5, "unet-resnet50": 0.25}, [MITO], seeds=3)
    results += made.suite({"retina": 0.3, "transunet": 0.2}, [cremi], seeds=3)
    results += [made.result("unet-resnet50", cremi, seed, 0, noise=0) for seed in range(3)]
    found = board(results, "published")
    means, percent = paper.table_1(found), paper.figure_s1(found)
    assert list(percent.columns) == ["cremi (from transunet)", "made-mito"]
    assert percent.loc["unet-resnet50", "made-mito"] == 0
    ratio = means.loc["retina", "made-mito"] / means.loc["unet-resnet50", "made-mito"]
    assert percent.loc["retina", "made-mito"] == pytest.approx(100 * (ratio - 1))
    assert percent.loc["unet-resnet50", "cremi (from transunet)"] == pytest.approx(-100)
    alone = board(made.suite({"somebody": 0.5}, [MITO], seeds=3), "published")
    assert paper.figure_s1(alone).isna().all(axis=None)


def test_every_layout_has_the_figures_of_the_trials_in_every_style(tmp_path: Path) -> None:
    results = made.suite({"retina": 0.6, "transunet": 0.5}, [MITO], seeds=6)
    made.write(results, tmp_path)
    own = [each for each in results if each.model.name == "retina"]
    text = paper.export([tmp_path], style="json", layout="figure-3b")
    assert [line["score"] for line in json.loads(text) if line["model"] == "retina"] == [each.score for each in own]
    text = paper.export([tmp_path], style="csv", layout="figure-3a")
    lines = [line for line in csv.DictReader(io.StringIO(text)) if line["model"] == "retina"]
    assert [int(line["iteration"]) for line in lines] == [each.iteration for each in own[0].snapshots]
    assert float(lines[-1]["mean"]) == pytest.approx(np.mean([each.score for each in own]))
    assert float(lines[-1]["low"]) == min(each.score for each in own)
    text = paper.export([tmp_path], style="csv", runs=3)
    three = next(line for line in csv.DictReader(io.StringIO(text)) if line["model"] == "retina")
    assert float(three["made-mito"]) == pytest.approx(np.mean([each.score for each in own[:3]]))
    for layout in paper.LAYOUTS:
        for style in ("markdown", "latex", "csv", "json"):
            assert "retina" in paper.export([tmp_path], style=style, layout=layout)
    for asked in ({"layout": "table-2"}, {"style": "excel"}, {"runs": 0}):
        with pytest.raises(BadInput):
            paper.export([tmp_path], **asked)


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
@pytest.mark.filterwarnings("ignore:vert. bool was deprecated")
def test_a_board_is_drawn_in_any_of_three_formats_and_the_same_at_every_time(kind: str, tmp_path: Path) -> None:
    made.write(made.suite({"retina": 0.6, "transunet": 0.5, "unet-resnet50": 0.3}, [MITO]), tmp_path / "results")
    for layout in ("figure-3a", "figure-3b", "figure-s1"):
        drawn = paper.figure([tmp_path / "results"], tmp_path / f"{layout}.{kind}", layout=layout)
        assert drawn.read_bytes().startswith((b"%PDF-", b"<?xml", b"\x89PNG"))
        again = paper.figure([tmp_path / "results"], tmp_path / f"again.{kind}", layout=layout)
        assert again.read_bytes() == drawn.read_bytes()
    with pytest.raises(BadInput, match="ends in"):
        paper.figure([tmp_path / "results"], tmp_path / "figure.docx")
    with pytest.raises(BadInput, match="cannot be drawn"):
        paper.figure([tmp_path / "results"], tmp_path / f"figure.{kind}", layout="table-1")


def test_duplicates_and_what_is_known_of_them_stand_beside_the_results(tmp_path: Path) -> None:
    found = {"patches": 100, "exact": 2, "near": 5}
    leakage = {"test in train": found, "pretraining": "cem500k", "checked": False, "note": "about 5 % <b>overlap</b>"}
    results = [each.model_copy(update={"leakage": leakage}) for each in made.suite({"retina": 0.6}, [MITO], seeds=3)]
    made.write(results, tmp_path / "results")
    cli.build([tmp_path / "results"], tmp_path / "site")
    page = next((tmp_path / "site/model").glob("*.html")).read_text()
    assert "test in train: 2 exact and 5 near duplicates of 100 patches" in page
    assert "cem500k: not compared" in page
    assert "about 5 % &lt;b&gt;overlap&lt;/b&gt;" in page


def test_submitted_predictions_without_scores_are_shown_with_the_command_that_scores_them(tmp_path: Path) -> None:
    (result,) = made.suite({"nnunet": 0.6}, [MITO], seeds=1)
    images = tuple(image.model_copy(update={"tuned": None}) for image in result.snapshots[-1].images)
    final = result.snapshots[-1].model_copy(update={"diagnostics": None, "images": images})
    made.write([result.model_copy(update={"status": "submitted", "snapshots": (final,)})], tmp_path / "results")
    cli.build([tmp_path / "results"], tmp_path / "site")
    assert "embench score --task" in next((tmp_path / "site/model").glob("*.html")).read_text()

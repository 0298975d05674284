"""A result file is taken as it was written, with scores that follow from its counts, or it is named and left out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_results as made
import pytest
from calibration import simulate

from embench.core.errors import BadInput
from embench.data.task import Scoring
from embench.scoring import counts, results
from embench.scoring.schema import TrialResult
from leaderboard import cli
from leaderboard import trials as trials_module

MATCHED = made.task("perez-mito", scoring=Scoring("2d", match_instances=True))
VOLUME = made.task("made-volume", classes=("background", "one", "two"), scoring=Scoring("stack", classes=(1, 2)))


def with_plain(result: TrialResult) -> TrialResult:
    """Give a result the plain counts and scores that instance-matched tasks have beside their own."""
    snapshots = []
    for snapshot in result.snapshots:
        given = {1: (1, 2, simulate.TRUTH - 1)}
        images = tuple(image.model_copy(update={"plain": given}) for image in snapshot.images)
        plain, _ = counts.score(Scoring("2d"), [given])
        snapshots.append(snapshot.model_copy(update={"images": images, "plain_score": plain}))
    return result.model_copy(update={"snapshots": tuple(snapshots)})


@pytest.fixture
def result() -> TrialResult:
    return with_plain(made.result(on=MATCHED))


def saved(result: TrialResult, folder: Path) -> Path:
    path = folder / "seed-0.json"
    results.save(result, path)
    return path


def leaves(value: Any, way: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the way to every value of a JSON document."""
    if isinstance(value, dict):
        return [each for key, inner in value.items() for each in leaves(inner, (*way, key))]
    if isinstance(value, list):
        return [each for place, inner in enumerate(value) for each in leaves(inner, (*way, place))]
    return [way]


def put(facts: Any, way: tuple[str | int, ...], change: Callable[[Any], Any]) -> None:
    for step in way[:-1]:
        facts = facts[step]
    facts[way[-1]] = change(facts[way[-1]])


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 + 1e-12
    return {"none": "done"}.get(value, f"{value}x") if isinstance(value, str) else 1


def test_what_was_saved_is_loaded(result: TrialResult, tmp_path: Path) -> None:
    for each in (result, made.result(on=VOLUME), made.result(status="diverged")):
        assert results.load(saved(each, tmp_path)) == each


def test_not_one_value_can_be_changed_unseen(result: TrialResult, tmp_path: Path) -> None:
    path = saved(result, tmp_path)
    whole = path.read_text()
    ways = leaves(json.loads(whole))
    assert len(ways) > 300
    for way in ways:
        facts = json.loads(whole)
        put(facts, way, other)
        path.write_text(json.dumps(facts))
        with pytest.raises(BadInput) as caught:
            results.load(path)
        (line,) = caught.value.lines
        assert line.startswith(f"{path}: "), way


def test_layout_and_line_ends_are_no_change(result: TrialResult, tmp_path: Path) -> None:
    path = saved(result, tmp_path)
    facts = json.loads(path.read_text())
    for text in (json.dumps(facts), json.dumps(facts, indent=4).replace("\n", "\r\n")):
        path.write_bytes(text.encode())
        assert results.load(path) == result


def test_the_digest_stays_what_it_was() -> None:
    """The digest of a committed result: were it computed otherwise one day, every result file would be refused."""
    folder = Path(__file__).parents[2] / "results"
    found, refused = results.load_all([folder])
    assert len(found) == 30
    assert not refused
    (one,) = folder.glob("vnc-mito/transunet/*/seed-0.json")
    assert results.load(one).digest == "bced0fe20a9ab839eb66c33af14a774b6eac46dfdaaa331120db951ffb8d59da"


def test_a_file_without_digest_is_refused(result: TrialResult, tmp_path: Path) -> None:
    path = saved(result, tmp_path)
    facts = json.loads(path.read_text())
    del facts["sha256"]
    path.write_text(json.dumps(facts))
    with pytest.raises(BadInput, match="sha256: Field required"):
        results.load(path)


def changed_final(result: TrialResult, **changes: Any) -> dict[str, Any]:
    final = result.snapshots[-1].model_copy(update=changes)
    return {"snapshots": (*result.snapshots[:-1], final)}


def changed_images(result: TrialResult, **changes: Any) -> dict[str, Any]:
    images = result.snapshots[-1].images
    return changed_final(result, images=(*images[:-1], images[-1].model_copy(update=changes)))


FORGERIES: dict[str, tuple[Callable[[TrialResult], dict[str, Any]], str]] = {
    "score": (lambda r: changed_final(r, score=0.987), "score 0.987000, but its counts give"),
    "early score": (
        lambda r: {"snapshots": (r.snapshots[0].model_copy(update={"score": 0.9}), *r.snapshots[1:])},
        "iteration 200: score 0.9",
    ),
    "IoU of a class": (lambda r: changed_final(r, class_iou={1: 0.9}), "IoU per class 1: 0.9, but"),
    "another class": (lambda r: changed_final(r, class_iou={2: r.final.score}), "IoU per class 2"),  # type: ignore[union-attr]
    "plain score": (lambda r: changed_final(r, plain_score=0.9), "plain score 0.9, but its counts give"),
    "no plain score": (lambda r: changed_final(r, plain_score=None), "plain score None"),
    "tuned IoU": (
        lambda r: changed_final(r, diagnostics=r.final.diagnostics.model_copy(update={"tuned_iou": {1: 0.9}})),  # type: ignore[union-attr]
        "at the chosen threshold 1: 0.9, but",
    ),
    "tuned IoU without counts": (
        lambda r: changed_final(
            r, images=tuple(image.model_copy(update={"tuned": None}) for image in r.snapshots[-1].images)
        ),
        "must both be there",
    ),
    "counts": (lambda r: changed_images(r, classes={1: (9000, 0, 0)}), "but its counts give"),
    "plain counts": (lambda r: changed_images(r, plain={1: (9000, 0, 0)}), "plain score"),
    "tuned counts": (lambda r: changed_images(r, tuned={1: (9000, 0, 0)}), "at the chosen threshold"),
    "a class less": (lambda r: changed_images(r, classes={}), "lacks counts"),
    "some plain counts": (lambda r: changed_images(r, plain=None), "lacks counts"),
    "an image twice": (lambda r: changed_images(r, name=r.snapshots[-1].images[0].name), "an image occurs twice"),
    "no images": (lambda r: changed_final(r, images=()), "lacks counts"),
    "undefined": (lambda r: changed_final(r, undefined=("stack1: mitochondrion",)), "names undefined"),
    "the same snapshot twice": (lambda r: {"snapshots": (r.snapshots[-1], r.snapshots[-1])}, "snapshots at iterations"),
    "no last snapshot": (lambda r: {"snapshots": r.snapshots[:-1]}, "without a snapshot at iteration"),
    "no snapshot": (lambda r: {"snapshots": ()}, "without a snapshot at iteration"),
    "another task": (lambda r: {"task": "cremi"}, "not of its own task"),
    "other classes": (lambda r: {"class_names": ("background", "nucleus")}, "not of its own task"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_result_with_a_right_digest_is_quarantined(name: str, result: TrialResult, tmp_path: Path) -> None:
    forge, says = FORGERIES[name]
    path = made.forged(result, tmp_path / "seed-0.json", **forge(result))
    with pytest.raises(BadInput) as caught:
        results.load(path)
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: quarantined: ")
    assert says in line
    with pytest.raises(ValueError, match="seed-0"):
        results.save(result.model_copy(update=forge(result)), path)


def test_what_is_changed_is_named_and_neither_ranked_nor_dropped(tmp_path: Path) -> None:
    folder = made.write(made.suite({"retina": 0.6, "transunet": 0.5}, [made.task()], seeds=4), tmp_path / "results")
    touched = sorted(folder.rglob("seed-1.json"))
    for path in touched:
        path.write_text(path.read_text().replace('"seed": 1', '"seed": 9'))
    trials, refused = trials_module.read([folder])
    assert len(trials) == 6
    assert {trial.result.seed for trial in trials} == {0, 2, 3}
    with pytest.raises(BadInput) as caught:
        cli.build([folder], tmp_path / "site")
    page = (tmp_path / "site/index.html").read_text()
    for path in touched:
        assert any(line.startswith(f"{path}: quarantined: changed since") for line in refused)
        assert any(str(path) in line for line in caught.value.lines)
        assert str(path) in page


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"seed",
    "not UTF-8": b'{"task": "\xff\xfe"}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "a number without end": b'{"seed": ' + b"9" * 1_000_000 + b"}",
    "another document": b"[1, 2, 3]",
    "null": b"null",
    "too large": b" " * (results.MAX_BYTES + 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_result_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "seed-0.json"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(BadInput) as caught:
        results.load(path)
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: ")
    assert len(line) < 600


@pytest.mark.parametrize(
    ("way", "value"),
    [
        (("seed",), 2**60),
        (("seed",), -1),
        (("seconds_training",), float("nan")),
        (("environment", "threads"), float("inf")),
        (("environment", "note"), [{"deep": float("nan")}]),
        (("snapshots", 0, "score"), float("nan")),
        (("snapshots", 0, "images", 0, "classes", "1"), [10**400, 0, 0]),
        (("snapshots", 0, "images", 0, "classes", "1"), [1, 2]),
        (("fingerprint", "scoring", "planes"), "everything"),
        (("fingerprint", "scoring", "classes"), []),
        (("fingerprint", "scoring", "classes"), [1, 1]),
        (("fingerprint", "scoring", "classes"), [-1]),
        (("fingerprint", "scoring"), {"planes": "2d", "of": "no use"}),
        (("task",), "../../etc"),
        (("model", "name"), "a/b"),
        (("model", "name"), ".."),
        (("pairing",), "a\x00b"),
        (("sections",), ["seed-0.sections/../../a-z0.png"]),
        (("sections",), ["/seed-0.sections/a-z0.png"]),
        (("further",), "key"),
    ],
)
def test_values_outside_the_schema_are_refused_by_key(
    way: tuple[str | int, ...], value: Any, result: TrialResult, tmp_path: Path
) -> None:
    path = saved(result, tmp_path)
    facts = json.loads(path.read_text())
    inner = facts
    for step in way[:-1]:
        inner = inner[step]
    inner[way[-1]] = value
    path.write_text(json.dumps(facts))
    with pytest.raises(BadInput, match="not a result of schema") as caught:
        results.load(path)
    assert str(way[0]) in caught.value.lines[0]


def test_a_pipe_in_place_of_a_result_does_not_hold_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "seed-0.json")
    (tmp_path / "seed-1.json").symlink_to("/dev/zero")
    (tmp_path / "seed-2.json").symlink_to("seed-2.json")
    (tmp_path / "seed-3.json").mkdir()
    found, refused = results.load_all([tmp_path])
    assert not found
    assert len(refused) == 4

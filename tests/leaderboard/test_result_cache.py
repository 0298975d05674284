"""What the board needs of result files, and that its cache never answers for other bytes or another program."""

from __future__ import annotations

import os
from pathlib import Path

import made_results as made
import pytest

from embench.data.task import Scoring
from embench.scoring.results import load, parse, save
from embench.scoring.schema import TrialResult
from leaderboard import trials as trials_module
from leaderboard.cache import results as cache

MITO = made.task("made-mito")
VOLUME = made.task("made-volume", scoring=Scoring("stack", classes=(1, 2)), classes=("background", "a", "b"))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return made.write(made.suite({"retina": 0.7, "transunet": 0.5}, [MITO, VOLUME], seeds=3), tmp_path / "results")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were really parsed, in order."""
    seen: list[Path] = []

    def counting(content: bytes, path: Path) -> TrialResult:
        seen.append(path)
        return parse(content, path)

    monkeypatch.setattr(cache, "parse", counting)
    return seen


def test_a_summary_agrees_with_the_result() -> None:
    for on in (MITO, VOLUME):
        result = made.result("retina", on, seed=3)
        found = cache.summarise(result)
        assert found.result.model_dump(exclude={"snapshots", "loss_curve"}) == result.model_dump(
            exclude={"snapshots", "loss_curve"}
        )
        assert (found.result.seed, found.result.score, found.result.loss_curve) == (3, result.score, ())
        assert found.curve == tuple((each.iteration, each.score) for each in result.snapshots)
        assert found.images == tuple(image.name for image in result.snapshots[-1].images)
        assert sum(found.image_scores) / len(found.image_scores) == pytest.approx(result.score, abs=1e-12)
    diverged = cache.summarise(made.result(status="diverged"))
    assert (diverged.result.final, diverged.images, diverged.image_scores) == (None, (), ())


def test_a_second_reading_parses_nothing_and_gives_the_same(results: Path, parsed: list[Path]) -> None:
    first = trials_module.read([results])
    assert len(parsed) == 12
    assert trials_module.read([results]) == first
    assert len(parsed) == 12


def test_one_more_file_is_the_only_one_parsed(results: Path, parsed: list[Path]) -> None:
    trials_module.read([results])
    made.write([made.result("retina", MITO, seed=3)], results)
    assert len(trials_module.read([results])[0]) == 13
    assert [path.name for path in parsed[12:]] == ["seed-3.json"]


def test_another_content_of_the_same_size_and_age_is_read_anew(results: Path) -> None:
    path = next(results.rglob("seed-0.json"))
    trials_module.read([results])
    facts, result = path.stat(), load(path)
    save(result.model_copy(update={"seed": 9}), path)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    assert 9 in {trial.result.seed for trial in trials_module.read([results])[0]}


def test_a_forged_score_is_refused_although_the_true_file_is_cached(results: Path) -> None:
    path = next(results.rglob("seed-0.json"))
    trials_module.read([results])
    before, score = path.read_text(), load(path).score
    path.write_text(before.replace(f'"score": {score!r}', '"score": 0.123456789'))
    trials, refused = trials_module.read([results])
    assert (len(trials), len(refused)) == (11, 1)
    assert f"{path}: quarantined" in refused[0]
    assert trials_module.read([results])[1] == refused  # and is never cached as good
    path.write_text(before)
    assert len(trials_module.read([results])[0]) == 12


def test_other_code_is_not_answered_from_the_cache(
    results: Path, parsed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trials_module.read([results])
    monkeypatch.setattr(cache, "_program", lambda: b"another program")
    trials_module.read([results])
    assert len(parsed) == 24
    assert len(cache.ResultCache([results]).path.read_bytes().splitlines()) == 1 + 12


def test_an_entry_that_was_damaged_is_made_anew(results: Path, parsed: list[Path]) -> None:
    first = trials_module.read([results])
    path = cache.ResultCache([results]).path
    program, *lines = path.read_bytes().split(b"\n")
    lines[3] = lines[3].replace(b'"score":0.', b'"score":1.', 1)
    lines[5] = lines[5][:-20]
    lines[7] = b"\xff\xfe"
    path.write_bytes(b"\n".join([program, *lines]))
    assert trials_module.read([results]) == first
    assert len(parsed) == 12 + 3


def test_a_cache_does_not_travel_with_data_or_results(
    results: Path, parsed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies in the user's own folder, so that nobody else's is ever believed."""
    monkeypatch.setenv("EMBENCH_DATA", str(tmp_path / "data"))
    trials_module.read([results])
    assert cache.ResultCache([results]).path.is_relative_to(tmp_path / "cache")
    assert not list((tmp_path / "data").rglob("*")) or not (tmp_path / "data" / ".leaderboard").exists()


def test_what_is_no_longer_there_is_forgotten(results: Path) -> None:
    trials_module.read([results])
    gone, changed = results.rglob("seed-0.json"), next(results.rglob("seed-1.json"))
    next(gone).unlink()
    changed.touch()
    trials_module.read([results])
    assert len(cache.ResultCache([results]).path.read_bytes().splitlines()) == 1 + 11


def test_a_broken_or_unwritable_cache_costs_time_and_nothing_else(
    results: Path, parsed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trials_module.read([results])
    cache.ResultCache([results]).path.write_bytes(b"not a database" * 100)
    assert trials_module.read([results]) == first
    assert trials_module.read([results]) == first
    assert len(parsed) == 24
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EMBENCH_CACHE", str(tmp_path / "file"))
    assert trials_module.read([results]) == first
    assert len(parsed) == 36

"""What a build takes over from an earlier one: the site is always what a build from nothing would write."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import made_results as made
import numpy as np
import pytest

from leaderboard import cli
from leaderboard.cache.site import Made, digest
from leaderboard.site import writer
from leaderboard.stats import tests

MITO, SYNAPSE, TOY = made.task("made-mito"), made.task("made-synapse"), made.task("made-toy", synthetic=True)
ROWS = {"retina": 0.7, "transunet": 0.5, "unet-resnet50": 0.2}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return made.write(made.suite(ROWS, [MITO, SYNAPSE, TOY], seeds=3), tmp_path / "results")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pages that were really rendered, in order."""
    seen: list[str] = []
    page = writer.Site.page

    def counting(self: writer.Site, name: str, template: str, **context: object) -> None:
        seen.append(name.partition("-")[0])
        page(self, name, template, **context)

    monkeypatch.setattr(writer.Site, "page", counting)
    return seen


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fresh(results: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    with monkeypatch.context() as patch:
        patch.setenv("EMBENCH_DATA", str(folder / "nothing"))
        cli.build([results], folder / "fresh")
    found = files(folder / "fresh")
    shutil.rmtree(folder / "fresh")
    shutil.rmtree(folder / "nothing")
    return found


def test_an_unchanged_board_is_not_written_again(results: Path, tmp_path: Path, written: list[str]) -> None:
    cli.build([results], tmp_path / "site")
    assert len(written) == 1 + 3 + 2 * 3 + 1
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "site").rglob("*")}
    cli.build([results], tmp_path / "site")
    assert len(written) == 11
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "site").rglob("*")} == before


def test_after_any_change_the_site_is_what_a_build_from_nothing_writes(
    results: Path, tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "site"
    cli.build([results], out)
    written.clear()
    made.write([made.result("transunet", MITO, seed=3)], results)
    cli.build([results], out)
    assert "task/made-synapse" not in " ".join(written)  # nothing on it has changed
    assert files(out) == fresh(results, tmp_path, monkeypatch)
    for path in results.rglob("seed-*.json"):
        if path.parent.parent.name == "unet-resnet50" or path.name == "seed-3.json":
            path.unlink()
    cli.build([results], out)
    assert not (out / "model/unet-resnet50.html").exists()
    assert files(out) == fresh(results, tmp_path, monkeypatch)
    next(results.rglob("seed-0.json")).write_text("{}")
    with pytest.raises(cli.BadInput, match="not a result"):
        cli.build([results], out)
    with pytest.raises(cli.BadInput, match="not a result"):  # the fault stays one
        cli.build([results], out)
    assert "not a result of schema" in (out / "index.html").read_text()


def test_a_new_best_row_changes_the_palette_and_no_page_of_a_task_that_it_was_not_run_on(
    results: Path, tmp_path: Path, written: list[str]
) -> None:
    out = tmp_path / "site"
    made.write(made.suite({"best": 0.9}, [SYNAPSE], seeds=3), results)
    cli.build([results], out)
    before = (out / "palette.css").read_text()
    written.clear()
    made.write(made.suite({"best": 0.9}, [MITO], seeds=3), results)
    cli.build([results], out)
    assert [name for name in written if name.startswith("task/")] == ["task/made"]
    assert written.count("index.html") == 1
    palette = (out / "palette.css").read_text()
    assert palette != before
    assert palette.startswith('[data-row="best"] { --row: var(--c0);')


def test_a_page_changed_or_removed_by_hand_is_written_again_and_other_files_stay(
    results: Path, tmp_path: Path, written: list[str]
) -> None:
    out = tmp_path / "site"
    cli.build([results], out)
    before = files(out)
    (out / "CNAME").write_text("example.org")
    (out / "index.html").write_text("mine")
    (out / "data/trials.csv").unlink()
    (out / "model/retina.html").unlink()
    written.clear()
    cli.build([results], out)
    assert sorted(written) == ["index.html", "model/retina.html"]
    assert files(out) == before | {"CNAME": b"example.org"}


def test_another_program_is_not_answered_from_what_was_made(
    results: Path, tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.build([results], tmp_path / "site")
    monkeypatch.setattr("leaderboard.cache.site._program", lambda: b"another program")
    cli.build([results], tmp_path / "site")
    assert len(written) == 22


def test_a_broken_record_costs_time_and_nothing_else(results: Path, tmp_path: Path, written: list[str]) -> None:
    cli.build([results], tmp_path / "site")
    before = files(tmp_path / "site")
    Made(tmp_path / "site").path.write_bytes(b"not a database" * 100)
    cli.build([results], tmp_path / "site")
    assert len(written) == 22
    assert files(tmp_path / "site") == before


def test_figures_are_computed_once_for_the_same_samples(tmp_path: Path) -> None:
    samples = [np.array([[0.1, 0.5], [0.3, 0.2]]), np.array([[0.1, 0.5], [0.3, 0.25]])]
    asked: list[int] = []

    def compute(k: int) -> dict[str, np.ndarray]:
        asked.append(k)
        return vars(tests.compare_all(list(samples[k])))

    with Made(tmp_path) as made_before:
        first = made_before.arrays([["pairs", each] for each in samples], compute)
        again = made_before.arrays([["pairs", samples[1]], ["other", samples[1]]], compute)
        made_before.keep_only([])
    assert asked == [0, 1, 1]
    assert all(np.array_equal(first[1][name], again[0][name], equal_nan=True) for name in first[1])
    with Made(tmp_path) as later:
        later.arrays([["pairs", samples[0]]], compute)
        later.keep_only([])
    with sqlite3.connect(later.path) as database:
        assert database.execute("SELECT count(*) FROM arrays").fetchone() == (1,)
    assert asked == [0, 1, 1]


def test_a_digest_tells_arrays_of_other_shape_type_and_order_apart() -> None:
    some = np.arange(4.0)
    different = [some, some.reshape(2, 2), some.astype(np.float32), [some, some], [some, [some]], some.tolist(), "0"]
    assert len({digest(each) for each in different}) == len(different)
    assert digest(some[::-1][::-1]) == digest(some)

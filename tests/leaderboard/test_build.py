"""A build leaves what a build from nothing would write, whatever an earlier one left."""

from __future__ import annotations

import shutil
from pathlib import Path

import made_results as made
import pytest

from embench.core import parallel
from leaderboard import cli
from leaderboard.site.writer import FILES

MITO, SYNAPSE, TOY = made.task("made-mito"), made.task("made-synapse"), made.task("made-toy", synthetic=True)
ROWS = {"retina": 0.7, "transunet": 0.5, "unet-resnet50": 0.2}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return made.write(made.suite(ROWS, [MITO, SYNAPSE, TOY], seeds=3), tmp_path / "results")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fresh(results: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    with monkeypatch.context() as patch:
        patch.setenv("EMBENCH_DATA", str(folder / "nothing"))
        cli.build([results], folder / "fresh")
    found = files(folder / "fresh")
    shutil.rmtree(folder / "fresh")
    return found


def test_an_unchanged_board_changes_no_file(results: Path, tmp_path: Path) -> None:
    cli.build([results], tmp_path / "site")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "site").rglob("*") if path.is_file()}
    assert len([path for path in before if path.suffix == ".html"]) == 1 + 3 + 2 * 3 + 1
    cli.build([results], tmp_path / "site")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_after_any_change_the_site_is_what_a_build_from_nothing_writes(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "site"
    cli.build([results], out)
    made.write([made.result("transunet", MITO, seed=3)], results)
    cli.build([results], out)
    assert files(out) == fresh(results, tmp_path, monkeypatch)
    for path in results.rglob("seed-*.json"):
        if path.parent.parent.name == "unet-resnet50" or path.name == "seed-3.json":
            path.unlink()
    cli.build([results], out)
    assert not (out / "model/unet-resnet50.html").exists()
    assert files(out) == fresh(results, tmp_path, monkeypatch)
    next(results.rglob("seed-0.json")).write_text("{}")
    for _ in range(2):  # the fault stays one
        with pytest.raises(cli.BadInput, match="not a result"):
            cli.build([results], out)
    assert "not a result of schema" in (out / "index.html").read_text()


def test_a_page_changed_or_removed_by_hand_is_written_again_and_other_files_stay(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    cli.build([results], out)
    before = files(out)
    (out / "CNAME").write_text("example.org")
    (out / "index.html").write_text("mine")
    (out / "data/trials.csv").unlink()
    (out / "model/retina.html").unlink()
    cli.build([results], out)
    assert files(out) == before | {"CNAME": b"example.org"}


@pytest.mark.parametrize("listed", ["not JSON", '["../mine", "HERE/mine", "task"]', "{}"])
def test_a_strange_list_of_files_removes_nothing_outside_the_site(results: Path, tmp_path: Path, listed: str) -> None:
    out = tmp_path / "site"
    cli.build([results], out)
    before = files(out)
    (tmp_path / "mine").write_text("stays")
    (out / FILES).write_text(listed.replace("HERE", str(tmp_path)))
    cli.build([results], out)
    assert (tmp_path / "mine").read_text() == "stays"
    assert files(out) == before


def test_several_processes_write_what_one_writes(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.build([results], tmp_path / "one")
    monkeypatch.setattr(parallel, "FEWEST", 1)
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    cli.build([results], tmp_path / "several")
    assert files(tmp_path / "several") == files(tmp_path / "one")

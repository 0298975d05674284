"""A changed result is named and never ranked, no name forms a path, and nothing that is handed in is run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import made_results as made
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from embench.core import paths
from embench.core.errors import BadInput
from embench.core.names import is_name
from embench.data import store
from embench.data.task import Item, Scoring, Task
from embench.models import checkpoints
from embench.runs.plan import TrialKey
from embench.scoring import external, predictions, results, schema, submit
from embench.training.recipe import RETINA
from leaderboard import trials

from .test_images import run

# Results that were changed


def edited(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        facts = json.loads(path.read_text())
        change(facts)
        path.write_text(json.dumps(facts))

    return edit


def forged(path: Path) -> None:
    """Raise the score, and give the file the digest that it now has."""
    result = results.load(path)
    final = result.snapshots[-1].model_copy(update={"score": 0.999})
    made.forged(result, path, snapshots=(*result.snapshots[:-1], final))


def doubled(path: Path) -> None:
    """Put the file in a second place, from which it is read after the first."""
    (path.parent / "zz").mkdir()
    shutil.copy(path, path.parent / "zz" / path.name)


def last(facts: dict) -> dict:
    return facts["snapshots"][-1]


CHANGED = "quarantined: changed since it was written"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another score": (edited(lambda facts: last(facts).__setitem__("score", 0.999)), CHANGED),
    "another score and digest": (forged, "quarantined: iteration 1000: score 0.999"),
    "another count": (edited(lambda facts: last(facts)["images"][0]["classes"].__setitem__("1", [9, 0, 0])), CHANGED),
    "another digest": (edited(lambda facts: facts.__setitem__("sha256", "0" * 64)), CHANGED),
    "another model": (edited(lambda facts: facts["model"].__setitem__("name", "transunet")), CHANGED),
    "a later date of nothing": (edited(lambda facts: facts["environment"].__setitem__("a", 1)), CHANGED),
    "no digest": (edited(lambda facts: facts.pop("sha256")), "not a result of schema"),
    "NaN": (edited(lambda facts: last(facts).__setitem__("score", float("nan"))), "not a result of schema"),
    "negative counts": (
        edited(lambda facts: last(facts)["images"][0]["classes"].__setitem__("1", [-1, 0, 0])),
        "not a result of schema",
    ),
    "another schema": (edited(lambda facts: facts.__setitem__("schema_version", 99)), "not a result of schema"),
    "a name that is a path": (edited(lambda facts: facts.__setitem__("task", "../../etc")), "is not a name"),
    "a model that is a path": (edited(lambda facts: facts["model"].__setitem__("name", "/etc")), "is not a name"),
    "too large": (lambda path: path.write_bytes(path.read_bytes() + b" " * results.MAX_BYTES), "at most"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-500]), "not a result of schema"),
    "no JSON": (lambda path: path.write_bytes(b"\x80\x04N."), "not a result of schema"),
    "empty": (lambda path: path.write_bytes(b""), "not a result of schema"),
    "a copy": (doubled, "the same trial as"),
}


def test_changed_results_are_named_and_the_board_is_that_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file with each fault; the board with them has the rankings of a board from which they were taken away."""
    seeds = len(FAULTS) + 4
    suite = made.suite({"retina": 0.6, "transunet": 0.5}, [made.task()], seeds=seeds)
    folder = made.write(suite, tmp_path / "results")
    clean = shutil.copytree(folder, tmp_path / "clean")
    touched = {}
    for seed, (fault, (change, says)) in enumerate(FAULTS.items()):
        (path,) = folder.glob(f"*/retina/*/seed-{seed}.json")
        change(path)
        if fault == "a copy":
            path = path.parent / "zz" / path.name
        else:
            (clean / path.relative_to(folder)).unlink()
        touched[fault] = path, says
    status, lines = run(monkeypatch, capsys, "leaderboard", "build", "--results", folder, "--out", tmp_path / "site")
    assert status == 2
    page = (tmp_path / "site" / "index.html").read_text()
    for fault, (path, says) in touched.items():
        told = [line for line in lines if line.startswith(f"embench: {path}: ")]
        assert len(told) == 1, (fault, told)
        assert says in told[0], (fault, told)
        assert str(path) in page, fault
    assert len(lines) == len(FAULTS) + 1, "and one line that says that the board was built without them"
    capsys.readouterr()
    assert run(monkeypatch, capsys, "leaderboard", "build", "--results", clean, "--out", tmp_path / "other")[0] == 0
    files = sorted(path.name for path in (tmp_path / "other" / "data").glob("*-ranking*"))
    assert files
    for name in files:
        assert (tmp_path / "site/data" / name).read_bytes() == (tmp_path / "other/data" / name).read_bytes()


# Names


NASTY = st.one_of(
    st.text(max_size=90),
    st.text("./\\:~%\0 ab", max_size=12),
    st.sampled_from(
        ("..", ".", "", "/", "../x", "a/../b", "C:\\x", "~", "nul", "a\n", "..a", "a..b", "é", "%2e%2e", "-x")
    ),
)


@given(NASTY)
def test_a_name_is_one_component_of_a_path(text: str) -> None:
    if is_name(text):
        assert Path(text).name == text
        assert (Path("a") / text).parts == ("a", text)
        assert not set(text) & set("/\\:~%\0 \n")
        assert text not in (".", "..")
        assert not text.startswith((".", "-"))
        assert ".." not in text


FOLDER = Path("/folder")
MARK = schema.fingerprint(made.task(), "0" * 64, 5)


def key(task: str, model: str, recipe: str) -> Path:
    from dataclasses import replace

    return TrialKey(model, task, replace(RETINA, name=recipe), MARK, None, 0).path(FOLDER)


def place(recipe: str) -> Path:
    return FOLDER / submit.place_of(made.result().model_copy(update={"recipe": {"name": recipe}}))


PLACES: dict[str, Callable[[str], Path]] = {
    "prepared file": lambda name: paths.prepared_path(name, FOLDER),
    "checkpoint of a method": lambda name: checkpoints.weights_path(name, "data", "full", FOLDER),
    "checkpoint on a set": lambda name: checkpoints.weights_path("method", name, "full", FOLDER),
    "checkpoint of a model": lambda name: checkpoints.weights_path("method", "data", "full", FOLDER, name or "a/b"),
    "result of a task": lambda name: key(name, "model", "recipe"),
    "result of a model": lambda name: key("task", name, "recipe"),
    "result under a recipe": lambda name: key("task", "model", name),
    "submitted result": place,
    "submitted predictions": lambda name: external.result_path(FOLDER, name, MARK, 0),
    "file of a test image": lambda name: FOLDER / f"{external.file_name(name)}.png",
    "page of a row": lambda name: FOLDER / "model" / f"{trials.slug(name)}.html",
}


@pytest.mark.parametrize("what", PLACES)
@given(text=NASTY)
def test_no_name_leads_out_of_its_folder(what: str, text: str) -> None:
    """Wherever a name becomes a path, that path is below the folder, or the name is refused."""
    try:
        found = PLACES[what](text)
    except BadInput:
        return
    assert found.is_relative_to(FOLDER)
    assert ".." not in found.parts
    assert not set("\0\n\\") & set(str(found))
    assert len(found.relative_to(FOLDER).parts) == len(PLACES[what]("a").relative_to(FOLDER).parts)


@given(text=NASTY)
def test_the_place_of_a_section_is_beside_its_result(text: str) -> None:
    for name in (text, f"seed-0.sections/{text}-z0.png", f"seed-{text}.sections/a-z0.png"):
        try:
            predictions.section_place(name, FOLDER / "seed-0.json")
        except BadInput:
            continue
        assert (FOLDER / name).resolve().parent == FOLDER.resolve() / Path(name).parts[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "{}"],
        ["verify", "{}"],
        ["export", "{}", "--format", "folder", "--out", "out"],
        ["score", "--task", "{}", "--predictions", ".", "--dry-run"],
        ["prepare", "{}", "--source", "."],
        ["prepare", "{}", "--images", ".", "--masks", ".", "--classes", "0:a,1:b"],
        ["prepare", "{}", "--tiles", "."],
        ["fetch", "{}"],
        ["pretrain", "{}", "--data", "vnc-unlabelled"],
        ["pretrain", "retina", "--data", "{}"],
        ["checkpoint", "fetch", "{}"],
        ["run", "--model", "{}", "--task", "vnc-mito"],
        ["run", "--model", "unet-resnet50", "--task", "{}"],
        ["run", "--model", "unet-resnet50", "--suite", "{}"],
        ["run", "--model", "unet-resnet50", "--recipe", "{}", "--task", "vnc-mito"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "..", "/etc/passwd", "a\x1b[2Jb"])
def test_the_command_line_takes_no_path_for_a_name(
    arguments: list[str],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "secret.h5").write_bytes(b"secret")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("EMBENCH_DATA", str(tmp_path / "here" / "data"))
    before = sorted(tmp_path.rglob("*"))
    status, lines = run(monkeypatch, capsys, *(each.format(name) for each in arguments))
    assert status == 2, lines
    assert all(line.isprintable() for line in lines), lines
    assert any(line.startswith("embench: ") for line in lines), "refused by us and not for how it was asked"
    assert sorted(path for path in tmp_path.rglob("*") if path.name not in ("data", "downloads")) == before


# Code


TASK = Task("mito", "M", "m", ("background", "mito"), Scoring("2d"), 100)
WATCHED = """
import sys
ran = []
def watch(event, arguments):
    if event == "exec":
        ran.append(("exec", getattr(arguments[0], "co_filename", "?")))
    elif event in ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "code.__new__"):
        ran.append((event, repr(arguments)[:300]))
    elif event == "subprocess.Popen":
        ran.append((event, " ".join(map(str, arguments[1]))))
sys.addaudithook(watch)
import json
from embench import cli
commands, report = json.loads(sys.argv[1]), sys.argv[2]
statuses = []
for command in commands:
    sys.argv = ["embench", *command]
    try:
        cli.main()
        statuses.append(0)
    except SystemExit as done:
        statuses.append(done.code)
with open(report, "w") as file:
    json.dump({"ran": ran, "statuses": statuses, "modules": sorted(sys.modules)}, file)
"""


def traps(folder: Path) -> None:
    """Lay out modules whose import would be seen: named like ours, like libraries, and like what Python looks for."""
    folder.mkdir(parents=True, exist_ok=True)
    code = f"open({str(folder.parent / 'canary')!r}, 'a').write(__file__ + chr(10))\n"
    for name in (
        "json",
        "numpy",
        "torch",
        "embench",
        "baselines",
        "adapter",
        "conftest",
        "sitecustomize",
        "usercustomize",
    ):
        (folder / f"{name}.py").write_text(code)
    (folder / "evil.pth").write_text(f"import os; open({str(folder.parent / 'canary')!r}, 'a')\n")


def watched(tmp_path: Path, where: Path, *commands: list[object]) -> dict:
    """Run commands in a process whose every run code is noted, from a folder of traps."""
    program = tmp_path / "program" / "watched.py"
    program.parent.mkdir(exist_ok=True)
    program.write_text(WATCHED)
    asked = json.dumps([[str(each) for each in command] for command in commands])
    done = subprocess.run(
        [sys.executable, str(program), asked, str(tmp_path / "report.json")],
        cwd=where,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert (tmp_path / "report.json").exists(), done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    report["said"] = done.stdout + done.stderr
    return report


def test_nothing_of_a_submission_is_run(tmp_path: Path) -> None:
    """Scoring predictions, submitting results and building the page run no code from what was handed in."""
    rng = np.random.default_rng(0)
    images = [Item(split, split, *rng.integers(0, 2, (2, 2, 20, 24), np.uint8)) for split in ("train", "test")]  # type: ignore[arg-type]
    store.write(tmp_path / "data" / "mito.h5", TASK, images)
    handed_in = tmp_path / "handed-in"
    traps(handed_in)
    traps(handed_in / "predictions")
    traps(handed_in / "results")
    for z in range(2):
        picture = Image.fromarray(rng.integers(0, 2, (20, 24), np.uint8))
        picture.save(handed_in / "predictions" / f"test-z{z:04d}.png")
    from embench.data.catalog import find_task

    given = handed_in / "results" / "seed-0.json"
    results.save(made.result("retina", find_task("vnc-mito"), 0), given)
    board = tmp_path / "board"
    subprocess.run(["git", "init", "-q", str(board)], check=True)
    data = ["--data-dir", tmp_path / "data"]
    report = watched(
        tmp_path,
        handed_in / "predictions",
        ["score", "--task", "mito", "--predictions", ".", "--dry-run", *data],
        [
            "score",
            "--task",
            "mito",
            "--predictions",
            ".",
            "--name",
            "elsewhere",
            "--results",
            tmp_path / "scored",
            *data,
        ],
        ["submit", given, "--results", board / "results"],
        ["leaderboard", "build", "--results", handed_in / "results", "--out", tmp_path / "site"],
    )
    assert report["statuses"] == [0, 0, 0, 0], report["said"]
    assert not list(tmp_path.rglob("canary"))
    assert not [facts for event, facts in report["ran"] if event == "exec" and str(handed_in) in facts]
    others = [(event, facts) for event, facts in report["ran"] if event != "exec"]
    started = [facts for event, facts in others if event == "subprocess.Popen"]
    assert [pair for pair in others if pair[0] != "subprocess.Popen" and str(handed_in) in pair[1]] == []
    known = ("-m embench.core.sandbox", "git ", "lscpu", "uname", "sysctl", "ldconfig")
    assert all(any(word in facts for word in known) for facts in started), started


def test_run_imports_no_adapter_but_the_one_that_was_named(tmp_path: Path) -> None:
    """Of the registered ones only what was asked for; of files only those given with --model."""
    rng = np.random.default_rng(0)
    images = [Item(split, split, *rng.integers(0, 2, (2, 2, 32, 32), np.uint8)) for split in ("train", "test")]  # type: ignore[arg-type]
    store.write(tmp_path / "data" / "mito.h5", TASK, images)
    here = tmp_path / "here"
    for folder in (here, here / "results", here / "data", tmp_path / "data"):
        traps(folder)
    named = tmp_path / "mine" / "half.py"
    named.parent.mkdir()
    named.write_text(
        textwrap.dedent(
            """
            import numpy as np
            from embench import SegmentationModel
            class Half(SegmentationModel):
                def predict(self, image_YX, task):
                    return (image_YX[None] < 1).astype(np.float32)
            """
        )
    )
    (named.parent / "other.py").write_text("raise SystemExit('not named')\n")
    asked = ["--task", "mito", "--seeds", "1", "--iterations", "1", "--jobs", "1", "--data-dir", tmp_path / "data"]
    report = watched(tmp_path, here, ["run", "--model", f"{named}:Half", "--results", here / "results", *asked])
    assert report["statuses"] == [0], report["said"]
    assert not list(tmp_path.rglob("canary"))
    adapters = {"baselines", "retina"} & {name.partition(".")[0] for name in report["modules"]}
    assert not adapters, "registered adapters that nobody asked for"
    run_here = {facts for event, facts in report["ran"] if event == "exec" and facts.startswith(str(tmp_path))}
    assert run_here <= {str(named), str(tmp_path / "program" / "watched.py")}

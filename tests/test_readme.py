"""What README and the documents show works as shown."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from toy import TOY, discs

from embench.core import paths
from embench.data import store
from embench.data.task import Item
from embench.runs import trial
from embench.runs.options import RunRequest
from embench.runs.request import trials

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [
    README,
    *(ROOT / each for each in ("CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the embench commands of a document's blocks of code, as words."""
    text = path.read_text().replace("\\\n", " ")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [line.strip().removeprefix("$ ") for line in text.splitlines() if re.match(r" {4}(\$ )?embench ", line)]
    variables: dict[str, str] = {}
    for line in lines:
        if given := re.fullmatch(r'(\w+)="(.*)"', line):
            variables[given[1]] = given[2]
        for part in re.split(r"&&|\||;", line):
            for name, value in variables.items():
                part = part.replace(f"${name}", value)
            words = shlex.split(part, comments=True)
            if words[:1] == ["embench"]:
                yield [word for word in words[1:] if word not in ("...", "…")]


def test_the_model_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (command,) = re.findall(r"embench run --model (mymodel\.py:\w+)", README.read_text())
    assert len(example.strip().splitlines()) <= 11
    (tmp_path / "mymodel.py").write_text(example)
    items = [Item(split, split, *discs(seed, 4)) for split, seed in (("train", 1), ("test", 2))]  # type: ignore[arg-type]
    store.write(paths.prepared_path("toy", tmp_path), TOY, items)
    asked = RunRequest(
        models=[str(tmp_path / command)], tasks=["toy"], seeds=1, device="cpu", data=tmp_path, results=tmp_path
    )
    (spec,) = trials(asked)
    result = trial.run(spec)
    assert result is not None
    assert result.row == "three-convolutions"
    assert result.score is not None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_of_a_document_is_one_that_embench_takes(path: Path) -> None:
    from embench.cli.app import app

    for words in commands(path):
        command, rest, context = typer.main.get_command(app), list(words), None
        while hasattr(command, "commands") and rest and rest[0] in command.commands:
            command, rest = command.commands[rest[0]], rest[1:]
        assert command.name != "embench", f"{path.name}: embench {shlex.join(words)}: no such verb"
        try:
            context = command.make_context(command.name, rest)
        except Exception as error:
            raise AssertionError(f"{path.name}: embench {shlex.join(words)}: {error}") from error
        assert context is not None


def test_there_are_commands_to_check() -> None:
    assert len(list(commands(README))) >= 12
    assert len(list(commands(ROOT / "docs" / "own-images.md"))) >= 6


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_links_to_exists(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_every_document_is_linked_from_the_readme() -> None:
    linked = re.findall(r"\]\((docs/[^)#]+\.md)\)", README.read_text())
    assert sorted(set(linked)) == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))


def test_no_page_and_no_message_installs_a_strangers_package() -> None:
    files = [*DOCUMENTS, *(path for each in ("embench", "leaderboard") for path in (ROOT / each).rglob("*.py"))]
    for path in files:
        assert not re.search(r"pip install ['\"]?embench(\[|['\"\s]|$)|embench\[\w+\]", path.read_text(), re.M), path


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_for_own_images_and_for_predictions_run(tmp_path: Path) -> None:
    """As they stand in the documents, in order, with budgets that a test can wait for."""
    generator = np.random.default_rng(0)
    for kind in ("raw", "labels", "unlabelled", "predictions"):
        (tmp_path / kind).mkdir()
    for number in range(6):
        mask = np.kron(generator.integers(0, 2, (4, 4)), np.ones((32, 32))).astype(np.uint8)
        grey = (80 * mask + generator.integers(40, 120, mask.shape)).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "labels" / f"{number}.png")
        Image.fromarray(grey).save(tmp_path / "raw" / f"{number}.png")
        Image.fromarray(generator.integers(0, 255, (224, 224), dtype=np.uint8)).save(
            tmp_path / "unlabelled" / f"{number}.png"
        )
    environment = {**os.environ, "EMBENCH_DATA": str(tmp_path / "data")}

    def embench(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "embench", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"embench {shlex.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    small = {
        "run": ("--iterations", "2", "--seeds", "1", "--crop", "64", "--batch-size", "2", "--evaluations", "1"),
        "pretrain": ("--epochs", "1", "--crop", "64", "--batch-size", "2", "--workers", "0"),
    }
    checkpoint = ""
    for words in commands(ROOT / "docs" / "own-images.md"):
        chosen = [checkpoint if word == "CHECKPOINT" else word.replace(",transunet", "") for word in words]
        told = embench(*chosen, *small.get(words[0], ()))
        if words[0] == "pretrain":
            [checkpoint] = map(str, (tmp_path / "data/weights").glob("*.safetensors"))
    assert (tmp_path / "site/index.html").is_file()

    [export, score] = [words for words in commands(README) if words[0] in ("export", "score")]
    embench(*export)
    for image in (tmp_path / "my-er-images/test/images").iterdir():
        Image.fromarray(np.zeros((128, 128), np.uint8)).save(tmp_path / "predictions" / image.name)
    told = embench(*score)
    assert "my-er" in told

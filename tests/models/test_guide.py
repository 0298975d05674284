"""What the page of models shows is what works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embench.cli.modeldocs import GUIDE
from embench.models import external
from embench.runs.check import check

BLOCKS = re.findall(r"```(python|toml)\n(.*?)```", GUIDE.read_text(), re.DOTALL)
PYTHON = [block for kind, block in BLOCKS if kind == "python"]


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON, ids=lambda block: re.findall(r"class (\w+)|(\w+) = Recipe", block)[0][0])
def test_every_example_passes_its_check(block: str, tmp_path: Path) -> None:
    ((name, recipe),) = re.findall(r"^class (\w+)|^(\w+) = Recipe", block, re.MULTILINE)
    (tmp_path / "own.py").write_text(block)
    assert [each.fault for each in check(f"{tmp_path / 'own.py'}:{name or recipe}") if each.fault] == []


def test_the_example_of_a_tool_can_be_read(tmp_path: Path) -> None:
    ((_, block),) = [(kind, block) for kind, block in BLOCKS if kind == "toml"]
    (tmp_path / "mytool.toml").write_text(block)
    tool = external.read(tmp_path / "mytool.toml")
    assert tool.counts_iterations
    assert tool.limits.hours == 8

"""Who may import whom, and what starting up costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "albumentations", "monai", "matplotlib", "pandas", "scipy", "segmentation_models_pytorch", "timm"}


@pytest.mark.parametrize(
    "module",
    [
        "embench.cli",
        "embench.data.catalog",
        "embench.data.task",
        "embench.training.recipe",
        "embench.scoring.counts",
        "embench.training.augment",
    ],
)
def test_what_help_and_lists_need_imports_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print(*({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_list_of_tasks_is_printed_without_anything_heavy(tmp_path: Path) -> None:
    script = f"""
import sys
from embench.cli.data import list_tasks
list_tasks(None)
print(*({HEAVY | {"pydantic", "h5py"}!r} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "EMBENCH_DATA": str(tmp_path)},
    )
    assert "\ncremi\t" in done.stdout
    assert done.stderr.strip() == ""


def test_the_leaderboard_needs_no_torch() -> None:
    script = "import sys, leaderboard.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_help_lists_every_verb() -> None:
    done = subprocess.run([sys.executable, "-m", "embench", "--help"], capture_output=True, text=True, check=True)
    for verb in ("run", "prepare", "verify", "pretrain", "show", "compare", "list", "leaderboard"):
        assert f"\n  {verb} " in done.stdout

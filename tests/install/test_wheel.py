"""What is installed works without the checkout: a wheel in an empty environment, with all that its packages need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("embench", "baselines", "retina", "leaderboard")

pytestmark = pytest.mark.slow


def _files() -> list[str]:
    """Return the files of the checkout that make the wheel: no caches, no results."""
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts)


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in [*_files(), "pyproject.toml", "README.md", "LICENSE"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    _pip("wheel", source, "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", out)
    [built] = out.iterdir()
    return built


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``embench`` as installed from the wheel; the libraries it needs are those of the environment of this test."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    folder = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    for number, library in enumerate(("torch", "pydantic")):  # maybe in different folders
        spec = find_spec(library)
        assert spec is not None
        assert spec.origin is not None
        (folder / f"libraries{number}.pth").write_text(str(Path(spec.origin).parents[1]))
    _pip("--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel)
    return home / "bin" / "embench"


def test_the_wheel_is_of_our_own_name_and_has_every_file_of_the_packages(wheel: Path) -> None:
    assert wheel.name.startswith("embench_em-")
    with zipfile.ZipFile(wheel) as archive:
        assert sorted(name for name in archive.namelist() if ".dist-info/" not in name) == _files()


def test_the_installed_program_runs_a_trial_and_builds_a_board(program: Path, tmp_path: Path) -> None:
    environment = {"EMBENCH_DATA": str(tmp_path / "data"), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [program, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = "import embench, leaderboard, retina; print(embench.__file__, leaderboard.__file__, retina.__file__)"
    python = [program.with_name("python"), "-c", where]
    imported = subprocess.run(python, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert imported.count(str(program.parents[1])) == 3

    assert run("--version").split()[0] == "embench"
    assert "unet-resnet50" in run("list", "models")
    short = ("--iterations", "2", "--seeds", "1", "--threads", "1")
    run("run", "--model", "unet-resnet50", "--task", "mini-kasthuri", *short)
    run("leaderboard", "build", "--results", "results", "--out", "site")
    assert "unet-resnet50" in (tmp_path / "site/index.html").read_text()
    assert (tmp_path / "site/site.css").is_file()

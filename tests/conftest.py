"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A loaded machine is no fault of an example; what hangs is caught by the time limit of the test.
settings.register_profile("embench", deadline=None)
settings.load_profile("embench")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images beside the project (or ``EMBENCH_SHARED``); the test is skipped without it."""
    folder = Path(os.environ.get("EMBENCH_SHARED") or Path(__file__).parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the real images: no {folder / 'data'}; set EMBENCH_SHARED to their folder")
    return folder


@pytest.fixture(scope="session")
def mini_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which generated tasks and their checkpoints are made on first use, once per session."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the toy task and checkpoints of both pre-trainings."""
    import toy

    return toy.make(tmp_path_factory.mktemp("toy"))


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's data."""
    monkeypatch.setenv("EMBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("EMBENCH_CACHE", str(tmp_path / "cache"))

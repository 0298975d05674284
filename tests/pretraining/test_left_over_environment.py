"""What other programs leave in the environment ends in a line, or does not matter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from embench.core.errors import BadInput
from embench.pretraining.distributed import joined_world


@pytest.mark.parametrize("size", ["2", "0", "many"])
def test_a_world_size_without_a_rank_is_named(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match="unset WORLD_SIZE, or start with torchrun"), joined_world("cpu"):
        pass


def test_the_backend_of_a_notebook_and_an_encoding_without_letters_do_not_matter() -> None:
    script = (
        "from embench.cli import app\n"
        "import sys\n"
        "sys.argv = ['embench', 'list', 'tasks']\n"
        "try:\n    app.main()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
        "from matplotlib.figure import Figure\nprint('–', Figure)\n"
    )
    environment = os.environ | {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
    }
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\\u2013 <class" in done.stdout

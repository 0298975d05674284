"""Without POSIX's own modules and signals the program works, on what Windows offers in their place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HIDDEN = """
import builtins, fcntl, os, signal, types

PACKAGES = ("embench", "baselines", "retina", "leaderboard")
plain = builtins.__import__


def without(module, *names):
    other = types.ModuleType(module.__name__)
    vars(other).update({name: value for name, value in vars(module).items() if name not in names})
    return other


def locking(descriptor, mode, count):
    fcntl.flock(descriptor, {0: fcntl.LOCK_UN, 1: fcntl.LOCK_EX, 2: fcntl.LOCK_EX | fcntl.LOCK_NB}[mode])


GONE = ("fcntl", "resource", "pwd", "grp", "termios")
INSTEAD = {
    "msvcrt": types.SimpleNamespace(locking=locking, LK_UNLCK=0, LK_LOCK=1, LK_NBLCK=2),
    "os": without(os, "uname", "fork", "register_at_fork", "sched_getaffinity", "killpg", "pread", "pwrite", "getuid"),
    "signal": without(signal, "SIGUSR1", "SIGUSR2", "SIGPROF", "setitimer", "ITIMER_PROF"),
}


def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    if (globals or {}).get("__name__", "").split(".")[0] in PACKAGES and not level:
        if name in GONE:
            raise ImportError(f"no module named {name} here")
        if name in INSTEAD:
            return INSTEAD[name]
    return plain(name, globals, locals, fromlist, level)


builtins.__import__ = guarded
"""
"""Hides them from our packages in every interpreter, and puts the locks of Windows there, by those of Linux."""


@pytest.fixture
def without(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(HIDDEN)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "hidden"), "EMBENCH_DATA": str(tmp_path / "data")}


def run(environment: dict[str, str], folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_hidden_modules_are_hidden_and_locks_still_lock(without: dict[str, str], tmp_path: Path) -> None:
    script = """
import subprocess, sys
from pathlib import Path
from embench.core import kernel_locks, locks, process
assert kernel_locks.fcntl is None and not process.CAN_LIMIT and process.peak_memory() == 0
if len(sys.argv) > 1:
    with locks.claimed(Path("a.claim")):
        pass
else:
    with locks.claimed(Path("a.claim")):
        other = subprocess.run([sys.executable, __file__, "other"], capture_output=True, text=True)
        print(other.returncode, other.stderr)
    assert locks.holder(Path("a.claim")) is None
    subprocess.run([sys.executable, __file__, "other"], check=True)
"""
    (tmp_path / "script.py").write_text(script)
    told = run(without, tmp_path, "script.py")
    assert told.startswith("1 ")
    assert "a.claim: held by process" in told


@pytest.mark.slow
def test_prepare_run_score_and_leaderboard_work_without_them(without: dict[str, str], tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(5):
        mask = np.kron(generator.integers(0, 2, (4, 4)), np.ones((16, 16))).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
        Image.fromarray((80 * mask + generator.integers(40, 120, mask.shape)).astype(np.uint8)).save(
            tmp_path / "images" / f"{number}.png"
        )

    def embench(*arguments: str) -> str:
        return run(without, tmp_path, "-m", "embench", *arguments)

    own = ("--images", "images", "--masks", "masks", "--classes", "0:background,1:block")
    told = embench("prepare", "blocks", *own)
    assert "this system sets no limits on memory and processor time" in told
    short = ("--iterations", "2", "--crop", "64", "--batch-size", "2")
    embench("run", "--model", "unet-resnet50", "--task", "blocks", "--seeds", "2", "--jobs", "2", *short)
    [path] = (tmp_path / "results").rglob("seed-0.json")
    assert json.loads(path.read_text())["peak_memory_bytes"] == 0
    embench("export", "blocks", "--format", "folder", "--out", "exported")
    (tmp_path / "predictions").mkdir()
    for image in (tmp_path / "exported/test/images").iterdir():
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "predictions" / image.name)
    embench("score", "--task", "blocks", "--predictions", "predictions", "--name", "nothing", "--seed", "0")
    embench("leaderboard", "build", "--results", "results", "--out", "site")
    assert "unet-resnet50" in (tmp_path / "site/index.html").read_text()

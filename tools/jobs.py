"""A small trial and a small pre-training, each run from the command line in a fork of a process that has torch loaded.

So an attempt costs a fraction of a second and can be killed at any moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork has no threads but one

import torch
from PIL import Image
from safetensors.torch import load_file

from embench.cli import app
from embench.core import paths
from embench.core.errors import BadInput
from embench.data import store
from embench.data.task import Item, UnlabelledSet
from embench.pretraining import loop
from embench.runs import trial
from embench.scoring import results
from embench.training.loop import Loop
from embench.training.state import load_state
from tests.toy import TOY, comparable, discs
from tools.operations import Operation, watch

SMALL = f"{Path(__file__).with_name('small.py')}:Small"

Act = Callable[[Operation], None]


@dataclass(frozen=True)
class Step:
    """One optimiser step: the iteration it reached, and how long it took."""

    iteration: int
    seconds: float


@dataclass(frozen=True)
class Attempt:
    """How one process ended: its exit status (negative: by that signal), what it did and what it said."""

    status: int
    steps: list[Step]
    seconds: float
    said: str

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


@dataclass(frozen=True)
class Job:
    """What is run, in a folder of its own: ``work`` in it is what is watched, the rest are our notes."""

    name: str
    options: str

    def command(self, folder: Path, save_every: float) -> list[str]:
        work = folder / "work"
        return ["embench", *self.options.format(work=work).split(), "--state-every", str(save_every)]

    def attempt(
        self,
        folder: Path,
        *,
        save_every: float = 0.0,
        act: Act | None = None,
        meanwhile: Callable[[int], None] = lambda process: None,
    ) -> Attempt:
        """Run the command to its end.

        Parameters
        ----------
        folder : Path
            From :func:`fresh`, or left by an earlier attempt.
        save_every : float
            Seconds.
        act : callable, optional
            Called in the process ahead of every operation on a file.
        meanwhile : callable
            Called here, with the process's number, while it runs.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        said, say = os.pipe()
        notes, note = os.pipe()
        started = time.monotonic()
        process = os.fork()
        if process == 0:
            self._run(folder, save_every, act, say, note)
        meanwhile(process)
        _, status = os.waitpid(process, 0)
        seconds = time.monotonic() - started
        for descriptor in (say, note):
            os.close(descriptor)
        steps = [Step(int(line.split()[0]), float(line.split()[1])) for line in _drained(notes).splitlines()]
        return Attempt(os.waitstatus_to_exitcode(status), steps, seconds, _drained(said))

    def _run(self, folder: Path, save_every: float, act: Act | None, say: int, note: int) -> None:
        status: Any = 1
        try:
            os.dup2(say, 1)
            os.dup2(say, 2)
            _count_steps(note)
            _keep_states(folder / "state")
            sys.argv = self.command(folder, save_every)
            if act:
                watch(folder / "work", act)
            app.main()
        except SystemExit as error:
            status = error.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


def _drained(descriptor: int) -> str:
    """Return what is in a pipe, of which a process that has outlived the one that wrote may still have an end."""
    os.set_blocking(descriptor, False)
    parts = []
    with contextlib.suppress(BlockingIOError):
        while part := os.read(descriptor, 2**16):
            parts.append(part)
    os.close(descriptor)
    return b"".join(parts).decode()


TRIAL = Job(
    "trial",
    f"run --model {SMALL} --task toy --seeds 1 --iterations 4 --evaluations 2 --crop 32 --batch-size 2 "
    "--device cpu --jobs 1 --data-dir {work} --results {work}/results",
)
PRETRAINING = Job(
    "pre-training",
    f"pretrain retina --model {SMALL} --data toy-unlabelled --scale tiny --epochs 2 --batch-size 16 --crop 32 "
    "--device cpu --threads 1 --workers 0 --checkpoint-every 1 --data-dir {work} --out {work}/out/small.safetensors",
)
JOBS = (TRIAL, PRETRAINING)


@contextmanager
def place() -> Iterator[Path]:
    """Give an empty folder, after this process has done each job once, so that its forks need load nothing."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="embench-reliability-") as name:
        for job in JOBS:
            folder = fresh(Path(name) / "warm")
            given, sys.argv = sys.argv, job.command(folder, save_every=0.0)
            try:
                with open(folder / "said", "w") as said, redirect_stdout(said), redirect_stderr(said):
                    app.main()
            except SystemExit as error:
                if error.code:
                    raise SystemExit(f"{job.name}: exit status {error.code}\n{(folder / 'said').read_text()}") from None
            finally:
                sys.argv = given
                logging.getLogger().handlers.clear()  # each fork tells where it is asked to
        yield Path(name)


def fresh(folder: Path) -> Path:
    """Return ``folder``, newly made with the toy data in it."""
    shutil.rmtree(folder, ignore_errors=True)
    made = folder.parent / "toy"
    if not made.exists():
        items = [Item(split, split, *discs(seed, depth)) for split, seed, depth in (("train", 1, 6), ("test", 2, 2))]  # type: ignore[arg-type]
        store.write(paths.prepared_path("toy", made), TOY, items)
        unlabelled = UnlabelledSet("toy-unlabelled", "", "toy", scale="tiny")
        store.write(paths.prepared_path("toy-unlabelled", made), unlabelled, [Item("train", "a", discs(3, 4)[0])])
        for name in ("toy", "toy-unlabelled"):
            store.Prepared(paths.prepared_path(name, made)).close()
    shutil.copytree(made, folder / "work")
    return folder


def _count_steps(notes: int) -> None:
    """Write a line for each step, as it ends, into a pipe; what a process does until its first step is none."""
    began = time.monotonic()

    def note(iteration: int) -> None:
        nonlocal began
        os.write(notes, f"{iteration} {time.monotonic() - began}\n".encode())
        began = time.monotonic()

    run, read = Loop.run, Loop._read

    def began_now(self: Loop, end: int) -> None:
        nonlocal began
        began = time.monotonic()
        run(self, end)

    def read_and_noted(self: Loop) -> None:
        read(self)
        note(self.iteration)

    Loop.run = began_now  # type: ignore[method-assign]
    Loop._read = read_and_noted  # type: ignore[method-assign]


def _keep_states(kept: Path) -> None:
    """Keep what a run removes when it is done: the last training state, with optimiser and random generators."""
    for module in (trial, loop):

        def keeping(path: Path, *below: Path, remove: Callable[..., None] = module.remove) -> None:
            if path.suffix in (".pt", ".state") and path.exists():
                shutil.copyfile(path, kept)
            remove(path, *below)

        module.remove = keeping


# What came of it


@dataclass
class Outcome:
    """Everything a run leaves, by what it is; two runs are the same when these are equal."""

    parts: dict[str, str] = field(default_factory=dict)

    def differences(self, other: Outcome) -> list[str]:
        names = sorted(self.parts.keys() | other.parts.keys())
        return [name for name in names if self.parts.get(name) != other.parts.get(name)]


def outcome(folder: Path) -> Outcome:
    """Return what a finished run left: every file by its bytes, without what a clock or a memory gauge gave."""
    found = Outcome()
    work = folder / "work"
    for path in sorted(work.rglob("*")):
        if path.is_dir():
            continue
        name = str(path.relative_to(work))
        if path.match("seed-*.json"):
            found.parts["result"] = comparable(results.load(path))
        elif path.parent.name in ("out", "small") and path.suffix == ".json" and path.stem != "loss":
            card = json.loads(path.read_text())
            found.parts[name] = json.dumps({**card, "seconds": 0, "seconds_waiting": 0})
        elif path.parent.name == ".plans":  # it names the folder
            found.parts["plan"] = ""
        else:
            found.parts[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    state = load_state(folder / "state") or {}
    for part, value in (state.get("training") or state).items():
        if part == "done":
            value = {**value, "seconds": 0, "waited": 0}
        found.parts[f"last state: {part}"] = digest(value)
    return found


def digest(value: Any) -> str:
    """Return a hash of nested dictionaries, sequences, tensors and plain values, to the last bit."""
    found = hashlib.sha256()

    def add(each: Any) -> None:
        if isinstance(each, torch.Tensor):
            found.update(f"{each.dtype}{tuple(each.shape)}".encode() + each.contiguous().numpy().tobytes())
        elif isinstance(each, dict):
            for key in each:
                found.update(repr(key).encode())
                add(each[key])
        elif isinstance(each, (list, tuple)):
            found.update(f"{len(each)}".encode())
            for part in each:
                add(part)
        else:
            found.update(repr(each).encode())

    add(value)
    return found.hexdigest()


def torn(folder: Path) -> list[str]:
    """Return the files that are not whole, of those that have their final names."""
    faults = []
    for path in sorted((folder / "work").rglob("*")):
        if path.is_dir() or path.name.endswith((".part", ".claim")):
            continue
        try:
            if path.suffix in (".pt", ".state"):
                load_state(path)
            elif path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".png":
                Image.open(path).load()
            elif path.match("seed-*.json"):
                results.load(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
        except (Exception, BadInput) as error:
            faults.append(f"{path.name}: {type(error).__name__}: {error}")
    return faults

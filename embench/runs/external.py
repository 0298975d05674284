"""A trial of somebody else's tool: export without test labels, its own environment, its commands, then our scoring."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from embench.core import locks, process, signals
from embench.core.errors import BadInput
from embench.core.files import write_atomic
from embench.core.signals import Interrupt
from embench.data.store import Prepared
from embench.models.external import Environment, ExternalTool, filled
from embench.runs.plan import Report, TrialSpec
from embench.scoring.export import export
from embench.scoring.external import Predictions, check
from embench.scoring.schema import digest_of

_GRACE = 5.0
"""Seconds between asking a command to end and ending it."""
_SEEN = 0.2
"""Seconds between two looks at a running command."""


@dataclass(frozen=True)
class Outcome:
    """What a tool made of a trial.

    Parameters
    ----------
    predictions : Predictions
        Checked.
    training, prediction : float
        Seconds.
    memory_bytes : int
        The most that one of its processes had.
    facts : dict
        For the result: the description and its hash, the commands, the installed versions.
    """

    predictions: Predictions
    training: float
    prediction: float
    memory_bytes: int
    facts: dict[str, Any]


def run_tool(spec: TrialSpec, adapter: ExternalTool, prepared: Prepared, report: Report, stop: Interrupt) -> Outcome:
    """Have a tool train and predict, going on where an earlier attempt stopped, and check what it predicted.

    Raises
    ------
    BadInput
        In one line with the log's path: an environment that cannot be made, a missing program, an error, a limit,
        predictions that are missing or are not of the test images.
    """
    tool = adapter.tool
    report("training", 0, float("nan"))
    python, versions = environment(tool.name, tool.environment, spec.data, stop)
    place = Workplace(spec, adapter, stop)
    if not place.data.exists():
        export(prepared, tool.layout, place.data)
    place.run(python, len(prepared.task.classes), report)
    try:
        predictions = check(prepared, place.predictions)
    except BadInput as error:
        more = f" (and {len(error.lines) - 1} faults more)" if len(error.lines) > 1 else ""
        raise BadInput(f"{tool.name}: {error.lines[0]}{more}; log: {place.log}") from None
    training, prediction = place.done[: len(tool.train)], place.done[len(tool.train) :]
    told = {
        "tool": tool.name,
        "sha256": adapter.source_hash,
        "budget": tool.budget,
        "commands": [each.command.replace(str(place.folder), "{work}") for each in place.done],
        "seconds": [round(each.seconds, 1) for each in place.done],
        "versions": versions,
    }
    facts = {
        "external": told,
        "predictions": {"files": predictions.files, "sha256": predictions.sha256},
    }
    memory = max(each.memory_bytes for each in place.done)
    seconds = [sum(each.seconds for each in part) for part in (training, prediction)]
    return Outcome(predictions, seconds[0], seconds[1], memory, facts)


@dataclass(frozen=True)
class Done:
    """A command that ended well: what it was, its seconds, and the most memory that one of its processes had."""

    command: str
    seconds: float
    memory_bytes: int


class Workplace:
    """Where a tool runs one trial: a folder, a log, an environment; what is done survives being stopped.

    Parameters
    ----------
    spec : TrialSpec
    adapter : ExternalTool
    stop : Interrupt
    """

    def __init__(self, spec: TrialSpec, adapter: ExternalTool, stop: Interrupt) -> None:
        self.tool, self._stop, self._spec = adapter.tool, stop, spec
        self.folder = work_folder(spec)
        self.log = log_path(spec)
        self.data = self.folder / self.tool.place
        self.predictions = self.folder / "predictions"
        self._notes = self.folder / "done.json"
        # what was begun by another description of the tool is nothing to go on from
        if self._kept().get("tool") != adapter.source_hash:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.log.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.predictions.mkdir(exist_ok=True)
        self.done = [Done(**each) for each in self._kept().get("done", ())]
        self._source, self._deadline = adapter.source_hash, math.inf
        nnunet = self.tool.layout == "nnunet"
        self._values = {
            "work": str(self.folder),
            "data": str(self.data),
            "train_images": str(self.data / ("imagesTr" if nnunet else "train/images")),
            "train_masks": str(self.data / ("labelsTr" if nnunet else "train/masks")),
            "test_images": str(self.data / ("imagesTs" if nnunet else "test/images")),
            "predictions": str(self.predictions),
            "seed": str(spec.seed),
            "iterations": str(spec.iterations),
            "device": spec.device.partition(":")[0],
            "threads": str(spec.threads),
            "tool": str(adapter.file.parent),
        }

    def _kept(self) -> dict[str, Any]:
        try:
            return json.loads(self._notes.read_text())
        except (OSError, ValueError):
            return {}

    def run(self, python: Path, classes: int, report: Report) -> None:
        """Run what is left of the tool's commands.

        Raises
        ------
        BadInput
            In one line with the log's path: a program that is missing, an error, or a limit.
        """
        self._values |= {"python": str(python), "classes": str(classes)}
        left = self.tool.limits.hours * 3600 - sum(each.seconds for each in self.done)
        self._deadline = time.monotonic() + left
        commands = [*self.tool.train, *self.tool.predict]
        for number, command in enumerate(commands):
            if number < len(self.done):
                continue
            stage = "training" if number < len(self.tool.train) else "scoring"
            report(stage, 0 if stage == "training" else self._spec.iterations, float("nan"))
            self.done.append(self._command(filled(command, self._values), python))
            facts = {"tool": self._source, "done": [vars(each) for each in self.done]}
            write_atomic(self._notes, json.dumps(facts, indent=1) + "\n")

    def _command(self, words: Sequence[str], python: Path) -> Done:
        variables = self.tool.environment.variables
        given = dict(zip(variables, filled(list(variables.values()), self._values), strict=True))
        started = time.monotonic()
        with self.log.open("ab") as log:
            log.write(f"\n$ {shlex.join(words)}\n".encode())
            log.flush()
            child = _started(words, _surroundings(python, self._spec, given), self.folder, log, self.tool, self.log)
            try:
                status, memory = self._followed(child)
            except BaseException:
                _end(child)
                raise
        seconds = time.monotonic() - started
        if status:
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            raise BadInput(f"{self.tool.name}: {words[0]} {how}: {_last_line(self.log)}; log: {self.log}")
        return Done(shlex.join(words), seconds, memory)

    def _followed(self, child: subprocess.Popen[bytes]) -> tuple[int, int]:
        """Wait for a command to end; return its exit status and its largest resident memory in bytes."""
        while True:
            number, status, usage = os.wait4(child.pid, os.WNOHANG)
            if number:
                child.returncode = os.waitstatus_to_exitcode(status)
                _end(child)  # what it left running in its group
                scale = 1 if sys.platform == "darwin" else 1024
                return child.returncode, usage.ru_maxrss * scale
            self._stop.check()
            if time.monotonic() > self._deadline:
                hours = self.tool.limits.hours
                raise BadInput(f"{self.tool.name}: not done after the {hours:g} hours of its limits; log: {self.log}")
            time.sleep(_SEEN)


def work_folder(spec: TrialSpec) -> Path:
    """Return where a tool works on a trial, until its result is written."""
    return spec.state_path.with_suffix(".work").absolute()


def log_path(spec: TrialSpec) -> Path:
    """Return where everything is written that a tool prints in a trial."""
    name = "--".join(spec.path.relative_to(spec.results_folder).with_suffix(".log").parts)
    return (spec.results_folder / ".logs" / name).absolute()


def environment(name: str, wanted: Environment, folder: Path, stop: Interrupt) -> tuple[Path, dict[str, str]]:
    """Make, once for all trials, the virtual environment of a tool.

    Parameters
    ----------
    name : str
        Of the tool.
    wanted : Environment
    folder : Path
        Of data; environments are below ``tools``.
    stop : Interrupt

    Returns
    -------
    python : Path
    versions : dict
        Of the installed packages by name.

    Raises
    ------
    BadInput
        What pip says, with the log's path.
    """
    facts = {"requirements": wanted.requirements, "inherit": wanted.inherit, "python": sys.version}
    place = (folder / "tools" / f"{name}-{digest_of(facts)}").absolute()
    ready, log = place / "ready.json", place.with_suffix(".log")
    place.parent.mkdir(parents=True, exist_ok=True)
    while not ready.is_file():
        try:
            with locks.claimed(place.with_suffix(".claim")):
                if not ready.is_file():
                    _install(name, wanted, place, ready, log, stop)
        except locks.Held:
            stop.check()
            time.sleep(1)
    return place / "bin" / "python", json.loads(ready.read_text())


def _install(name: str, wanted: Environment, place: Path, ready: Path, log: Path, stop: Interrupt) -> None:
    shutil.rmtree(place, ignore_errors=True)
    python = place / "bin" / "python"
    base = getattr(sys, "_base_executable", sys.executable)
    steps = [[base, "-m", "venv", *([] if wanted.requirements else ["--without-pip"]), str(place)]]
    if wanted.requirements:
        steps.append([str(python), "-m", "pip", "install", "--disable-pip-version-check", *wanted.requirements])
    with log.open("wb") as output:
        for number, step in enumerate(steps):
            output.write(f"$ {shlex.join(step)}\n".encode())
            output.flush()
            child = subprocess.Popen(
                step, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                while child.poll() is None:
                    stop.check()
                    time.sleep(_SEEN)
            except BaseException:
                _end(child)
                raise
            if child.returncode:
                raise BadInput(
                    f"{name}: its environment cannot be made ({shlex.join(step[:4])}: {_last_line(log)}); log: {log}"
                )
            if number == 0 and wanted.inherit:
                (site,) = place.glob("lib/python*/site-packages")
                visible = [path for path in sys.path if path.endswith("site-packages")]
                (site / "inherited.pth").write_text("\n".join(visible) + "\n")
    listed = subprocess.run(
        [str(python), "-c", _VERSIONS], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    write_atomic(ready, listed.stdout)


_VERSIONS = (
    "import json; from importlib.metadata import distributions as found; "
    "print(json.dumps({each.name: each.version for each in reversed(list(found())) if each.name}, sort_keys=True))"
)


def _surroundings(python: Path, spec: TrialSpec, given: dict[str, str]) -> dict[str, str]:
    """Return the variables of a command: ours without what leads to our data or packages, and the tool's own."""
    left_out = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "EMBENCH_DATA", "EMBENCH_CACHE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(spec.threads))
    path = f"{python.parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    number = spec.device.partition(":")[2]
    gpu = {"CUDA_VISIBLE_DEVICES": "" if spec.device == "cpu" else number} if spec.device == "cpu" or number else {}
    return kept | threads | gpu | {"PATH": path, "VIRTUAL_ENV": str(python.parent.parent)} | given


def _started(
    words: Sequence[str], variables: dict[str, str], folder: Path, log: IO[bytes], tool: Any, log_path: Path
) -> subprocess.Popen[bytes]:
    program = shutil.which(words[0], path=variables["PATH"])
    if program is None:
        raise BadInput(
            f"{tool.name}: needs the program {words[0]}, which is neither in its environment nor on the PATH; "
            f"log: {log_path}"
        )
    most = tool.limits.memory_gb

    if most is not None and not process.CAN_LIMIT:
        log.write(f"this system sets no limit on memory: {most} GB are not kept to\n".encode())
        most = None

    return subprocess.Popen(
        [program, *words[1:]],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=None if most is None else partial(process.limit_memory, int(most * 2**30)),
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a command and whatever it started: asked first, then ended."""
    signals.end_group(child, _GRACE)
    with suppress(ChildProcessError):
        child.wait()


def _last_line(log: Path) -> str:
    """Return the last line with any words that a command printed."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if any(map(str.isalnum, line)) and not line.startswith("$ ")]
    return "".join(letter for letter in said[-1] if letter.isprintable())[:200] if said else "it said nothing"

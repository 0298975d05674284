"""What an engine survives: trials whose jobs, workers and nodes are killed, against the same trials in one process.

    python -m tools.engine_drill local|slurm|ray [--trials 12] [--faults 30] [--seed 0]

Commands, clusters and processes are real; only the task is a toy. A fault strikes a trial that is in training (or a
node, or the waiting command), and the command is given again whenever it ends with 75. At the end every result must
have been written once and have the bytes of a run in one process.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embench.core import locks
from embench.runs import worker
from embench.runs.executors import Local
from embench.runs.plan import TrialSpec
from embench.runs.request import trials
from embench.scoring import results
from embench.scoring.schema import TrialResult
from tests import slurm_cluster, toy

Fault = Callable[[int], None]
"""What strikes a process in which a trial trains."""

SNAPSHOTS = 2
MODEL = """
from torch import nn
from embench import TorchModel

class Small(TorchModel):
    recipe = "unet"

    def network(self, outputs):
        layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1)]
        return nn.Sequential(*layers, nn.Conv2d(8, outputs, 3, padding=1))
"""
"""It starts in a third of the time that the published ones take: what is tried here is not the network."""


@dataclass
class Figures:
    """What a drill did and found."""

    trials: int
    faults: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    commands: int = 0
    lost: int = 0
    rewritten: int = 0
    equal: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        faults = ", ".join(f"{count} x {name}" for name, count in sorted(self.faults.items()))
        return (
            f"{self.faults.total()} faults ({faults}); attempts that resumed: {self.resumed}; "
            f"commands: {self.commands}; trials lost: {self.lost}; results written twice: {self.rewritten}; "
            f"byte-equal: {self.equal} of {self.trials}; {self.seconds:.0f} s"
        )


class Engine:
    """Where trials run, and what can happen to them there."""

    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = os.environ

    def faults(self) -> dict[str, Fault]:
        """Return the faults by name."""
        return {"SIGKILL of the process": killer(signal.SIGKILL), "SIGTERM of the process": killer(signal.SIGTERM)}


def killer(number: signal.Signals) -> Fault:
    def kill(process: int) -> None:
        os.kill(process, number)

    return kill


@contextmanager
def local(_: Path) -> Iterator[Engine]:
    """This machine, two trials at a time."""
    engine = Engine()
    engine.options = ("--executor", "local", "--jobs", "2")
    yield engine


class OnSlurm(Engine):
    """A Slurm of this machine whose jobs are pre-empted, put back, told to stop, and killed."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.options = ("--executor", "slurm", "--slurm", "partition=low,time=10")

    def said(self, *command: str) -> str:
        done = subprocess.run(command, env=dict(self.environment), capture_output=True, text=True, check=True)
        return done.stdout

    def job(self, process: int) -> str:
        """Return the job that a process belongs to, as Slurm told it."""
        variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        return next(each for each in variables if each.startswith(b"SLURM_JOB_ID=")).decode().partition("=")[2]

    def faults(self) -> dict[str, Fault]:
        def preempt(_: int) -> None:
            self.said("sbatch", "--partition=high", "--exclusive", "--wrap=sleep 1", "--output=/dev/null")

        def requeue(process: int) -> None:
            self.said("scontrol", "requeue", self.job(process))

        def told(name: str) -> Fault:
            def tell(process: int) -> None:
                self.said("scancel", f"--signal={name}", "--batch", self.job(process))

            return tell

        return {
            "pre-emption": preempt,
            "scontrol requeue": requeue,
            "scancel --signal=USR1": told("USR1"),
            "scancel --signal=TERM": told("TERM"),
            "SIGKILL of the process": killer(signal.SIGKILL),
        }


@contextmanager
def on_slurm(folder: Path) -> Iterator[Engine]:
    """A Slurm of this machine, with room for two jobs at a time and arrays of at most four."""
    with slurm_cluster.cluster(folder / "slurm", cpus=2, max_array_size=4) as environment:
        yield OnSlurm(environment)


class OnRay(Engine):
    """A Ray cluster of this machine: a head without cores, and a node for each trial at a time.

    Parameters
    ----------
    nodes : int
    client : bool
        Serve Ray clients too, at the address ``client``.
    """

    def __init__(self, nodes: int, *, client: bool = False) -> None:
        from ray.cluster_utils import Cluster

        os.environ.setdefault("RAY_worker_niceness", "0")  # else trials get what the drill and others leave
        head: dict[str, Any] = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 * 2**20}
        if client:
            (port,) = slurm_cluster.free_ports(1)
            head["ray_client_server_port"] = port
            self.client = f"ray://127.0.0.1:{port}"
        self.cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        for _ in range(nodes):
            self.add_node()
        self.options = ("--executor", "ray", "--address", self.cluster.address)

    def add_node(self) -> None:
        patiently(lambda: self.cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20))

    def faults(self) -> dict[str, Fault]:
        def kill_node(process: int) -> None:
            os.kill(parent(process), signal.SIGKILL)
            self.add_node()

        return {**super().faults(), "SIGKILL of the node": kill_node}

    def stop(self) -> None:
        import psutil

        self.cluster.shutdown()
        for child in psutil.Process().children():
            if child.status() != psutil.STATUS_ZOMBIE and "/ray/" in " ".join(child.cmdline()):  # of a failed start
                child.kill()


def patiently(start: Callable[[], Any], times: int = 8) -> Any:
    """Start a Ray node, again where it ended: one whose helpers take 15 s to start, on a loaded machine, does so."""
    for left in reversed(range(times)):
        try:
            return start()
        except Exception:
            if not left:
                raise


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def on_ray(_: Path, *, client: bool = False) -> Iterator[OnRay]:
    """A Ray cluster of this machine with two nodes."""
    engine = OnRay(2, client=client)
    try:
        yield engine
    finally:
        engine.stop()


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Engine]]] = {
    "local": local,
    "slurm": on_slurm,
    "ray": on_ray,
}


def drill(name: str, folder: Path, *, count: int, faults: int, iterations: int = 1500, seed: int = 0) -> Figures:
    """Run ``count`` trials on an engine while at least ``faults`` faults strike, and compare.

    A trial that ends before enough faults struck is no fault of the drill: their number is in the figures.
    """
    data, model = toy.make_task(folder / "data"), folder / "small.py"
    model.write_text(MODEL)
    asked = {"models": [f"{model}:Small"], "seeds": count, "iterations": iterations, "save_every": 1.0}
    here = trials(toy.request(data, folder / "here", **asked))  # type: ignore[arg-type]
    away = trials(toy.request(data, folder / "away", **asked))  # type: ignore[arg-type]
    figures, began = Figures(len(away)), time.monotonic()
    with ExitStack() as stack:
        engine = stack.enter_context(ENGINES[name](folder))
        written = stack.enter_context(writes([trial.path for trial in away]))
        strike(engine, away, data, faults, random.Random(seed), figures)
    for trial, other in zip(away, Local(jobs=1).run(here), strict=True):
        if not trial.path.exists():
            figures.lost += 1
            continue
        assert isinstance(other, TrialResult)
        figures.equal += toy.comparable(results.load(trial.path)) == toy.comparable(other)
        figures.rewritten += len(written[trial.path]) > 1
    figures.seconds = time.monotonic() - began
    return figures


def strike(
    engine: Engine, away: Sequence[TrialSpec], data: Path, faults: int, rng: random.Random, figures: Figures
) -> None:
    """Give the command, and again while it ends with 75; meanwhile let the faults strike, one after the other."""
    told = {"model": away[0].model, "task": "toy", "seeds": len(away), "evaluations": SNAPSHOTS}
    told |= {"iterations": away[0].iterations, "device": "cpu", "save-every": 1, "data-dir": data}
    told |= {"results": away[0].results_folder}
    options = [part for name, value in told.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "embench", "run", *options, *engine.options]
    environment = {**engine.environment, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    kinds = {**engine.faults(), "SIGKILL of the command": None}
    struck: dict[Path, tuple[int, int]] = {}
    upcoming: list[str] = []
    with (away[0].results_folder.parent / "command.log").open("ab") as log, ExitStack() as stack:
        while True:
            running = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(running.kill)  # where the drill itself fails
            figures.commands += 1
            while running.poll() is None:
                time.sleep(0.1)
                for trial in away:
                    count_resumed(trial, struck, figures)
                at_work = [each for each in map(process_of, away) if each]
                if figures.faults.total() >= faults or not at_work:
                    continue
                upcoming = upcoming or rng.sample(sorted(kinds), len(kinds))
                trial, process = rng.choice(at_work)
                time.sleep(rng.uniform(0, 3))
                kind, fault = upcoming[-1], kinds[upcoming[-1]]
                if fault is None:
                    running.kill()
                elif process_of(trial) != (trial, process):
                    continue
                else:
                    try:
                        fault(process)
                    except (ProcessLookupError, FileNotFoundError, subprocess.CalledProcessError):
                        continue  # it ended in this moment
                upcoming.pop()
                figures.faults[kind] += 1
                print(f"{figures.faults.total()} of {faults}: {kind}, {trial.label}", file=sys.stderr, flush=True)
                end = time.monotonic() + 30  # the next one strikes another attempt
                while alive(process) and running.poll() is None and time.monotonic() < end:
                    time.sleep(0.1)
            if running.returncode not in (75, -signal.SIGKILL):
                return


def process_of(trial: TrialSpec) -> tuple[TrialSpec, int] | None:
    """Return a trial and its process when it is in training, past the iteration at which the attempt began."""
    holder, note = locks.holder(trial.claim_path), worker.progress(trial)
    if holder is None or note is None or note.process != holder.process or note.stage != "training":
        return None
    return trial, holder.process


def count_resumed(trial: TrialSpec, seen: dict[Path, tuple[int, int]], figures: Figures) -> None:
    note = worker.progress(trial)
    if note is None:
        return
    attempt = (note.process, note.first)
    if seen.get(trial.path) != attempt:
        seen[trial.path] = attempt
        figures.resumed += note.first > 1


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def writes(paths: Sequence[Path]) -> Iterator[dict[Path, set[tuple[int, int]]]]:
    """Give, for each file, the (inode, time) pairs under which it was seen: one for a file written once."""
    seen: dict[Path, set[tuple[int, int]]] = {path: set() for path in paths}
    ended = threading.Event()

    def look() -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                found = path.stat()
                seen[path].add((found.st_ino, found.st_mtime_ns))

    def watch() -> None:
        while not ended.wait(0.05):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()
        look()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--iterations", type=int, default=1500, help="enough for all faults to find a trial")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drill-") as place:
        figures = drill(
            asked.engine,
            Path(place),
            count=asked.trials,
            faults=asked.faults,
            iterations=asked.iterations,
            seed=asked.seed,
        )
        print(f"{asked.engine}: {figures}")
        if figures.equal != figures.trials or figures.lost or figures.rewritten:
            print((Path(place) / "command.log").read_text()[-5000:], file=sys.stderr)
            raise SystemExit(1)


if __name__ == "__main__":
    main()

"""Feed mutants of small valid files to everything that reads a file, in the way in which the product reads it.

    python -m tests.hostile.fuzz --mutants 10000                 every parser
    python -m tests.hostile.fuzz --mutants 10000 --parser png    one of them
    python -m tests.hostile.fuzz --parser png --only 4711 --keep FOLDER

A mutant may be taken, or refused in lines that name its file. Anything else is a finding: another exception, a crash,
more than 2 GB, more than 5 s (time for which the processor was given to other programs is not counted). Mutant N of a
parser is always the same file. Exits with 1 when there are findings.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

from embench.core.errors import BadInput, TryAgain

from . import mutate, seeds

SECONDS = 5.0
MEMORY = 2 * 2**30
_HANGING = 300
"""Seconds by the clock after which a worker is killed."""
_OUR_FAULT = 99


@dataclass(frozen=True)
class Parser:
    """What is fuzzed.

    Parameters
    ----------
    file : str
        Name of the file that a mutant is written to.
    seeds : callable
        Valid files.
    mutant : callable
    read : callable
        Reads the file as the product does.
    write : callable
        Puts a mutant where ``read`` looks.
    """

    file: str
    seeds: Callable[[], list[bytes]]
    mutant: mutate.Mutate
    read: Callable[[Path], object]
    write: Callable[[Path, bytes], object] = Path.write_bytes


# How the product reads


def _image(path: Path) -> None:
    from embench.data import convert
    from embench.data.readers import open

    volume = open.open_volume(path)
    scaled = partial(convert.scaled, low=0, high=9)
    for sections in (convert.labels, convert.grey, scaled):
        with _refusing():
            sections(volume)[volume.shape[0] - 1]  # type: ignore[operator]


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Let what follows go on after a refusal, whose lines are looked at all the same; not where a limit stopped it."""
    try:
        yield
    except BadInput as error:
        if _by_a_limit(error):
            raise
        _check_lines(error, None)


def _by_a_limit(error: BadInput | TryAgain) -> bool:
    return "its reader" in str(error) or "of memory" in str(error)


def _result(path: Path) -> None:
    from embench.scoring import results

    results.load(path)


def _card(path: Path) -> None:
    from embench.models import checkpoints

    path.with_suffix(".safetensors").write_bytes(b"")
    checkpoints.load_card(path.with_suffix(".safetensors"))


def _safetensors(path: Path) -> None:
    from embench.models import checkpoints

    checkpoints.load_weights(path)


def _with_card(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.with_suffix(".json").write_bytes(_first(seeds.cards))


@cache
def _first(files: Callable[[], list[bytes]]) -> bytes:
    return files()[0]


def _state(path: Path) -> None:
    from embench.training.state import load_state

    load_state(path)


def _published(path: Path) -> None:
    from baselines import published_weights

    published_weights.read(path)


def _prepared(path: Path) -> None:
    from embench.data import store

    with store.Prepared(path) as file:
        for split in ("train", "valid", "test"):
            for volume in file.volumes(split):  # type: ignore[arg-type]
                volume.section(0, 0)


def _described(path: Path, spec: bytes) -> None:
    """Give a prepared file another description of itself."""
    import h5py

    path.write_bytes(_first(seeds.prepared))
    text = spec.replace(b"\0", b"").decode("utf-8", "replace")[:60_000]
    with h5py.File(path, "r+") as file:
        file.attrs["spec"] = text
        file.attrs["card"] = text if len(spec) % 5 == 0 else "{}"


def _plan(path: Path) -> None:
    from embench.runs import plan

    for trial in plan.load(path):
        for place in (trial.path, trial.state_path, trial.claim_path):
            if not place.is_relative_to(trial.results_folder) or ".." in place.parts:
                raise AssertionError(f"{place} leads out of {trial.results_folder}")


@dataclass(frozen=True)
class _In:
    """What is asked of a trial whose note is read."""

    results_folder: Path


def _note(path: Path) -> None:
    from embench.runs import worker

    for kind in (worker.Progress, worker.Failure):
        worker._read(path, _In(path.parent), kind)  # type: ignore[arg-type]


def _record(path: Path) -> None:
    from embench.data import download

    download._Record.of(path.with_suffix(""))


def _split(path: Path) -> None:
    import numpy as np

    from embench.data import own_task
    from embench.data.readers.base import Stored

    pairs = []
    for name in ("one", "two"):
        stored = Stored(f"{name}.png", (3, 4, 4), np.dtype("u1"), lambda start, stop: np.zeros((stop - start, 4, 4)))
        pairs.append(own_task._Pair(name, stored, stored))
    own_task._listed(pairs, path)


def _section(path: Path) -> None:
    from embench.scoring import predictions

    predictions.read_section(path)


def _prints(path: Path) -> None:
    import types

    from embench.data import duplicates

    volumes = types.SimpleNamespace(path=path.with_suffix("").with_suffix(".h5"), hash="0" * 64, volumes=lambda _: [])
    duplicates.pretraining_prints(volumes)  # type: ignore[arg-type]


def _archive(path: Path) -> None:
    from embench.data import archives

    inside = path.parent / "inside"
    before = {each: each.lstat().st_mtime_ns for each in path.parent.rglob("*")}
    try:
        archives.unpack(path, inside / "out")
    finally:
        shutil.rmtree(inside / "out", ignore_errors=True)
        with contextlib.suppress(OSError):
            inside.rmdir()
        after = {each: each.lstat().st_mtime_ns for each in path.parent.rglob("*")}
        if after != before:
            raise AssertionError(f"left or changed {sorted(map(str, after.keys() ^ before.keys()))}")


def _patches(path: Path) -> None:
    from embench.datasets import cem500k

    cem500k._archive.cache_clear()
    patches = cem500k.PatchFiles(path)
    for found in patches.read(0, len(patches)):
        if isinstance(found, BadInput):
            _check_lines(found, path)


def _folder(path: Path, archive: bytes) -> None:
    """Lay out the files of an archive as a folder."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name, content in mutate.members_of(archive):
        target = path / name
        with contextlib.suppress(OSError, ValueError):
            if target.resolve().is_relative_to(path.resolve()):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)


def _folder_mutant(rng: Random, folders: Any) -> bytes:
    return mutate.zipped(mutate.changed_members(rng, mutate.members_of(rng.choice(folders))))


def _sealed(rng: Random, files: Any) -> bytes:
    """Change a result, and as often as not give it the digest of what it has become."""
    from pydantic import ValidationError

    from embench.scoring import schema

    content = mutate.json_values(rng, files)
    if rng.random() < 0.7:
        with contextlib.suppress(ValidationError, ValueError, RecursionError):
            facts = json.loads(content)
            facts["sha256"] = schema.ResultFile.model_validate_json(content).digest
            content = json.dumps(facts).encode()
    return content


PARSERS: dict[str, Parser] = {
    "result": Parser("seed-0.json", seeds.results, _sealed, _result),
    "plan": Parser("results/.plans/a.json", seeds.plans, mutate.json_values, _plan),
    "note": Parser("a.progress.json", seeds.notes, mutate.json_values, _note),
    "card": Parser("a.json", seeds.cards, mutate.json_values, _card),
    "task": Parser("toy.h5", seeds.specs, mutate.json_values, _prepared, _described),
    "split": Parser("split.csv", seeds.splits, mutate.some_bytes, _split),
    "download-record": Parser("a.zip.json", seeds.records, mutate.json_values, _record),
    "safetensors": Parser("a.safetensors", seeds.safetensors, mutate.some_bytes, _safetensors, _with_card),
    "training-state": Parser("a.pt", seeds.states, mutate.zip_members, _state),
    "checkpoint": Parser("a.pth.tar", seeds.checkpoints, lambda rng, files: _either(rng, files), _published),
    "prints": Parser("a.prints.npz", seeds.prints, mutate.zip_members, _prints),
    "prepared": Parser("toy.h5", seeds.prepared, mutate.some_bytes, _prepared),
    "png": Parser("a.png", seeds.png, mutate.png_chunks, _image),
    "tif": Parser("a.tif", seeds.tif, mutate.some_bytes, _image),
    "nii": Parser("a.nii", seeds.nifti, mutate.some_bytes, _image),
    "nii.gz": Parser("a.nii.gz", seeds.nifti_gz, mutate.gzipped, _image),
    "nrrd": Parser("a.nrrd", seeds.nrrd_files, mutate.some_bytes, _image),
    "hdf5": Parser("a.h5", seeds.hdf5, mutate.some_bytes, _image),
    "zarr": Parser("a.zarr", seeds.zarr_folders, _folder_mutant, _image, _folder),
    "section": Parser("a.png", seeds.png, mutate.png_chunks, _section),
    "zip": Parser("a.zip", seeds.archives, mutate.zip_members, _archive),
    "patches": Parser("a.zip", seeds.patch_archives, mutate.zip_members, _patches),
}


def _either(rng: Random, files: Any) -> bytes:
    """Change what is inside where a file is a zip archive."""
    seed = rng.choice(files)
    return (mutate.zip_members if seed.startswith(b"PK") else mutate.some_bytes)(rng, [seed])


# The engine


@dataclass
class Report:
    """What became of the mutants of one parser."""

    parser: str
    mutants: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    slowest: float = 0.0
    memory: int = 0
    seconds: float = 0.0

    @property
    def line(self) -> str:
        """Everything in one line."""
        said = ", ".join(f"{count} {what}" for what, count in sorted(self.outcomes.items()))
        return (
            f"{self.parser}: {self.mutants} mutants in {self.seconds:.0f} s: {said}; slowest {self.slowest:.2f} s, "
            f"most memory {self.memory / 2**20:.0f} MiB, findings {len(self.findings)}"
        )


def fuzz(name: str, mutants: int, seed: int = 0, first: int = 0, keep: Path | None = None) -> Report:
    """Feed ``mutants`` mutants to a parser."""
    report, started = Report(name), time.monotonic()
    parser = PARSERS[name]
    files = parser.seeds()
    at, end = first, first + mutants
    while at < end:
        at = _work(report, parser, files, seed, at, end, keep)
    report.seconds, report.mutants = time.monotonic() - started, mutants
    return report


def _work(
    report: Report, parser: Parser, files: list[bytes], seed: int, first: int, end: int, keep: Path | None
) -> int:
    """Feed mutants in a process of their own, until it dies or all are done; return the next one."""
    shared = mmap.mmap(-1, 1 << 20)  # number and start of the mutant, slowest, most memory; from 64 on, JSON
    child = os.fork()
    if not child:
        try:
            _serve(shared, report.parser, parser, files, seed, first, end, keep)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(_OUR_FAULT)
    status = 0
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.02)
        now = struct.unpack_from("d", shared, 8)[0]
        if now and time.monotonic() - now > _HANGING:
            os.kill(child, signal.SIGKILL)
    at, _, slowest, memory = struct.unpack_from("qddd", shared, 0)
    facts = json.loads(shared[64:].split(b"\0", 1)[0] or b"{}")
    report.outcomes.update(facts.get("outcomes", {}))
    report.findings += facts.get("findings", [])
    report.slowest, report.memory = max(report.slowest, slowest), max(report.memory, int(memory))
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return end
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _OUR_FAULT:
        raise RuntimeError(f"{report.parser}: the fuzzer itself failed at mutant {at}")
    how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    report.findings.append(f"mutant {at}: the process ended ({how})")
    report.outcomes["ended the process"] += 1
    return int(at) + 1


def _serve(
    shared: mmap.mmap, name: str, parser: Parser, files: list[bytes], seed: int, first: int, end: int, keep: Path | None
) -> None:
    from embench.core import sandbox

    outcomes: Counter[str] = Counter()
    findings: list[str] = []
    slowest = 0.0
    _limit_memory()
    _note_ends()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        for number in range(first, end):
            folder = Path(place) / f"{number}"
            path = folder / parser.file
            path.parent.mkdir(parents=True)
            rng = Random(f"{seed}/{name}/{number}")
            parser.write(path, parser.mutant(rng, files))
            if keep:
                (shutil.copytree if path.is_dir() else shutil.copy)(path, keep / f"{number}-{path.name}")
            began, waited = time.monotonic(), _waited()
            struct.pack_into("qd", shared, 0, number, began)
            outcome, finding = _outcome(parser, path)
            took = time.monotonic() - began - (_waited() - waited)
            slowest = max(slowest, took)
            if took > SECONDS:
                outcome, finding = "stalled", f"took {took:.1f} s ({finding or outcome})"
            outcomes[outcome] += 1
            if finding:
                findings.append(f"mutant {number}: {finding}")
            memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            struct.pack_into("dd", shared, 16, slowest, memory)
            if finding or number % 50 == 0 or number == end - 1:
                told = json.dumps({"outcomes": outcomes, "findings": findings[:200]}).encode()[: (1 << 20) - 100]
                shared[64 : 64 + len(told) + 1] = told + b"\0"
            shutil.rmtree(folder, ignore_errors=True)
        sandbox.close()
        own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        struct.pack_into("d", shared, 24, 1024 * max(own, children))


def _waited() -> float:
    """Return for how many seconds this process and its reading children were ready and other programs ran instead."""
    from embench.core import sandbox

    children = [sandbox._child.process.pid] if sandbox._child is not None else []
    return _ended_waited + sum(map(_delayed, (os.getpid(), *children)))


def _delayed(process: int) -> float:
    with contextlib.suppress(OSError, IndexError):  # it has ended; not on Linux
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    return 0.0


_ended_waited = 0.0


def _note_ends() -> None:
    """Add to ``_ended_waited`` what a reading child has waited, when it is given up."""
    from embench.core import sandbox

    end = sandbox._Child._end

    def noted(self: Any, *arguments: Any) -> str:
        global _ended_waited
        _ended_waited += _delayed(self.process.pid)
        return end(self, *arguments)

    sandbox._Child._end = noted  # type: ignore[method-assign]


def _outcome(parser: Parser, path: Path) -> tuple[str, str | None]:
    try:
        parser.read(path)
    except (BadInput, TryAgain) as error:
        try:
            _check_lines(error, path)
        except AssertionError as fault:
            return "badly told", str(fault)
        if _by_a_limit(error):
            return "stopped by a limit", None
        return "refused", None
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)
        own = [f"{Path(each.filename).name}:{each.lineno}" for each in where if "/embench/" in each.filename][-2:]
        return "another exception", f"{type(error).__name__}: {str(error)[:200]!r} at {' '.join(own)}"
    return "taken", None


def _check_lines(error: BadInput | TryAgain, path: Path | None) -> None:
    """Every line names the file, is one, and can be printed on a terminal."""
    for line in getattr(error, "lines", [str(error)]):
        if not line.isprintable() or len(line) > 2000:
            raise AssertionError(f"not a line: {line[:300]!r}")
        if path is not None and path.stem.partition(".")[0] not in line:
            raise AssertionError(f"does not name {path.name}: {line[:300]!r}")


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        room = int(file.read().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))


def main() -> None:
    """Run from the command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mutants", type=int, default=10_000, help="of each parser")
    options.add_argument("--parser", action="append", choices=PARSERS, help="default: all; may be repeated")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--first", type=int, default=0, help="number of the first mutant")
    options.add_argument("--only", type=int, help="this one mutant")
    options.add_argument("--keep", type=Path, help="keep the mutants in this folder")
    asked = options.parse_args()
    if asked.only is not None:
        asked.first, asked.mutants = asked.only, 1
    if asked.keep:
        asked.keep.mkdir(parents=True, exist_ok=True)
    found = 0
    for name in asked.parser or PARSERS:
        report = fuzz(name, asked.mutants, asked.seed, asked.first, asked.keep)
        print(report.line, flush=True)
        for finding in report.findings[:50]:
            print(f"  {finding}", flush=True)
        found += len(report.findings)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

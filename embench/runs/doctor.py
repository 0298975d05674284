"""What works here and what does not, before any training: one line per check, and what to do about it."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from embench.core import environment, locks, paths
from embench.core.errors import BadInput, TryAgain
from embench.core.files import write_atomic
from embench.data import catalog, store
from embench.data.task import Scale
from embench.models.base import TorchModel
from embench.models.checkpoints import load_card, load_weights
from embench.models.registry import find_model, model_names
from embench.pretraining.initial_checkpoint import described
from embench.runs import plan
from embench.runs.options import RunRequest
from embench.runs.plan import TrialSpec, is_done
from embench.runs.request import Resolution, resolve

State = Literal["ok", "warn", "fail"]

RESULT_BYTES = 2**20
"""What a finished trial leaves, rounded up: its result and the sections kept for the page."""
STATE_BYTES = 3 * 4
"""Per parameter of a training state: the weight and, under Adam, two moments, in fp32."""
SLURM_SECONDS = 10.0


@dataclass(frozen=True)
class Check:
    """How one thing was found.

    ``fail``: what was asked for cannot work. ``warn``: something that was not asked for does not, or one should know.
    """

    state: State
    what: str
    found: str


@dataclass(frozen=True)
class Asked:
    """What is to work here.

    Parameters
    ----------
    request : RunRequest
        Without models, tasks and suite: the waiting trials of the plans in its results folder.
    executor : str, optional
        ``local``, ``slurm`` or ``ray``; ``None``: none in particular.
    address : str, optional
        Of a Ray cluster.
    deep : bool
        Hash prepared data and checkpoints again.
    """

    request: RunRequest
    executor: str | None = None
    address: str | None = None
    deep: bool = False

    @property
    def data(self) -> Path:
        """The folder of prepared data."""
        return self.request.data or paths.data_folder()


def checks(asked: Asked) -> Iterator[Check]:
    """Yield the checks one by one, the quick ones first.

    Raises
    ------
    BadInput
        Unknown names, or a plan that cannot be used.
    """
    planned = _planned(asked)
    resolved = _resolved(asked)
    yield from versions()
    yield from _gpu(asked, planned)
    yield _bf16_of_cpu()
    for what, folder in (("data folder", asked.data), ("results folder", asked.request.results)):
        yield writable(what, folder)
    yield from _executors(asked)
    yield from _models(planned)
    yield from _data(asked, planned)
    yield from _needs(resolved)
    yield from _checkpoints(asked, resolved, planned)
    yield _disk(asked, resolved, planned)


def _planned(asked: Asked) -> list[TrialSpec]:
    """Return the planned trials without a result, where nothing else is asked for."""
    request = asked.request
    if request.models or request.tasks or request.suite or not request.results.is_dir():
        return []
    return [trial for trial in plan.load_all(request.results) if not is_done(trial)]


def _resolved(asked: Asked) -> Resolution | None:
    """Return what ``embench run`` would find for the models and tasks that are asked for."""
    return resolve(asked.request) if asked.request.models else None


# What is installed


def versions() -> Iterator[Check]:
    """Check every required library against what embench declares."""
    from packaging.requirements import Requirement

    libraries = ", ".join(f"{name} {_version(name) or '–'}" for name in ("torch", "numpy", "h5py"))
    yield Check(
        "ok",
        "versions",
        f"embench {_version('embench-em')} ({environment.commit()}), Python {sys.version.split()[0]}, {libraries}",
    )
    for line in metadata.requires("embench-em") or []:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = _version(wanted.name)
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            found = f"{wanted.name} {version or 'is not installed'}; wanted {wanted.specifier or 'any version'}"
            yield Check("fail", "versions", f"{found}; run: pip install '{wanted.name}{wanted.specifier}'")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpu(asked: Asked, planned: Sequence[TrialSpec]) -> Iterator[Check]:
    import torch

    here = asked.executor in (None, "local")
    wanted = here and (asked.request.device == "cuda" or any(trial.device == "cuda" for trial in planned))
    if not torch.cuda.is_available():
        why = "no CUDA device is visible" if torch.version.cuda else "this PyTorch was built without CUDA"
        yield Check(
            "fail" if wanted else "warn",
            "GPU",
            f"{why}: trials here train on the CPU; see nvidia-smi, CUDA_VISIBLE_DEVICES and pytorch.org",
        )
    for number in range(torch.cuda.device_count()):
        name = f"GPU {number}"
        try:
            free, total = torch.cuda.mem_get_info(number)
            torch.ones(8, 8, device=f"cuda:{number}").mm(torch.ones(8, 8, device=f"cuda:{number}")).sum().item()
        except RuntimeError as error:
            yield Check("fail" if wanted else "warn", name, f"does not compute ({str(error).splitlines()[0]})")
            continue
        about = torch.cuda.get_device_properties(number)
        yield Check("ok", name, f"{about.name}, {size(free)} of {size(total)} free")
        with torch.cuda.device(number):
            hardware = torch.cuda.is_bf16_supported(including_emulation=False)
        if hardware:
            yield Check("ok", f"bf16 of {name}", "in hardware: --precision bf16")
        else:
            yield Check("warn", f"bf16 of {name}", "none in hardware; use --precision fp32")


def _bf16_of_cpu() -> Check:
    """Time a product of two matrices in both precisions on one thread, which tells more than the processor's name."""
    import torch

    matrices = {dtype: torch.ones(384, 384, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(matrices, float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(15):
            for dtype, matrix in matrices.items():
                started = time.perf_counter()
                matrix @ matrix
                best[dtype] = min(best[dtype], time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    share = best[torch.bfloat16] / best[torch.float32]
    told = f"a matrix product takes {share:.2g}" if share < 10 else f"a matrix product takes {share:.0f}"
    told += " times its time in fp32"
    if share < 1:
        return Check("ok", "bf16 of CPU", f"{told}: --precision bf16")
    return Check("warn", "bf16 of CPU", f"{told}; use --precision fp32")


# Folders


def writable(what: str, folder: Path) -> Check:
    """Check that files can be written, renamed and locked in ``folder``, or where it would be made."""
    there = _existing(folder)
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".doctor-") as place:
            write_atomic(Path(place) / "file", b"embench")
            with locks.claimed(Path(place) / "claim"):
                pass
    except OSError as error:
        return Check("fail", what, f"{there}: cannot be written ({error.strerror}); choose another folder")
    except (BadInput, TryAgain) as error:
        return Check("fail", what, str(error))
    return Check("ok", what, f"{folder}{'' if there == folder else ' (made on first use)'}: can be written and locked")


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    folder = folder if folder.parts else Path(".")
    return next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path("/"))


def _disk(asked: Asked, resolved: Resolution | None, planned: Sequence[TrialSpec]) -> Check:
    """Compare the free space with what the trials write at most at one time, all of them being in training."""
    results = asked.request.results
    free = shutil.disk_usage(_existing(results)).free
    pairs = resolved.pairs if resolved else ()
    trials = [(pair.spec, pair.adapter, pair.recipe.scale) for pair in pairs for _ in range(asked.request.seeds)]
    installed = model_names()
    # a plan alone has no code run
    trials += [
        (trial.model, find_model(trial.model), trial.recipe.scale) for trial in planned if trial.model in installed
    ]
    count = len(trials) if pairs else len(planned)
    if not count:
        return Check("ok", "disk", f"{size(free)} free at {results}; nothing is planned or asked for (--model, --task)")
    states: dict[tuple[str, Scale], int] = {}
    for spec, adapter, scale in trials:
        if isinstance(adapter, TorchModel) and (spec, scale) not in states:
            try:
                states[spec, scale] = _state_bytes(adapter, scale)
            except Exception as error:  # of a model's own code
                told = f"{type(error).__name__}: {error}"
                return Check("warn", "disk", f"{size(free)} free; the network of {spec} cannot be sized ({told})")
    largest = sorted((states.get((spec, scale), 0) for spec, _, scale in trials), reverse=True)
    largest = largest[: _at_a_time(asked, count)]
    needed = 2 * sum(largest) + count * RESULT_BYTES  # old and new state are there while one is written
    told = f"{size(free)} free at {results}; {count} trials need up to {size(needed)} ({len(largest)} at a time)"
    if free < needed:
        return Check("fail", "disk", f"{told}: make room, or give --results on a larger disk")
    return Check("ok", "disk", told)


def _state_bytes(adapter: TorchModel, scale: Scale) -> int:
    import torch

    with torch.device("meta"):  # shapes alone: nothing is allocated
        network = adapter.at(scale).network(1)
    return STATE_BYTES * sum(parameter.numel() for parameter in network.parameters())


def _at_a_time(asked: Asked, trials: int) -> int:
    """Return how many trials may be in training at one time: on a cluster, all."""
    import torch

    if asked.executor not in (None, "local"):
        return trials
    gpus = torch.cuda.device_count() if asked.request.device != "cpu" else 0
    return min(trials, gpus or max(1, environment.cores() // asked.request.threads))


def size(number: float) -> str:
    """Return a number of bytes for people: ``3.4 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


# Executors


def _executors(asked: Asked) -> Iterator[Check]:
    yield Check("ok", "executor local", f"{environment.cores()} cores")
    for name, works in (("slurm", _slurm_works), ("ray", _ray_works)):
        what = f"executor {name}"
        try:
            yield Check("ok", what, works(asked))
        except (BadInput, TryAgain) as error:
            told = str(error).removeprefix(f"--executor {name}: ")
            yield Check("fail" if asked.executor == name else "warn", what, told)


def _slurm_works(asked: Asked) -> str:
    from embench.runs.executors import slurm

    slurm.Slurm()
    return f"answers; partitions: {', '.join(slurm.partitions(SLURM_SECONDS)) or 'none'}"


def _ray_works(asked: Asked) -> str:
    from embench.runs.executors.ray import Ray

    engine = Ray(asked.address)
    if asked.executor != "ray" or asked.address is None:
        return f"installed, Ray {_version('ray')}"
    return f"{asked.address} answers; trials run there on: {engine.device(asked.request.device)}"


# Models, data and weights


def _models(planned: Sequence[TrialSpec]) -> Iterator[Check]:
    """Check that planned models are there; none is imported."""
    installed = model_names()
    for model in sorted({trial.model for trial in planned}):
        file, colon, _ = model.rpartition(":")
        if colon and not Path(file).is_file():
            yield Check("fail", f"model {model}", f"{file}: no such file; bring it back, or plan without it")
        elif not colon and model not in installed:
            yield Check("fail", f"model {model}", "planned, but not installed here; install the package that has it")


def _data(asked: Asked, planned: Sequence[TrialSpec]) -> Iterator[Check]:
    """Check what is prepared here, and that what is asked for or planned is."""
    request = asked.request
    wanted = [*request.tasks, *([task.name for task in catalog.find_suite(request.suite)] if request.suite else [])]
    places = dict.fromkeys(paths.prepared_path(name, asked.data) for name in wanted)
    for name, path in zip(dict.fromkeys(wanted), places, strict=True):
        if not path.exists():
            catalog.find_task(name, asked.data)  # refuses an unknown name, with near ones
    places |= dict.fromkeys(paths.prepared_path(trial.task, trial.data) for trial in planned)
    hashes = {paths.prepared_path(trial.task, trial.data): trial.key.fingerprint.data_hash for trial in planned}
    for path in dict.fromkeys((*places, *sorted(asked.data.glob("*.h5")))):
        yield _prepared(path, hashes.get(path), "fail" if path in places else "warn", asked.deep)
    absent = [
        name
        for name in catalog.dataset_names()
        if not (dataset := catalog.find_dataset(name)).generated
        and not any(paths.prepared_path(spec.name, asked.data).exists() for spec in dataset.specs)
    ]
    if absent and not places:
        told = f"{', '.join(absent)}: not prepared here; to have one: embench fetch NAME, embench prepare NAME"
        yield Check("warn", "data", told)


def _prepared(path: Path, planned_hash: str | None, otherwise: State, deep: bool) -> Check:
    what = f"data {path.stem}"
    if not path.exists():
        dataset = catalog.find_dataset(path.stem) if catalog.is_registered(path.stem) else None
        if dataset and dataset.generated:
            return Check("ok", what, "generated: made on first use")
        advice = catalog.how_to_prepare(dataset) if dataset else "run: embench prepare"
        return Check(otherwise, what, f"not prepared in {path.parent}; {advice}")
    if not deep and not store.is_known(path):
        told = f"{path}: not written here, or changed since; it is read once before its first use"
        return Check("warn", what, f"{told}, or now: embench doctor --deep")
    try:
        with store.Prepared(path) as prepared:
            if planned_hash and prepared.hash != planned_hash:
                return Check(otherwise, what, f"{path}: changed since the run was planned; start the run again")
            if deep and not prepared.verify():
                again = f"embench prepare {path.stem} --force"
                return Check(otherwise, what, f"{path}: the voxels do not have the recorded hash; run: {again}")
    except BadInput as error:
        return Check(otherwise, what, str(error))
    verified = "verified" if deep else "prepared (to read and hash it all: --deep)"
    return Check("ok", what, f"{verified}, {size(path.stat().st_size)}")


def _needs(resolved: Resolution | None) -> Iterator[Check]:
    """Say which checkpoints the models asked for are initialised from; their data are checked by :func:`_data`."""
    for need in resolved.needs if resolved else ():
        if not need.what.startswith("data "):
            yield Check("fail" if need.state == "missing" else "ok", need.what, need.found)


def _checkpoints(asked: Asked, resolved: Resolution | None, planned: Sequence[TrialSpec]) -> Iterator[Check]:
    """Check the checkpoints of planned trials, and any other here."""
    seen: set[Path] = set()
    for path, digest in {trial.weights: trial.key.weights_hash for trial in planned if trial.weights}.items():
        seen.add(path)
        yield _checkpoint(path, digest, asked.deep, "fail")
    for path in sorted((asked.data / "weights").glob("*.safetensors")):
        if path not in seen:
            seen.add(path)
            yield _checkpoint(path, None, asked.deep, "warn")
    if not seen and not resolved and not planned:
        told = (
            "none here; pre-trained models need one: embench pretrain METHOD --data SET, "
            "or embench checkpoint import FILE"
        )
        yield Check("warn", "checkpoints", told)


def _checkpoint(path: Path, digest: str | None, deep: bool, otherwise: State) -> Check:
    """Check that a checkpoint and its card are there and, when ``deep``, that it has the hash of the plan."""
    what = f"checkpoint {path.stem}"
    try:
        card = load_card(path)
        if deep:
            found = load_weights(path).hash
            if digest and found != digest:
                return Check(otherwise, what, f"{path}: changed since the run was planned; start the run again")
    except BadInput as error:
        return Check(otherwise, what, str(error))
    return Check("ok", what, f"{described(card)}, {size(path.stat().st_size)}")

"""`embench pretrain`: from names to a checkpoint."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embench.core import confined
from embench.core.console import terminal
from embench.core.errors import BadInput
from embench.data.task import Scale
from embench.data.unlabelled import open_unlabelled
from embench.models.base import TorchModel
from embench.models.checkpoints import Weights, load_weights, weights_path
from embench.models.registry import find_model
from embench.pretraining.distributed import World, joined_world, local_device, own_cores
from embench.pretraining.initial_checkpoint import check_wanted, find_start, start_command, start_path
from embench.pretraining.loop import Progress, Report, pretrain
from embench.pretraining.method import other_model
from embench.pretraining.options import PretrainingRequest
from embench.pretraining.registry import find_pretraining
from embench.training.feeding import workers_for
from embench.training.precision import Precision


def run(method: str, data: str, request: PretrainingRequest | None = None, **asked: Any) -> Path:
    """Pre-train the registered ``method`` on a registered unlabelled set or a folder of images; see :func:`pretrain`.

    Parameters
    ----------
    method, data : str
    request : PretrainingRequest, optional
        By default made of the fields in ``asked``. Threads and workers are by default all cores, shared among the
        processes of this machine: as torch's threads on the CPU, as threads that make batches ahead beside a GPU.

    Returns
    -------
    Path
        The checkpoint: ``request.out`` or :func:`embench.models.checkpoints.weights_path`.
    """
    request = request or PretrainingRequest(**asked)
    data_folder, out, workers = request.data_folder, request.out, request.workers
    trained = _trained_model(method, request.model)
    if out and out.suffix != ".safetensors":
        raise BadInput(f"--out {out}: give a name that ends in .safetensors")
    device = local_device(request.device)
    if workers is None:
        workers = workers_for(device, own_cores())
    with joined_world(device) as world:
        if world.rank == 0:
            open_unlabelled(data, data_folder).close()  # made or packed once
        world.wait()
        with open_unlabelled(data, data_folder) as prepared, _reporting(method, world) as report:
            scale = _scale(request.scale) or prepared.spec.scale
            start = _start_of(trained, prepared.spec.name, scale, request.init_from, data_folder)
            chosen = find_pretraining(method)(trained, start)
            settings = chosen.settings(
                scale,
                epochs=request.epochs,
                batch_size=request.batch_size,
                crop=request.crop,
                seed=request.seed,
                learning_rate=request.learning_rate,
                precision=_precision(request.precision),
                accumulate=request.grad_accum,
                ema=request.ema,
                compile=request.compile,
            )
            if out is None:
                out = weights_path(method, prepared.spec.name, scale, data_folder, other_model(chosen))
                with confined.folder(out.parent, out.parent.parent, make=True):  # no link leads out of the data folder
                    pass
            return pretrain(
                chosen,
                prepared,
                settings,
                out,
                device=device,
                threads=request.threads or own_cores(),
                workers=workers,
                save_every_seconds=request.state_every,
                keep_every=request.checkpoint_every,
                deterministic=request.deterministic,
                force=request.force,
                world=world,
                report=report,
            )


def _scale(name: str | None) -> Scale | None:
    if name is None or name == "full" or name == "tiny":
        return name  # type: ignore[return-value]
    raise BadInput(f"--scale {name}: use full or tiny")


def _precision(name: str) -> Precision:
    if name == "fp32" or name == "bf16":
        return name  # type: ignore[return-value]
    raise BadInput(f"--precision {name}: use fp32 or bf16")


def _trained_model(method: str, spec: str | None) -> TorchModel:
    """Return the model whose network is trained: the base of the one asked for, where that starts from this method."""
    found = find_pretraining(method)
    if spec is None:
        return found.trains()
    asked = find_model(spec)
    if not isinstance(asked, TorchModel):
        raise BadInput(f"--model {spec}: no torch network, so it cannot be pre-trained")
    trained = asked.base() if asked.pretraining == method else asked
    if not found.takes(trained):
        raise BadInput(f"--model {spec}: {method} pre-trains {found.trains.name} alone; leave out --model")
    return trained


def _start_of(model: TorchModel, data: str, scale: Scale, given: Path | None, folder: Path | None) -> Weights | None:
    """Return the checkpoint that the network of ``model`` starts from before this pre-training; ``None``: random."""
    if model.base is type(model):
        if given:
            raise BadInput(f"--init-from {given}: {model.name} starts from random weights; leave out --init-from")
        return None
    offered = [load_weights(given)] if given else []
    check_wanted(offered, [model])
    found = find_start(model, model.name, data, scale, offered, folder)
    if found is None:
        path, command = start_path(model, data, scale, folder), start_command(model, model.name, data, scale)
        raise BadInput(f"{model.name}: no weights to start from at {path}; run: {command}, or give --init-from FILE")
    return found


@contextlib.contextmanager
def _reporting(title: str, world: World) -> Iterator[Report]:
    """Give a bar with an estimate on a terminal, a line every 30 seconds elsewhere; only the first process speaks."""
    if world.rank:
        yield lambda progress: None
        return
    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=terminal(stderr=True)) as bar:
            row = bar.add_task(title, total=None, loss="")
            yield lambda at: bar.update(row, completed=at.iteration, total=at.iterations, loss=f"{at.loss:.4g}")
        return

    first: tuple[float, Progress] | None = None
    last = 0.0

    def line(at: Progress) -> None:
        nonlocal first, last
        now = time.monotonic()
        first = first or (now, at)
        if now - last < 30 and at.iteration < at.iterations:
            return
        last, (began, start) = now, first
        left = ""
        if at.iteration > start.iteration:
            pace = (now - began) / (at.iteration - start.iteration)
            waiting = (at.waited - start.waited) / (now - began)
            left = f", {pace:.2f} s an iteration ({waiting:.0%} waiting for data)"
            left += f", {(at.iterations - at.iteration) * pace / 60:.0f} min left"
        told = f"{title}: iteration {at.iteration} of {at.iterations}, loss {at.loss:.4g}{left}"
        print(told, file=sys.stderr, flush=True)

    yield line

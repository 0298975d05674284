"""`embench pretrain`: from names to a checkpoint."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from embench.core import confined
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
from embench.pretraining.registry import find_pretraining
from embench.training.precision import Precision

if TYPE_CHECKING:
    pass


# From the command line


def run(
    method: str,
    data: str,
    *,
    model: str | None = None,
    weights: Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    crop: int | None = None,
    scale: Scale | None = None,
    seed: int = 0,
    learning_rate: float | None = None,
    precision: Precision = "fp32",
    accumulate: int = 1,
    ema: float = 0.0,
    views: Literal["host", "device"] | None = None,
    compile: bool = False,
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    save_every_seconds: float = 300,
    keep_every: int = 20,
    deterministic: bool = False,
    data_folder: Path | None = None,
    out: Path | None = None,
    force: bool = False,
) -> Path:
    """Pre-train the registered ``method`` on a registered unlabelled set or a folder of images; see :func:`pretrain`.

    Parameters
    ----------
    method, data : str
    model : str, optional
        A registered name or ``path/to/file.py:Class``, where the method takes any. One that starts from this method
        has its base trained, and finds the checkpoint by itself; another is trained as it is, in its own start. By
        default the model that the method was published with.
    weights : Path, optional
        The checkpoint that the trained network itself starts from, where it does (ImageNet weights, say).
    epochs, batch_size, crop, learning_rate
        ``None``: as published, or the method's reduced ones at scale ``tiny``.
    scale : {"full", "tiny"}, optional
        Default: the data set's.
    views : {"host", "device"}, optional
        Default: on a GPU where the method can, else by the data workers.
    device : str
        ``auto``: the GPU where there is one.
    threads, workers : int, optional
        By default all cores, shared among the processes of this machine: as threads on the CPU, as data workers
        beside a GPU.
    data_folder : Path, optional
        Of prepared files (default :func:`embench.core.paths.data_folder`).
    out : Path, optional
        Default :func:`embench.models.checkpoints.weights_path`.

    Returns
    -------
    Path
        The checkpoint.
    """
    trained = _trained_model(method, model)
    if out and out.suffix != ".safetensors":
        raise BadInput(f"--out {out}: give a name that ends in .safetensors")
    device = local_device(device)
    if workers is None:
        workers = min(own_cores(), 16) if device.startswith("cuda") else 0
    with joined_world(device) as world:
        if world.rank == 0:
            open_unlabelled(data, data_folder).close()  # made or packed once
        world.wait()
        with open_unlabelled(data, data_folder) as prepared, _reporting(method, world) as report:
            scale = scale or prepared.spec.scale
            start = _start_of(trained, prepared.spec.name, scale, weights, data_folder)
            chosen = find_pretraining(method)(trained, start)
            settings = chosen.settings(
                scale,
                epochs=epochs,
                batch_size=batch_size,
                crop=crop,
                seed=seed,
                learning_rate=learning_rate,
                precision=precision,
                accumulate=accumulate,
                ema=ema,
                compile=compile,
            )
            if views is None:
                on_gpu = device.startswith("cuda") and chosen.batched(settings.crop) is not None
                views = "device" if on_gpu else "host"
            settings = replace(settings, views=views)
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
                threads=threads or own_cores(),
                workers=workers,
                save_every_seconds=save_every_seconds,
                keep_every=keep_every,
                deterministic=deterministic,
                force=force,
                world=world,
                report=report,
            )


def _trained_model(method: str, spec: str | None) -> TorchModel:
    """Return the model whose network is trained: the base of the one asked for, where that starts from this method."""
    found = find_pretraining(method)
    if spec is None:
        return found.trains()
    asked = find_model(spec)
    if not isinstance(asked, TorchModel):
        raise BadInput(f"--model {spec}: no torch network, so it cannot be pre-trained")
    trained = asked.base() if asked.pretraining == method else asked
    if type(trained) is not found.trains and not found.takes_any_model:
        raise BadInput(f"--model {spec}: {method} pre-trains {found.trains.name} alone; leave out --model")
    return trained


def _start_of(model: TorchModel, data: str, scale: Scale, given: Path | None, folder: Path | None) -> Weights | None:
    """Return the checkpoint that the network of ``model`` starts from before this pre-training; ``None``: random."""
    if model.base is type(model):
        if given:
            raise BadInput(f"--weights {given}: {model.name} starts from random weights; leave out --weights")
        return None
    offered = [load_weights(given)] if given else []
    check_wanted(offered, [model])
    found = find_start(model, model.name, data, scale, offered, folder)
    if found is None:
        path, command = start_path(model, data, scale, folder), start_command(model, model.name, data, scale)
        raise BadInput(f"{model.name}: no weights to start from at {path}; run: {command}, or give --weights FILE")
    return found


@contextlib.contextmanager
def _reporting(title: str, world: World) -> Iterator[Report]:
    """Give a bar with an estimate on a terminal, a line every 30 seconds elsewhere; only the first process speaks."""
    if world.rank:
        yield lambda progress: None
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Bars(*columns, console=Console(stderr=True)) as bar:
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

"""Pre-training on unlabelled images: what a method is, and the one loop that runs every method (protocol 4.3, 4.4)."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from embench import provenance, store, tasks
from embench.errors import BadInput, Diverged
from embench.files import check_writable, replacing, write_atomic
from embench.names import is_name, unknown
from embench.registry import find_pretraining
from embench.store import Prepared
from embench.task import Item, Scale, UnlabelledSet
from embench.training import load_state, normalised, place, polynomial, save_state
from embench.weights import PretrainingCard, load_weights, save_weights, weights_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CEM500K_NORMS = (0.57287007, 0.12740536)
"""Published mean and standard deviation of CEM500K's 0..1 grey values (protocol 4.3)."""

IMAGES = (".tif", ".tiff", ".png")

Views = tuple[NDArray[np.uint8], ...]
Augment = Callable[[NDArray[np.uint8], np.random.Generator], Views]

_ORDER, _VIEWS, _STEP, _START, _EXAMPLES = range(5)  # one random stream for each purpose


# What a method is


@dataclass(frozen=True)
class Settings:
    """How long, on what size, and from which seed a method is run.

    Parameters
    ----------
    epochs : int
        Passes over the tiles; the horizon of the learning-rate schedule (protocol 7.5).
    batch_size : int
        Global: of all devices together.
    crop : int
        Edge of the tiles and of the views made from them, pixels.
    scale : {"full", "tiny"}
    seed : int
    learning_rate : float
        At the start.
    precision : {"fp32", "bf16"}
    accumulate : int
        Parts into which a device's batch is cut to save memory; batch-norm sees the parts.
    """

    epochs: int
    batch_size: int
    crop: int
    scale: Scale
    seed: int
    learning_rate: float
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: int = 1


class Pretraining:
    """A way to pre-train a network. The loop does the rest.

    Attributes
    ----------
    name, title : str
        ``name`` as registered under the entry points ``embench.pretraining``.
    epochs, batch_size, crop, learning_rate, momentum, weight_decay
        As published.
    tiny : dict
        The settings that replace them at scale ``tiny``.
    crop_multiple : int
        What must divide the crop.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    epochs: ClassVar[int] = 200
    batch_size: ClassVar[int]
    crop: ClassVar[int] = 224
    learning_rate: ClassVar[float]
    momentum: ClassVar[float] = 0.9
    weight_decay: ClassVar[float] = 1e-4
    tiny: ClassVar[dict[str, Any]] = {"epochs": 20, "batch_size": 16, "crop": 64}
    crop_multiple: ClassVar[int] = 1

    def settings(self, scale: Scale = "full", **changes: Any) -> Settings:
        """Return the published settings (reduced at scale ``tiny``), with those ``changes`` that are not ``None``."""
        published = Settings(self.epochs, self.batch_size, self.crop, scale, 0, self.learning_rate)
        reduced = self.tiny if scale == "tiny" else {}
        return replace(published, **reduced | {key: value for key, value in changes.items() if value is not None})

    def rate(self, step: int, steps: int) -> float:
        """Return the factor on the learning rate used in ``step`` (from 0) of ``steps``; polynomial (protocol 4.2)."""
        return polynomial(step, steps)

    def augmentation(self, crop: int) -> Augment:
        """Return what makes, from a uint8 tile (Y, X) and a generator, the uint8 views (crop, crop) of one sample."""
        raise NotImplementedError

    def module(self, settings: Settings, images: int) -> nn.Module:
        """Return the whole that is trained, freshly initialised from torch's generator; ``images`` in an epoch."""
        raise NotImplementedError

    def loss(self, module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the mean loss of a batch.

        Parameters
        ----------
        module : nn.Module
            In training mode; it must be called, not its parts, as it may be wrapped for several devices.
        batch : tuple of Tensor
            One normalised (B, 1, crop, crop) tensor per view. Whatever is drawn here comes from torch's own
            generator, which the loop seeds at every step.
        """
        raise NotImplementedError

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the tensors to write, under the names that the adapters load."""
        return module.state_dict()

    def pictures(self, module: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the columns of the example grid, each (B, 1, Y, X) normalised; by default the views."""
        return batch

    def options(self, settings: Settings, images: int) -> dict[str, Any]:
        """Return what else made the checkpoint, JSON-able, for its card."""
        return {}


# The images


class Tiles:
    """The images of an unlabelled set, cut into squares without overlap along every section.

    A remainder at the end of an axis is a tile of its own when it has at least half of the side; a section shorter
    than the side is taken whole. Tiles are read when asked for.

    Parameters
    ----------
    data : Prepared
        An unlabelled set.
    side : int
        Pixels.
    """

    def __init__(self, data: Prepared, side: int) -> None:
        self.path = data.path
        volumes = data.volumes("train")
        rows = []
        for number, volume in enumerate(volumes):
            depth, height, width = volume.image.shape
            grid = [(y, x, h, w) for y, h in _spans(height, side) for x, w in _spans(width, side)]
            rows.append(np.array([(number, z, *tile) for z in range(depth) for tile in grid], np.int32))
        self.index = np.concatenate(rows)
        self._opened: tuple[int, Prepared, list[Any]] = (os.getpid(), data, volumes)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        """Return one tile, uint8 (Y, X), at most side x side."""
        process, _, volumes = self._opened
        if process != os.getpid():  # a data worker reads through a file handle of its own
            data = Prepared(self.path)
            volumes = data.volumes("train")
            self._opened = os.getpid(), data, volumes
        item, z, y, x, height, width = self.index[number]
        return volumes[item].image[z, y : y + height, x : x + width]


def _spans(length: int, side: int) -> list[tuple[int, int]]:
    """Return (start, length) of the tiles along an axis."""
    whole, rest = divmod(length, side)
    spans = [(n * side, side) for n in range(whole)]
    if rest and (not whole or 2 * rest >= side):
        spans.append((whole * side, rest))
    return spans


def rng(seed: int, purpose: int, *place: int) -> np.random.Generator:
    """Return the generator of one purpose at one place (epoch, position) of the run with ``seed``."""
    return np.random.default_rng((purpose, *place, seed))


Key = tuple[int, int, int]


class _Samples(Dataset[tuple[Tensor, ...]]):
    """Views by (epoch, position in it, tile): each sample's randomness depends on its place alone."""

    def __init__(self, tiles: Tiles, augment: Augment, seed: int) -> None:
        self.tiles, self.augment, self.seed = tiles, augment, seed

    def __getitem__(self, key: Key) -> tuple[Tensor, ...]:
        epoch, position, tile = key
        views = self.augment(self.tiles[tile], rng(self.seed, _VIEWS, epoch, position))
        return tuple(torch.from_numpy(view) for view in views)


def _batches(images: int, settings: Settings, start: int, world: World) -> Iterator[list[Key]]:
    """Yield this rank's part of every batch from iteration ``start`` on; images short of a batch are left out."""
    steps = images // settings.batch_size
    order, shuffled = np.empty(0, np.int64), -1
    for iteration in range(start, settings.epochs * steps):
        epoch, step = divmod(iteration, steps)
        if epoch != shuffled:
            order, shuffled = rng(settings.seed, _ORDER, epoch).permutation(images), epoch
        first = step * settings.batch_size
        yield [(epoch, p, int(order[p])) for p in range(first + world.rank, first + settings.batch_size, world.size)]


# The loop


@dataclass(frozen=True)
class World:
    """This process among those that train together (set by ``torchrun``)."""

    rank: int = 0
    size: int = 1


@dataclass
class _Progress:
    """What a killed run continues from, beside the parameters."""

    iteration: int = 0
    loss_sum: float = 0.0
    losses: int = 0
    seconds: float = 0.0


Report = Callable[[int, int, float], None]
"""Called with iterations done, iterations in all, and the mean loss of the current epoch."""


def pretrain(
    method: Pretraining,
    data: Prepared,
    settings: Settings,
    out: Path,
    *,
    device: str = "cpu",
    threads: int = 1,
    workers: int = 0,
    save_every_seconds: float = 300,
    picture_every: int = 20,
    force: bool = False,
    report: Report = lambda done, steps, loss: None,
) -> Path:
    """Pre-train, and write a checkpoint with its card.

    A killed run continues from its state file (``.state`` beside ``out``) and ends with the same bytes as one that
    was never interrupted. Every ``picture_every`` epochs the folder named like ``out`` receives a checkpoint, a grid
    of example pictures and the loss curve.

    Parameters
    ----------
    method : Pretraining
    data : Prepared
        An unlabelled set.
    settings : Settings
    out : Path
        The ``.safetensors`` file; nothing is done when it is there with the same card.
    device : str
        As torch names it.
    threads : int
        Of torch, on the CPU.
    workers : int
        Processes that read and augment; 0: this one. The result does not depend on them.
    save_every_seconds : float
        Between two state files.
    picture_every : int
        Epochs.
    force : bool
        Start anew whatever is there.
    report : callable
        See :data:`Report`.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    BadInput
        Impossible settings, too few images for one batch, or ``out`` made with other settings.
    Diverged
        At the first non-finite loss; the last good state file stays.
    """
    tiles = Tiles(_unlabelled(data), settings.crop)
    world = World()
    facts = _facts(method, data, settings, len(tiles), world)
    state_path = out.with_suffix(".state")
    if not force and _is_done(out, facts):
        return out
    check_writable(out.parent)
    if force:
        state_path.unlink(missing_ok=True)

    steps: int = facts["iterations"]
    steps_per_epoch = steps // settings.epochs
    place_on = torch.device(device)
    autocast = torch.autocast(place_on.type, torch.bfloat16, enabled=settings.precision == "bf16")

    def batch_of(views: Iterable[Tensor]) -> tuple[Tensor, ...]:
        return tuple(normalised(view, facts["norms"], place_on) for view in views)

    with _torch(threads):
        _seed(settings.seed, _START)
        module = place(method.module(settings, len(tiles)), place_on)
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimiser = torch.optim.SGD(
            trained, settings.learning_rate, momentum=method.momentum, weight_decay=method.weight_decay
        )
        progress, curve = _restore(state_path, facts, module, optimiser)
        samples = _Samples(tiles, method.augmentation(settings.crop), settings.seed)
        loader = DataLoader(
            samples,
            batch_sampler=_batches(len(tiles), settings, progress.iteration, world),
            num_workers=workers,
            pin_memory=device.startswith("cuda"),
        )
        check_every = 1 if device == "cpu" else 20  # reading a loss makes the host wait for the device
        pending: list[Tensor] = []
        clock = saved = time.monotonic()

        module.train()
        for views in loader:
            _seed(settings.seed, _STEP, progress.iteration, world.rank)
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * method.rate(progress.iteration, steps)
            optimiser.zero_grad()
            pending.append(torch.zeros((), device=device))
            for part in zip(*(view.chunk(settings.accumulate) for view in batch_of(views)), strict=True):
                with autocast:
                    loss = method.loss(module, part) / settings.accumulate
                loss.backward()
                pending[-1] += loss.detach()
            optimiser.step()
            progress.iteration += 1

            epoch, step = divmod(progress.iteration, steps_per_epoch)
            if step % check_every and step:
                continue
            _settle(pending, progress)
            report(progress.iteration, steps, progress.loss_sum / progress.losses)
            now = time.monotonic()
            progress.seconds, clock = progress.seconds + now - clock, now
            if step == 0:
                curve.append((epoch, progress.loss_sum / progress.losses))
                progress.loss_sum, progress.losses = 0.0, 0
                card = _card(facts, progress, curve, device, threads)
                if epoch % picture_every == 0 or epoch == settings.epochs:
                    _show(out.with_suffix(""), method, module, samples, batch_of, card)
                if epoch % picture_every == 0 and epoch < settings.epochs:
                    save_weights(out.with_suffix("") / f"epoch-{epoch:04d}.safetensors", method.weights(module), card)
            if now - saved >= save_every_seconds and progress.iteration < steps:
                _save(state_path, facts, module, optimiser, progress, curve)
                saved = now
        save_weights(out, method.weights(module), card)
        state_path.unlink(missing_ok=True)
    return out


@contextlib.contextmanager
def _torch(threads: int) -> Iterator[None]:
    """Use ``threads``, and leave torch's thread count and generators as they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before)


def _seed(seed: int, purpose: int, *place: int) -> None:
    """Seed torch's generators, so that no generator's state need be kept."""
    torch.manual_seed(int(rng(seed, purpose, *place).integers(2**63)))


def _settle(pending: list[Tensor], progress: _Progress) -> None:
    """Add the losses of the last steps to the epoch's sum; stop at the first that is not finite."""
    first = progress.iteration - len(pending) + 1
    for iteration, loss in enumerate(torch.stack(pending).tolist(), first):
        if not np.isfinite(loss):
            raise Diverged(iteration)
        progress.loss_sum += loss
        progress.losses += 1
    pending.clear()


def _save(
    path: Path,
    facts: dict[str, Any],
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    progress: _Progress,
    curve: list[tuple[int, float]],
) -> None:
    if not all(parameter.isfinite().all() for parameter in module.parameters()):
        raise Diverged(progress.iteration + 1)  # the next loss would say so: what was saved before is the last good one
    state = {
        "facts": json.dumps(facts),
        "module": module.state_dict(),
        "optimiser": optimiser.state_dict(),
        "progress": vars(progress),
        "curve": curve,
    }
    save_state(state, path)


def _restore(
    path: Path, facts: dict[str, Any], module: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[_Progress, list[tuple[int, float]]]:
    state = load_state(path)
    if state is None:
        return _Progress(), []
    if changed := _differences(json.loads(state["facts"]), facts):
        raise BadInput(f"{path}: unfinished run with {changed}; choose another --out, or add --force to start anew")
    module.load_state_dict(state["module"])
    optimiser.load_state_dict(state["optimiser"])
    return _Progress(**state["progress"]), [(epoch, loss) for epoch, loss in state["curve"]]


def _unlabelled(data: Prepared) -> Prepared:
    if not isinstance(data.spec, UnlabelledSet):
        names = ", ".join(spec.name for spec in tasks.all_unlabelled())
        raise BadInput(f"{data.path}: a task, not an unlabelled set; choose one of {names}, or a folder of images")
    return data


def _facts(
    method: Pretraining, data: Prepared, settings: Settings, images: int, world: World
) -> dict[str, Any]:
    """Return everything that makes this checkpoint this one, known before training; refuse impossible settings."""
    for name in ("epochs", "batch_size", "crop", "accumulate"):
        if (value := getattr(settings, name)) < 1:
            raise BadInput(f"--{name.replace('_', '-')} {value}: give a positive whole number")
    if settings.seed < 0:
        raise BadInput(f"--seed {settings.seed}: give a whole number from 0")
    if not settings.learning_rate > 0:
        raise BadInput(f"--learning-rate {settings.learning_rate}: give a positive number")
    if settings.crop < 32 or settings.crop % method.crop_multiple:
        raise BadInput(f"--crop {settings.crop}: {method.name} takes multiples of {method.crop_multiple} from 32")
    if images < settings.batch_size:
        raise BadInput(
            f"{data.path}: {images} images of {settings.crop} pixels, fewer than one batch of {settings.batch_size}; "
            f"choose --batch-size {images} or less"
        )
    if settings.batch_size % (world.size * settings.accumulate):
        raise BadInput(
            f"--batch-size {settings.batch_size}: not divisible among {world.size} devices x "
            f"{settings.accumulate} parts; choose a multiple of {world.size * settings.accumulate}"
        )
    options = {"learning_rate": settings.learning_rate, "precision": settings.precision}
    options |= {"accumulate": settings.accumulate} if settings.accumulate > 1 else {}
    facts = {
        "method": method.name,
        "data": data.spec.name,
        "data_hash": data.hash,
        "scale": settings.scale,
        "epochs": settings.epochs,
        "iterations": settings.epochs * (images // settings.batch_size),
        "images": images,
        "crop": settings.crop,
        "batch_size": settings.batch_size,
        "norms": CEM500K_NORMS if data.spec.name == "cem500k" else data.norms,
        "seed": settings.seed,
        "synthetic": data.spec.synthetic,
        "options": options | method.options(settings, images),
    }
    return json.loads(json.dumps(facts))


def _is_done(out: Path, facts: dict[str, Any]) -> bool:
    if not out.exists():
        return False
    if changed := _differences(load_weights(out).card.model_dump(mode="json"), facts):
        raise BadInput(f"{out}: made with {changed}; choose another --out, or add --force to replace it")
    return True


def _differences(before: dict[str, Any], facts: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {before.get(name)} (now {value})" for name, value in facts.items() if before.get(name) != value
    )


def _card(
    facts: dict[str, Any], progress: _Progress, curve: list[tuple[int, float]], device: str, threads: int
) -> PretrainingCard:
    made = {
        "epochs": len(curve),
        "iterations": progress.iteration,
        "loss_curve": curve,
        "seconds": progress.seconds,
        "environment": provenance.environment(device, threads),
    }
    return PretrainingCard.model_validate(facts | made)


# What is to be seen of it


def _show(
    folder: Path,
    method: Pretraining,
    module: nn.Module,
    samples: _Samples,
    batch_of: Callable[[Iterable[Tensor]], tuple[Tensor, ...]],
    card: PretrainingCard,
) -> None:
    """Write the example grid of this epoch and the loss curve so far."""
    from PIL import Image

    chosen = rng(card.seed, _EXAMPLES).permutation(len(samples.tiles))[:8]
    views = [samples.augment(samples.tiles[tile], rng(card.seed, _EXAMPLES, n + 1)) for n, tile in enumerate(chosen)]
    batch = batch_of([torch.from_numpy(np.stack(column)) for column in zip(*views, strict=True)])
    module.eval()
    with torch.no_grad():
        columns = method.pictures(module, batch)
    module.train()
    with replacing(folder / f"epoch-{card.epochs:04d}.png") as temporary:
        Image.fromarray(_grid(columns, card.norms)).save(temporary, format="png")
    write_atomic(folder / "loss.json", json.dumps(card.loss_curve) + "\n")
    with replacing(folder / "loss.png") as temporary:
        _curve(card).savefig(temporary, format="png", dpi=120)


def _grid(columns: tuple[Tensor, ...], norms: tuple[float, float]) -> NDArray[np.uint8]:
    """Return one picture (Y, X): a row per sample, a column per kind, white gaps of 2 pixels."""
    mean, deviation = norms
    images = torch.stack([column[:, 0].float().cpu() for column in columns], dim=1) * deviation + mean
    levels = (images * 255).round().clamp(0, 255).byte().numpy()
    padded = np.pad(levels, ((0, 0), (0, 0), (0, 2), (0, 2)), constant_values=255)
    return np.concatenate([np.concatenate(list(row), axis=1) for row in padded], axis=0)[:-2, :-2]


def _curve(card: PretrainingCard) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*card.loss_curve, strict=True))
    axes.set(xlabel="epoch", ylabel="mean loss", title=f"{card.method} on {card.data}")
    return figure


# From the command line


def run(
    method: str,
    data: str,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    crop: int | None = None,
    scale: Scale = "full",
    seed: int = 0,
    learning_rate: float | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    accumulate: int = 1,
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    save_every_seconds: float = 300,
    folder: Path | None = None,
    out: Path | None = None,
    force: bool = False,
) -> Path:
    """Pre-train the registered ``method`` on a registered unlabelled set or a folder of images; see :func:`pretrain`.

    Parameters
    ----------
    method, data : str
    epochs, batch_size, crop, learning_rate
        ``None``: as published, or the method's reduced ones at scale ``tiny``.
    device : str
        ``auto``: the GPU where there is one.
    threads, workers : int, optional
        By default all cores: as threads on the CPU, as data workers beside a GPU.
    folder : Path, optional
        Of prepared files (default :func:`embench.store.data_folder`).
    out : Path, optional
        Default :func:`embench.weights.weights_path`.

    Returns
    -------
    Path
        The checkpoint.
    """
    chosen: Pretraining = find_pretraining(method)()
    settings = chosen.settings(
        scale, epochs=epochs, batch_size=batch_size, crop=crop, seed=seed,
        learning_rate=learning_rate, precision=precision, accumulate=accumulate,
    )  # fmt: skip
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise BadInput(f"--device {device}: no GPU here; use --device cpu")
    if workers is None:
        workers = min(provenance.cores(), 16) if device.startswith("cuda") else 0
    with open_unlabelled(data, folder) as prepared:
        out = out or weights_path(method, prepared.spec.name, scale, folder)
        if out.suffix != ".safetensors":
            raise BadInput(f"--out {out}: give a name that ends in .safetensors")
        if out.exists() and not force:
            print(f"{out}: already there", file=sys.stderr)
        with _reporting(f"pretrain {method} on {prepared.spec.name}") as report:
            return pretrain(
                chosen, prepared, settings, out,
                device=device, threads=threads or provenance.cores(), workers=workers,
                save_every_seconds=save_every_seconds, force=force, report=report,
            )  # fmt: skip


@contextlib.contextmanager
def _reporting(title: str) -> Iterator[Report]:
    """Give a bar with an estimate on a terminal, a line every 30 seconds elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=Console(stderr=True)) as bar:
            row = bar.add_task(title, total=None, loss="")
            yield lambda done, steps, loss: bar.update(row, completed=done, total=steps, loss=f"{loss:.4g}")
        return

    first: tuple[float, int] | None = None
    last = 0.0

    def line(done: int, steps: int, loss: float) -> None:
        nonlocal first, last
        now = time.monotonic()
        first = first or (now, done)
        if now - last < 30 and done < steps:
            return
        last = now
        pace = (now - first[0]) / (done - first[1]) if done > first[1] else None
        left = "" if pace is None else f", {pace:.2f} s an iteration, {(steps - done) * pace / 60:.0f} min left"
        print(f"{title}: iteration {done} of {steps}, loss {loss:.4g}{left}", file=sys.stderr, flush=True)

    yield line


def open_unlabelled(data: str, folder: Path | None = None) -> Prepared:
    """Open an unlabelled set by name (generated data are made on first use), or pack a folder of images and open that.

    Parameters
    ----------
    data : str
        Name of an unlabelled set, or a folder with .tif, .tiff and .png images of 8-bit grey values; a multipage
        tif is a volume (Z, Y, X).
    folder : Path, optional
        Of prepared files.

    Raises
    ------
    BadInput
        Unknown name; a task; an empty folder; or one line per image that is not 8-bit grey.
    """
    if Path(data).is_dir() and not (is_name(data) and _is_registered(data)):
        return Prepared(_pack(Path(data), folder))
    if not is_name(data) or not (_is_registered(data) or store.prepared_path(data, folder).exists()):
        error = unknown("unlabelled set", data, [spec.name for spec in tasks.all_unlabelled()])
        raise BadInput(f"{error} (or give a folder of images)")
    return _unlabelled_or_close(tasks.open_prepared(data, folder))


def _is_registered(name: str) -> bool:
    return any(spec.name == name for spec in tasks.all_unlabelled())


def _unlabelled_or_close(data: Prepared) -> Prepared:
    try:
        return _unlabelled(data)
    except BadInput:
        data.close()
        raise


def _pack(source: Path, folder: Path | None) -> Path:
    """Pack the images of ``source`` into a prepared file named like it, unless they already are."""
    name = "".join(c if is_name(f"a{c}") else "-" for c in source.resolve().name.lower()).strip("-._")[:80]
    if not is_name(name) or name in [spec.name for spec in (*tasks.all_unlabelled(), *tasks.all_tasks())]:
        raise BadInput(f"{source}: the name {name!r} is taken or empty; rename the folder")
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGES and path.is_file())
    if not files:
        raise BadInput(f"{source}: no images ({', '.join(IMAGES)}); give a folder that holds some")
    path = store.prepared_path(name, folder)
    card = {"files": {str(f.relative_to(source)): [f.stat().st_size, f.stat().st_mtime_ns] for f in files}}
    if path.exists():
        with Prepared(path) as before:
            if before.card == card:
                return path
            if not isinstance(before.spec, UnlabelledSet) or before.spec.dataset != "folder":
                raise BadInput(f"{path}: another prepared set of this name; rename the folder {source}")
    if faults := [fault for file in files if (fault := _image_fault(file))]:
        raise BadInput(faults)
    items = (
        Item("train", str(file.relative_to(source)).replace(os.sep, ":"), _read_image(file), origin=str(file))
        for file in files
    )
    store.write(path, UnlabelledSet(name=name, title=source.resolve().name, dataset="folder"), items, card)
    return path


def _image_fault(file: Path) -> str | None:
    """Return what is wrong with a file, from its header."""
    import tifffile
    from PIL import Image, UnidentifiedImageError

    remedy = "convert it to 8-bit grey, stretching the same range in every image"
    try:
        if file.suffix.lower() == ".png":
            with Image.open(file) as image:
                return None if image.mode == "L" else f"{file}: PNG of mode {image.mode}; {remedy}"
        with tifffile.TiffFile(file) as tiff:
            series = tiff.series[0]
            if series.dtype == np.uint8 and len(series.shape) in (2, 3) and not series.keyframe.samplesperpixel > 1:
                return None
            return f"{file}: {series.dtype} of shape {series.shape}; {remedy}"
    except (OSError, UnidentifiedImageError, tifffile.TiffFileError, IndexError) as error:
        return f"{file}: cannot be read ({type(error).__name__}); remove it or fetch it again"


def _read_image(file: Path) -> NDArray[np.uint8]:
    """Return an image as (Z, Y, X)."""
    import tifffile
    from PIL import Image

    if file.suffix.lower() == ".png":
        with Image.open(file) as image:
            return np.asarray(image)[None]
    image_ZYX = tifffile.imread(file)
    return image_ZYX if image_ZYX.ndim == 3 else image_ZYX[None]

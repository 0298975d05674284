"""Pre-training on unlabelled images: what a method is, and the one loop that runs every method (protocol 4.3, 4.4)."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from embench import claim, determinism, interrupt, provenance
from embench.batched import Batched
from embench.errors import BadInput, Diverged, Interrupted, TryAgain, is_out_of_memory
from embench.files import check_writable, remove, replacing, write_atomic
from embench.heap import freed_memory_kept
from embench.model import TorchModel
from embench.precision import Precision, autocast, place
from embench.registry import find_model, find_pretraining
from embench.starts import check_wanted, find_start, start_command, start_path
from embench.store import Prepared
from embench.streams import entropy
from embench.task import Scale
from embench.training import load_state, normalised, polynomial, resume_optimiser, save_state
from embench.unlabelled import Tiles, open_unlabelled
from embench.weights import PretrainingCard, Weights, load_weights, save_weights, weights_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = 14
"""Height of the titles above the example pictures, pixels."""
CEM500K_NORMS = (0.57287007, 0.12740536)
"""Published mean and standard deviation of CEM500K's 0..1 grey values (protocol 4.3)."""

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
    ema : float
        Decay per step of the moving average of the parameters; with it the average is what is written. 0: none.
    views : {"host", "device"}
        Where the views are made: by the data workers, one by one, or on the device, a batch at a time.
    compile : bool
        Whether torch compiles the network first.
    """

    epochs: int
    batch_size: int
    crop: int
    scale: Scale
    seed: int
    learning_rate: float
    precision: Precision = "fp32"
    accumulate: int = 1
    ema: float = 0.0
    views: Literal["host", "device"] = "host"
    compile: bool = False


class Pretraining:
    """A way to pre-train the network of a model. The loop does the rest.

    Parameters
    ----------
    model : TorchModel, optional
        Whose network is trained, by default that of ``trains``.
    start : Weights, optional
        The checkpoint that this model itself starts from.

    Attributes
    ----------
    name, title : str
        ``name`` as registered under the entry points ``embench.pretraining``.
    trains : type of TorchModel
        The model whose network is trained unless another is given.
    takes_any_model : bool
        Whether another can be given.
    epochs, batch_size, crop, learning_rate, momentum, weight_decay
        As published.
    tiny : dict
        The settings that replace them at scale ``tiny``.
    crop_multiple : int
        What must divide the crop.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    trains: ClassVar[type[TorchModel]] = TorchModel
    takes_any_model: ClassVar[bool] = False
    epochs: ClassVar[int] = 200
    batch_size: ClassVar[int]
    crop: ClassVar[int] = 224
    learning_rate: ClassVar[float]
    momentum: ClassVar[float] = 0.9
    weight_decay: ClassVar[float] = 1e-4
    tiny: ClassVar[dict[str, Any]] = {"epochs": 8, "batch_size": 16, "crop": 64}
    crop_multiple: int = 1

    def __init__(self, model: TorchModel | None = None, start: Weights | None = None) -> None:
        self.model, self.start = model or self.trains(), start

    def settings(self, scale: Scale = "full", **changes: Any) -> Settings:
        """Return the published settings (reduced at scale ``tiny``), with those ``changes`` that are not ``None``."""
        published = Settings(self.epochs, self.batch_size, self.crop, scale, 0, self.learning_rate)
        reduced = self.tiny if scale == "tiny" else {}
        return replace(published, **reduced | {key: value for key, value in changes.items() if value is not None})

    def rate(self, step: int, steps: int) -> float:
        """Return the factor on the learning rate used in ``step`` (from 0) of ``steps``; polynomial (protocol 4.2)."""
        return polynomial(step, steps)

    def optimiser(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """Return what trains ``parameters``; SGD with the method's momentum and weight decay."""
        return torch.optim.SGD(
            parameters, learning_rate, momentum=self.momentum, weight_decay=self.weight_decay, fused=True
        )

    def augmentation(self, crop: int) -> Augment:
        """Return what makes, from a uint8 tile (Y, X) and a generator, the uint8 views (crop, crop) of one sample."""
        raise NotImplementedError

    def batched(self, crop: int) -> Batched | None:
        """Return what draws the same distribution as :meth:`augmentation` on a device; ``None`` where nothing does."""
        return None

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

    def stepped(self, module: nn.Module) -> None:
        """Do what follows the optimiser's step, once however many parts the batch had (momentum networks, queues).

        Buffers are not sent among processes: what the loss reads of them must come out the same in each.
        """

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the tensors to write, under the names that the adapters load."""
        return module.state_dict()

    def pictures(self, module: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the columns of the example grid by title, each (B, 1, Y, X) normalised; by default the views."""
        return {f"view {number}": view for number, view in enumerate(batch, start=1)}

    def options(self, settings: Settings, images: int) -> dict[str, Any]:
        """Return what else made the checkpoint, JSON-able, for its card."""
        return {}


# The images


Stream = list[int]
"""The beginning of every random stream of a run (:func:`embench.streams.entropy`): by method, data and seed."""


def rng(stream: Stream, purpose: int, *place: int) -> np.random.Generator:
    """Return the generator of one purpose at one place (epoch, position) of a run."""
    return np.random.default_rng([*stream, purpose, *place])


def stream_of(method: Pretraining, data: str, seed: int) -> Stream:
    """Return the beginning of every stream of a run; a method's own network need not be named."""
    return entropy("/".join(["pretraining", method.name, data, *filter(None, [_other(method)])]), seed)


Key = tuple[int, int, int]


class _Samples(Dataset[tuple[Tensor, ...]]):
    """Batches by the keys of their samples: (epoch, position in it, tile).

    All that is random in a sample depends on its place alone, not on the data worker, the process or the number of
    processes that make it. What is made of uint8 tiles by :meth:`__getitem__`, in a data worker, becomes views, on the
    device, by :meth:`views`.
    """

    def __init__(self, tiles: Tiles, method: Pretraining, settings: Settings, stream: Stream) -> None:
        self.tiles, self.crop, self.stream = tiles, settings.crop, stream
        self.augment = method.augmentation(settings.crop)
        self.batched = method.batched(settings.crop) if settings.views == "device" else None

    def __getitem__(self, keys: list[Key]) -> tuple[Tensor, ...]:
        tiles = self.tiles.read([tile for _, _, tile in keys])
        return self.draw(tiles, [rng(self.stream, _VIEWS, epoch, position) for epoch, position, _ in keys])

    def draw(self, tiles: list[NDArray[np.uint8]], generators: list[np.random.Generator]) -> tuple[Tensor, ...]:
        """Return the views of the tiles, each (B, crop, crop), or tiles, draws and seeds to make them from."""
        if self.batched:
            return self.batched.draw(tiles, generators, self.crop)
        views = [self.augment(tile, generator) for tile, generator in zip(tiles, generators, strict=True)]
        return tuple(torch.from_numpy(np.stack(column)) for column in zip(*views, strict=True))

    def views(self, drawn: Sequence[Tensor], device: torch.device) -> tuple[Tensor, ...]:
        """Return the views on the device, uint8 (B, crop, crop) each."""
        if self.batched:
            return self.batched(drawn, device)
        return tuple(view.to(device, non_blocking=True) for view in drawn)


def _batches(images: int, settings: Settings, stream: Stream, start: int, world: World) -> Iterator[list[Key]]:
    """Yield this rank's part of every batch from iteration ``start`` on; images short of a batch are left out."""
    steps = images // settings.batch_size
    order, shuffled = np.empty(0, np.int64), -1
    for iteration in range(start, settings.epochs * steps):
        epoch, step = divmod(iteration, steps)
        if epoch != shuffled:
            order, shuffled = rng(stream, _ORDER, epoch).permutation(images), epoch
        first = step * settings.batch_size
        yield [(epoch, p, int(order[p])) for p in range(first + world.rank, first + settings.batch_size, world.size)]


# The loop


@dataclass(frozen=True)
class World:
    """This process among those that share every batch (started by ``torchrun``)."""

    rank: int = 0
    size: int = 1

    def joined(self, module: nn.Module) -> nn.Module:
        """Return ``module``, wrapped so that gradients are averaged among the processes."""
        if self.size == 1:
            return module
        # The strides of a 1x1 filter can be written in two ways; torch and its reducer take different ones.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)  # older torch knows no other
            return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)

    def averaging(self, joined: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Average gradients in the ``last`` backward pass of a step; before it they only add up in each process."""
        return nullcontext() if last or self.size == 1 else joined.no_sync()  # type: ignore[operator]

    def agree(self, told: dict[str, Any]) -> None:
        """Raise :class:`BadInput` unless every process tells the same."""
        if self.size == 1:
            return
        everyone: list[Any] = [None] * self.size
        distributed.all_gather_object(everyone, told)
        for rank, other in enumerate(everyone):
            if changed := _differences(everyone[0], other):
                raise BadInput(
                    f"process {rank} of {self.size} differs from the first in {changed}: give all the same command, "
                    "and data and --out in folders that every machine shares"
                )

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of ``values`` over the processes, the same in each."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values / self.size

    def agreed(self, yes: bool) -> bool:
        """Whether any of the processes says yes, the same in each."""
        if self.size == 1:
            return yes
        said = torch.tensor(int(yes), device="cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.all_reduce(said, distributed.ReduceOp.MAX)
        return bool(said)

    def wait(self) -> None:
        """Return when every process is here."""
        if self.size > 1:
            distributed.barrier()


ALONE = World()


@contextlib.contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Join the processes that ``torchrun`` started together with this one; by itself, give :data:`ALONE`."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    on_gpu = device.startswith("cuda")
    # given its GPU, NCCL has not to guess it where there is no tensor to tell: at a barrier
    distributed.init_process_group("nccl" if on_gpu else "gloo", device_id=torch.device(device) if on_gpu else None)
    try:
        yield World(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


@dataclass
class _Done:
    """How far a run is; ``loss_sum`` over the ``losses`` of the current epoch."""

    iteration: int = 0
    loss_sum: float = 0.0
    losses: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Progress:
    """How far a run is: of so many ``iterations``; ``loss`` is the mean of the current epoch, ``waited`` the seconds
    that this process has waited for data since it started."""

    iteration: int
    iterations: int
    loss: float
    waited: float


Report = Callable[[Progress], None]


@dataclass
class _State:
    """All that a run changes as it goes, and its state file holds."""

    module: nn.Module
    optimiser: torch.optim.Optimizer
    average: AveragedModel | None
    done: _Done
    curve: list[tuple[int, float]]

    @property
    def best(self) -> nn.Module:
        """What is written: the average where there is one."""
        return self.module if self.average is None else self.average.module

    def check_finite(self) -> None:
        """Raise :class:`Diverged` if the next loss would: what was written before is the last that is good."""
        if not all(parameter.isfinite().all() for parameter in self.module.parameters()):
            raise Diverged(self.done.iteration + 1)

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Write the state file."""
        self.check_finite()
        state = {
            "facts": json.dumps(facts),
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average and self.average.state_dict(),
            "done": vars(self.done),
            "curve": self.curve,
        }
        save_state(state, path)

    def restore(self, path: Path, facts: dict[str, Any]) -> None:
        """Go on from the state file, where there is one."""
        state = load_state(path)
        if state is None:
            return
        if changed := _differences(json.loads(state["facts"]), facts):
            raise BadInput(f"{path}: unfinished run with {changed}; choose another --out, or add --force to start anew")
        self.module.load_state_dict(state["module"])
        resume_optimiser(self.optimiser, state["optimiser"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.done = _Done(**state["done"])
        self.curve = [(epoch, loss) for epoch, loss in state["curve"]]


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
    keep_every: int = 20,
    deterministic: bool = False,
    force: bool = False,
    world: World = ALONE,
    report: Report = lambda progress: None,
) -> Path:
    """Pre-train, and write a checkpoint with its card.

    A killed run continues from its state file (``.state`` beside ``out``) and ends with the same bytes as one that
    was never interrupted. Every ``keep_every`` epochs the folder named like ``out`` receives a checkpoint, a grid of
    example pictures and the loss curve (protocol 4.3).

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
    keep_every : int
        Epochs.
    deterministic : bool
        On a GPU too (:mod:`embench.determinism`).
    force : bool
        Start anew whatever is there.
    world : World
        Of processes that share the batch, all with the same ``out``.
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
    Interrupted
        The process was asked to stop; the state is saved.
    TryAgain
        Another process is making ``out``, or a data worker was killed.
    """
    _check(method, settings, world)
    if keep_every < 1:
        raise BadInput(f"--keep-every {keep_every}: must be at least 1")
    tiles = Tiles(data, settings.crop)
    facts = _facts(method, data, settings, len(tiles))
    folder, state_path, claim_path = out.with_suffix(""), out.with_suffix(".state"), out.with_suffix(".claim")

    def is_done() -> bool:
        return world.rank == 0 and not force and _is_done(out, facts)

    if world.agreed(is_done() and not claim_path.exists()):
        if world.rank == 0:
            print(f"{out}: already made with these settings", file=sys.stderr)
        return out
    if world.rank == 0:
        check_writable(out.parent)

    steps: int = facts["iterations"]
    steps_per_epoch = steps // settings.epochs
    where = torch.device(device)
    check_every = 20 if where.type == "cuda" else 1  # reading a loss makes the host wait for a GPU

    stream = stream_of(method, data.spec.name, settings.seed)
    claimed = claim.claimed(claim_path) if world.rank == 0 else nullcontext()
    with claimed, interrupt.deferred() as stop, _torch(threads, where), determinism.deterministic(where, deterministic):
        if world.agreed(is_done()):  # another has just made it, or was killed when it had
            if world.rank == 0:
                remove(claim_path)
            return out
        if world.rank == 0 and force:
            remove(state_path)
        world.wait()
        _seed(stream, _START)
        module = place(method.module(settings, len(tiles)), where)
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimiser = method.optimiser(trained, settings.learning_rate)
        average = None
        if settings.ema:
            average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
        state = _State(module, optimiser, average, _Done(), [])
        state.restore(state_path, facts)
        done, curve = state.done, state.curve
        world.agree(facts | vars(done))
        joined = world.joined(module)
        whole: Any = torch.compile(joined) if settings.compile else joined
        samples = _Samples(tiles, method, settings, stream)
        batches: Any = _batches(len(tiles), settings, stream, done.iteration, world)
        pinned = where.type == "cuda"
        loader = DataLoader(
            samples,
            batch_size=None,
            sampler=batches,
            num_workers=workers,
            worker_init_fn=interrupt.left_to_parent,
            pin_memory=pinned,
        )
        pending: list[Tensor] = []
        clock = saved = time.monotonic()
        waited = _Stopwatch()

        module.train()
        for drawn in waited.between(loader):
            _seed(stream, _STEP, done.iteration, world.rank)
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * method.rate(done.iteration, steps)
            pending.append(torch.zeros((), device=where))
            batch = (normalised(view, facts["norms"], where) for view in samples.views(drawn, where))
            parts = list(zip(*(view.chunk(settings.accumulate) for view in batch), strict=True))
            for number, part in enumerate(parts, start=1):
                with world.averaging(joined, last=number == len(parts)):
                    with autocast(settings.precision, where):
                        loss = method.loss(whole, part) / len(parts)
                    loss.backward()
                pending[-1] += loss.detach()
            optimiser.step()
            optimiser.zero_grad()
            method.stepped(module)
            if average:
                average.update_parameters(module)
            done.iteration += 1

            epoch, step = divmod(done.iteration, steps_per_epoch)
            if step % check_every and not (stop.asked and world.size == 1):
                continue
            _settle(world.mean(torch.stack(pending)), done)
            pending.clear()
            now = time.monotonic()
            done.seconds, clock = done.seconds + now - clock, now
            report(Progress(done.iteration, steps, done.loss_sum / done.losses, waited.seconds))
            if step == 0:
                state.check_finite()
                curve.append((epoch, done.loss_sum / done.losses))
                done.loss_sum, done.losses = 0.0, 0
                card = _card(facts, done, curve, device, threads)
                if world.rank == 0 and (epoch % keep_every == 0 or epoch == settings.epochs):
                    _show(folder, method, state.best, samples, card, where)
                    if epoch < settings.epochs:
                        save_weights(folder / f"epoch-{epoch:04d}.safetensors", method.weights(state.best), card)
            asked = world.agreed(stop.asked is not None) and done.iteration < steps
            if world.rank == 0 and done.iteration < steps and (asked or now - saved >= save_every_seconds):
                state.save(state_path, facts)
                saved = now
            if asked:
                world.wait()
                raise Interrupted(stop.asked or signal.SIGTERM)  # any of the processes may be the one that was asked

        if world.rank == 0:
            state.save(state_path, facts)  # while it is there, the checkpoint or its card may be lacking or an old one
            save_weights(out, method.weights(state.best), _card(facts, done, curve, device, threads))
            remove(state_path)
            remove(claim_path)
        world.wait()
    return out


class _Stopwatch:
    """The seconds spent in waiting for the next of some things."""

    seconds = 0.0

    def between(self, things: Iterable[Any]) -> Iterator[Any]:
        waiting = time.perf_counter()
        for thing in things:
            self.seconds += time.perf_counter() - waiting
            yield thing
            waiting = time.perf_counter()


@contextlib.contextmanager
def _torch(threads: int, device: torch.device) -> Iterator[None]:
    """Use ``threads``, on a GPU the kernels found fastest, on a CPU freed memory; leave all settings as they were.

    Arithmetic is torch's own default otherwise, as in the published program: with ``fp32``, convolutions on a GPU may
    be in TF32, matrix products are not.
    """
    before, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True  # all batches are of one size
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), freed_memory_kept(device):
            yield
    except Exception as error:
        if told := _death_of_a_worker(error):
            raise TryAgain(
                f"a data worker was killed (out of memory?): {told} Run the same command again to go on, with fewer "
                "--workers if memory was short"
            ) from None
        if not is_out_of_memory(error):
            raise
        raise BadInput(
            f"out of memory ({device.type}): use --precision bf16, a larger --accumulate, more devices, "
            "fewer --workers, or a smaller --batch-size or --crop; the batch was not changed"
        ) from None
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.benchmark = benchmark


def _death_of_a_worker(error: BaseException) -> str | None:
    """Return how a data worker ended, where that is what an error came of.

    Torch raises wherever the main thread is, in the handling of another error or the start of a thread too; and what is
    asked of a worker that has just died ends in an error of its connection.
    """
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(cause)
        cause = cause.__context__
    told = [str(each).splitlines()[0].strip() for each in chain if re.match(r"DataLoader worker \(pid", str(each))]
    if not told and isinstance(error, (ConnectionError, EOFError)):
        told = [f"its connection broke ({type(error).__name__})."]
    for each in chain if told else ():
        # the frames hold the loader: while that is there, torch raises this again at the end of any other process
        traceback.clear_frames(each.__traceback__)
    return told[0] if told else None


def _seed(stream: Stream, purpose: int, *place: int) -> None:
    """Seed torch's generators, so that no generator's state need be kept."""
    torch.manual_seed(int(rng(stream, purpose, *place).integers(2**63)))


def _settle(losses: Tensor, done: _Done) -> None:
    """Add the losses of the last steps to the epoch's sum; stop at the first that is not finite."""
    for iteration, loss in enumerate(losses.tolist(), done.iteration - len(losses) + 1):
        if not math.isfinite(loss):
            raise Diverged(iteration)
        done.loss_sum += loss
        done.losses += 1


def _check(method: Pretraining, settings: Settings, world: World) -> None:
    """Refuse settings that no data could make possible."""
    for name in ("epochs", "batch_size", "crop", "accumulate"):
        if (value := getattr(settings, name)) < 1:
            raise BadInput(f"--{name.replace('_', '-')} {value}: must be at least 1")
    for name, allowed in (("scale", ("full", "tiny")), ("precision", ("fp32", "bf16"))):
        if (value := getattr(settings, name)) not in allowed:
            raise BadInput(f"--{name} {value}: use {' or '.join(allowed)}")
    if settings.views not in ("host", "device"):
        raise BadInput(f"--views {settings.views}: use host or device")
    if settings.views == "device" and method.batched(settings.crop) is None:
        raise BadInput(f"--views device: {method.name} makes its views in data workers only; use --views host")
    if not 0 <= settings.ema < 1:
        raise BadInput(f"--ema {settings.ema}: must be at least 0 and less than 1")
    if settings.seed < 0:
        raise BadInput(f"--seed {settings.seed}: must be at least 0")
    if not (settings.learning_rate > 0 and math.isfinite(settings.learning_rate)):
        raise BadInput(f"--learning-rate {settings.learning_rate}: must be a positive number")
    if settings.crop < 32 or settings.crop % method.crop_multiple:
        raise BadInput(f"--crop {settings.crop}: {method.name} takes multiples of {method.crop_multiple} from 32")
    if settings.batch_size % (parts := world.size * settings.accumulate):
        raise BadInput(
            f"--batch-size {settings.batch_size}: not divisible among {world.size} devices x {settings.accumulate} "
            f"parts; choose a multiple of {parts}"
        )


def _facts(method: Pretraining, data: Prepared, settings: Settings, images: int) -> dict[str, Any]:
    """Return everything that makes this checkpoint this one, known before training; refuse too few images."""
    if images < settings.batch_size:
        raise BadInput(
            f"{data.path}: {images} images of {settings.crop} pixels, fewer than one batch of {settings.batch_size}; "
            f"choose --batch-size {images} or less"
        )
    options = {"learning_rate": settings.learning_rate, "precision": settings.precision}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.default not in (MISSING, value):
            options[field.name] = value
    facts = {
        "method": method.name,
        "model": method.model.name,
        "start": method.start.hash if method.start else None,
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
    """Whether ``out`` is there, made with these very settings; refuse one made with others."""
    if not out.exists() or out.with_suffix(".state").exists():
        return False
    if changed := _differences(load_weights(out).card.model_dump(mode="json"), facts):
        raise BadInput(f"{out}: made with {changed}; choose another --out, or add --force to replace it")
    return True


def _differences(before: dict[str, Any], facts: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {before.get(name)} (now {value})" for name, value in facts.items() if before.get(name) != value
    )


def _card(
    facts: dict[str, Any], done: _Done, curve: list[tuple[int, float]], device: str, threads: int
) -> PretrainingCard:
    made = {
        "epochs": len(curve),
        "iterations": done.iteration,
        "loss_curve": curve,
        "seconds": done.seconds,
        "environment": provenance.environment(device, threads),
    }
    return PretrainingCard.model_validate(facts | made)


# What is to be seen of it


def _show(
    folder: Path,
    method: Pretraining,
    module: nn.Module,
    samples: _Samples,
    card: PretrainingCard,
    device: torch.device,
) -> None:
    """Write the example grid of this epoch and the loss curve so far."""
    from PIL import Image

    chosen = rng(samples.stream, _EXAMPLES).permutation(len(samples.tiles))[:8]
    generators = [rng(samples.stream, _EXAMPLES, n) for n in range(1, len(chosen) + 1)]
    drawn = samples.draw(samples.tiles.read(chosen.tolist()), generators)
    batch = tuple(normalised(view, card.norms, device) for view in samples.views(drawn, device))
    training = module.training
    module.eval()
    with torch.no_grad():
        columns = method.pictures(module, batch)
    module.train(training)
    with replacing(folder / f"epoch-{card.epochs:04d}.png") as temporary:
        Image.fromarray(_grid(columns, card.norms)).save(temporary, format="png")
    write_atomic(folder / "loss.json", json.dumps(card.loss_curve) + "\n")
    with replacing(folder / "loss.png") as temporary:
        _curve(card).savefig(temporary, format="png", dpi=120)


def _grid(columns: dict[str, Tensor], norms: tuple[float, float]) -> NDArray[np.uint8]:
    """Return one picture (Y, X): a row per sample, a column per kind under its title, white gaps of 2 pixels."""
    from PIL import Image, ImageDraw, ImageFont

    mean, deviation = norms
    images = torch.stack([column[:, 0].float().cpu() for column in columns.values()], dim=1) * deviation + mean
    levels = (images * 255).round().clamp(0, 255).byte().numpy()
    padded = np.pad(levels, ((0, 0), (0, 0), (0, 2), (0, 2)), constant_values=255)
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in padded], axis=0)[:-2, :-2]
    header = Image.new("L", (grid.shape[1], TITLE), 255)
    write, edge = ImageDraw.Draw(header), padded.shape[-1]
    for number, title in enumerate(columns):
        write.text((number * edge + 1, 0), title, 0, ImageFont.load_default(min(11, edge / 6)))
    return np.concatenate([np.asarray(header), grid], axis=0)


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
        Of prepared files (default :func:`embench.store.data_folder`).
    out : Path, optional
        Default :func:`embench.weights.weights_path`.

    Returns
    -------
    Path
        The checkpoint.
    """
    trained = _trained_model(method, model)
    if out and out.suffix != ".safetensors":
        raise BadInput(f"--out {out}: give a name that ends in .safetensors")
    device = _device(device)
    if workers is None:
        workers = min(_own_cores(), 16) if device.startswith("cuda") else 0
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
            return pretrain(
                chosen,
                prepared,
                settings,
                out or weights_path(method, prepared.spec.name, scale, data_folder, _other(chosen)),
                device=device,
                threads=threads or _own_cores(),
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


def _other(method: Pretraining) -> str | None:
    """Return the name of the model when its network is not the method's own."""
    return None if type(method.model) is method.trains else method.model.name


def _device(name: str) -> str:
    """Return the device as torch names it; each process that ``torchrun`` started on a machine has a GPU of its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise BadInput("--device cuda: no CUDA device is visible here; use --device cpu")
        number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if number >= gpus:
            raise BadInput(
                f"--device cuda: process {number} (from 0) has no GPU, as {gpus} CUDA devices are visible here; "
                f"give torchrun --nproc-per-node={gpus} or less"
            )
        name = f"cuda:{number}"
        torch.cuda.set_device(name)
    elif name != "cpu":
        raise BadInput(f"--device {name}: use auto, cpu or cuda")
    return name


def _own_cores() -> int:
    """Return this process's part of the cores: all, or an equal part for each that ``torchrun`` started here."""
    return max(1, provenance.cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


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

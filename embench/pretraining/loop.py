"""Pre-training on unlabelled images: what a method is, and the one loop that runs every method (protocol 4.3, 4.4)."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from embench.core import confined, environment, locks, runtime, signals
from embench.core.errors import BadInput, Diverged, is_out_of_memory
from embench.core.files import check_writable, remove
from embench.core.runtime import freed_memory_kept
from embench.data.store import Prepared
from embench.data.unlabelled import Tiles
from embench.models.checkpoints import PretrainingCard, load_weights, save_weights
from embench.pretraining.distributed import ALONE, World, differences
from embench.pretraining.method import CEM500K_NORMS, Pretraining, Settings
from embench.pretraining.pictures import save_examples
from embench.pretraining.samples import START, STEP, Samples, seed_generators, stream_of
from embench.training.loop import Loop
from embench.training.optim import resume_optimiser
from embench.training.precision import autocast, place
from embench.training.state import load_state, save_state
from embench.training.trainer import normalised

if TYPE_CHECKING:
    pass


@dataclass
class _Done:
    """How far a run is; ``loss_sum`` over the ``losses`` of the current epoch."""

    iteration: int = 0
    loss_sum: float = 0.0
    losses: int = 0
    seconds: float = 0.0
    waited: float = 0.0


@dataclass(frozen=True)
class Progress:
    """How far a run is: of so many ``iterations``; ``loss`` is the mean of the current epoch, ``waited`` the seconds
    in which steps have waited for data."""

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
        save_state(state, path, path.parent)

    def restore(self, path: Path, facts: dict[str, Any]) -> None:
        """Go on from the state file, where there is one."""
        state = load_state(path)
        if state is None:
            return
        if changed := differences(json.loads(state["facts"]), facts):
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
        Threads that make batches ahead of the steps; the result does not depend on them.
    save_every_seconds : float
        Between two state files.
    keep_every : int
        Epochs.
    deterministic : bool
        On a GPU too (:mod:`embench.core.runtime`).
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
        Another process is making ``out``.
    """
    _check(method, settings, world)
    if keep_every < 1:
        raise BadInput(f"--checkpoint-every {keep_every}: must be at least 1")
    tiles = Tiles(data, settings.crop)
    facts = _facts(method, data, settings, len(tiles))
    folder, state_path, claim_path = out.with_suffix(""), out.with_suffix(".state"), out.with_suffix(".claim")

    def claim_exists() -> bool:
        return confined.status(claim_path, out.parent) is not None

    def is_done() -> bool:
        return world.rank == 0 and not force and _is_done(out, facts)

    if world.agreed(is_done() and not claim_exists()):
        if world.rank == 0:
            print(f"{out}: already made with these settings", file=sys.stderr)
        return out
    if world.rank == 0:
        check_writable(out.parent)

    steps: int = facts["iterations"]
    steps_per_epoch = steps // settings.epochs
    where = torch.device(device)

    stream = stream_of(method, data.spec.name, settings.seed)
    claimed = locks.claimed(claim_path) if world.rank == 0 else nullcontext()
    with claimed, signals.deferred() as stop, _torch(threads, where), runtime.deterministic(where, deterministic):
        if world.agreed(is_done()):  # another has just made it, or was killed when it had
            if world.rank == 0:
                remove(claim_path)
            return out
        if world.rank == 0 and force:
            remove(state_path)
        world.wait()
        seed_generators(stream, START)
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
        samples = Samples(tiles, method, settings, stream, where, world)

        def step(views: tuple[Tensor, ...]) -> Tensor:
            """Take the optimiser's step of a batch and return its loss, which nothing has read."""
            seed_generators(stream, STEP, loop.iteration, world.rank)
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * method.rate(loop.iteration, steps)
            total = torch.zeros((), device=where)
            batch = (normalised(view, facts["norms"], where) for view in views)
            parts = list(zip(*(view.chunk(settings.accumulate) for view in batch), strict=True))
            for number, part in enumerate(parts, start=1):
                with world.averaging(joined, last=number == len(parts)):
                    with autocast(settings.precision, where):
                        loss = method.loss(whole, part) / len(parts)
                    loss.backward()
                total += loss.detach()
            optimiser.step()
            optimiser.zero_grad()
            method.stepped(module)
            if average:
                average.update_parameters(module)
            return total

        def tell(losses: Sequence[float]) -> None:
            done.iteration += len(losses)
            done.losses += len(losses)
            for loss in losses:
                done.loss_sum += loss
            done.seconds, done.waited = loop.seconds, loop.waited
            if losses:
                report(Progress(done.iteration, steps, done.loss_sum / done.losses, done.waited))

        def save() -> None:
            if world.rank == 0:
                state.save(state_path, facts)

        def close(epoch: int) -> None:
            """Note the mean loss of an epoch, and keep what is to stay of it."""
            state.check_finite()
            curve.append((epoch, done.loss_sum / done.losses))
            done.loss_sum, done.losses = 0.0, 0
            if world.rank == 0 and (epoch % keep_every == 0 or epoch == settings.epochs):
                card = _card(facts, done, curve, device, threads)
                save_examples(folder, method, state.best, samples, card, where)
                if epoch < settings.epochs:
                    save_weights(
                        folder / f"epoch-{epoch:04d}.safetensors", method.weights(state.best), card, folder.parent
                    )

        loop = Loop(
            step,
            samples.batch,
            iteration=done.iteration,
            iterations=steps,
            tell=tell,
            save=save,
            stop=stop,
            device=where,
            workers=workers,
            save_every=save_every_seconds,
            before=(done.seconds, done.waited),
            together=world,
        )
        module.train()
        with loop:
            for epoch in range(len(curve) + 1, settings.epochs + 1):
                loop.run(epoch * steps_per_epoch)
                close(epoch)

        if world.rank == 0:
            state.save(state_path, facts)  # while it is there, the checkpoint or its card may be lacking or an old one
            save_weights(out, method.weights(state.best), _card(facts, done, curve, device, threads))
            remove(state_path)
            remove(claim_path)
        world.wait()
    return out


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
        if not is_out_of_memory(error):
            raise
        raise BadInput(
            f"out of memory ({device.type}): use --precision bf16, a larger --grad-accum, more devices, "
            "or a smaller --batch-size or --crop; the batch was not changed"
        ) from None
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.benchmark = benchmark


def _check(method: Pretraining, settings: Settings, world: World) -> None:
    """Refuse settings that no data could make possible."""
    for name in ("epochs", "batch_size", "crop", "accumulate"):
        if (value := getattr(settings, name)) < 1:
            raise BadInput(f"--{name.replace('_', '-')} {value}: must be at least 1")
    for name, allowed in (("scale", ("full", "tiny")), ("precision", ("fp32", "bf16"))):
        if (value := getattr(settings, name)) not in allowed:
            raise BadInput(f"--{name} {value}: use {' or '.join(allowed)}")
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
    if changed := differences(load_weights(out).card.model_dump(mode="json"), facts):
        raise BadInput(f"{out}: made with {changed}; choose another --out, or add --force to replace it")
    return True


def _card(
    facts: dict[str, Any], done: _Done, curve: list[tuple[int, float]], device: str, threads: int
) -> PretrainingCard:
    made = {
        "epochs": len(curve),
        "iterations": done.iteration,
        "loss_curve": curve,
        "seconds": done.seconds,
        "seconds_waiting": done.waited,
        "environment": environment.environment(device, threads),
    }
    return PretrainingCard.model_validate(facts | made)

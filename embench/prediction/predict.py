"""One command's worth of prediction: which networks, which image, which outputs; and a card of what was done."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embench.core import signals
from embench.core.console import showing
from embench.core.environment import cores
from embench.core.errors import BadInput
from embench.core.files import check_writable, remove, write_atomic
from embench.data import writers
from embench.data.writers import ome_zarr
from embench.data.writers.base import Kind, Layer
from embench.models import trained
from embench.models.trained import Trained
from embench.prediction import instances, source
from embench.prediction.engine import Outputs, Prediction
from embench.prediction.networks import Doubt, Network, VolumeNetwork, flipped
from embench.prediction.source import GreyRange, Source, VoxelSize
from embench.prediction.work import Work
from embench.training.recipe import Inference, SlidingWindow

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

LARGEST_WHOLE = 2**24
"""Pixels of a section up to which a recipe without windows predicts it in one piece."""
TILE, TILE_OVERLAP = 1024, 0.25
"""How a larger one is cut, unless asked for otherwise."""


@dataclass(frozen=True)
class Options:
    """How an image is predicted; plain values.

    Parameters
    ----------
    probabilities : bool
        Write probabilities instead of labels.
    doubt : {"entropy", "spread"} or None
        Write a map of it too: the entropy of the mean probabilities, or the standard deviation between networks.
    instances : {"components", "watershed"} or None
        Number the objects too, and list their sizes.
    smallest : float
        Of objects, in nm³ (nm² for a single section; voxels where no voxel size is known).
    flips : bool
        Average the logits over mirrored images.
    tile : int or None
        Look through windows of this many pixels a side; ``None``: as the recipe says.
    tile_overlap : float or None
        Of windows, 0..1.
    resample : bool
        Bring the image to the voxel size of the training images, and the output back.
    as_is : bool
        Take other voxel sizes as they are.
    grey_range : (float, float), "auto" or None
        How grey values of more than 8 bits become 8-bit.
    voxel_size : tuple of float or None
        ZYX nanometres, where the image states none.
    zarr : {"0.5", "0.4"}
        Of OME-Zarr outputs.
    model : str or None
        ``FILE.py:Class`` of a model of one's own.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    threads : int or None
        Of the processor; ``None``: as the network was scored with.
    """

    probabilities: bool = False
    doubt: Doubt | None = None
    instances: instances.Method | None = None
    smallest: float = 0.0
    flips: bool = False
    tile: int | None = None
    tile_overlap: float | None = None
    resample: bool = False
    as_is: bool = False
    grey_range: GreyRange = None
    voxel_size: VoxelSize | None = None
    zarr: ome_zarr.Version = "0.5"
    model: str | None = None
    device: str = "auto"
    threads: int | None = None

    def check(self) -> None:
        """Raise :class:`BadInput` with one line for each value that cannot be."""
        faults = []
        if self.tile is not None and (self.tile < 32 or self.tile % 32):
            faults.append(f"--tile {self.tile}: must be a multiple of 32")
        if self.tile_overlap is not None and not 0 <= self.tile_overlap < 1:
            faults.append(f"--tile-overlap {self.tile_overlap}: must be in 0..1, 1 excluded")
        if self.voxel_size is not None and min(self.voxel_size) <= 0:
            faults.append(f"--voxel-size {','.join(map(str, self.voxel_size))}: must be above 0")
        if isinstance(self.grey_range, tuple) and self.grey_range[0] >= self.grey_range[1]:
            faults.append(f"--grey-range {self.grey_range[0]:g},{self.grey_range[1]:g}: the first must be the smaller")
        if self.smallest < 0:
            faults.append(f"--min-size {self.smallest:g}: must not be negative")
        if self.resample and self.as_is:
            faults.append("--resample and --as-is: leave out one of them")
        if self.threads is not None and self.threads < 1:
            faults.append(f"--threads {self.threads}: must be at least 1")
        if faults:
            raise BadInput(faults)


@dataclass(frozen=True)
class Job:
    """A prediction on disk: plain values, so that it travels to any process."""

    weights: tuple[Path, ...]
    image: Path
    out: Path
    options: Options

    @property
    def folder(self) -> Path:
        """Where the work stands until it is complete."""
        return self.out.parent / f".{self.out.name}.predicting"

    @property
    def card(self) -> Path:
        """What says how the output was made; the last file to be written."""
        return self.out.parent / f"{self.out.name}.json"

    def path(self, kind: Kind) -> Path:
        """Return where a layer goes: beside the output, called after it."""
        if kind == ("probabilities" if self.options.probabilities else "labels"):
            return self.out
        ending = writers.suffix(self.out)
        stem = self.out.name[: len(self.out.name) - len(ending)]
        if stem.lower().endswith(".ome"):
            stem, ending = stem[:-4], f"{stem[-4:]}{ending}"
        return self.out.parent / f"{stem}-{kind}{ending}"

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Everything that may be written."""
        wanted: list[Kind] = ["doubt"] if self.options.doubt else []
        more = (self.path("instances"), self.table) if self.options.instances else ()
        return (self.out, *map(self.path, wanted), *more, self.card)

    @property
    def table(self) -> Path:
        """Where the sizes of objects go."""
        return self.path("instances").parent / f"{_plain(self.path('instances'))}.csv"


def _plain(path: Path) -> str:
    name = path.name[: len(path.name) - len(writers.suffix(path))]
    return name[:-4] if name.lower().endswith(".ome") else name


def predict_array(
    networks: Sequence[Trained], image: NDArray[np.uint8], options: Options | None = None
) -> dict[str, NDArray[Any]]:
    """Predict an array, in memory.

    Parameters
    ----------
    networks : sequence of Trained
        Of the same classes; the mean of their probabilities is taken.
    image : ndarray of uint8
        (Y, X), or (Z, Y, X).
    options : Options, optional

    Returns
    -------
    dict of str to ndarray
        ``labels`` uint8 (Z, Y, X) always; ``probabilities`` float32 (C, Z, Y, X), ``doubt`` float32 (Z, Y, X) and
        ``instances`` uint32 (Z, Y, X) where asked for. Without the Z axis for an image without it.

    Raises
    ------
    BadInput
        Networks of different classes, an image of another type, voxel sizes that differ.
    """
    options = options or Options()
    options.check()
    opened = source.from_array(image, options.voxel_size)
    with _applied(networks, options, opened.shape, signals.Interrupt()) as applied:
        prediction = applied.prediction(opened, Work(None, applied.stop), {}, "in memory")
        prediction.run()
        found: dict[str, NDArray[Any]] = {
            kind: np.asarray(prediction.array(kind)[_everything(prediction, kind)]) for kind in prediction.outputs.kinds
        }
        if options.instances:
            objects = np.zeros(found["labels"].shape, np.uint32)
            applied.number(prediction, objects)
            found["instances"] = objects
    if not options.probabilities:
        found.pop("probabilities", None)
    return {kind: array[..., 0, :, :] for kind, array in found.items()} if image.ndim == 2 else found


def _everything(prediction: Prediction, kind: Kind) -> tuple[slice, ...]:
    return (slice(None),) * (len(prediction.layer(kind).shape) - 2)


def run(job: Job, jobs: int = 1, *, overwrite: bool = False) -> dict[str, Any]:
    """Predict an image on disk into files, going on where an earlier attempt ended, and return the card.

    Parameters
    ----------
    job : Job
    jobs : int
        Processes that share the work, on as many GPUs as there are. The same command given on another machine that
        sees the folder joins in as well.
    overwrite : bool
        Begin anew, and replace what is there.

    Raises
    ------
    BadInput
        Before anything is written: networks of different classes, an image that cannot be read or fits badly, an output
        that exists.
    TryAgain
        A full disk, a killed process: what is done stays.
    Interrupted
        Asked to stop; the same command goes on.
    """
    job.options.check()
    writers.suffix(job.out)
    if jobs < 1:
        raise BadInput(f"--jobs {jobs}: must be at least 1")
    networks = [trained.load(path) for path in job.weights]
    with signals.deferred() as stop:
        return _run(job, networks, jobs, overwrite, stop)


def _run(job: Job, networks: Sequence[Trained], jobs: int, overwrite: bool, stop: signals.Interrupt) -> dict[str, Any]:
    opened = _opened(job, networks)
    request = _request(job, networks, opened)
    digest = hashlib.sha256(request.encode()).hexdigest()
    if card := _finished(job, digest, overwrite):
        log.info("%s: is there already, made by this very command", job.out)
        return card
    check_writable(job.out.parent)
    work = Work(job.folder, stop)
    if overwrite:
        work.end()
    begins = not job.folder.exists()
    work.begin(request)
    helpers = _helpers(job, request, jobs)
    try:
        card = _work(job, networks, opened, work, jobs, digest)
    except BaseException as error:
        for helper in helpers:
            helper.terminate()
        if isinstance(error, Exception) and (theirs := _finished(job, digest, overwrite=False)):
            return theirs  # by another process, at whose end the folder went
        if isinstance(error, BadInput) and begins:  # nothing of it can be of use
            _remove(job)
            work.end()
        raise
    for helper in helpers:
        helper.join()
    text = json.dumps(card, indent=1)
    write_atomic(job.card, text + "\n")
    work.end()
    found: dict[str, Any] = json.loads(text)
    return found


def _work(job: Job, networks: Sequence[Trained], opened: Source, work: Work, jobs: int, digest: str) -> dict[str, Any]:
    started = time.monotonic()
    with _applied(networks, job.options, opened.shape, work.stop) as applied:
        prediction = applied.prediction(opened, work, {kind: job.path(kind) for kind in applied.written}, job.out.name)
        with showing(f"predict {job.image.name}, voxels", prediction.voxels) as progress:
            prediction.run(progress)
        prediction.write()
        if job.options.instances:
            work.each(["objects"], lambda _: applied.objects(prediction, job))
        seconds = time.monotonic() - started
        facts = applied.facts(prediction)
    from embench.core.environment import peak_memory

    voxels = int(np.prod(opened.shape))
    return {
        **facts,
        "request": digest,
        "image": opened.origin,
        "shape": prediction.grid,
        "voxel_size_nm": prediction.voxel_size,
        "objects": len(job.table.read_text().splitlines()) - 1 if job.options.instances else None,
        "processes": jobs,
        "seconds": round(seconds, 3),
        "megavoxels_per_second": round(voxels / max(seconds, 1e-9) / 1e6, 4),
        "peak_memory_bytes": peak_memory("cpu"),
    }


def join(job: Job, request: str, device: str | None = None) -> None:
    """Help with a prediction that another process has begun, until it is predicted; writing is left to that one."""
    networks = [trained.load(path) for path in job.weights]
    options = replace(job.options, device=device) if device else job.options
    opened = _opened(job, networks)
    if _request(job, networks, opened) != request:
        raise BadInput(f"{job.image}: changed since the prediction was begun")
    with signals.deferred() as stop, _applied(networks, options, opened.shape, stop) as applied:
        work = Work(job.folder, stop)
        applied.prediction(opened, work, {kind: job.path(kind) for kind in applied.written}, "").run()


def _helpers(job: Job, request: str, jobs: int) -> list[Any]:
    """Start the other processes, each on a GPU of its own where there are several."""
    if jobs == 1:
        return []
    context = multiprocessing.get_context("spawn")
    devices: list[str | None] = [None]
    if job.options.device in ("auto", "cuda"):
        import torch

        devices = [f"cuda:{n}" for n in range(torch.cuda.device_count())] or [None]
    helpers = [
        context.Process(target=join, args=(job, request, devices[number % len(devices)]), daemon=True)
        for number in range(1, jobs)
    ]
    with signals.ignored():  # which they inherit: Ctrl-C reaches them as well, but this process decides
        for helper in helpers:
            helper.start()
    return helpers


def _finished(job: Job, digest: str, overwrite: bool) -> dict[str, Any] | None:
    """Return the card of the output, where it is complete and of this request; refuse or remove another one."""
    if job.card.exists() and job.out.exists():
        try:
            card = json.loads(job.card.read_text())
        except ValueError:
            card = {}
        if isinstance(card, dict) and card.get("request") == digest and not overwrite:
            return card
    if overwrite:
        _remove(job)
    elif not job.folder.exists() and (there := [path for path in job.outputs if path.exists()]):
        raise BadInput(f"{there[0]}: exists; choose another --out, or replace it with --overwrite")
    return None


def _remove(job: Job) -> None:
    """Remove what a prediction writes."""
    for path in job.outputs:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            remove(path)


def _opened(job: Job, networks: Sequence[Trained]) -> Source:
    task = networks[0].card.the_task
    options = job.options
    opened = source.open_source(
        job.image, wanted=task.voxel_size, grey_range=options.grey_range, voxel_size=options.voxel_size
    )
    ending = writers.suffix(job.out)
    if ending == ".png" and opened.shape[0] > 1:
        raise BadInput(f"{job.out}: a PNG holds one section, the image has {opened.shape[0]}; use .tif, or a folder")
    return opened


def _request(job: Job, networks: Sequence[Trained], opened: Source) -> str:
    """Return everything on which the output depends, as JSON."""
    options = asdict(replace(job.options, threads=None, device=""))
    facts = {
        "weights": [network.card.hash for network in networks],
        "image": [opened.origin, opened.shape, opened.identity],
        "out": job.out.name,
        "options": options,
    }
    return json.dumps(facts, indent=1, default=str)


class Applied:
    """Networks made ready to predict images of one size."""

    def __init__(self, networks: Sequence[Trained], options: Options, inferences: Sequence[Inference]) -> None:
        self.trained, self.options, self.inferences = networks, options, inferences
        self.task = networks[0].card.the_task
        self.networks: list[Network] | list[VolumeNetwork] = []
        self.stop = signals.Interrupt()
        self.device = ""

    @property
    def written(self) -> tuple[Kind, ...]:
        """The layers that become files, objects apart."""
        main: Kind = "probabilities" if self.options.probabilities else "labels"
        return (main, "doubt") if self.options.doubt else (main,)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The layers that are made, objects apart."""
        wanted: list[Kind] = ["labels", *self.written]
        if self.options.instances == "watershed":
            wanted.append("probabilities")
        return tuple(dict.fromkeys(wanted))

    def prediction(self, opened: Source, work: Work, paths: dict[Kind, Path], name: str) -> Prediction:
        """Return the prediction of a source, resampled where asked for.

        Raises
        ------
        BadInput
            When its voxels have another size than those of the training images, and nothing says what to do.
        """
        axes = (0, 1, 2) if self.task.scoring.is_volume and opened.shape[0] > 1 else (1, 2)
        seen = opened
        if fault := source.check_voxel_size(opened, self.task.voxel_size, axes):
            if self.options.resample and self.task.voxel_size:
                log.info("%s: resampled, and the output brought back", fault)
                seen = source.resampled(opened, self.task.voxel_size, axes)
            elif self.options.as_is:
                log.warning("%s: predicted as it is", fault)
            else:
                raise BadInput(f"{fault}; bring it to that size with --resample, or predict it so with --as-is")
        described = "; ".join(network.card.described() for network in self.trained)
        outputs = Outputs(self.kinds, self.task.classes, paths, described, self.options.zarr)
        return Prediction(
            seen,
            self.networks,
            self.task.scoring.axes if self.task.scoring.is_volume else (),
            outputs,
            work,
            grid=opened.shape,
            doubt=self.options.doubt or "entropy",
            voxel_size=opened.voxel_size,
        )

    def number(self, prediction: Prediction, objects: Any) -> list[dict[str, Any]]:
        """Number the objects of a finished prediction in an array, and return their table."""
        assert self.options.instances
        return instances.number(
            prediction.array("labels"),
            objects,
            self.task.classes,
            method=self.options.instances,
            probabilities_CZYX=prediction.array("probabilities") if "probabilities" in prediction.arrays else None,
            voxel_size=prediction.voxel_size,
            smallest=self.options.smallest,
            check=self.stop.check,
        )

    def objects(self, prediction: Prediction, job: Job) -> None:
        """Write the objects of a finished prediction and their sizes."""
        layer = Layer(
            "instances", prediction.grid, self.task.classes, prediction.voxel_size, prediction.outputs.description
        )
        path = job.path("instances")
        chunks = (min(16, prediction.grid[0]), 256, 256)
        if writers.is_zarr(path):
            import zarr

            ome_zarr.create(path, layer, chunks, self.options.zarr)
            array = zarr.open_group(str(path), mode="r+")["0"]
        else:
            array = Work.array(prediction.work, "instances", layer.shape, layer.dtype, chunks)
        table = self.number(prediction, array)
        if writers.is_zarr(path):
            ome_zarr.add_pyramid(path, layer)
        elif writers.suffix(path):
            writers.write(path, layer, array)
        else:
            writers.write_folder(path, layer, array, prediction.source.names)
        instances.write_table(job.table, table)

    def facts(self, prediction: Prediction) -> dict[str, Any]:
        """Return what a card says of how the output was made."""
        from embench import __version__

        return {
            "embench": __version__,
            "networks": [
                {
                    "model": network.card.row,
                    "task": network.card.task["name"],
                    "seed": network.card.seed,
                    "weights": network.card.hash,
                    "inference": trained.inference_facts(inference),
                    "licence": network.card.licence,
                }
                for network, inference in zip(self.trained, self.inferences, strict=True)
            ],
            "classes": self.task.classes,
            "planes": self.task.scoring.planes,
            "resampled": prediction.is_regridded,
            "options": asdict(self.options),
            "device": self.device,
        }


@contextmanager
def _applied(
    networks: Sequence[Trained], options: Options, shape: Sequence[int], stop: signals.Interrupt
) -> Iterator[Applied]:
    """Load networks and make them ready as a trial does, so that they predict what it scored."""
    _check_alike(networks)
    import torch

    from embench.core.runtime import deterministic, find_device

    device = torch.device(options.device if ":" in options.device else find_device(options.device))
    threads = options.threads or max(network.card.threads for network in networks) or cores()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with deterministic(device):
            inferences = [_inference(network, options, shape) for network in networks]
            applied = Applied(networks, options, inferences)
            applied.stop, applied.device = stop, str(device)
            ready = [
                _network(network, inference, options, device)
                for network, inference in zip(networks, inferences, strict=True)
            ]
            deep = [network for network in ready if isinstance(network, VolumeNetwork)]
            if deep and (len(deep) < len(ready) or len({(each.block, each.halo) for each in deep}) > 1):
                raise BadInput("networks of volumes can be averaged with each other alone, and at one size of block")
            applied.networks = deep or [network for network in ready if isinstance(network, Network)]
            yield applied
    finally:
        torch.set_num_threads(before)


def _check_alike(networks: Sequence[Trained]) -> None:
    if not networks:
        raise BadInput("no network named; what is there: embench list trained")
    first = networks[0]
    for other in networks[1:]:
        ours, theirs = first.card.the_task, other.card.the_task
        if ours.classes != theirs.classes:
            said = f"{', '.join(theirs.classes)}; {first.path.name} {', '.join(ours.classes)}"
            raise BadInput(f"{other.path.name}: has the classes {said}: only networks of the same can be averaged")
        if ours.scoring.planes != theirs.scoring.planes:
            said = f"{theirs.scoring.planes}, {first.path.name} {ours.scoring.planes}"
            raise BadInput(f"{other.path.name}: predicts by {said}: only networks of one way can be averaged")


def _inference(network: Trained, options: Options, shape: Sequence[int]) -> Inference:
    """Return how sections are predicted: as the trial's recipe says, unless that is changed or cannot be."""
    own = network.card.the_inference
    tile, overlap = options.tile, options.tile_overlap
    if isinstance(own, SlidingWindow):
        changed = replace(own, window=tile or own.window)
        return changed if overlap is None else replace(changed, overlap_2d=overlap, overlap_3d=overlap)
    summed = network.card.the_task.scoring.axes if network.card.the_task.scoring.is_volume else (0,)
    largest = max(int(np.prod(shape)) // shape[axis] for axis in summed)
    if tile is None and largest > LARGEST_WHOLE:
        log.warning("sections of %d megapixels are cut into tiles of %d; see --tile", largest // 10**6, TILE)
        tile = TILE
    if tile is None:
        if overlap is not None:
            raise BadInput(f"--tile-overlap: {network.card.row} predicts a section in one piece; say --tile too")
        return own
    overlap = TILE_OVERLAP if overlap is None else overlap
    return SlidingWindow(tile, overlap, overlap, 1)


def load_module(network: Trained, model: str | None = None) -> nn.Module:
    """Return a trained network as a module in evaluation mode, on the processor.

    Parameters
    ----------
    network : Trained
    model : str, optional
        ``FILE.py:Class``, which a model of one's own needs: its file is run.

    Raises
    ------
    BadInput
        When the weights do not fit their card or the model.
    """
    from embench.models.base import TorchModel
    from embench.models.registry import code_of, find_model

    card = network.card
    if code_of(card.adapter) and not model:
        raise BadInput(
            f"{network.path.name}: a model of one's own, {card.adapter}; its file is run when it is named: "
            f"--model {card.adapter}"
        )
    adapter = find_model(model if model and code_of(card.adapter) else card.adapter)
    if not isinstance(adapter, TorchModel):
        raise BadInput(f"{adapter.name}: no torch network; {network.path.name} cannot be its weights")
    module = adapter.network_for(card.the_task, card.scale)
    adapter.adapt(module)
    return network.load_into(module).eval()


def _network(network: Trained, inference: Inference, options: Options, device: Any) -> Network | VolumeNetwork:
    from embench.models.registry import code_of, find_model
    from embench.models.volume import TorchVolumeModel
    from embench.training.inference import predict_section
    from embench.training.precision import autocast, deployed, place
    from embench.training.recipe import Recipe

    card, task = network.card, network.card.the_task
    module = place(load_module(network, options.model), device)
    adapter = find_model(options.model if options.model and code_of(card.adapter) else card.adapter)
    if isinstance(adapter, TorchVolumeModel):
        if options.flips or options.tile or options.tile_overlap is not None:
            raise BadInput(f"{card.row}: a network of volumes; leave out --flips, --tile and --tile-overlap")
        recipe = Recipe(card.recipe["name"], crop=card.recipe["crop"], scale=card.scale, precision=card.precision)
        ready = adapter.predictor(module, task, recipe, card.norms, device)
        return VolumeNetwork(ready.predict, ready.block, ready.halo)
    fixed = deployed(module)
    fixed = flipped(fixed).eval() if options.flips else fixed

    def predict(section: NDArray[np.uint8]) -> NDArray[np.float32]:
        with autocast(card.precision, device):
            return predict_section(
                fixed, section, inference=inference, norms=card.norms, device=device, volume=task.scoring.is_volume
            )

    return Network(predict, inference, task.scoring.is_volume)

"""A volume predicted piece by piece: within a fixed memory, by any number of processes, going on after a kill.

Sections are predicted as a trial predicts its test sections, so that the labels are those that it scored. Where
sections are images, each has labels of its own. A volume is predicted along the axes of its task, each section's scores
in 0..255 over the number of axes, and added (protocol 5). What does not fit into memory stands in a folder beside the
output until that is complete.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data import writers
from embench.data.blocks import Block, blocks
from embench.data.writers import ome_zarr
from embench.data.writers.base import Kind, Layer
from embench.prediction.networks import Doubt, Network, VolumeNetwork, entropy, joined, mean
from embench.prediction.source import Nearest, Source
from embench.prediction.work import Progress, Work
from embench.training.inference import labels_2d

log = logging.getLogger(__name__)

MEMORY = 2**28
"""Bytes of image and scores that one unit of work may hold, beside the network's own and one section's scores."""

_DEEPEST, _DEEPEST_PLANES = 8, 32
"""Sections that are predicted between two marks on disk, at most: of labels, of planes that are still to be added."""
_CUBE = (64, 128, 128)
_SIDE = 256
_BAND = 512


@dataclass(frozen=True)
class Outputs:
    """Which layers are made of a source, and where.

    Parameters
    ----------
    kinds : tuple of str
        The layers that are made.
    classes : tuple of str
    paths : dict
        Where a kind of layer goes, in the format that the end of its name says; the others stay in the work's folder,
        or in memory.
    description : str
    version : str
        Of OME-Zarr.
    """

    kinds: tuple[Kind, ...]
    classes: tuple[str, ...]
    paths: Mapping[Kind, Path] = field(default_factory=dict)
    description: str = ""
    version: ome_zarr.Version = "0.5"


@dataclass(frozen=True)
class _Unit:
    """Some sections along an axis, and of them some rows."""

    axis: int
    start: int
    stop: int
    top: int
    bottom: int
    width: int

    @property
    def voxels(self) -> int:
        return (self.stop - self.start) * (self.bottom - self.top) * self.width

    def __str__(self) -> str:
        return f"planes-{self.axis}-{self.start:06d}-{self.top:06d}"


class Prediction:
    """The prediction of one source.

    Parameters
    ----------
    source : Source
        On the grid on which the networks look at it.
    networks : sequence of Network or of VolumeNetwork
        The mean of their scores is taken; networks of volumes are given blocks of one size.
    axes : tuple of int
        Along which sections are predicted; ``()``: sections are images of their own, their labels not from sums.
    outputs : Outputs
    work : Work
    grid : tuple of int, optional
        ZYX of the output, where that is another grid than the source's.
    doubt : {"entropy", "spread"}, optional
        What a ``doubt`` layer holds.
    voxel_size : tuple of float, optional
        Of the output.
    """

    def __init__(
        self,
        source: Source,
        networks: Sequence[Network] | Sequence[VolumeNetwork],
        axes: tuple[int, ...],
        outputs: Outputs,
        work: Work,
        *,
        grid: tuple[int, ...] | None = None,
        doubt: Doubt = "entropy",
        voxel_size: tuple[float, float, float] | None = None,
    ) -> None:
        self.source, self.axes, self.outputs, self.work = source, axes, outputs, work
        self.has_spread = "doubt" in outputs.kinds and doubt == "spread"
        self.doubt: Doubt | None = doubt if self.has_spread else None
        self.networks = [network for network in networks if isinstance(network, Network)]
        self.deep = [network for network in networks if isinstance(network, VolumeNetwork)]
        self.rows = mean(self.networks, self.doubt)
        self.channels = 1 if len(outputs.classes) == 2 else len(outputs.classes)
        self.grid = tuple(grid or source.shape)
        self.voxel_size = voxel_size or source.voxel_size
        self.is_regridded = self.grid != source.shape
        self.is_summed = len(axes) > 1 and not self.deep
        self.is_staged = self.is_summed or bool(self.deep)
        self.arrays: dict[str, Any] = {}
        self.units = [] if self.deep else [unit for axis in axes or (0,) for unit in self._units(axis)]
        self.blocks = list(blocks(source.shape, self.deep[0].block, self.deep[0].halo)) if self.deep else []

    def layer(self, kind: Kind, shape: Sequence[int] | None = None) -> Layer:
        """Return the facts of an output layer."""
        plain = tuple(shape or self.grid)
        full = (self.channels, *plain) if kind == "probabilities" else plain
        return Layer(kind, full, self.outputs.classes, self.voxel_size, self.outputs.description)

    @property
    def voxels(self) -> int:
        """Voxels to predict, once for every axis."""
        return sum(unit.voxels for unit in self.units) + sum(map(_voxels, self.blocks))

    def run(self, progress: Progress = lambda _: None) -> None:
        """Predict everything, beside other processes at the same; :meth:`array` then gives it.

        Parameters
        ----------
        progress : callable
            Called with the voxels predicted since the last call; those that were done before count too.
        """
        self._open()
        if self.is_staged:
            self.work.each([f"stage-{z:06d}" for z in self._stage_units()], self._stage)
        units = {str(unit): unit for unit in self.units}
        ours: set[str] = set()

        def predict(name: str) -> None:
            ours.add(name)
            self._predict(units[name], progress)

        def done(name: str) -> None:
            if name not in ours:
                progress(units[name].voxels)

        self.work.each(list(units), predict, done)
        places = {f"deep-{number:06d}": block for number, block in enumerate(self.blocks)}
        self.work.each(
            list(places), lambda name: self._predict_block(places[name]), lambda name: progress(_voxels(places[name]))
        )
        if self.is_summed:
            self.work.each([f"block-{z:06d}-{y:06d}" for z, y in self._block_units()], self._join)

    def write(self) -> None:
        """Bring what is complete into the formats that were asked for."""
        self.work.each(["written"], self._write)

    def array(self, kind: Kind) -> Any:
        """Return a layer on the grid of the output; read it by slabs of sections."""
        return self._gridded(self.arrays[kind])

    # What is held where

    def _open(self) -> None:
        """Open, or make, the arrays that are written block by block."""
        shape = self.source.shape
        thick, side = (_CUBE[0] if self.is_summed else self._depth(0)), min(_SIDE, self._band(0))
        for kind in self.outputs.kinds:
            layer, path = self.layer(kind, shape), self.outputs.paths.get(kind)
            # whole chunks are written by one process each
            chunks = (*(1 for _ in layer.shape[:-3]), *(self.deep[0].block if self.deep else (thick, side, side)))
            if path is not None and writers.is_zarr(path) and not self.is_regridded:
                create = partial(ome_zarr.create, path, layer, chunks, self.outputs.version)
                self.arrays[kind] = self.work.made(kind, path, create)
            else:
                self.arrays[kind] = self.work.array(kind, layer.shape, layer.dtype, chunks)
        if self.is_staged:
            self.arrays["image"] = self.work.array("image", shape, np.dtype(np.uint8), _CUBE)
        if not self.is_summed:
            return
        for axis in self.axes:
            section = self._section(axis)
            rows = side if axis == 0 else _CUBE[0]
            self.arrays[f"planes-{axis}"] = self.work.array(
                f"planes-{axis}",
                (self.channels + self.has_spread, shape[axis], *section),
                np.dtype(np.uint8),
                (1, self._depth(axis), rows, _SIDE),
            )

    # How it is cut

    def _section(self, axis: int) -> tuple[int, int]:
        height, width = (n for other, n in enumerate(self.source.shape) if other != axis)
        return height, width

    def _band(self, axis: int) -> int:
        """Return the rows that are predicted at once: all, unless their scores alone would fill the memory."""
        height, width = self._section(axis)
        needed = width * (4 * (self.channels + 1) * len(self.networks) + 2)
        if height * needed <= MEMORY or not all(network.is_windowed for network in self.networks):
            return height
        return max(_BAND, MEMORY // needed // _BAND * _BAND)

    def _depth(self, axis: int) -> int:
        """Return the sections that are predicted between two marks."""
        each = 4 * self.channels if "probabilities" in self.outputs.kinds and not self.is_summed else self.channels
        deepest = _DEEPEST_PLANES if self.is_summed else _DEEPEST
        held = self._band(axis) * self._section(axis)[1] * (2 + each)
        return int(np.clip(MEMORY // held, 1, min(deepest, self.source.shape[axis])))

    def _units(self, axis: int) -> list[_Unit]:
        height, width = self._section(axis)
        depth, band, length = self._depth(axis), self._band(axis), self.source.shape[axis]
        return [
            _Unit(axis, start, min(start + depth, length), top, min(top + band, height), width)
            for start, top in product(range(0, length, depth), range(0, height, band))
        ]

    def _stage_units(self) -> list[int]:
        return list(range(0, self.source.shape[0], _CUBE[0])) if self.is_staged else []

    def _block_units(self) -> list[tuple[int, int]]:
        depth, height, _ = self.source.shape
        if not self.is_summed:
            return []
        return list(product(range(0, depth, _CUBE[0]), range(0, height, _SIDE)))

    # What is done

    def _stage(self, name: str) -> None:
        """Bring some sections where they can be read along every axis."""
        start = int(name.split("-")[1])
        step = max(1, MEMORY // (4 * self.source.shape[1] * self.source.shape[2]))
        stop = min(start + _CUBE[0], self.source.shape[0])
        for z in range(start, stop, step):
            self.work.stop.check()
            self.arrays["image"][z : min(z + step, stop)] = self.source.slab(z, min(z + step, stop))

    def _read(self, unit: _Unit) -> NDArray[np.uint8]:
        if not self.is_summed:
            return self.source.slab(unit.start, unit.stop)
        across = (slice(None),) * unit.axis + (slice(unit.start, unit.stop),)
        return np.moveaxis(self.arrays["image"][across], unit.axis, 0)

    def _predict(self, unit: _Unit, progress: Progress) -> None:
        found: dict[str, list[NDArray[Any]]] = {name: [] for name in self.outputs.kinds}
        planes: list[NDArray[np.uint8]] = []
        for section in self._read(unit):
            self.work.stop.check()
            scores = self.rows(np.ascontiguousarray(section), unit.top, unit.bottom)
            progress((unit.bottom - unit.top) * unit.width)
            self._check_finite(scores)
            if self.is_summed:
                planes.append(_scaled(scores, len(self.axes)))
                continue
            for kind, values in self._layers(_scaled(scores, 1) if self.axes else scores).items():
                found[kind].append(values)
        where = (..., slice(unit.start, unit.stop), slice(unit.top, unit.bottom), slice(None))
        if self.is_summed:
            self.arrays[f"planes-{unit.axis}"][where] = np.stack(planes, 1)
        else:
            for kind in self.outputs.kinds:
                self.arrays[kind][where] = np.stack(found[kind], -3)

    def _predict_block(self, block: Block) -> None:
        self.work.stop.check()
        image_ZYX = np.ascontiguousarray(self.arrays["image"][block.read])
        scores = joined([network.predict(image_ZYX) for network in self.deep], self.doubt)[(slice(None), *block.inner)]
        self._check_finite(scores)
        for kind, values in self._layers(_scaled(scores, 1)).items():
            self.arrays[kind][(..., *block.write)] = values

    def _check_finite(self, scores: NDArray[np.float32]) -> None:
        if not np.isfinite(scores).all():
            raise BadInput(f"{self.source.origin}: the network's scores are not finite; was it trained to its end?")

    def _join(self, name: str) -> None:
        """Add the planes of a block and write what follows from the sum."""
        z, y = map(int, name.split("-")[1:])
        depth, height, width = self.source.shape
        block = (slice(z, min(z + _CUBE[0], depth)), slice(y, min(y + _SIDE, height)), slice(0, width))
        size = tuple(part.stop - part.start for part in block)
        total_CZYX = np.zeros((self.channels + self.has_spread, *size), np.uint8)
        for axis in self.axes:
            rest = (part for other, part in enumerate(block) if other != axis)
            planes = self.arrays[f"planes-{axis}"][(slice(None), block[axis], *rest)]
            total_CZYX += np.moveaxis(planes, 1, axis + 1)
        every = [self._layers(total_CZYX[:, at]) for at in range(size[0])]
        for kind in self.outputs.kinds:
            self.arrays[kind][(..., *block)] = np.stack([layers[kind] for layers in every], -3)

    def _layers(self, scores: NDArray[Any]) -> dict[Kind, NDArray[Any]]:
        """Return what is written of scores (C, ...): fractions float32, or sums uint8 as the protocol has them."""
        scores, extra = scores[: self.channels], scores[self.channels :]
        fractions = scores if scores.dtype != np.uint8 else np.divide(scores, np.float32(255), dtype=np.float32)
        found: dict[Kind, NDArray[Any]] = {}
        for kind in self.outputs.kinds:
            if kind == "probabilities":
                found[kind] = fractions
            elif kind == "doubt":
                spread = extra[-1:] / np.float32(255) if scores.dtype == np.uint8 else extra[-1:]
                found[kind] = spread[0] if self.has_spread else entropy(fractions)
            elif kind == "labels" and scores.dtype == np.uint8:
                found[kind] = (
                    (scores[0] > 127).view(np.uint8) if len(scores) == 1 else scores.argmax(0).astype(np.uint8)
                )
            elif kind == "labels":
                found[kind] = labels_2d(scores)
        return found

    def _write(self, _: str) -> None:
        for kind, path in self.outputs.paths.items():
            layer, array = self.layer(kind), self._gridded(self.arrays[kind])
            if writers.is_zarr(path):
                if self.is_regridded:
                    self._copy(path, layer, array)
                ome_zarr.add_pyramid(path, layer)
            elif writers.suffix(path):
                writers.write(path, layer, array)
            else:
                writers.write_folder(path, layer, array, self.source.names)

    def _copy(self, path: Path, layer: Layer, array: Any) -> None:
        target = ome_zarr.create(path, layer, (*(1 for _ in layer.shape[:-3]), 16, _SIDE, _SIDE), self.outputs.version)
        for lead in np.ndindex(*layer.shape[:-3]):
            for z in range(0, layer.shape[-3], 16):
                self.work.stop.check()
                target[(*lead, slice(z, z + 16))] = array[(*lead, slice(z, z + 16))]

    def _gridded(self, array: Any) -> Any:
        return Nearest(array, self.grid) if self.is_regridded else array


def _voxels(block: Block) -> int:
    return int(np.prod([part.stop - part.start for part in block.write]))


def _scaled(scores: NDArray[np.float32], axes: int) -> NDArray[np.uint8]:
    """Scale to a share of 255 and truncate, as the scores of a volume are before they are added."""
    return np.multiply(scores, 255 / axes, out=np.empty(scores.shape, np.uint8), casting="unsafe")

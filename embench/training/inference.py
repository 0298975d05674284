"""From a network and an image to scores, and from sections to a volume (protocol 4.1, 4.2 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.blocks import Block, blocks, predict_blocks
from embench.training.recipe import Inference, SlidingWindow, WholeImage

if TYPE_CHECKING:
    import torch


import torch
from torch import nn

from embench.data.task import Task
from embench.training.precision import autocast, deployed
from embench.training.recipe import Recipe

Scores = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with the sections done and the sections to do."""

_SLAB_BYTES = 1 << 26
_COLUMNS = 128


class Volume(Protocol):
    """Grey values (Z, Y, X) uint8, sliceable along any axis: a NumPy array or an open HDF5 dataset."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, key: Any) -> Any: ...


def predict_section(
    network: torch.nn.Module,
    image_YX: NDArray[np.uint8],
    *,
    inference: Inference,
    norms: tuple[float, float],
    device: torch.device | str,
    volume: bool,
) -> Scores:
    """Return a network's scores of every class on one section.

    The network gets float32 images (B, 1, Y, X), ``(grey / 255 - mean) / std``, and returns logits (B, C, Y, X). It
    runs in evaluation mode and is left in the modes it came in; precision is the caller's choice (``torch.autocast``).

    - ``WholeImage``, 2D: resized down to a multiple of 32 (bilinear, on the grey values), scores back to size by
      nearest neighbour. A side under 32 is resized up to 32; the published code would make it 0.
    - ``WholeImage``, volume: reflected at the bottom and right to a multiple of 32, then cropped. A side too short for
      one reflection is reflected repeatedly.
    - ``SlidingWindow``: windows of equal weight, their logits averaged. An image smaller than the window is padded on
      all sides with the mean grey value (0 after normalisation), then cropped. Beside the image and its scores (4 bytes
      a pixel and channel) only a strip as high as a window is held; a whole image, by its recipe, takes what the
      network needs for all of it.

    Parameters
    ----------
    network : torch.nn.Module
        On ``device``.
    image_YX : ndarray of uint8
    inference : WholeImage or SlidingWindow
    norms : (float, float)
        Mean and standard deviation of grey values as fractions.
    device : torch.device or str
    volume : bool
        Whether the section belongs to a volume that is scored as one.

    Returns
    -------
    ndarray of float32, (C, Y, X)
        Within 0..1: sigmoid of a single channel, softmax over several.

    Raises
    ------
    BadInput
        If the network does not return logits (B, C, Y, X) of the size of its input.
    """
    import torch

    if image_YX.ndim != 2 or image_YX.dtype != np.uint8 or 0 in image_YX.shape:
        raise ValueError(f"expected a section (Y, X) uint8: found {image_YX.shape} {image_YX.dtype}")
    height, width = image_YX.shape
    mean, std = norms

    def to_network(grey_YX: NDArray[np.uint8]) -> torch.Tensor:
        return torch.tensor(grey_YX, device=device)[None, None].float().div_(255).sub_(mean).div_(std)

    with torch.inference_mode(), _evaluating(network):
        match inference:
            case WholeImage(multiple) if volume:
                padded_YX = np.pad(image_YX, ((0, -height % multiple), (0, -width % multiple)), "reflect")
                return _scores(checked_logits(network, to_network(padded_YX))[0, :, :height, :width])
            case WholeImage(multiple):
                small_YX = _resize_down(image_YX, multiple)
                return _resize_nearest(_scores(checked_logits(network, to_network(small_YX))[0]), (height, width))
            case SlidingWindow():
                return _slide(network, image_YX, to_network, inference, volume)


@dataclass(frozen=True)
class BlockPredict:
    """What predicts a volume in blocks, in the place of what predicts it section by section.

    Parameters
    ----------
    predict : callable
        From an image (Z, Y, X) uint8 to its scores (C, Z, Y, X) float32 within 0..1.
    block, halo : (int, int, int)
        Voxels (ZYX); see :func:`embench.data.blocks.blocks`.
    """

    predict: Predict
    block: tuple[int, int, int]
    halo: tuple[int, int, int]

    def then(self, check: Callable[[Scores], Scores]) -> BlockPredict:
        """Return the same with scores that go through ``check``."""
        return BlockPredict(lambda image_ZYX: check(self.predict(image_ZYX)), self.block, self.halo)


def predict_block(
    network: torch.nn.Module,
    image_ZYX: NDArray[np.uint8],
    *,
    least: Sequence[int],
    multiple: Sequence[int],
    norms: tuple[float, float],
    device: torch.device | str,
) -> Scores:
    """Return a 3D network's scores of every class on an image (Z, Y, X).

    The image is mirrored at its far ends up to ``least`` voxels and a ``multiple`` along each axis, and the scores are
    cut to its size. The network gets and returns what :func:`predict_section` says, with Z.

    Returns
    -------
    ndarray of float32, (C, Z, Y, X)

    Raises
    ------
    BadInput
        If the network does not return logits (B, C, Z, Y, X) of the size of its input.
    """
    import torch

    mean, std = norms
    sides = [max(side, each) for side, each in zip(image_ZYX.shape, least, strict=True)]
    lacking = [
        side + -side % step - length for side, step, length in zip(sides, multiple, image_ZYX.shape, strict=True)
    ]
    padded_ZYX = np.pad(image_ZYX, [(0, each) for each in lacking], "symmetric")
    with torch.inference_mode(), _evaluating(network):
        batch = torch.tensor(padded_ZYX, device=device)[None, None].float().div_(255).sub_(mean).div_(std)
        logits = network(batch)
        found = tuple(getattr(logits, "shape", ()))
        if len(found) != 5 or (found[0], *found[2:]) != (1, *padded_ZYX.shape):
            raise BadInput(
                f"{type(network).__name__}: returned {found or type(logits).__name__} for images "
                f"{tuple(batch.shape)}: a network must return logits (batch, classes, Z, Y, X) of the size of its input"
            )
        depth, height, width = image_ZYX.shape
        return _scores(logits[0, :, :depth, :height, :width].float())


def block_predictor(
    network: nn.Module,
    recipe: Recipe,
    norms: tuple[float, float],
    device: torch.device,
    *,
    block: tuple[int, int, int],
    halo: tuple[int, int, int],
    multiple: Sequence[int],
) -> BlockPredict:
    """Return what predicts a volume in blocks under a recipe, with the network's weights at that time."""
    fixed = deployed(network)
    least = [side + 2 * margin for side, margin in zip(block, halo, strict=True)]

    def predict(image_ZYX: NDArray[np.uint8]) -> Scores:
        with autocast(recipe.precision, device):
            return predict_block(fixed, image_ZYX, least=least, multiple=multiple, norms=norms, device=device)

    return BlockPredict(predict, block, halo)


def labels_2d(scores_CYX: Scores) -> NDArray[np.uint8]:
    """Return the label image of a 2D section: score > 0.5 of one channel, arg-max of several (protocol 5)."""
    if len(scores_CYX) == 1:
        return (scores_CYX[0] > 0.5).astype(np.uint8)
    return scores_CYX.argmax(0).astype(np.uint8)


class PlaneSum:
    """The scores of a volume, summed over the planes that it was cut into (protocol 5).

    Each section's scores are scaled by 255 / number of axes, truncated to uint8 and added: one byte per voxel
    and channel, whatever the number of planes. Every section of every axis must be added once.

    Parameters
    ----------
    shape : tuple of int
        (Z, Y, X).
    channels : int
        1 for a binary task, the number of classes otherwise.
    axes : sequence of int
        (0,) for ``stack``, (0, 1, 2) for ``orthoplane``.
    """

    def __init__(self, shape: tuple[int, ...], channels: int, axes: Sequence[int]) -> None:
        if len(shape) != 3 or channels < 1 or tuple(axes) not in ((0,), (0, 1, 2)):
            raise ValueError(f"expected (Z, Y, X), channels and axes: {shape}, {channels}, {axes}")
        self.axes = tuple(axes)
        self._sum_CZYX = np.zeros((channels, *shape), np.uint8)
        # Sections of axis 2 are single bytes in memory, a row apart: they wait here until two cache lines' worth of
        # neighbours can be written at once.
        depth, height, width = shape
        columns = min(_COLUMNS, width) if 2 in self.axes else 0
        self._waiting_NCZY = np.empty((columns, channels, depth, height), np.uint8)
        self._first, self._waiting = 0, 0

    def add(self, axis: int, index: int, scores: Scores) -> None:
        """Add a section's scores, 0..1: (C, Y, X), (C, Z, X) or (C, Z, Y) for axis 0, 1 or 2."""
        if axis not in self.axes or not 0 <= index < self._sum_CZYX.shape[axis + 1]:
            raise ValueError(f"no section {index} of axis {axis} in {self._sum_CZYX.shape[1:]} along {self.axes}")
        section = self._sum_CZYX[(slice(None),) * (axis + 1) + (index,)]
        if section.shape != scores.shape:
            raise ValueError(f"expected scores {section.shape} at axis {axis}: found {scores.shape}")
        if axis < 2:
            section += self._scaled(scores, np.empty(scores.shape, np.uint8))
            return
        if self._waiting == len(self._waiting_NCZY) or index != self._first + self._waiting:
            self._write_columns()
        if not self._waiting:
            self._first = index
        self._scaled(scores, self._waiting_NCZY[self._waiting])
        self._waiting += 1

    def put(self, block: Block, scores_CZYX: Scores) -> None:
        """Set the scores of a block; every block once, of a volume predicted along one axis alone."""
        if len(self.axes) != 1:
            raise ValueError(f"blocks of a volume that is predicted along axes {self.axes}")
        region = self._sum_CZYX[(slice(None), *block.write)]
        if region.shape != scores_CZYX.shape:
            raise ValueError(f"expected scores {region.shape} of a block: found {scores_CZYX.shape}")
        self._scaled(scores_CZYX, region)

    def _scaled(self, scores: Scores, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Scale and truncate into ``out``: NumPy then converts piece by piece, within the processor's cache."""
        return np.multiply(scores, 255 / len(self.axes), out=out, casting="unsafe")

    def _write_columns(self) -> None:
        import cv2

        if self._waiting:
            columns = slice(self._first, self._first + self._waiting)
            for channel, sum_ZYX in enumerate(self._sum_CZYX):
                for z, sum_YX in enumerate(sum_ZYX):
                    sum_YX[:, columns] += cv2.transpose(self._waiting_NCZY[: self._waiting, channel, z])
            self._waiting = 0

    def labels(self) -> NDArray[np.uint8]:
        """Return the label volume (Z, Y, X): sum > 127 of one channel, arg-max of several."""
        self._write_columns()
        first, *others = self._sum_CZYX
        if not others:
            return (first > 127).view(np.uint8)
        labels_ZYX = np.zeros(first.shape, np.uint8)
        for z, labels_YX in enumerate(labels_ZYX):
            best_YX = first[z].copy()
            for channel, sum_ZYX in enumerate(others, 1):
                # strictly greater: of equal channels the first wins, as in arg-max
                np.copyto(labels_YX, np.uint8(channel), where=sum_ZYX[z] > best_YX)
                np.maximum(best_YX, sum_ZYX[z], out=best_YX)
        return labels_ZYX

    def scores(self, z: int | slice = slice(None)) -> Scores:
        """Return the summed scores of one section (C, Y, X) or of several (C, Z, Y, X) as fractions.

        A voxel of a binary volume is foreground exactly where its score is above 0.5.
        """
        self._write_columns()
        return np.divide(self._sum_CZYX[:, z], np.float32(255), dtype=np.float32)


def predict_planes(
    predict: Predict | BlockPredict,
    volume_ZYX: Volume,
    axes: Sequence[int],
    channels: int,
    progress: Progress | None = None,
) -> PlaneSum:
    """Predict every section along every axis, and add up the scores.

    Parameters
    ----------
    predict : callable
        From a section uint8 to its scores, float32 (C, ...) within 0..1; see :func:`predict_section`. Or what predicts
        blocks: the axes then do not count.
    volume_ZYX : ndarray or HDF5 dataset
        uint8; read in slabs of at most 64 MiB (or one section) along the axis at hand, never whole.
    axes : sequence of int
        ``Scoring.axes``: (0,) for ``stack``, (0, 1, 2) for ``orthoplane``.
    channels : int
        ``Task.outputs``.
    progress : callable, optional
        Called with the sections done and the sections to do.
    """
    if isinstance(predict, BlockPredict):
        return _predict_blocks(predict, volume_ZYX, channels, progress)
    planes = PlaneSum(volume_ZYX.shape, channels, axes)
    total = sum(volume_ZYX.shape[axis] for axis in axes)
    done = 0
    for axis in axes:
        sections = (section for _, section in _sections(volume_ZYX, axis))
        for index, scores_CYX in enumerate(each(predict, sections)):
            planes.add(axis, index, scores_CYX)
            done += 1
            if progress:
                progress(done, total)
    return planes


def _predict_blocks(predict: BlockPredict, volume_ZYX: Volume, channels: int, progress: Progress | None) -> PlaneSum:
    joined = PlaneSum(volume_ZYX.shape, channels, (0,))
    total = sum(1 for _ in blocks(volume_ZYX.shape, predict.block, predict.halo))
    parts = predict_blocks(predict.predict, volume_ZYX, predict.block, predict.halo)
    for done, (block, scores_CZYX) in enumerate(parts, 1):
        joined.put(block, scores_CZYX)
        if progress:
            progress(done, total)
    return joined


def predict_volume(
    predict: Callable[[NDArray[np.uint8]], Scores],
    volume_ZYX: Volume,
    axes: Sequence[int],
    channels: int,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """Return the label volume (Z, Y, X) of :func:`predict_planes`."""
    return predict_planes(predict, volume_ZYX, axes, channels, progress).labels()


def _sections(volume_ZYX: Volume, axis: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Read along ``axis`` in slabs: a chunked file is decompressed once, not once per section."""
    length = volume_ZYX.shape[axis]
    section_bytes = int(np.prod(volume_ZYX.shape)) // max(length, 1)
    thickness = max(1, _SLAB_BYTES // max(section_bytes, 1))
    for start in range(0, length, thickness):
        slab = volume_ZYX[(slice(None),) * axis + (slice(start, start + thickness),)]
        for offset, section in enumerate(np.moveaxis(slab, axis, 0)):
            yield start + offset, np.ascontiguousarray(section)


def checked_logits(network: torch.nn.Module, image_BCYX: torch.Tensor) -> torch.Tensor:
    logits_BCYX = network(image_BCYX)
    size, found = image_BCYX.shape, tuple(getattr(logits_BCYX, "shape", ()))
    if len(found) != 4 or (found[0], *found[2:]) != (size[0], *size[2:]):
        raise BadInput(
            f"{type(network).__name__}: returned {found or type(logits_BCYX).__name__} for images {tuple(size)}: "
            "a network must return logits (batch, classes, Y, X) of the size of its input"
        )
    return logits_BCYX.float()


def _scores(logits_CYX: torch.Tensor) -> Scores:
    scores_CYX = logits_CYX.sigmoid() if len(logits_CYX) == 1 else logits_CYX.softmax(0)
    return scores_CYX.cpu().numpy()


def _slide(
    network: torch.nn.Module,
    image_YX: NDArray[np.uint8],
    to_network: Callable[[NDArray[np.uint8]], torch.Tensor],
    way: SlidingWindow,
    volume: bool,
) -> Scores:
    """Average the logits of windows, one row of windows after the other.

    Beside the scores only a strip as high as a window is held, so memory does not grow with a section's height.
    """
    from torch.nn.functional import pad

    window, shape = way.window, image_YX.shape
    lacking = [max(window - side, 0) for side in shape]
    top, left = (side // 2 for side in lacking)
    rows, columns = (way.starts(side, volume) for side in shape)
    scores_CYX = np.empty(0, np.float32)
    carried: torch.Tensor | None = None
    for y, following in zip(rows, [*rows[1:], rows[-1] + window], strict=True):
        strip = pad(to_network(image_YX[y : y + window]), (left, lacking[1] - left, top, lacking[0] - top))
        total = _sum_of_windows(network, strip, columns, way)
        if carried is not None:
            total[:, : carried.shape[1]] += carried
        # no further window covers the rows above the following ones
        done, carried = total.split((following - y, window - (following - y)), dim=1)
        part = _scores(done[:-1] / done[-1])
        if y == 0:
            scores_CYX = np.empty((len(part), rows[-1] + window, part.shape[2]), np.float32)
        scores_CYX[:, y:following] = part
    return scores_CYX[:, top : top + shape[0], left : left + shape[1]]


def _sum_of_windows(
    network: torch.nn.Module, strip_BCYX: torch.Tensor, columns: Sequence[int], way: SlidingWindow
) -> torch.Tensor:
    """Return the summed logits (C + 1, Y, X) of a row of windows; the last channel counts the windows."""
    import torch

    windows = [strip_BCYX[..., x : x + way.window] for x in columns]
    # as many as the recipe allows, but none much smaller than the others: a batch costs something besides its windows
    batches = torch.cat(windows).tensor_split(-(-len(windows) // way.batch))
    logits_BCYX = torch.cat([checked_logits(network, batch) for batch in batches])
    total = logits_BCYX.new_zeros(logits_BCYX.shape[1] + 1, *strip_BCYX.shape[2:])
    for x, logits_CYX in zip(columns, logits_BCYX, strict=True):
        total[:-1, :, x : x + way.window] += logits_CYX
        total[-1, :, x : x + way.window] += 1
    return total


def _resize_down(image_YX: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    import cv2

    height, width = (max(side // multiple, 1) * multiple for side in image_YX.shape)
    return np.asarray(cv2.resize(image_YX, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _resize_nearest(scores_CYX: Scores, shape: tuple[int, int]) -> Scores:
    """Take the source pixel under the centre of each target pixel (scikit-image's order 0, as published)."""
    if scores_CYX.shape[1:] == shape:
        return scores_CYX
    # in floating point, as there: where a centre falls between two pixels its rounding decides
    rows, columns = (
        ((np.arange(target) + 0.5) * (source / target)).astype(int)
        for source, target in zip(scores_CYX.shape[1:], shape, strict=True)
    )
    return scores_CYX[:, rows[:, None], columns]


@contextmanager
def _evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, then every module's own mode again: parts may have been frozen in evaluation mode."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class Predictor:
    """Predicts sections one by one, or several together where that is faster.

    Parameters
    ----------
    one : callable
        From a section uint8 (Y, X) to scores float32 (C, Y, X).
    many : callable, optional
        From sections to their scores, in order.
    """

    def __init__(
        self, one: Predict, many: Callable[[Iterable[NDArray[np.uint8]]], Iterator[Scores]] | None = None
    ) -> None:
        self._one, self._many = one, many

    def __call__(self, image_YX: NDArray[np.uint8]) -> Scores:
        return self._one(image_YX)

    def each(self, images: Iterable[NDArray[np.uint8]]) -> Iterator[Scores]:
        """Yield the scores of sections, in order."""
        return self._many(images) if self._many else map(self._one, images)

    def then(self, check: Callable[[Scores], Scores]) -> Predictor:
        """Return a predictor whose scores go through ``check``."""
        one, many = self._one, self._many
        return Predictor(lambda image: check(one(image)), many and (lambda images: map(check, many(images))))


def each(predict: Predict, images: Iterable[NDArray[np.uint8]]) -> Iterator[Scores]:
    """Yield the scores of sections, in order; several together where ``predict`` is a :class:`Predictor` that can."""
    return predict.each(images) if isinstance(predict, Predictor) else map(predict, images)


def predictor(
    network: nn.Module, task: Task, recipe: Recipe, norms: tuple[float, float], device: torch.device
) -> Predictor:
    """Return what predicts sections under a recipe, with the network's weights at that time.

    On a GPU windows of several sections share a batch (:mod:`embench.training.sliding`).
    """
    fixed = deployed(network)
    inference, volume = recipe.inference, task.scoring.is_volume

    def predict(image_YX: NDArray[np.uint8]) -> Scores:
        with autocast(recipe.precision, device):
            return predict_section(fixed, image_YX, inference=inference, norms=norms, device=device, volume=volume)

    if device.type != "cuda" or not isinstance(inference, SlidingWindow):
        return Predictor(predict)

    def many(images: Iterable[NDArray[np.uint8]]) -> Iterator[Scores]:
        from embench.training.sliding import slide

        found = slide(fixed.eval(), images, inference, norms=norms, device=device, volume=volume)
        while True:
            with autocast(recipe.precision, device):  # not while whoever asks does something else
                scores_CYX = next(found, None)
            if scores_CYX is None:
                return
            yield scores_CYX

    return Predictor(predict, many)

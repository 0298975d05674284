"""Sliding windows of several sections in one batch, for a GPU: a section alone has too few to keep it busy.

Windows of the next section follow those of the one before in the same batch. Logits are added up on the device, and the
scores of a finished section are copied to the host while the next ones are computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from embench.training.recipe import SlidingWindow

if TYPE_CHECKING:
    from embench.training.inference import Scores

BATCH_PIXELS = 64 * 224 * 224
"""Of the windows in a batch on a GPU: 64 of the published size."""


@dataclass
class _Section:
    """A section under way: padded and normalised, the sum of its logits so far, how many windows are still to come."""

    image_CYX: Tensor
    left: int
    top: int
    before: int
    shape: tuple[int, ...]
    sum_CYX: Tensor | None = None
    count_YX: Tensor | None = None

    def add(self, logits_CYX: Tensor, y: int, x: int) -> None:
        height, width = self.image_CYX.shape[1:]
        if self.sum_CYX is None or self.count_YX is None:
            self.sum_CYX = logits_CYX.new_zeros(len(logits_CYX), height, width)
            self.count_YX = logits_CYX.new_zeros(height, width)
        side = logits_CYX.shape[1]
        self.sum_CYX[:, y : y + side, x : x + side] += logits_CYX
        self.count_YX[y : y + side, x : x + side] += 1
        self.left -= 1

    def scores(self) -> Tensor:
        assert self.sum_CYX is not None
        assert self.count_YX is not None
        logits_CYX = self.sum_CYX.div_(self.count_YX)
        scores_CYX = logits_CYX.sigmoid() if len(logits_CYX) == 1 else logits_CYX.softmax(0)
        height, width = self.shape
        return scores_CYX[:, self.top : self.top + height, self.before : self.before + width]


def slide(
    network: nn.Module,
    images: Iterable[NDArray[np.uint8]],
    window: SlidingWindow,
    *,
    norms: tuple[float, float],
    device: torch.device,
    volume: bool,
    batch: int | None = None,
) -> Iterator[Scores]:
    """Yield the scores of sections, as :func:`embench.training.inference.predict_section` gives them one by one.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on ``device``.
    images : iterable of ndarray of uint8
        Sections (Y, X) of any sizes, each asked for when its windows are wanted.
    window : SlidingWindow
    norms : (float, float)
        Mean and standard deviation of grey values as fractions.
    device : torch.device
    volume : bool
        Whether the sections belong to a volume that is scored as one.
    batch : int, optional
        Windows in a batch; by default as many as fill a GPU.

    Yields
    ------
    ndarray of float32, (C, Y, X)
        Within 0..1, in the order of the images.
    """
    size = batch or max(window.batch, BATCH_PIXELS // window.window**2)
    under_way: deque[_Section] = deque()
    queue: deque[tuple[_Section, int, int]] = deque()
    leaving: deque[_Leaving] = deque()

    @torch.inference_mode()  # not around the whole, which would last while whoever asks does something else
    def take(count: int) -> None:
        taken = [queue.popleft() for _ in range(count)]
        side = window.window
        logits = _logits_of(network, torch.stack([s.image_CYX[:, y : y + side, x : x + side] for s, y, x in taken]))
        for (section, y, x), logits_CYX in zip(taken, logits, strict=True):
            section.add(logits_CYX, y, x)
        while under_way and not under_way[0].left:
            leaving.append(_Leaving(under_way.popleft().scores()))

    for image in images:
        section, places = _opened(image, window, norms, device, volume)
        under_way.append(section)
        queue.extend((section, y, x) for y, x in places)
        while len(queue) >= size:
            take(size)
        while len(leaving) > 1:
            yield leaving.popleft().arrived()
    while queue:
        take(min(size, len(queue)))
    while leaving:
        yield leaving.popleft().arrived()


def _opened(
    image_YX: NDArray[np.uint8], window: SlidingWindow, norms: tuple[float, float], device: torch.device, volume: bool
) -> tuple[_Section, list[tuple[int, int]]]:
    from embench.training.trainer import normalised, on_host

    lacking = [max(window.window - side, 0) for side in image_YX.shape]
    top, before = (side // 2 for side in lacking)
    image = normalised(on_host(image_YX[None], device), norms, device)[0]
    padded = pad(image, (before, lacking[1] - before, top, lacking[0] - top))
    rows, columns = (window.starts(side, volume) for side in image_YX.shape)
    places = [(y, x) for y in rows for x in columns]
    return _Section(padded, len(places), top, before, image_YX.shape), places


def _logits_of(network: nn.Module, windows_BCYX: Tensor) -> Tensor:
    from embench.training.inference import checked_logits

    return checked_logits(network, windows_BCYX)


class _Leaving:
    """Scores on their way to the host."""

    def __init__(self, scores_CYX: Tensor) -> None:
        self._event = None
        if scores_CYX.is_cuda:
            host = torch.empty(scores_CYX.shape, dtype=scores_CYX.dtype).pin_memory()
            self._scores = host.copy_(scores_CYX, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._scores = scores_CYX

    def arrived(self) -> Scores:
        """Return them, when they are there."""
        if self._event is not None:
            self._event.synchronize()
        return self._scores.numpy()

"""Scores of a section from one trained network or several, whole or in bands of rows, equal to those of the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from embench.training.recipe import Inference, SlidingWindow

if TYPE_CHECKING:
    import torch

Section = NDArray[np.uint8]
Scores = NDArray[np.float32]
Predict = Callable[[Section], Scores]
Doubt = Literal["entropy", "spread"]


class Network:
    """What predicts sections: one trained network and the way in which it is applied.

    Parameters
    ----------
    predict : callable
        From a section uint8 (Y, X) to its scores float32 (C, Y, X).
    inference : Inference
        Whether it looks through windows.
    volume : bool
        Whether sections belong to volumes scored as one.
    """

    def __init__(self, predict: Predict, inference: Inference, volume: bool) -> None:
        self.predict, self.inference, self.volume = predict, inference, volume

    @property
    def is_windowed(self) -> bool:
        """Whether bands of a section can be predicted one by one."""
        return isinstance(self.inference, SlidingWindow)

    def rows(self, section: Section, start: int, stop: int) -> Scores:
        """Return the scores (C, Y, X) of rows ``start..stop``, equal to those of the whole section.

        Only the rows under the windows that touch them are looked at, in the order of the whole.
        """
        height = len(section)
        if (start, stop) == (0, height) or not isinstance(self.inference, SlidingWindow):
            return self.predict(section)[:, start:stop]
        window = self.inference.window
        starts = self.inference.starts(height, self.volume)
        first = next(y for y in starts if y + window > start)
        last = max(y for y in starts if y < stop)
        scores_CYX = self.predict(np.ascontiguousarray(section[first : last + window]))
        return scores_CYX[:, start - first : stop - first]


@dataclass(frozen=True)
class VolumeNetwork:
    """What predicts blocks of a volume with what is around them.

    Parameters
    ----------
    predict : callable
        From an image (Z, Y, X) uint8 to its scores (C, Z, Y, X) float32 within 0..1.
    block, halo : (int, int, int)
        Voxels (ZYX); see :func:`embench.data.blocks.blocks`.
    """

    predict: Callable[[NDArray[np.uint8]], Scores]
    block: tuple[int, int, int]
    halo: tuple[int, int, int]


def mean(networks: Sequence[Network], doubt: Doubt | None = None) -> Callable[[Section, int, int], Scores]:
    """Return what gives the mean of several networks' scores of a section's rows.

    With ``doubt="spread"`` a last channel holds their disagreement: twice the standard deviation between networks,
    averaged over the classes, in 0..1.
    """

    def rows(section: Section, start: int, stop: int) -> Scores:
        return joined([network.rows(section, start, stop) for network in networks], doubt)

    return rows


def joined(every: Sequence[Scores], doubt: Doubt | None = None) -> Scores:
    """Return the mean of several networks' scores (C, ...), with their disagreement behind it where asked for."""
    scores = every[0] if len(every) == 1 else np.asarray(np.mean(every, 0, dtype=np.float32))
    if doubt != "spread":
        return scores
    spread = (2 * np.std(every, 0, dtype=np.float32)).mean(0)
    return np.concatenate([scores, np.minimum(spread, 1)[None]])


def entropy(scores: Scores) -> Scores:
    """Return the entropy of class probabilities (C, ...) as a fraction of the largest possible, (...) float32."""
    parts = np.stack([scores[0], 1 - scores[0]]) if len(scores) == 1 else scores / np.maximum(scores.sum(0), 1e-12)
    return np.asarray(-(parts * np.log(np.maximum(parts, 1e-12))).sum(0) / np.log(len(parts)), np.float32)


def flipped(network: torch.nn.Module) -> torch.nn.Module:
    """Return a network whose logits are the mean over an image as it is, mirrored in Y, in X and in both."""
    from torch import nn

    class Flipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, image_BCYX: torch.Tensor) -> torch.Tensor:
            axes: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
            total = self.inner(image_BCYX).float()
            for each in axes[1:]:
                total = total + self.inner(image_BCYX.flip(each)).float().flip(each)
            return total / len(axes)

    return Flipped()

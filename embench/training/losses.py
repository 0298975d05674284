"""The segmentation losses of the published recipes (protocol 4.1, 4.2), and others that a recipe can name.

Logits are (B, 1, Y, X) for a binary task and (B, classes, Y, X) otherwise, or the same with Z; targets hold label
values (B, Y, X), int64. A loss with a parameter ``class_weights`` is given those of the task.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from embench.core.errors import BadInput
from embench.training.registries import LOSSES, name_of

Loss = Callable[[Tensor, Tensor], Tensor]


def loss_of(value: Any, class_weights: Sequence[float] | None = None) -> Loss:
    """Return the loss that a recipe names or holds, as a function of logits and target alone.

    Parameters
    ----------
    value : str or callable
    class_weights : sequence of float, optional
        The task's weight per class in cross-entropy; for losses that take it.
    """
    function = LOSSES.find(value) if isinstance(value, str) else value
    name = name_of(value)
    weighted = "class_weights" in _parameters(function)

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        found = function(logits, target, class_weights=class_weights) if weighted else function(logits, target)
        if not isinstance(found, Tensor) or found.ndim:
            what = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise BadInput(f"loss: {name} returns {what}; it must return a tensor of one number")
        return found

    return loss


def _parameters(function: Any) -> Sequence[str]:
    try:
        call = function.forward if isinstance(function, torch.nn.Module) else function
        return list(inspect.signature(call).parameters)
    except (TypeError, ValueError):  # one that is written in C
        return []


def cross_entropy(logits: Tensor, target: Tensor, class_weights: Sequence[float] | None = None) -> Tensor:
    """Return the mean cross-entropy of all pixels."""
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], target.to(logits.dtype))
    weights = None if class_weights is None else logits.new_tensor(class_weights)
    if logits.is_cuda and torch.are_deterministic_algorithms_enabled():
        # the same mean over a plain list of pixels: CUDA has no deterministic one over images
        logits, target = logits.movedim(1, -1).flatten(0, -2), target.flatten()
    return functional.cross_entropy(logits, target, weight=weights)


def cross_entropy_and_dice(logits: Tensor, target: Tensor, class_weights: Sequence[float] | None = None) -> Tensor:
    """Return half of each."""
    return 0.5 * cross_entropy(logits, target, class_weights) + 0.5 * dice(logits, target)


def dice(logits: Tensor, target: Tensor, smooth: float = 1e-5) -> Tensor:
    """Return one minus the soft Dice over the whole batch.

    Several classes: the mean over all of them, with squared sums in the denominator. Binary: plain sums.
    """
    if logits.shape[1] == 1:
        scores, truth = logits.sigmoid()[:, 0], target.to(logits.dtype)
        return 1 - (2 * (scores * truth).sum() + smooth) / (scores.sum() + truth.sum() + smooth)
    scores = logits.softmax(1)
    truth = functional.one_hot(target, scores.shape[1]).movedim(-1, 1).to(scores.dtype)
    every = (0, *range(2, scores.ndim))
    overlap, squares = (scores * truth).sum(every), (scores**2).sum(every) + (truth**2).sum(every)
    return (1 - (2 * overlap + smooth) / (squares + smooth)).mean()


def focal(logits: Tensor, target: Tensor, class_weights: Sequence[float] | None = None, gamma: float = 2.0) -> Tensor:
    """Return the focal loss (Lin et al. 2017): cross-entropy times (1 - p)^gamma, p the probability of the truth."""
    if logits.shape[1] == 1:
        truth = target.to(logits.dtype)
        entropy = functional.binary_cross_entropy_with_logits(logits[:, 0], truth, reduction="none")
        return ((1 - torch.exp(-entropy)) ** gamma * entropy).mean()
    found = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    weights = 1.0 if class_weights is None else logits.new_tensor(class_weights)[target]
    return (-weights * (1 - found.exp()) ** gamma * found).mean()

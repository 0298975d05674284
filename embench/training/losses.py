"""The segmentation losses of the published recipes (protocol 4.1, 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def segmentation_loss(
    kind: str, logits_BCYX: Tensor, target_BYX: Tensor, class_weights: Sequence[float] | None = None
) -> Tensor:
    """Return the loss of a batch.

    Parameters
    ----------
    kind : {"cross-entropy", "cross-entropy+dice"}
    logits_BCYX : Tensor
        (B, 1, Y, X) for a binary task, (B, classes, Y, X) otherwise; float.
    target_BYX : Tensor
        Label values, int64.
    class_weights : sequence of float, optional
        Cross-entropy weight per class.
    """
    cross_entropy = _cross_entropy(logits_BCYX, target_BYX, class_weights)
    if kind == "cross-entropy":
        return cross_entropy
    if kind == "cross-entropy+dice":
        return 0.5 * cross_entropy + 0.5 * dice_loss(logits_BCYX, target_BYX)
    raise ValueError(f"unknown loss {kind!r}")


def dice_loss(logits_BCYX: Tensor, target_BYX: Tensor, smooth: float = 1e-5) -> Tensor:
    """Return one minus the soft Dice over the whole batch.

    Several classes: the mean over all of them, with squared sums in the denominator. Binary: plain sums.
    """
    if logits_BCYX.shape[1] == 1:
        scores, truth = logits_BCYX.sigmoid()[:, 0], target_BYX.to(logits_BCYX.dtype)
        return 1 - (2 * (scores * truth).sum() + smooth) / (scores.sum() + truth.sum() + smooth)
    scores = logits_BCYX.softmax(1)
    truth = functional.one_hot(target_BYX, scores.shape[1]).movedim(-1, 1).to(scores.dtype)
    overlap, squares = (scores * truth).sum((0, 2, 3)), (scores**2).sum((0, 2, 3)) + (truth**2).sum((0, 2, 3))
    return (1 - (2 * overlap + smooth) / (squares + smooth)).mean()


def _cross_entropy(logits_BCYX: Tensor, target_BYX: Tensor, class_weights: Sequence[float] | None) -> Tensor:
    if logits_BCYX.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits_BCYX[:, 0], target_BYX.to(logits_BCYX.dtype))
    weights = None if class_weights is None else logits_BCYX.new_tensor(class_weights)
    if logits_BCYX.is_cuda and torch.are_deterministic_algorithms_enabled():
        # the same mean over a plain list of pixels: CUDA has no deterministic one over images
        logits_BCYX, target_BYX = logits_BCYX.movedim(1, -1).flatten(0, -2), target_BYX.flatten()
    return functional.cross_entropy(logits_BCYX, target_BYX, weight=weights)

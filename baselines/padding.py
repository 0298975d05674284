"""Images of any size for networks that halve theirs several times."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def padded(image: Tensor, multiple: int) -> Tensor:
    """Return the image with sides that ``multiple`` divides, each at least twice as long as that.

    Parameters
    ----------
    image : Tensor
        (B, C, Y, X).
    multiple : int
        Pixels. Twice, because instance norm cannot do with a coarsest map of a single pixel.

    Returns
    -------
    Tensor
        The border is repeated at the bottom and the right; cut the network's output back to the image's size.
    """
    height, width = image.shape[2:]
    bottom, right = (max(-side % multiple, 2 * multiple - side) for side in (height, width))
    return F.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image

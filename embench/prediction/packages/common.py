"""What every package holds: an example, a picture of it, words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.core.paths import prepared_path
from embench.data.store import Prepared
from embench.data.writers.base import colour
from embench.models.trained import Trained, TrainedCard
from embench.prediction.packages import About
from embench.training.recipe import SlidingWindow

_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


def licence_of(network: Trained, about: About) -> str | None:
    """Return the SPDX name of a licence, or ``None`` where none is known; refuse what cannot be one."""
    if about.licence is not None and not _SPDX.fullmatch(about.licence):
        raise BadInput(f"--licence {about.licence}: not an SPDX name; use one as MIT, Apache-2.0, CC-BY-4.0")
    return about.licence or (network.card.licence if _SPDX.fullmatch(network.card.licence) else None)


def side_of(card: TrainedCard) -> int:
    """Return the side of an example: the window's, or a whole image's small part."""
    inference = card.the_inference
    return inference.window if isinstance(inference, SlidingWindow) else 256


def example(network: Trained, data: Path | None) -> NDArray[np.uint8]:
    """Return a square image: of the task's test images where it is prepared here, of noise elsewhere."""
    card = network.card
    side = side_of(card)
    path = prepared_path(card.the_task.name, data)
    if path.exists():
        with Prepared(path) as prepared:
            volume = prepared.volumes("test")[0]
            image_YX = np.asarray(volume.image[volume.image.shape[0] // 2])
        top, left = (max(0, length - side) // 2 for length in image_YX.shape)
        crop = image_YX[top : top + side, left : left + side]
        return np.pad(crop, [(0, side - length) for length in crop.shape], "reflect")
    noise = np.random.default_rng(0).normal(card.norms[0], card.norms[1], (side, side))
    return np.asarray((noise * 255).clip(0, 255), np.uint8)


def cover(image_YX: NDArray[np.uint8], labels_YX: NDArray[np.uint8], path: Path) -> None:
    """Write a picture: the image, and beside it the image under its labels' colours."""
    from PIL import Image

    grey = np.repeat(image_YX[..., None], 3, 2)
    colours = np.array([colour(value) for value in range(int(labels_YX.max()) + 1)], np.float32)
    painted = np.where(labels_YX[..., None] > 0, 0.5 * grey + 0.5 * colours[labels_YX], grey).astype(np.uint8)
    both = Image.fromarray(np.concatenate([grey, painted], 1))
    both.resize((512, 256), Image.Resampling.BILINEAR).save(path, format="PNG")


def words(network: Trained, licence: str | None) -> str:
    """Return what the network is, for whom, and how well it does, as Markdown."""
    card, task = network.card, network.card.the_task
    size = " x ".join(f"{length:g}" for length in task.voxel_size) + " nm (ZYX)" if task.voxel_size else "not known"
    scored = "\n".join(f"- IoU of {task.classes[value]}: {iou:.4f}" for value, iou in card.class_iou.items())
    return f"""# {card.title or card.model}: {task.title}

Segments {", ".join(task.classes[1:])} in electron-microscopy images. Trained and scored with embench
(model `{card.row}`, task `{task.name}`, seed {card.seed}, {card.iterations} iterations).

## Use

- Input: 8-bit grey sections; mean {card.norms[0]:.6g} and standard deviation {card.norms[1]:.6g} of grey / 255.
- Voxel size of the training images: {size}; images of another size need to be resampled.
- Output: {"the probability of " + task.classes[1] if task.outputs == 1 else "a probability per class"}.
- With embench, for volumes of any size: `embench predict WEIGHTS IMAGE --out OUT`.

## Scores

On the test images of `{task.name}`, never seen in training; one seed, so no claim about other models.

- score: {"unknown" if card.score is None else f"{card.score:.4f}"}
{scored}

## Data and licences

- Training images: {task.title}, {task.licence}. {task.citation}
- Pre-training: {card.pretraining}.
- Licence of the weights: {licence or "not stated by those who made them"}.
- Weights: {card.parameters} parameters, SHA-256 `{card.hash}`.

## Cite

{card.citation or "The makers of the model, and the training images above."}
"""


def scores_of(module: Any, image_YX: NDArray[np.uint8], card: TrainedCard) -> NDArray[np.float32]:
    """Return the scores (1, C, Y, X) that a network gives for an image, in fp32."""
    import torch

    mean, std = card.norms
    with torch.inference_mode():
        logits = module(torch.tensor(image_YX)[None, None].float().div(255).sub(mean).div(std)).float()
        return np.asarray(logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1))

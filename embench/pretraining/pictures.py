"""Example pictures and the loss curve of a pre-training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embench.core.files import replacing, write_atomic
from embench.models.checkpoints import PretrainingCard
from embench.pretraining.method import Pretraining
from embench.pretraining.samples import EXAMPLES, Samples, rng
from embench.training.trainer import normalised

if TYPE_CHECKING:
    from matplotlib.figure import Figure


TITLE = 14
"""Height of the titles above the example pictures, pixels."""


# What is to be seen of it


def save_examples(
    folder: Path,
    method: Pretraining,
    module: nn.Module,
    samples: Samples,
    card: PretrainingCard,
    device: torch.device,
) -> None:
    """Write the example grid of this epoch and the loss curve so far."""
    from PIL import Image

    chosen = rng(samples.stream, EXAMPLES).permutation(len(samples.tiles))[:8]
    generators = [rng(samples.stream, EXAMPLES, n) for n in range(1, len(chosen) + 1)]
    views = samples.views(samples.tiles.read(chosen.tolist()), generators)
    batch = tuple(normalised(view, card.norms, device) for view in views)
    training = module.training
    module.eval()
    with torch.no_grad():
        columns = method.pictures(module, batch)
    module.train(training)
    with replacing(folder / f"epoch-{card.epochs:04d}.png", below=folder.parent) as temporary:
        Image.fromarray(_grid(columns, card.norms)).save(temporary, format="png")
    write_atomic(folder / "loss.json", json.dumps(card.loss_curve) + "\n", below=folder.parent)
    with replacing(folder / "loss.png", below=folder.parent) as temporary:
        _curve(card).savefig(temporary, format="png", dpi=120)


def _grid(columns: dict[str, Tensor], norms: tuple[float, float]) -> NDArray[np.uint8]:
    """Return one picture (Y, X): a row per sample, a column per kind under its title, white gaps of 2 pixels."""
    from PIL import Image, ImageDraw, ImageFont

    mean, deviation = norms
    images = torch.stack([column[:, 0].float().cpu() for column in columns.values()], dim=1) * deviation + mean
    levels = (images * 255).round().clamp(0, 255).byte().numpy()
    padded = np.pad(levels, ((0, 0), (0, 0), (0, 2), (0, 2)), constant_values=255)
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in padded], axis=0)[:-2, :-2]
    header = Image.new("L", (grid.shape[1], TITLE), 255)
    write, edge = ImageDraw.Draw(header), padded.shape[-1]
    for number, title in enumerate(columns):
        write.text((number * edge + 1, 0), title, 0, ImageFont.load_default(min(11, edge / 6)))
    return np.concatenate([np.asarray(header), grid], axis=0)


def _curve(card: PretrainingCard) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*card.loss_curve, strict=True))
    axes.set(xlabel="epoch", ylabel="mean loss", title=f"{card.method} on {card.data}")
    return figure

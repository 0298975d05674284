"""Weights, images and targets of the golden figures, drawn by formula (tests/data/golden holds the answers)."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "files" / "golden"
CLASS_WEIGHTS = (0.1, 0.1, 1.0, 1.0, 0.1, 3.0, 3.0)
"""Class weights of the seven-class training step."""


def expected() -> dict:
    """Parameter counts, losses and gradient norms, by network."""
    return json.loads((GOLDEN / "expected.json").read_text())


def outputs(network: str) -> tuple[np.ndarray, np.ndarray]:
    """Answers of `network`: output[:, :, ::4, ::4] and tokens[:, ::7, ::8], float32."""
    with np.load(GOLDEN / "outputs.npz", allow_pickle=False) as archive:
        return archive[f"{network}.output"], archive[f"{network}.tokens"]


def shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published state dict of `network`."""
    listed = json.loads((GOLDEN / f"{network}.state_dict.json").read_text())
    return {name: tuple(shape) for name, shape in listed.items()}


def parameter(name: str, shape: tuple[int, ...], salt: int = 0) -> Tensor:
    """Entry of a state dict; a function of its name, shape and salt alone."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    random = np.random.RandomState((zlib.crc32(name.encode()) + salt) % 2**32)
    values = random.standard_normal(math.prod(shape)).reshape(shape)
    if name.endswith("running_var"):
        values = 1 + 0.25 * np.abs(values)
    elif name.endswith("running_mean"):
        values = 0.05 * values
    elif name.endswith((".bias", "position_embeddings")):
        values = 0.02 * values
    elif len(shape) == 1:
        values = 1 + 0.1 * values
    else:
        values = values * math.sqrt(2 / math.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def state(network: str, salt: int = 0) -> dict[str, Tensor]:
    """Whole state dict of `network`."""
    return {name: parameter(name, shape, salt) for name, shape in shapes(network).items()}


def image(batch: int = 2, side: int = 224, salt: int = 0) -> Tensor:
    """Grey images (batch, 1, side, side), float32, standard normal."""
    values = np.random.RandomState(1000 + salt).standard_normal(batch * side * side)
    return torch.from_numpy(values.astype(np.float32).reshape(batch, 1, side, side))


def target(classes: int) -> Tensor:
    """Label maps (2, 224, 224), int64; 0 and 1 where there is one class."""
    return torch.from_numpy(np.random.RandomState(7).randint(0, max(2, classes), (2, 224, 224))).long()

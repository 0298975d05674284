"""RETINA's pre-training: a network learns to reconstruct clean images from corrupted ones (protocol 4.3)."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from baselines.transunet import TransUNetModel
from embench.models.base import TorchModel
from embench.models.checkpoints import Weights
from embench.pretraining.method import Augment, Pretraining, Settings
from retina.corruption import Corruption


class Reconstruction(Pretraining):
    """Mean squared error over the whole image; every parameter is trained, every parameter is written.

    Any model's network can be trained: see :meth:`embench.models.base.TorchModel.reconstruction`.

    Attributes
    ----------
    corruption : dict
        Which alterations of :class:`~retina.corruption.Corruption` are left out.
    """

    name = "retina"
    title = "Reconstruction of corrupted images"
    trains = TransUNetModel
    takes_any_model = True
    batch_size = 256
    learning_rate = 0.003
    corruption: ClassVar[dict[str, bool]] = {}

    def __init__(self, model: TorchModel | None = None, start: Weights | None = None) -> None:
        super().__init__(model, start)
        self.crop_multiple = self.model.multiple

    def augmentation(self, crop: int) -> Augment:
        return Corruption(crop, **self.corruption)

    def module(self, settings: Settings, images: int) -> nn.Module:
        network = self.model.at(settings.scale).reconstruction()
        if self.start:
            self.model.start(network, self.start)
        return network

    def loss(self, module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        corrupted, clean = batch
        return F.mse_loss(module(corrupted), clean)

    def pictures(self, module: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        corrupted, clean = batch
        return {"input": clean, "corrupted": corrupted, "reconstructed": module(corrupted)}


class WithoutBrightnessContrast(Reconstruction):
    """Ablation: brightness and contrast stay as they are."""

    name = "retina-no-brightness-contrast"
    title = "Reconstruction, no brightness and contrast"
    corruption: ClassVar[dict[str, bool]] = {"brightness_contrast": False}


class WithoutNoise(Reconstruction):
    """Ablation: no Gaussian noise."""

    name = "retina-no-noise"
    title = "Reconstruction, no noise"
    corruption: ClassVar[dict[str, bool]] = {"noise": False}


class WithoutBlur(Reconstruction):
    """Ablation: no Gaussian blur."""

    name = "retina-no-blur"
    title = "Reconstruction, no blur"
    corruption: ClassVar[dict[str, bool]] = {"blur": False}


class WithoutHoles(Reconstruction):
    """Ablation: no holes."""

    name = "retina-no-holes"
    title = "Reconstruction, no holes"
    corruption: ClassVar[dict[str, bool]] = {"dropout": False}

"""RETINA's pre-training: a TransUNet learns to reconstruct clean images from corrupted ones (protocol 4.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from baselines.transunet import size
from baselines.transunet_network import ReconstructionTransUNet
from embench.batched import Batched
from embench.pretraining import Augment, Pretraining, Settings
from retina.corruption import Corruption


class Reconstruction(Pretraining):
    """Mean squared error over the whole image; every parameter is trained, every parameter is written."""

    name = "retina"
    title = "Reconstruction of corrupted images"
    batch_size = 256
    learning_rate = 0.003
    crop_multiple = 16

    def augmentation(self, crop: int) -> Augment:
        return Corruption(crop)

    def batched(self, crop: int) -> Batched:
        return Corruption(crop).batched()

    def module(self, settings: Settings, images: int) -> nn.Module:
        return ReconstructionTransUNet(**size(settings.scale))

    def loss(self, module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        corrupted, clean = batch
        return F.mse_loss(module(corrupted), clean)

    def pictures(self, module: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        corrupted, clean = batch
        return {"input": clean, "corrupted": corrupted, "reconstructed": module(corrupted)}

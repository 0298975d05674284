"""nnU-Net's own trainer under a stated number of iterations and a seed; run in the tool's environment, not in ours."""

import os
import random

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

EPOCH = 50
"""Iterations between two looks at the learning rate: nnU-Net's epochs, a fifth of their published length."""


class nnUNetTrainerBudget(nnUNetTrainer):
    """Everything of nnU-Net but the length: EMBENCH_ITERATIONS steps in all, drawn by EMBENCH_SEED."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        iterations, seed = int(os.environ["EMBENCH_ITERATIONS"]), int(os.environ["EMBENCH_SEED"])
        self.num_iterations_per_epoch = min(EPOCH, iterations)
        self.num_epochs = max(1, round(iterations / self.num_iterations_per_epoch))
        self.num_val_iterations_per_epoch = 1
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 (what nnU-Net draws from)
        torch.manual_seed(seed)

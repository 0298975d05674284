"""Low-rank adaptation of attention: frozen projections, and beside each a small trained one (Hu et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from embench.core.errors import BadInput

RANK, ALPHA = 8, 16
"""Of the added matrices, and the numerator of their scale, ALPHA / RANK."""
PROJECTIONS = ("qkv", "q", "k", "v", "query", "key", "value", "q_proj", "k_proj", "v_proj")
"""Last part of the name of what is adapted: the projections from which attention follows."""


class LoRALinear(nn.Module):
    """A linear layer and a product of two thin matrices, the second of which starts at zero.

    Parameters
    ----------
    linear : nn.Linear
        Kept under its own names, and frozen.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        linear.requires_grad_(False)
        self.lora_down = nn.Parameter(linear.weight.new_empty(RANK, linear.in_features))
        self.lora_up = nn.Parameter(linear.weight.new_zeros(linear.out_features, RANK))
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        low = nn.functional.linear(nn.functional.linear(x, self.lora_down), self.lora_up)
        return nn.functional.linear(x, self.weight, self.bias) + ALPHA / RANK * low

    def folded(self) -> nn.Linear:
        """Return one linear layer with the same output up to rounding, for prediction."""
        outputs, inputs = self.weight.shape
        linear = nn.Linear(inputs, outputs, bias=self.bias is not None, device="meta")
        with torch.no_grad():
            linear.weight = nn.Parameter(self.weight + ALPHA / RANK * (self.lora_up @ self.lora_down))
        linear.bias = self.bias
        return linear


def add_lora(network: nn.Module, parts: Sequence[str]) -> int:
    """Adapt the attention of a part of ``network`` in place, and return how many layers were.

    Parameters
    ----------
    network : nn.Module
    parts : sequence of str
        Beginnings of the names of the modules that are adapted.

    Raises
    ------
    BadInput
        When that part has no attention made of linear layers.
    """
    found = [
        name
        for name, module in network.named_modules()
        if name.startswith(tuple(parts)) and name.rpartition(".")[2] in PROJECTIONS and type(module) is nn.Linear
    ]
    if not found:
        raise BadInput(
            f"--tune lora: {', '.join(parts)} of {type(network).__name__} has no linear layer of attention "
            f"({', '.join(PROJECTIONS)}); use --tune frozen or full"
        )
    for name in found:
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, LoRALinear(cast(nn.Linear, network.get_submodule(name))))
    return len(found)

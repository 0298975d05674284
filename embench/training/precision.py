"""The one place that chooses arithmetic and memory format, for a device and for what is done on it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Precision = Literal["fp32", "bf16"]

_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Of processors by the names of :func:`torch.cpu.get_capabilities`; without one of them bf16 is many times slower."""


def has_bf16(device: torch.device) -> bool:
    """Whether the device itself multiplies bf16 numbers; no where an older torch cannot tell it of the processor."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(found.get(name, False) for name in _BF16_INSTRUCTIONS)


def fastest(device: torch.device) -> Precision:
    """Return the precision that is faster on the device: bf16 where it has instructions for it."""
    return "bf16" if has_bf16(device) else "fp32"


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which a network computes: bf16 products with fp32 parameters and norms, or fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def training_format(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Return the memory format in which a network trains faster.

    Channels last, with two exceptions on a processor. Without AVX-512 the gradient of a convolution's filters takes
    about twice as long in that format (measured with oneDNN 3 on AVX2), which outweighs what the other two passes
    gain. And that of a 1x1 convolution with a stride and fewer than 16 input channels is written past its buffer
    there, by every oneDNN up to 3.14 at least (its issue 6035): wrong numbers, or a crash. A network of volumes stays
    in PyTorch's default format.
    """
    if is_deep(network):
        return torch.contiguous_format
    if device.type == "cpu" and (
        torch.backends.cpu.get_cpu_capability() == "AVX2" or any(map(_is_overrun, network.modules()))
    ):
        return torch.contiguous_format
    return torch.channels_last


def is_deep(network: nn.Module) -> bool:
    """Whether a network is one of volumes."""
    return any(isinstance(module, nn.Conv3d | nn.ConvTranspose3d) for module in network.modules())


def _is_overrun(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels // module.groups < 16
    )


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to ``device`` in the memory format in which it is trained there.

    Modules that say so with a true attribute ``default_format`` stay in PyTorch's default one.
    """
    network = network.to(device).to(memory_format=training_format(network, device))
    for module in network.modules():
        if getattr(module, "default_format", False):
            module.to(memory_format=torch.contiguous_format)
    return network


def format_of(x: Tensor) -> torch.memory_format:
    """Return the memory format of maps (B, C, Y, X)."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def in_format(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Return maps (B, C, Y, X) in a memory format; their gradient comes back in the format that they came in.

    After the library's own conversion it comes back as it is, and to add it to another part of the gradient in another
    format takes several times as long as to convert it.
    """
    return _InFormat.apply(x, memory_format) if torch.is_grad_enabled() else x.contiguous(memory_format=memory_format)


class _InFormat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, memory_format: torch.memory_format) -> Tensor:
        ctx.format = format_of(x)
        return x.contiguous(memory_format=memory_format)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.contiguous(memory_format=ctx.format), None


def deployed(network: nn.Module) -> nn.Module:
    """Return a copy of a network that predicts faster and gives the same scores up to rounding.

    Whatever depends on the parameters alone is computed once: a module that has a method ``folded()`` is replaced by
    what it returns, and a batch norm that follows a convolution in an :class:`~torch.nn.Sequential` becomes part of
    the convolution. The copy is in evaluation mode and in channels last, except for what ``folded()`` returned in
    another format, and is not to be trained.

    Parameters
    ----------
    network : nn.Module
        Stays as it is.
    """
    # what a module remembers of its last training step has a history, which cannot be copied and is not needed
    remembered = (value for module in network.modules() for value in vars(module).values())
    known = {id(value): value.detach() for value in remembered if isinstance(value, Tensor) and not value.is_leaf}
    copy = deepcopy(network, known).eval()
    if not is_deep(copy):
        copy = copy.to(memory_format=torch.channels_last)
    _fold(copy)
    # autocast keeps the bf16 form of a parameter, from one call to the next, if that could be trained
    return copy.requires_grad_(True)


def _fold(module: nn.Module) -> None:
    for name, child in module.named_children():
        if folded := getattr(child, "folded", None):
            setattr(module, name, folded())
        else:
            _fold(child)
    # a subclass may call its parts in another order
    if type(module).forward is nn.Sequential.forward:
        parts: list[tuple[str, Any]] = list(module.named_children())
        for (name, conv), (after, norm) in pairwise(parts):
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, after, nn.Identity())

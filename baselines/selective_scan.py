"""Mamba's selective scan in plain torch, for any device.

The package ``mamba-ssm`` has it as a CUDA kernel alone. Here the sequence is cut into about as many pieces as each has
elements, and all pieces are walked through side by side: of L elements, 3 sqrt(L) are done one after the other.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_recurrence(decay: Tensor, drive: Tensor) -> Tensor:
    """Return ``state`` with ``state[:, t] = decay[:, t] * state[:, t - 1] + drive[:, t]``, starting from 0.

    Parameters
    ----------
    decay, drive : Tensor
        (B, L, ...) of one shape and dtype. Nothing is divided by a decay and no logarithm is taken, so that any is
        allowed, 0 too.

    Returns
    -------
    Tensor
        (B, L, ...), differentiable once.
    """
    return _Recurrence.apply(decay, drive)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor) -> Tensor:
        state = _states(decay, drive)
        ctx.save_for_backward(decay, state)
        return state

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        decay, state = ctx.saved_tensors
        # What a drive does to the loss is the same recurrence from the end: through its own state and all later ones.
        later = F.pad(decay[:, 1:].flatten(2), (0, 0, 0, 1)).view_as(decay)
        of_drive = _states(later.flip(1), gradient.flip(1)).flip(1)
        of_decay = torch.zeros_like(state)
        torch.mul(of_drive[:, 1:], state[:, :-1], out=of_decay[:, 1:])
        return of_decay, of_drive


def _states(decay: Tensor, drive: Tensor) -> Tensor:
    length = drive.shape[1]
    edge = math.ceil(math.sqrt(length))
    filling = (0, 0, 0, -length % edge)
    decays, drives = (
        F.pad(x.flatten(2), filling).unflatten(2, x.shape[2:]).unflatten(1, (-1, edge)).unbind(2)
        for x in (decay, drive)
    )  # of each place within the pieces: (B, pieces, ...)

    kept, end = decays[0], drives[0]  # what a piece leaves of the state before it, and its end if that was 0
    for one, driven in zip(decays[1:], drives[1:], strict=True):
        kept, end = kept * one, torch.addcmul(driven, one, end)
    before = [torch.zeros_like(end[:, 0])]
    for one, driven in zip(kept.unbind(1)[:-1], end.unbind(1)[:-1], strict=True):
        before.append(torch.addcmul(driven, one, before[-1]))

    state = torch.stack(before, dim=1)
    states = []
    for one, driven in zip(decays, drives, strict=True):
        state = torch.addcmul(driven, one, state)
        states.append(state)
    return torch.stack(states, dim=2).flatten(1, 2)[:, :length]


def selective_scan(x: Tensor, step: Tensor, rate: Tensor, enter: Tensor, leave: Tensor, skip: Tensor) -> Tensor:
    """Return the outputs of a state-space model whose step, input and output depend on the element (Mamba, 2023).

    ``state[t] = exp(step[t] rate) state[t - 1] + step[t] enter[t] x[t]``, ``y[t] = leave[t] . state[t] + skip x[t]``,
    for each channel on its own, over N states.

    Parameters
    ----------
    x, step : Tensor
        (B, L, D); steps are positive.
    rate : Tensor
        (D, N), negative.
    enter, leave : Tensor
        (B, L, N).
    skip : Tensor
        (D,).

    Returns
    -------
    Tensor
        (B, L, D).
    """
    decay = (step.unsqueeze(-1) * rate).exp()
    drive = (step * x).unsqueeze(-1) * enter.unsqueeze(2)
    state = linear_recurrence(decay, drive)
    return (state @ leave.unsqueeze(-1)).squeeze(-1) + skip * x

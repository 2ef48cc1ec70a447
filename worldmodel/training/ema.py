"""Exponential moving average of weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def ema_update(average: nn.Module, online: nn.Module, momentum: float) -> None:
    """``average <- momentum * average + (1 - momentum) * online``, for all parameters, in place."""
    torch._foreach_lerp_(list(average.parameters()), list(online.parameters()), 1.0 - momentum)

"""Fixed sin-cos position tables for (time, height, width) grids."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos_1d(positions: Tensor, width: int) -> Tensor:
    """``positions (L,)`` to ``(L, width)``: sines in the first half, cosines in the second; base 10,000."""
    frequencies = 10_000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = positions.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_3d(steps: int, height: int, width: int, channels: int) -> Tensor:
    """Position table ``(steps, height * width, channels)`` float32; channel order time, height, width.

    Each axis gets ``2 * ceil(channels / 6)`` channels and the end is cut off, as in V-JEPA's ``uniform_power``
    (Bardes et al. 2024, 2404.08471).
    """
    share = 2 * ((channels + 5) // 6)
    t, h, w = torch.meshgrid(torch.arange(steps), torch.arange(height), torch.arange(width), indexing="ij")
    table = torch.cat([sincos_1d(axis.flatten(), share) for axis in (t, h, w)], dim=1)
    return table[:, :channels].float().reshape(steps, height * width, channels)

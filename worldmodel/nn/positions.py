"""Where tokens are: places on a (time, height, width) grid, and fixed sin-cos tables for them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.masks import Grid
from worldmodel.nn.patches import gather_tokens
from worldmodel.nn.rope import Turn, rope_dims, rope_turn

POSITIONS = ("rope", "rope_compat", "sincos")


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


def resample_table(table: Tensor, grid: Grid, wanted: Grid) -> Tensor:
    """A position table ``(steps, rows * columns, D)`` of ``grid`` for another grid.

    A clip of fewer steps uses the first ones: time goes on as it did. Everything else is interpolated (trilinear).
    """
    table = table[: wanted.steps]
    if wanted[1:] == grid[1:] and wanted.steps <= grid.steps:
        return table
    volume = table.reshape(1, len(table), grid.rows, grid.columns, -1).permute(0, 4, 1, 2, 3)
    resized = F.interpolate(volume, size=tuple(wanted), mode="trilinear", align_corners=False)
    return resized[0].permute(1, 2, 3, 0).reshape(wanted.steps, wanted.rows * wanted.columns, -1)


def axes_of(ids: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Step, row and column of token ids of any shape."""
    place = ids % (grid.rows * grid.columns)
    return ids // (grid.rows * grid.columns), place // grid.columns, place % grid.columns


def check_positions(kind: str, width: int, heads: int, where: str) -> None:
    """Refuse a kind of positions that does not exist, or heads too small for it.

    Raises:
        ValueError: Says which key is wrong; ``where`` stands before it.
    """
    if kind not in POSITIONS:
        raise ValueError(f"{where}.positions={kind!r} is unknown; choose one of {', '.join(POSITIONS)}")
    if width % heads:
        raise ValueError(f"{where}.heads={heads} must divide {where}.width={width}")
    head_dim = width // heads
    if kind != "sincos" and (head_dim % 2 or not rope_dims(head_dim)):
        raise ValueError(
            f"{where}.width={width} with {where}.heads={heads} gives {head_dim} channels per head; "
            f"positions={kind} need an even number of at least 6"
        )


class Positions:
    """One model's positions: what to add to its tokens, and how to turn its queries and keys.

    Args:
        kind: ``"rope"``, ``"rope_compat"`` (V-JEPA 2's released weights) or ``"sincos"`` (V-JEPA 1).
        grid: The grid that a sin-cos table is made for; other grids get an interpolated one.
        width: Features per token.
        heads: Attention heads.
    """

    def __init__(self, kind: str, grid: Grid, width: int, heads: int) -> None:
        self.kind = kind
        self.grid = grid
        self.width = width
        self.head_dim = width // heads

    def table(self) -> Tensor | None:
        """The sin-cos table ``(steps, rows * columns, D)``, or None for rotary positions."""
        return sincos_3d(*self.grid, self.width) if self.kind == "sincos" else None

    def added(self, table: Tensor | None, grid: Grid, ids: Tensor | None) -> Tensor | None:
        """What is added to the tokens at ``ids (B, L)`` (None: all) of a clip of ``grid``: ``(1 or B, L, D)``."""
        if table is None:
            return None
        every = resample_table(table, self.grid, grid).flatten(0, 1)[None]
        return every if ids is None else gather_tokens(every.expand(len(ids), -1, -1), ids)

    def turn(self, grid: Grid, ids: Tensor | None, device: torch.device) -> Turn | None:
        """How queries and keys at ``ids (B, L)`` (None: all) turn; the same for every block and head."""
        if self.kind == "sincos":
            return None
        if ids is None:
            ids = torch.arange(grid.steps * grid.rows * grid.columns, device=device)[None]
        return rope_turn(axes_of(ids, grid), self.head_dim, compat=self.kind == "rope_compat")

"""Cutting clips into tubelet patches, and picking tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def to_patches(clip: Tensor, patch: int, tubelet: int) -> Tensor:
    """``clip (B, T, C, H, W)`` to ``(B, P, N, tubelet * C * patch * patch)``, ``P = T / tubelet``.

    Patches are numbered row by row; their content is ordered (time, channel, row, column).

    Raises:
        ValueError: The clip cannot be cut into whole patches.
    """
    b, t, c, h, w = clip.shape
    if t % tubelet or h % patch or w % patch:
        raise ValueError(
            f"a clip of {t} frames of {h} x {w} pixels cannot be cut into tubelets of {tubelet} frames and patches of "
            f"{patch} pixels; each must divide"
        )
    p, rows, columns = t // tubelet, h // patch, w // patch
    grid = clip.reshape(b, p, tubelet, c, rows, patch, columns, patch)
    return grid.permute(0, 1, 4, 6, 2, 3, 5, 7).reshape(b, p, rows * columns, tubelet * c * patch * patch)


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Take tokens by id: ``tokens (B, L, D)``, ``ids (B, K)`` to ``(B, K, D)``."""
    if tokens.requires_grad:
        return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))
    # Copies whole tokens, where gather reads an index for each feature; its gradient is the slower one.
    return tokens[torch.arange(len(ids), device=ids.device)[:, None], ids]

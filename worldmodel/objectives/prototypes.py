"""Prototypes: directions that embeddings are assigned to, and even assignments of a batch (SwAV, DINO, iBOT)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.nn.global_batch import first_row, global_rows


class Prototypes(nn.Module):
    """Cosines of embeddings with learned directions."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, width), dim=-1))

    def forward(self, embeddings: Tensor) -> Tensor:
        """``(..., E)`` to float32 ``(..., K)``."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.normalize(embeddings.float(), dim=-1) @ F.normalize(self.weight, dim=-1).T


def soft_cross_entropy(scores: Tensor, wanted: Tensor) -> Tensor:
    """``-sum_k wanted_k log softmax(scores)_k`` over the last dimension, averaged over the others."""
    return -(wanted * scores.log_softmax(dim=-1)).sum(dim=-1).mean()


@torch.no_grad()
def sinkhorn(scores: Tensor, sharpness: float, iterations: int) -> Tensor:
    """Codes ``(B, K)`` near ``exp(scores / sharpness)`` that use all prototypes equally often (SwAV, 2006.09882).

    Rows sum to 1; over all processes' samples, columns to about equal shares (Sinkhorn & Knopp: columns and rows are
    normalised in turn). A collective call.

    Args:
        scores: Cosines ``(B, K)``.
        sharpness: The smaller, the nearer are codes to one prototype each.
        iterations: 0: each row is its softmax.
    """
    every = global_rows(scores) / sharpness
    codes = (every - every.max()).exp() if iterations else every.softmax(dim=1)
    for _ in range(iterations):
        codes = codes / codes.sum(dim=0, keepdim=True)
        codes = codes / codes.sum(dim=1, keepdim=True)
    start = first_row(len(scores))
    return codes[start : start + len(scores)]

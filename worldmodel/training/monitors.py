"""Figures that tell collapse from learning. A JEPA's loss alone tells nothing: it falls while features collapse."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(features: Tensor) -> float:
    """How many directions the rows of ``features (L, D)`` really use, from 1 to D.

    The exponential of the entropy of the centred features' normalised singular values (Roy & Vetterli 2007; RankMe,
    2210.02885). NaN if a feature is not finite.
    """
    if not torch.isfinite(features).all():
        return float("nan")
    centred = (features - features.mean(dim=0)).double()
    values = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0).sqrt()
    share = values / values.sum().clamp_min(1e-30)
    return float(torch.exp(-(share * share.clamp_min(1e-30).log()).sum()))


def feature_monitors(tokens: Tensor) -> dict[str, float]:
    """Spread and rank of a batch's tokens ``(B, L, D)``.

    ``token_std``: mean over features of the std over all tokens. ``token_rank``: their effective rank. ``clip_rank``:
    the effective rank of the clips' mean tokens, which falls first when only position is left in the features.
    """
    rows = tokens.flatten(0, 1)
    return {
        "token_std": float(rows.std(dim=0).mean()),
        "token_rank": effective_rank(rows),
        "clip_rank": effective_rank(tokens.mean(dim=1)),
    }

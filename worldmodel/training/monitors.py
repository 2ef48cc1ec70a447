"""Figures that tell collapse from learning. A JEPA's loss alone tells nothing: it falls while features collapse.

All of them are functions of tensors, cost less than a training step, draw no random numbers that anything else could
miss, and change nothing. ``worldmodel.training.diagnosis`` reads them over a run and says what to try.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.seeding import keyed_torch_generator

#: Rows that ``effective_rank`` looks at: enough to measure ranks of some hundreds, and bounded whatever the batch.
MAX_ROWS = 2048


def effective_rank(features: Tensor, max_rows: int = MAX_ROWS) -> float:
    """How many directions the rows of ``features (L, D)`` really use, from 1 to ``min(L - 1, D)``.

    The exponential of the entropy of the centred features' normalised singular values (Roy & Vetterli 2007; RankMe,
    2210.02885). Of more than ``max_rows`` rows, always the same places are taken. NaN if a feature is not finite.
    """
    rows = sample_rows(features, max_rows)
    if not torch.isfinite(rows).all():
        return float("nan")
    centred = (rows - rows.mean(dim=0)).double()
    # Both products have the same eigenvalues other than 0; the smaller one is cheaper.
    gram = centred @ centred.T if rows.shape[0] < rows.shape[1] else centred.T @ centred
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = values / values.sum().clamp_min(1e-30)
    return float(torch.exp(-(share * share.clamp_min(1e-30).log()).sum()))


def sample_rows(features: Tensor, count: int) -> Tensor:
    """At most ``count`` of the rows of ``features (L, D)``, at places that depend on ``L`` only.

    Random places: every n-th row would take the same few positions of each clip.
    """
    length = features.shape[0]
    if length <= count:
        return features
    places = torch.randperm(length, generator=keyed_torch_generator("monitor", length))[:count]
    return features[places.to(features.device)]


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


def baseline_losses(targets: Tensor, loss: str, beta: float = 1.0) -> dict[str, float]:
    """What a predictor that sees nothing would score on ``targets (B, L, D)``; learning means to be well below.

    ``predict_mean_loss``: it says the mean of all tokens. ``position_mean_loss``: it says the mean of the other clips'
    tokens at the same position; a model whose features tell the position only beats the first and not this one. With a
    single clip there are no others, and the second is left out.

    Args:
        targets: What the objective predicts, normalised as it does.
        loss: "l1", "l2" (mean squared error) or "smooth_l1".
        beta: Where smooth_l1 goes over from a square to a straight line.
    """
    clips = targets.shape[0]
    figures = {"predict_mean_loss": _size(targets - targets.mean(dim=(0, 1)), loss, beta)}
    if clips > 1:
        # x - mean of the others = (x - mean of all) * B / (B - 1)
        others = (targets - targets.mean(dim=0)) * (clips / (clips - 1))
        figures["position_mean_loss"] = _size(others, loss, beta)
    return figures


def weight_gap(online: nn.Module, average: nn.Module) -> float:
    """``|online - average| / |average|`` over all parameters: how far the EMA weights are behind."""
    pairs = list(zip(online.parameters(), average.parameters(), strict=True))
    gap = _norm((a.detach().float() - b.detach().float()) for a, b in pairs)
    return gap / max(_norm(b.detach().float() for _, b in pairs), 1e-30)


def output_gap(online: Tensor, average: Tensor) -> float:
    """RMS distance of two encoders' tokens ``(..., D)``, over the RMS spread of the second's around their mean.

    0: they agree. About 1.4: they have nothing in common, though equally spread.
    """
    online, average = online.flatten(0, -2).float(), average.flatten(0, -2).float()
    spread = (average - average.mean(dim=0)).square().mean().sqrt()
    return float((online - average).square().mean().sqrt() / spread.clamp_min(1e-12))


def gradient_norms(parts: Mapping[str, nn.Module]) -> dict[str, float]:
    """``grad_norm_<part>``: the norm of each part's gradient, for ``Objective.parts()`` after the backward pass.

    Parts without a gradient (a target encoder) are left out. Before clipping these tell more than after it.
    """
    norms = {}
    for name, part in parts.items():
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        if gradients:
            norms[f"grad_norm_{name}"] = _norm(gradient.float() for gradient in gradients)
    return norms


def _size(gap: Tensor, loss: str, beta: float) -> float:
    """The loss of a gap: ``l1_loss``, ``mse_loss`` or ``smooth_l1_loss`` against zero."""
    zero = gap.new_zeros(()).expand_as(gap)
    if loss == "smooth_l1":
        return float(F.smooth_l1_loss(gap, zero, beta=beta))
    return float(F.l1_loss(gap, zero) if loss == "l1" else F.mse_loss(gap, zero))


def _norm(tensors: Iterable[Tensor]) -> float:
    """Euclidean norm of many tensors as one vector, one at a time, so that no second copy of a model is made."""
    norms = [torch.linalg.vector_norm(tensor) for tensor in tensors]
    if not norms:
        return 0.0
    total: Any = torch.linalg.vector_norm(torch.stack(norms))
    # Under FSDP, parameters are DTensors, and so is their norm: each process has a share of it.
    return float(total.full_tensor() if hasattr(total, "full_tensor") else total)

"""What a representation is made of, over many held-out clips: its size, its rank, and what its variance is about."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.training.monitors import effective_rank


@torch.inference_mode()
def describe_tokens(encoder: VideoEncoder, clips: Iterable[Tensor]) -> dict[str, float]:
    """Spread, rank and sources of variance of an encoder's tokens.

    Memory is bounded: sums of ``(L, D)`` and ``(D, D)``, and one row per clip.

    Args:
        encoder: In evaluation mode, on the device to compute on.
        clips: Batches ``(B, T, C, H, W)`` of clips of one size; two clips at least.

    Returns:
        ``clips``; ``token_std`` (root mean variance per feature); ``token_rank`` and ``clip_rank``, effective ranks of
        all tokens and of the clips' mean tokens; and shares of the tokens' variance, which add up to 1:
        ``position_share`` (of each position's mean over the clips), ``clip_share`` (of each clip's mean over its
        positions), and ``content_share``, the rest: what differs between clips in other ways at each place. Mostly
        position means that little has been learnt about the clips.

    Raises:
        ValueError: There are fewer than two clips, or they differ in size.
    """
    means: list[Tensor] = []
    positions = product = torch.zeros(())
    for batch in clips:
        tokens = encoder.encode(batch).flatten(1, 2).double()
        if means and tokens.shape[1:] != positions.shape:
            raise ValueError(
                f"clips of one size are needed; these have {len(positions)} and {tokens.shape[1]} tokens"
            )
        rows = tokens.flatten(0, 1)
        positions = positions.to(rows) + tokens.sum(dim=0)
        product = product.to(rows) + rows.T @ rows
        means += tokens.mean(dim=1).unbind()
    count = len(means)
    if count < 2:
        raise ValueError(f"a representation shows over at least 2 clips; there is {count}")
    by_clip, by_position = torch.stack(means), positions / count
    centre = by_clip.mean(dim=0)
    covariance = product / (count * len(by_position)) - torch.outer(centre, centre)
    total = covariance.trace().clamp_min(1e-30)
    position_share = float((by_position - centre).square().sum(dim=1).mean() / total)
    clip_share = float((by_clip - centre).square().sum(dim=1).mean() / total)
    return {
        "clips": float(count),
        "token_std": float((covariance.trace() / len(covariance)).clamp_min(0).sqrt()),
        "token_rank": _rank(covariance),
        "clip_rank": effective_rank(by_clip, max_rows=count),
        "position_share": position_share,
        "clip_share": clip_share,
        "content_share": 1.0 - position_share - clip_share,
    }


def _rank(covariance: Tensor) -> float:
    """Effective rank from a covariance, as ``effective_rank`` defines it."""
    values = torch.linalg.eigvalsh(covariance).clamp_min(0).sqrt()
    share = values / values.sum().clamp_min(1e-30)
    return float(torch.exp(-(share * share.clamp_min(1e-30).log()).sum()))

"""Prediction without a predictor: mask tokens in the encoder's own input (SimMIM, 2111.09886; data2vec, 2202.03555)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldmodel.masks import Mask
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.patches import gather_tokens


class HiddenPatches(nn.Module):
    """Mask tokens in place of hidden patches, and a linear layer behind the encoder.

    Args:
        width: Features per token of the encoder.
        outputs: Numbers per prediction; as many as features if None.
    """

    def __init__(self, width: int, outputs: int | None = None) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.read_out = nn.Linear(width, width if outputs is None else outputs)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, encoder: VideoEncoder, clip: Tensor, mask: Mask) -> Tensor:
        """All that is not context is hidden; predictions ``(B, M, O)`` in float32 at ``mask.target``."""
        return self.predict(self.fill(encoder, clip, mask), mask)

    def fill(self, encoder: VideoEncoder, clip: Tensor, mask: Mask) -> Tensor:
        """The encoder's tokens ``(B, L, D)`` of clips whose patches are hidden where they are not context."""
        b, seen = mask.context.shape
        count = math.prod(encoder.grid_of(clip))
        hidden = torch.ones(b, count, dtype=torch.bool, device=clip.device).scatter_(1, mask.context, False)
        ids = hidden.byte().argsort(dim=1, descending=True, stable=True)[:, : count - seen]
        return encoder.encode(clip, hidden=(ids, self.mask_token)).flatten(1, 2)

    def predict(self, tokens: Tensor, mask: Mask) -> Tensor:
        """Predictions ``(B, M, O)`` in float32 at ``mask.target``, of tokens ``(B, L, D)``."""
        return self.read_out(gather_tokens(tokens, mask.target)).float()

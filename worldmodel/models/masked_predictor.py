"""The narrow predictor of V-JEPA: context tokens in, predictions of the hidden tokens out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.masks import Grid
from worldmodel.nn.blocks import Block, init_transformer
from worldmodel.nn.patches import gather_tokens
from worldmodel.nn.positions import sincos_3d


@dataclass
class MaskedPredictorConfig:
    """Size of a masked predictor."""

    #: Features per token; narrower than the encoder.
    width: int = 48
    #: Transformer blocks.
    depth: int = 2
    #: Attention heads; must divide the width.
    heads: int = 3
    #: Hidden features of a block's MLP, as a multiple of the width.
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"predictor.heads={self.heads} must divide predictor.width={self.width}")


class MaskedPredictor(nn.Module):
    """Transformer over context tokens and one learned mask token per hidden place (V-JEPA, 2404.08471, section 3).

    Args:
        config: Its size.
        grid: The clip's token grid.
        encoder_width: Features per token that go in and come out.
    """

    positions: Tensor

    def __init__(self, config: MaskedPredictorConfig, grid: Grid, encoder_width: int) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(encoder_width, config.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.proj = nn.Linear(config.width, encoder_width)
        self.register_buffer(
            "positions", sincos_3d(*grid, config.width).flatten(0, 1)[None], persistent=False
        )
        init_transformer(self, self.blocks)

    def forward(self, context: Tensor, context_ids: Tensor, target_ids: Tensor) -> Tensor:
        """``context (B, K, D)`` at ``context_ids (B, K)`` to predictions ``(B, M, D)`` at ``target_ids (B, M)``."""
        b, seen = context_ids.shape
        positions = self.positions.expand(b, -1, -1)
        known = self.embed(context) + gather_tokens(positions, context_ids)
        hidden = self.mask_token + gather_tokens(positions, target_ids)
        tokens = torch.cat([known, hidden.to(known.dtype)], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.proj(self.norm(tokens[:, seen:]))

"""The narrow predictor of V-JEPA: context tokens in, predictions of the hidden tokens out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.masks import Grid
from worldmodel.nn.blocks import check_mlp, init_transformer, make_blocks, through_blocks
from worldmodel.nn.positions import Positions, check_positions


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
    #: "rope" (3D rotary), "rope_compat" (as V-JEPA 2's released weights need it) or "sincos" (V-JEPA 1).
    positions: str = "rope"
    #: "gelu" or "swiglu".
    mlp: str = "gelu"
    #: Learned mask tokens, one per kind of mask (short-range, long-range).
    mask_tokens: int = 2
    #: Stochastic depth: rate of the last block; earlier ones get proportionally less.
    drop_path: float = 0.0
    #: Compute each block again for its gradient instead of keeping its activations: less memory, a third more time.
    checkpoint_blocks: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads, self.mask_tokens) < 1 or self.mlp_ratio <= 0:
            raise ValueError("predictor: width, depth, heads, mask_tokens and mlp_ratio must be positive")
        check_positions(self.positions, self.width, self.heads, "predictor")
        check_mlp(self.mlp, "predictor")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"predictor.drop_path={self.drop_path} must be at least 0 and below 1")


class MaskedPredictor(nn.Module):
    """Transformer over context tokens and one learned mask token per hidden place (V-JEPA, 2404.08471, section 3).

    Args:
        config: Its size.
        grid: The clip's token grid.
        encoder_width: Features per token that go in.
        output_width: Features per prediction; as many as go in if None.
    """

    table: Tensor | None

    def __init__(
        self, config: MaskedPredictorConfig, grid: Grid, encoder_width: int, output_width: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        self.embed = nn.Linear(encoder_width, config.width)
        self.mask_tokens = nn.Parameter(torch.zeros(config.mask_tokens, config.width))
        self.blocks = make_blocks(
            config.width, config.depth, config.heads, config.mlp_ratio, config.mlp, config.drop_path
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.proj = nn.Linear(config.width, encoder_width if output_width is None else output_width)
        self.positions = Positions(config.positions, grid, config.width, config.heads)
        self.register_buffer("table", self.positions.table(), persistent=False)
        init_transformer(self, self.blocks)
        if config.positions == "rope":
            # Zeros, V-JEPA's beginning, are fine where a position is added to them. Rotary positions add nothing, and
            # the first layer norm multiplies the gradient at zero by 1 / sqrt(eps) = 1000. (V-JEPA 2 begins so all
            # the same, hence "rope_compat" does, too.)
            nn.init.trunc_normal_(self.mask_tokens, std=0.02)

    def forward(
        self,
        context: Tensor,
        context_ids: Tensor,
        target_ids: Tensor,
        mask_index: int = 0,
        grid: Grid | None = None,
    ) -> Tensor:
        """Predict tokens from others.

        Args:
            context: ``(B, K, D)``.
            context_ids: Where they are, ``(B, K)``.
            target_ids: What to predict, ``(B, M)``. All of them see each other's mask tokens.
            mask_index: Which mask token, modulo how many there are.
            grid: The grid of the ids, where the clip is of another size than the configured one.

        Returns:
            ``(B, M, output_width)``.
        """
        grid = self.grid if grid is None else grid
        seen = context_ids.shape[1]
        ids = torch.cat([context_ids, target_ids], dim=1)
        known = self.embed(context)
        token = self.mask_tokens[mask_index % self.config.mask_tokens].expand(*target_ids.shape, -1)
        added = self.positions.added(self.table, grid, ids)
        if added is not None:
            known, token = known + added[:, :seen], token + added[:, seen:]
            known = known.to(self.embed.weight.dtype)
        tokens = torch.cat([known, token.to(known.dtype)], dim=1)
        turn = self.positions.turn(grid, ids, tokens.device)
        for after in through_blocks(self.blocks, tokens, turn, self.config.checkpoint_blocks):
            tokens = after
        return self.proj(self.norm(tokens[:, seen:]))

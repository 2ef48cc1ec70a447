"""A block-causal transformer with a token for each step's action (V-JEPA 2-AC, 2506.09985)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.models.dynamics.causal import CausalDynamics, check_causal


@dataclass
class BlockCausalDynamicsConfig:
    """Size of the transformer. V-JEPA 2-AC: 1024, 24 blocks, 16 heads of 64, MLPs of 4096, context 8."""

    #: Features per token.
    width: int = 96
    #: Transformer blocks.
    depth: int = 3
    #: Attention heads.
    heads: int = 3
    #: Features per head.
    head_width: int = 32
    #: Hidden features of a block's MLP.
    mlp_hidden: int = 384
    #: In training.
    dropout: float = 0.0
    #: The longest history that a prediction depends on, in steps.
    context: int = 8
    #: "rope" (rotary over time, rows and columns), "rope_compat" (V-JEPA 2's weights) or "learned".
    positions: str = "rope"
    #: Rows of the grid of visual tokens, for rotary positions; 0: a square.
    rows: int = 0
    #: Compute each block again for its gradient instead of keeping its activations.
    checkpoint_blocks: bool = False

    def __post_init__(self) -> None:
        check_causal(self)
        if self.width < 1:
            raise ValueError(f"dynamics.width={self.width} must be positive")


class BlockCausalDynamics(CausalDynamics):
    """A step is its action token, then the latent's; tokens see all of their own and of earlier steps.

    V-JEPA 2-AC also has a token of the robot's state: here that is the proprioception token of the latent, which is
    predicted like the others. Without them, the published predictor has 305.2 M parameters, as this one at its size.
    """

    def __init__(
        self,
        config: BlockCausalDynamicsConfig,
        tokens: int,
        width: int,
        actions_per_step: int,
        action_dim: int,
    ) -> None:
        shape = (tokens, width, actions_per_step, action_dim)
        super().__init__(config, shape, config.width, actions_first=1, bias=True)
        self.config = config
        self.embed_action = nn.Linear(actions_per_step * action_dim, config.width)
        self.enter = nn.Linear(width, config.width)
        self.leave = nn.Linear(config.width, width)

    def embed(self, tokens: Tensor, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        action = self.embed_action(self.scaled(actions, tokens))[:, :, None]
        return torch.cat([action, self.enter(tokens)], dim=2), None

    def read(self, x: Tensor) -> Tensor:
        return self.leave(x[:, :, 1:])

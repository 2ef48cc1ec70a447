"""A frame-causal transformer whose tokens carry the action in their channels (DINO-WM, 2411.04983)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.models.dynamics.causal import CausalDynamics, check_causal


@dataclass
class ConcatDynamicsConfig:
    """Size of the transformer. DINO-WM: 6 blocks, 16 heads of 64, MLPs of 2048, dropout 0.1, context 3."""

    #: Features per token; 0: those of the latent and of the embedded action, side by side, as in DINO-WM.
    width: int = 0
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
    context: int = 3
    #: "learned" (DINO-WM), "rope" (rotary over time, rows and columns) or "rope_compat" (V-JEPA 2's weights).
    positions: str = "learned"
    #: Rows of the grid of visual tokens, for rotary positions; 0: a square.
    rows: int = 0
    #: Channels of the embedded actions of a step.
    action_width: int = 10
    #: Compute each block again for its gradient instead of keeping its activations.
    checkpoint_blocks: bool = False

    def __post_init__(self) -> None:
        check_causal(self)
        if self.width < 0 or self.action_width < 1:
            raise ValueError("dynamics: width must not be negative, and action_width at least 1")


class ConcatDynamics(CausalDynamics):
    """The embedded actions of a step are appended to the channels of each of its tokens.

    DINO-WM reads a prediction off the first channels of the last norm; here a linear layer reads it off all of them, so
    that neither its width nor its scale is tied to the transformer's.
    """

    def __init__(
        self, config: ConcatDynamicsConfig, tokens: int, width: int, actions_per_step: int, action_dim: int
    ) -> None:
        joint = width + config.action_width
        inside = config.width or joint
        super().__init__(config, (tokens, width, actions_per_step, action_dim), inside)
        self.config = config
        self.embed_action = nn.Linear(actions_per_step * action_dim, config.action_width)
        self.enter: nn.Module = nn.Linear(joint, inside) if config.width else nn.Identity()
        self.leave = nn.Linear(inside, width)

    def embed(self, tokens: Tensor, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        action = self.embed_action(self.scaled(actions, tokens))[:, :, None].expand(-1, -1, self.tokens, -1)
        return self.enter(torch.cat([tokens.to(action.dtype), action], dim=-1)), None

    def read(self, x: Tensor) -> Tensor:
        return self.leave(x)

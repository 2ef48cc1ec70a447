"""A gated recurrent unit whose hidden state is the latent (eb_jepa, 2602.03604)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.models.dynamics.base import Dynamics


@dataclass
class GRUDynamicsConfig:
    """Size of the recurrent cell. Its state has the size of the latent."""

    #: Features that the actions of a step are embedded to; 0: the cell gets them as they are.
    action_width: int = 0
    #: A layer norm of each token after the cell. Without it, features beyond 1 and -1 can only decay.
    norm: bool = True

    def __post_init__(self) -> None:
        if self.action_width < 0:
            raise ValueError(f"dynamics.action_width={self.action_width} must not be negative")


class GRUDynamics(Dynamics):
    """``z[t+1] = norm(cell(a[t], z[t]))``: the latent is the hidden state, so a prediction depends on one step.

    Nothing is remembered beside the latent: what one step does not show (a velocity) it cannot use, but the encoder may
    put it there (``encode_steps`` with a window of 2). The cell (Cho et al. 2014, 1406.1078) is a sum of its old state
    and of numbers from -1 to 1; the norm lets it reach latents of any scale. It sees all tokens of a step as one
    vector: meant for few of them.
    """

    def __init__(
        self, config: GRUDynamicsConfig, tokens: int, width: int, actions_per_step: int, action_dim: int
    ) -> None:
        super().__init__(tokens, width, actions_per_step, action_dim)
        self.config = config
        size = actions_per_step * action_dim
        embed = nn.Linear(size, config.action_width) if config.action_width else nn.Identity()
        self.embed = embed
        self.from_action = nn.Linear(config.action_width or size, 3 * tokens * width)
        self.from_state = nn.Linear(tokens * width, 3 * tokens * width)
        self.norm = nn.LayerNorm(width, eps=1e-6) if config.norm else nn.Identity()

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        state = tokens.flatten(2)
        given = self.from_action(self.embed(self.scaled(actions, tokens))).chunk(3, dim=-1)
        kept = self.from_state(state).chunk(3, dim=-1)
        reset, update = torch.sigmoid(given[0] + kept[0]), torch.sigmoid(given[1] + kept[1])
        proposal = torch.tanh(given[2] + reset * kept[2])
        state = (1 - update) * proposal + update * state
        return self.norm(state.unflatten(-1, (self.tokens, self.width))).to(tokens.dtype)

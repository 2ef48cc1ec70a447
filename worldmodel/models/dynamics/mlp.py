"""A residual MLP over one step: the smallest dynamics."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.models.dynamics.base import Dynamics


@dataclass
class MLPDynamicsConfig:
    """Size of the residual MLP."""

    #: Features of the hidden layers.
    hidden: int = 256
    #: Linear layers, the first and last included.
    layers: int = 3

    def __post_init__(self) -> None:
        if self.layers < 2:
            raise ValueError(f"dynamics.layers={self.layers} must be at least 2")


class MLPDynamics(Dynamics):
    """``z[t+1] = z[t] + MLP(z[t], a[t])``: sees one step, as an emulator network does (Nguyen & Widrow 1989)."""

    def __init__(
        self, config: MLPDynamicsConfig, tokens: int, width: int, actions_per_step: int, action_dim: int
    ) -> None:
        super().__init__(tokens, width, actions_per_step, action_dim)
        self.config = config
        state, action = tokens * width, actions_per_step * action_dim
        sizes = [state + action, *[config.hidden] * (config.layers - 1), state]
        parts: list[nn.Module] = []
        for size_in, size_out in zip(sizes[:-1], sizes[1:], strict=True):
            parts += [nn.Linear(size_in, size_out), nn.GELU()]
        self.mlp = nn.Sequential(*parts[:-1])

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        change = self.mlp(torch.cat([tokens.flatten(2), self.scaled(actions, tokens)], dim=-1))
        return tokens + change.unflatten(-1, (self.tokens, self.width))

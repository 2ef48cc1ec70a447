"""Action-conditioned predictors of the next latent.

Every dynamics keeps this contract, tested in ``tests/worldmodel/models/contracts.py``:

- ``forward(tokens (B, T, N, D), actions (B, T, K, A)) -> (B, T, N, D)``: teacher forcing. Row ``t`` predicts the step
  after ``tokens[:, t]``, and depends on no later token or action.
- ``rollout(context (E, M, N, D), past_actions (E, M-1, K, A), plans (E, S, L, K, A)) -> (E, S, L, N, D)``: the latents
  after each action of each candidate plan, with the shared context computed once.

Actions are in the environment's own units; their statistics travel with the module.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


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


class MLPDynamics(nn.Module):
    """``z[t+1] = z[t] + MLP(z[t], a[t])``: sees one step, as an emulator network does (Nguyen & Widrow 1989)."""

    action_mean: Tensor
    action_std: Tensor

    def __init__(
        self, config: MLPDynamicsConfig, tokens: int, width: int, actions_per_step: int, action_dim: int
    ) -> None:
        super().__init__()
        self.config = config
        self.tokens, self.width = tokens, width
        state, action = tokens * width, actions_per_step * action_dim
        sizes = [state + action, *[config.hidden] * (config.layers - 1), state]
        parts: list[nn.Module] = []
        for size_in, size_out in zip(sizes[:-1], sizes[1:], strict=True):
            parts += [nn.Linear(size_in, size_out), nn.GELU()]
        self.mlp = nn.Sequential(*parts[:-1])
        self.register_buffer("action_mean", torch.zeros(action_dim))
        self.register_buffer("action_std", torch.ones(action_dim))

    @torch.no_grad()
    def set_statistics(self, actions: Tensor) -> None:
        """Take mean and std of the actions from a sample ``(..., A)`` of training data."""
        flat = actions.reshape(-1, actions.shape[-1]).float().to(self.action_mean.device)
        self.action_mean.copy_(flat.mean(dim=0))
        self.action_std.copy_(flat.std(dim=0).clamp_min(1e-6))

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        return self._step(tokens, actions)

    def rollout(self, context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
        e, s, length = plans.shape[:3]
        state = context[:, -1:].expand(-1, s, -1, -1)
        steps = []
        for index in range(length):
            state = self._step(state, plans[:, :, index])
            steps.append(state)
        return torch.stack(steps, dim=2)

    def _step(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """``tokens (B, T, N, D)`` and ``actions (B, T, K, A)`` to the following tokens."""
        if actions.shape[-1] != self.action_mean.shape[0]:
            raise ValueError(
                f"actions have {actions.shape[-1]} dimensions, this world model was trained with "
                f"{self.action_mean.shape[0]}; use the environment that it was trained in"
            )
        scaled = (actions - self.action_mean) / self.action_std
        change = self.mlp(torch.cat([tokens.flatten(2), scaled.flatten(2)], dim=-1))
        return tokens + change.unflatten(-1, (self.tokens, self.width))

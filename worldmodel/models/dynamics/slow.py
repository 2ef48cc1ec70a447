"""A slow level: the same dynamics over steps of 5 to 10, moved by macro-actions, for hierarchical planning."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.models.dynamics.base import Dynamics


@dataclass
class SlowConfig:
    """Size of the slow level's action encoder."""

    #: Model steps in one slow step.
    steps: int = 5
    #: Features of a macro-action.
    macro_dim: int = 4
    #: Hidden features of its encoder.
    hidden: int = 128

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(
                f"slow.steps={self.steps} must be at least 2: a slow step holds several model steps"
            )
        if min(self.macro_dim, self.hidden) < 1:
            raise ValueError("slow: macro_dim and hidden must be positive")


class MacroActionEncoder(nn.Module):
    """All actions of a slow step ``(..., k, K, A)`` to a macro-action ``(..., m)`` between -1 and 1.

    There is no decoder. A slow planner searches macro-actions, within these bounds and around their mean over the data;
    what the dynamics predict for the best ones are goals for the planner below, which finds the actions. The bounds
    keep the search where macro-actions of real actions are.
    """

    action_mean: Tensor
    action_std: Tensor
    macro_mean: Tensor
    macro_std: Tensor

    def __init__(self, config: SlowConfig, actions_per_step: int, action_dim: int) -> None:
        super().__init__()
        self.config = config
        self.shape = (config.steps, actions_per_step, action_dim)
        self.mlp = nn.Sequential(
            nn.Linear(config.steps * actions_per_step * action_dim, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.macro_dim),
        )
        self.register_buffer("action_mean", torch.zeros(action_dim))
        self.register_buffer("action_std", torch.ones(action_dim))
        self.register_buffer("macro_mean", torch.zeros(config.macro_dim))
        self.register_buffer("macro_std", torch.ones(config.macro_dim))

    @torch.no_grad()
    def set_statistics(self, actions: Tensor) -> None:
        """Take mean and std of the actions from a sample ``(..., A)`` of training data; before training."""
        flat = actions.reshape(-1, actions.shape[-1]).float().to(self.action_mean.device)
        self.action_mean.copy_(flat.mean(dim=0))
        self.action_std.copy_(flat.std(dim=0).clamp_min(1e-6))

    @torch.no_grad()
    def set_macro_statistics(self, actions: Tensor) -> None:
        """Take mean and std of the macro-actions of ``(L, k, K, A)`` from training data; after training.

        They are where a planner's search begins.
        """
        macro = self(actions.to(self.action_mean.device)).float()
        self.macro_mean.copy_(macro.mean(dim=0))
        self.macro_std.copy_(macro.std(dim=0).clamp_min(1e-6))

    def forward(self, actions: Tensor) -> Tensor:
        if actions.shape[-3:] != self.shape:
            raise ValueError(
                f"the actions of a slow step have shape {tuple(actions.shape[-3:])}, this model was trained with "
                f"(k, K, A) = {self.shape}"
            )
        scaled = (actions - self.action_mean) / self.action_std
        return self.mlp(scaled.flatten(-3)).tanh()


class SlowDynamics(nn.Module):
    """Dynamics whose step is ``k`` model steps.

    In training, ``forward`` takes the actions themselves; in planning, ``rollout`` takes macro-actions, as plans
    ``(E, S, L, 1, m)`` under the contract of ``worldmodel.models.dynamics.Dynamics``.

    Args:
        encoder: Of the actions.
        dynamics: Any kind, with ``K = 1`` and ``A = m``.
    """

    def __init__(self, encoder: MacroActionEncoder, dynamics: Dynamics) -> None:
        super().__init__()
        self.encoder, self.dynamics = encoder, dynamics
        self.tokens, self.width, self.context = dynamics.tokens, dynamics.width, dynamics.context

    def encode_actions(self, actions: Tensor) -> Tensor:
        """Actions ``(..., k, K, A)`` to macro-actions ``(..., 1, m)``."""
        return self.encoder(actions)[..., None, :]

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """``tokens (B, T, N, Z)``, one per slow step, and ``actions (B, T, k, K, A)`` to the following tokens."""
        return self.dynamics(tokens, self.encode_actions(actions))

    def rollout(
        self, context: Tensor, past_actions: Tensor, plans: Tensor, length: Tensor | None = None
    ) -> Tensor:
        """As :meth:`Dynamics.rollout`, in macro-actions: past ``(E, M-1, 1, m)`` and plans ``(E, S, L, 1, m)``."""
        return self.dynamics.rollout(context, past_actions, plans, length)


def slow_steps(latents: Tensor, actions: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """A window as the slow level sees it; steps at its end that fill no slow step are left out.

    Args:
        latents: ``(B, T+1, N, Z)``.
        actions: ``(B, T, K, A)``.
        steps: Model steps per slow step, ``k``.

    Returns:
        Latents ``(B, T // k + 1, N, Z)`` and actions ``(B, T // k, k, K, A)``.

    Raises:
        ValueError: The window is shorter than a slow step.
    """
    count = actions.shape[1] // steps
    if not count:
        raise ValueError(f"a window of {actions.shape[1]} steps is shorter than a slow step of {steps}")
    kept = count * steps
    return latents[:, : kept + 1 : steps], actions[:, :kept].unflatten(1, (count, steps))

"""What all dynamics share: the contract, statistics of the actions, checks, and rollouts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dynamics(nn.Module):
    """An action-conditioned predictor of the next latent. ``tests/worldmodel/models/contracts.py`` tests what it keeps.

    - ``forward(tokens (B, T, N, Z), actions (B, T, K, A)) -> (B, T, N, Z)``: teacher forcing. Row ``t`` predicts the
      step after ``tokens[:, t]`` from the last ``context`` steps, itself included; no later token or action changes it.
      A window of ``T`` steps trains contexts of all lengths up to ``T``: an episode's first step is no special case.
    - ``rollout(context (E, M, N, Z), past_actions (E, M-1, K, A), plans (E, S, L, K, A)) -> (E, S, L, N, Z)``: the
      latents after each action of each candidate plan. It equals ``forward`` on its own predictions, step by step.

    A subclass has ``forward``, and ``_rollout`` where it needs more than the last step.

    Args:
        tokens: ``N``.
        width: ``Z``.
        actions_per_step: ``K``.
        action_dim: ``A``; actions are in the environment's own units, and their statistics travel with the module.
        context: The longest history, in steps, that a prediction depends on.
    """

    action_mean: Tensor
    action_std: Tensor

    def __init__(
        self, tokens: int, width: int, actions_per_step: int, action_dim: int, context: int = 1
    ) -> None:
        super().__init__()
        self.tokens, self.width, self.context = tokens, width, context
        self.actions_per_step = actions_per_step
        self.register_buffer("action_mean", torch.zeros(action_dim))
        self.register_buffer("action_std", torch.ones(action_dim))

    @torch.no_grad()
    def set_statistics(self, actions: Tensor) -> None:
        """Take mean and std of the actions from a sample ``(..., A)`` of training data."""
        flat = actions.reshape(-1, actions.shape[-1]).float().to(self.action_mean.device)
        self.action_mean.copy_(flat.mean(dim=0))
        self.action_std.copy_(flat.std(dim=0).clamp_min(1e-6))

    def scaled(self, actions: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Actions ``(..., K, A)`` by their statistics, as one vector per step ``(..., K * A)``.

        Raises:
            ValueError: They have another number of dimensions, are another number per step, or are not one block for
                each step of ``tokens (B, T, N, Z)``.
        """
        if tokens is not None and tokens.shape[:2] != actions.shape[:2]:
            raise ValueError(
                f"tokens have shape {tuple(tokens.shape)} and actions {tuple(actions.shape)}; "
                "expected (B, T, N, Z) and (B, T, K, A), one block of K actions for each step"
            )
        if actions.shape[-1] != len(self.action_mean):
            raise ValueError(
                f"actions have {actions.shape[-1]} dimensions, this world model was trained with "
                f"{len(self.action_mean)}; use the environment that it was trained in"
            )
        if actions.shape[-2] != self.actions_per_step:
            raise ValueError(
                f"{actions.shape[-2]} actions per step are given, this world model was trained with "
                f"{self.actions_per_step}; use the action repeat or block that it was trained with"
            )
        return ((actions - self.action_mean) / self.action_std).flatten(-2)

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        raise NotImplementedError

    def rollout(
        self, context: Tensor, past_actions: Tensor, plans: Tensor, length: Tensor | None = None
    ) -> Tensor:
        """Latents ``(E, S, L, N, Z)`` after each action of each plan. Gradients reach the plans.

        Args:
            context: ``(E, M, N, Z)``; of more than ``self.context`` steps, the last ones are used.
            past_actions: ``(E, M-1, K, A)``, between the context's steps.
            plans: ``(E, S, L, K, A)``.
            length: ``(E,)``, how many of the M steps, counted from the last, are real where episodes have just begun.
                Environments are rolled out together with those of the same length, so nothing is ever padded.

        Raises:
            ValueError: Shapes do not fit each other or this model.
        """
        envs, steps = context.shape[:2]
        self._check(context, past_actions, plans)
        if length is None:
            return self._last(context, past_actions, plans, steps)
        lengths = length.tolist()
        if len(lengths) != envs or not all(1 <= n <= steps for n in lengths):
            raise ValueError(f"length is {lengths}; expected {envs} values from 1 to {steps}")
        if len(set(lengths)) == 1:
            return self._last(context, past_actions, plans, lengths[0])
        order, parts = [], []
        for n in sorted(set(lengths)):
            rows = [row for row, m in enumerate(lengths) if m == n]
            parts.append(self._last(context[rows], past_actions[rows], plans[rows], n))
            order += rows
        back = sorted(range(envs), key=order.__getitem__)
        return torch.cat(parts)[back]

    def _last(self, context: Tensor, past_actions: Tensor, plans: Tensor, length: int) -> Tensor:
        """A rollout from the last ``length`` steps of the context."""
        first = context.shape[1] - min(length, self.context)
        return self._rollout(context[:, first:], past_actions[:, first:], plans)

    def _rollout(self, context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
        """A rollout from the last step alone: the candidates are its rows, as steps are those of ``forward``."""
        state = context[:, -1:].expand(-1, plans.shape[1], -1, -1)
        steps = []
        for index in range(plans.shape[2]):
            state = self(state, plans[:, :, index])
            steps.append(state)
        return torch.stack(steps, dim=2)

    def _check(self, context: Tensor, past_actions: Tensor, plans: Tensor) -> None:
        """Refuse what would be broadcast silently."""
        envs, steps = context.shape[:2]
        if context.shape[2:] != (self.tokens, self.width) or steps < 1:
            raise ValueError(
                f"the context has shape {tuple(context.shape)}; "
                f"expected (E, M, N, Z) with N = {self.tokens} and Z = {self.width}"
            )
        if past_actions.ndim != 4 or past_actions.shape[:2] != (envs, steps - 1):
            raise ValueError(
                f"past_actions have shape {tuple(past_actions.shape)}; "
                f"expected (E, M - 1, K, A) with E = {envs} and M = {steps}"
            )
        if plans.ndim != 5 or len(plans) != envs:
            raise ValueError(
                f"plans have shape {tuple(plans.shape)}; expected (E, S, L, K, A) with E = {envs}"
            )

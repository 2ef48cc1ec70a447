"""Several dynamics trained on the same data: where they differ, they do not know."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from worldmodel.models.dynamics.base import Dynamics


class Ensemble(Dynamics):
    """Members of one kind, initialised apart, behind the contract of one (as in PETS, Chua et al. 2018, 1805.12114).

    ``forward`` and ``rollout`` give the mean over the members; in a rollout each member goes on from its own
    predictions, and the mean is taken at the end. So it is a member's rollout, not the mean's, that equals ``forward``
    step by step. Training gives each member a loss of its own (``members``, or ``forward_members``): a loss on the mean
    would make them differ as they please.

    Args:
        make: Makes one member; called ``count`` times.
        count: At least 2.
    """

    def __init__(self, make: Callable[[], Dynamics], count: int) -> None:
        if count < 2:
            raise ValueError(f"an ensemble has at least 2 members, not {count}")
        members = [make() for _ in range(count)]
        first = members[0]
        super().__init__(
            first.tokens, first.width, first.actions_per_step, len(first.action_mean), first.context
        )
        self.members = nn.ModuleList(members)

    @torch.no_grad()
    def set_statistics(self, actions: Tensor) -> None:
        """Give all members the statistics of a sample ``(..., A)``."""
        super().set_statistics(actions)
        for member in self._each():
            member.set_statistics(actions)

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        return self.forward_members(tokens, actions).mean(dim=0)

    def forward_members(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Each member's ``forward``: ``(members, B, T, N, Z)``."""
        return torch.stack([member(tokens, actions) for member in self._each()])

    def rollout(
        self, context: Tensor, past_actions: Tensor, plans: Tensor, length: Tensor | None = None
    ) -> Tensor:
        return self.rollout_members(context, past_actions, plans, length).mean(dim=0)

    def rollout_members(
        self, context: Tensor, past_actions: Tensor, plans: Tensor, length: Tensor | None = None
    ) -> Tensor:
        """Each member's ``rollout``: ``(members, E, S, L, N, Z)``."""
        return torch.stack([member.rollout(context, past_actions, plans, length) for member in self._each()])

    @staticmethod
    def disagreement(predictions: Tensor) -> Tensor:
        """How far members are from their mean, as a root mean square over tokens and features.

        Args:
            predictions: Of :meth:`forward_members` or :meth:`rollout_members`, ``(members, ..., N, Z)``.

        Returns:
            ``(...)``, in the latent's units.
        """
        variance = predictions.float().var(dim=0, correction=0).mean(dim=(-2, -1))
        # The gradient of a root at 0 is infinite, and identical members are no reason for a NaN.
        return (variance + 1e-12).sqrt()

    def _each(self) -> list[Dynamics]:
        return [member for member in self.members if isinstance(member, Dynamics)]

"""Parts that costs are made of: distances between latents, penalties, sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from planners.base import Cost

#: Latents `(..., N, D)` and goals that broadcast to them -> `(...)`, lower is better.
Distance = Callable[[Tensor, Tensor], Tensor]


def _rms(latents: Tensor, goal: Tensor) -> Tensor:
    gap = (latents - goal).flatten(-2)
    norm: Tensor = torch.linalg.vector_norm(gap, dim=-1)
    return norm / math.sqrt(gap.shape[-1])


#: Distances between latents `(..., N, D)` that broadcast; the result is `(...)`. All are means over tokens or
#: over N * D numbers, so that the weights of several terms mean the same for latents of any size.
DISTANCES: dict[str, Distance] = {
    "rms": _rms,
    "mse": lambda latents, goal: (latents - goal).square().flatten(-2).mean(dim=-1),
    "l1": lambda latents, goal: (latents - goal).abs().flatten(-2).mean(dim=-1),
    "l2": lambda latents, goal: torch.linalg.vector_norm(latents - goal, dim=-1).mean(dim=-1),
    "cosine": lambda latents, goal: 1 - torch.cosine_similarity(latents, goal, dim=-1).mean(dim=-1),
}


def with_proprio(distance: str, tokens: Sequence[int], weight: float) -> Distance:
    """A distance in which proprioception has a weight of its own: `picture / size + weight * proprio`.

    The picture's distance is divided by the size of the goal's latent, its distance from 0, so that its unit does not
    matter. Proprioception is expected in standard deviations of the data, and counts in these: where every value is
    off by one of them, its term is 1. So the weight means the same for latents of any size, unit and number of tokens.

    Args:
        distance: a key of `DISTANCES`. Cosines say nothing of values near 0, so proprioception then counts by rms.
        tokens: which of the N tokens are proprioception; negative indices count from the end.
        weight: of the proprioception's term.
    """
    picture, body = DISTANCES[distance], DISTANCES["rms" if distance == "cosine" else distance]

    def measure(latents: Tensor, goals: Tensor) -> Tensor:
        count = latents.shape[-2]
        proprio = [token % count for token in tokens]
        rest = [token for token in range(count) if token not in proprio]
        seen, wanted = latents[..., rest, :], goals[..., rest, :]
        size = picture(wanted, torch.zeros_like(wanted)) if distance != "cosine" else torch.ones(())
        felt, aim = latents[..., proprio, :], goals[..., proprio, :]
        one = body(torch.ones_like(aim), torch.zeros_like(aim))
        return picture(seen, wanted) / size.clamp(min=1e-6).to(latents) + weight * body(felt, aim) / one

    return measure


def disagreement(predictions: Tensor) -> Tensor:
    """How far an ensemble's members are from their mean: `(P, ..., N, D)` -> `(...)`, as a root mean square.

    Where they differ, the model does not know (PETS, 1805.12114).
    """
    variance = predictions.float().var(dim=0, correction=0).mean(dim=(-2, -1))
    return (variance + 1e-12).sqrt()  # the gradient of a root at 0 is infinite


def action_penalty(plans: Tensor, scale: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean squares `(E, S)` of the actions of plans `(E, S, L, K, A)`, and of their changes from one to the next.

    Args:
        plans: in the environment's units.
        scale: `(A,)`, the unit of each dimension, usually the standard deviation of the data's actions.
        before: `(E, A)`, the action executed last; the change to the first one counts if given.
    """
    actions = (plans / scale.to(plans)).flatten(2, 3)
    size = actions.square().mean(dim=(2, 3))
    if before is not None:
        first = (before.to(plans) / scale.to(plans))[:, None, None].expand(-1, plans.shape[1], 1, -1)
        actions = torch.cat([first, actions], dim=2)
    change = actions.diff(dim=2)
    return size, change.square().mean(dim=(2, 3)) if change.shape[2] else torch.zeros_like(size)


class SumCost:
    """A weighted sum of costs: `SumCost((1.0, goal_cost), (0.1, my_cost))`.

    A term of weight 0 is not computed. A candidate that fails in one term fails.
    """

    def __init__(self, *terms: tuple[float, Cost]) -> None:
        self.terms = [(float(weight), cost) for weight, cost in terms if weight != 0]
        if not self.terms or not all(math.isfinite(weight) for weight, _ in self.terms):
            raise ValueError(f"SumCost has the weights {[w for w, _ in terms]}; give finite ones, not all 0")

    def __call__(self, plans: Tensor) -> Tensor:
        (weight, cost), *others = self.terms
        total = weight * cost(plans)
        for weight, cost in others:
            total = total + weight * cost(plans)
        return total

"""Costs over a rollout function: how far imagined latents are from the goal's latent."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from planners.base import History

#: context `(E, M, N, D)`, past actions `(E, M - 1, K, A)` and plans `(E, S, L, K, A)`, in the environment's
#: units -> latents `(E, S, L, N, D)`.
Rollout = Callable[[Tensor, Tensor, Tensor], Tensor]
#: frames `(E, C, H, W)` uint8 -> latents `(E, N, D)`.
Encode = Callable[[Tensor], Tensor]


def _rms(latents: Tensor, goal: Tensor) -> Tensor:
    gap = (latents - goal).flatten(-2)
    norm: Tensor = torch.linalg.vector_norm(gap, dim=-1)
    return norm / math.sqrt(gap.shape[-1])


#: Distances between latents `(..., N, D)` that broadcast; the result is `(...)`. All are means over tokens or
#: over N * D numbers, so that the weights of several terms mean the same for latents of any size.
DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rms": _rms,
    "mse": lambda latents, goal: (latents - goal).square().flatten(-2).mean(dim=-1),
    "l1": lambda latents, goal: (latents - goal).abs().flatten(-2).mean(dim=-1),
    "l2": lambda latents, goal: torch.linalg.vector_norm(latents - goal, dim=-1).mean(dim=-1),
    "cosine": lambda latents, goal: 1 - torch.cosine_similarity(latents, goal, dim=-1).mean(dim=-1),
}


@dataclass
class GoalCostConfig:
    """Settings of `LatentGoalCost`.

    Raises:
        ValueError: a weight is negative or not finite, all are 0, or the distance is unknown.
    """

    path: float = 1.0  # weight of the mean distance along the path, in which later steps weigh more
    final: float = 1.0  # weight of the distance after the last step
    minimum: float = 0.5  # weight of the smallest distance along the path
    distance: str = "rms"  # rms, mse, l1, l2 or cosine

    def __post_init__(self) -> None:
        for name in ("path", "final", "minimum"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"GoalCostConfig.{name} is {getattr(self, name)}; use a finite weight >= 0")
        if self.path == self.final == self.minimum == 0:
            raise ValueError("GoalCostConfig: path, final and minimum are all 0; set at least one above 0")
        if self.distance not in DISTANCES:
            raise ValueError(
                f"GoalCostConfig.distance is {self.distance!r}; choose one of {', '.join(DISTANCES)}"
            )


class LatentGoalCost:
    """Cost `(E, S)` of plans `(E, S, L, K, A)`: distance of the imagined latents to the goal's.

    With d[t] the distance after step t = 1..L:

        cost = path * sum_t(t * d[t]) / sum_t(t) + final * d[L] + minimum * min_t d[t]

    The last step alone says nothing about how soon the goal is reached, and the model is least certain there;
    the path rewards arriving early, and the minimum plans that pass through the goal.

    On a CPU the rollout is called for one environment at a time: matrix products of different batch sizes may
    round differently, and a plan must not depend, not even in its last bit, on who is planned beside it. On
    other devices all environments whose contexts have equally many real steps share a call.

    Args:
        rollout: see `Rollout`. It is called with the context's real steps only, never with padding.
        context: latents `(E, M, N, D)`; computation takes place on their device.
        past_actions: `(E, M - 1, K, A)`, environment units.
        goals: latents `(E, N, D)`.
        length: `(E,)`, how many of the M context steps, counted from the last, are real; all by default.
        config: see `GoalCostConfig`.
        chunk: environments per rollout call; None for the choice above. Fewer need less memory.

    Raises:
        ValueError: shapes do not match, or the rollout's answer has the wrong shape.
    """

    def __init__(
        self,
        rollout: Rollout,
        context: Tensor,
        past_actions: Tensor,
        goals: Tensor,
        *,
        length: Tensor | None = None,
        config: GoalCostConfig | None = None,
        chunk: int | None = None,
    ) -> None:
        self.config = replace(config or GoalCostConfig())
        if context.ndim != 4 or goals.shape != context[:, 0].shape:
            raise ValueError(
                f"the context has shape {tuple(context.shape)} and the goals {tuple(goals.shape)}; "
                "expected (E, M, N, D) and (E, N, D)"
            )
        envs, steps = context.shape[:2]
        if past_actions.ndim != 4 or past_actions.shape[:2] != (envs, steps - 1):
            raise ValueError(
                f"past_actions have shape {tuple(past_actions.shape)}; "
                f"expected (E, M - 1, K, A) with E = {envs} and M = {steps}"
            )
        lengths = [steps] * envs if length is None else [int(n) for n in length]
        if len(lengths) != envs or not all(1 <= n <= steps for n in lengths):
            raise ValueError(f"length is {lengths}; expected {envs} values from 1 to {steps}")
        past_actions = past_actions.to(context.device)
        self._rollout, self._distance = rollout, DISTANCES[self.config.distance]
        self._parts = []
        for n, rows in _groups(lengths, chunk_size(chunk, context.device, envs)):
            # Indexing copies, to fresh memory: the rounding of a matrix product may depend on its alignment.
            self._parts.append(
                (rows, context[rows, steps - n :], past_actions[rows, steps - n :], goals[rows])
            )

    def __call__(self, plans: Tensor) -> Tensor:
        costs: list[Tensor | None] = [None] * len(plans)
        for rows, context, past_actions, goals in self._parts:
            some = plans[rows].to(context.device)
            latents = self._rollout(context, past_actions, some)
            expected = (*some.shape[:3], *context.shape[2:])
            if latents.shape != expected:
                raise ValueError(
                    f"rollout returned shape {tuple(latents.shape)}; expected (E, S, L, N, D) = {expected}"
                )
            distances = self._distance(latents.float(), goals[:, None, None].float())
            for row, cost in zip(rows, self.reduce(distances), strict=True):
                costs[row] = cost
        return torch.stack([cost for cost in costs if cost is not None])

    def reduce(self, distances: Tensor) -> Tensor:
        """Distances `(..., L)` after each step to costs `(...)`."""
        c = self.config
        weight = torch.arange(1, distances.shape[-1] + 1, dtype=distances.dtype, device=distances.device)
        path = (distances * (weight / weight.sum())).sum(dim=-1)
        return c.path * path + c.final * distances[..., -1] + c.minimum * distances.amin(dim=-1)


class LatentCostFactory:
    """Makes `LatentGoalCost`s for an `MPCAgent` from an encoder and a rollout.

    Args:
        encode: see `Encode`. On a CPU it gets one frame at a time, for the reason given in `LatentGoalCost`.
        rollout: see `Rollout`.
        config: see `GoalCostConfig`.
        device: where frames are sent for encoding; the model's device.
        chunk: environments per call; None for one on a CPU and all elsewhere.
        context: latents that the rollout can use; `MPCAgent` keeps as many.
    """

    def __init__(
        self,
        encode: Encode,
        rollout: Rollout,
        config: GoalCostConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        chunk: int | None = None,
        context: int = 1,
    ) -> None:
        self._encode, self._rollout, self.context = encode, rollout, context
        self.config, self.device, self.chunk = (
            replace(config or GoalCostConfig()),
            torch.device(device),
            chunk,
        )

    def encode(self, observations: Tensor) -> Tensor:
        """Latents `(E, N, D)` of frames `(E, C, H, W)`, without gradients."""
        size = chunk_size(self.chunk, self.device, len(observations))
        with torch.no_grad():
            chunks = torch.split(observations, size)
            parts = [self._encode(chunk.clone().to(self.device)) for chunk in chunks]
        latents = torch.cat(parts)
        if latents.ndim != 3 or len(latents) != len(observations):
            raise ValueError(
                f"encode returned shape {tuple(latents.shape)} for frames {tuple(observations.shape)}; "
                "expected (E, N, D)"
            )
        return latents

    def __call__(self, history: History) -> LatentGoalCost:
        return LatentGoalCost(
            self._rollout, history.observations, history.past_actions, history.goals,
            length=history.length, config=self.config, chunk=self.chunk,
        )  # fmt: skip


def chunk_size(chunk: int | None, device: torch.device, envs: int) -> int:
    """Environments per call: as asked for, else one on a CPU and all elsewhere. `LatentGoalCost` says why."""
    if chunk is None:
        return 1 if device.type == "cpu" else envs
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; use at least 1, or None for the default")
    return chunk


def _groups(lengths: list[int], size: int) -> list[tuple[int, list[int]]]:
    """(length, rows) with at most `size` rows of that length each."""
    groups = []
    for length in sorted(set(lengths)):
        rows = [row for row, n in enumerate(lengths) if n == length]
        groups += [(length, rows[i : i + size]) for i in range(0, len(rows), size)]
    return groups

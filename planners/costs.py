"""Costs over a rollout function: how far imagined latents are from the goal's latent."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from planners.base import History
from planners.terms import DISTANCES, Distance, action_penalty, disagreement, with_proprio

#: context `(E, M, N, D)`, past actions `(E, M - 1, K, A)` and plans `(E, S, L, K, A)`, in the environment's
#: units -> latents `(E, S, L, N, D)`; or, of an ensemble's members, `(P, E, S, L, N, D)`.
Rollout = Callable[[Tensor, Tensor, Tensor], Tensor]
#: frames `(E, C, H, W)` uint8 -> latents `(E, N, D)`.
Encode = Callable[[Tensor], Tensor]


WEIGHTINGS = ("linear", "uniform")


@dataclass
class GoalCostConfig:
    """Settings of `LatentGoalCost`.

    Raises:
        ValueError: a weight is negative or not finite, those of all distances are 0, or a name is unknown.
    """

    path: float = 1.0  # weight of the mean distance along the path
    final: float = 1.0  # weight of the distance after the last step
    minimum: float = 0.5  # weight of the smallest distance along the path
    distance: str = "rms"  # rms, mse, l1, l2 or cosine
    # of the path: linear (later steps weigh more) or uniform (the mean over all steps)
    weighting: str = "linear"
    # weight of proprioception beside the picture; null: its token is one of many
    proprio: float | None = None
    action: float = 0.0  # weight of the actions' mean square, in units of their std in the data
    change: float = 0.0  # weight of the mean square of the changes from action to action, in these units
    disagreement: float = 0.0  # weight of how far the members of an ensemble differ, mean over the path
    consistency: float = 0.0  # weight of what the end changes by if the second half is imagined by itself

    def __post_init__(self) -> None:
        for name in (
            "path",
            "final",
            "minimum",
            "proprio",
            "action",
            "change",
            "disagreement",
            "consistency",
        ):
            if (weight := getattr(self, name)) is not None and not 0 <= weight < math.inf:
                raise ValueError(f"GoalCostConfig.{name} is {weight}; use a finite weight >= 0")
        if self.path == self.final == self.minimum == 0:
            raise ValueError("GoalCostConfig: path, final and minimum are all 0; set at least one above 0")
        if self.distance not in DISTANCES:
            raise ValueError(
                f"GoalCostConfig.distance is {self.distance!r}; choose one of {', '.join(DISTANCES)}"
            )
        if self.weighting not in WEIGHTINGS:
            raise ValueError(
                f"GoalCostConfig.weighting is {self.weighting!r}; choose {' or '.join(WEIGHTINGS)}"
            )


class LatentGoalCost:
    """Cost `(E, S)` of plans `(E, S, L, K, A)`: distance of the imagined latents to the goal's.

    With d[t] the distance after step t = 1..L:

        cost = path * sum_t(t * d[t]) / sum_t(t) + final * d[L] + minimum * min_t d[t]

    (with `weighting="uniform"`, the path's mean is sum_t(d[t]) / L).

    The last step alone says nothing about how soon the goal is reached, and the model is least certain there;
    the path rewards arriving early, and the minimum plans that pass through the goal. `GoalCostConfig` has further
    terms; all of them use the same rollout, except self-consistency, which needs half of one more: the second half of
    the plan is imagined once more, from the latent in its middle alone (as in Fast-LeWM, whose predictor takes the
    whole plan at once). Gradients reach the plans if the rollout lets them through.

    On a CPU the rollout is called for one environment at a time: matrix products of different batch sizes may
    round differently, and a plan must not depend, not even in its last bit, on who is planned beside it. On
    other devices all environments whose contexts have equally many real steps share a call.

    Args:
        rollout: see `Rollout`. It is called with the context's real steps only, never with padding. Of an ensemble's
            members, distances are those of their mean.
        context: latents `(E, M, N, D)`; computation takes place on their device.
        past_actions: `(E, M - 1, K, A)`, environment units.
        goals: latents `(E, N, D)`.
        length: `(E,)`, how many of the M context steps, counted from the last, are real; all by default.
        config: see `GoalCostConfig`.
        chunk: environments per rollout call; None for the choice above. Fewer need less memory.
        candidates: plans of an environment per rollout call; None for all. Fewer need less memory, too, and change
            costs by no more than rounding.
        distance: what takes the place of the distance that the settings name: a learned value, such as steps to go.
        proprio_tokens: which of the N tokens are proprioception.
        action_scale: `(A,)`, the unit of actions in their penalties, 1 by default.

    Raises:
        ValueError: shapes do not match, the rollout's answer has the wrong shape, or a term needs what is not there.
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
        candidates: int | None = None,
        distance: Distance | None = None,
        proprio_tokens: Sequence[int] = (),
        action_scale: Tensor | None = None,
    ) -> None:
        self.config = replace(config or GoalCostConfig())
        if candidates is not None and candidates < 1:
            raise ValueError(f"candidates is {candidates}; use at least 1, or None for all at once")
        self._candidates = candidates
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
        self._rollout, self._distance = rollout, make_distance(self.config, distance, proprio_tokens)
        self._scale = torch.ones(past_actions.shape[-1]) if action_scale is None else action_scale
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
            parts = [
                self._costs(context, past_actions, goals, part)
                for part in some.split(self._candidates or some.shape[1], dim=1)
            ]
            for row, one in zip(rows, torch.cat(parts, dim=1), strict=True):
                costs[row] = one
        return torch.stack([cost for cost in costs if cost is not None])

    def _costs(self, context: Tensor, past_actions: Tensor, goals: Tensor, plans: Tensor) -> Tensor:
        latents, uncertain = self._imagine(context, past_actions, plans)
        distances = self._distance(latents.float(), goals[:, None, None].float())
        return self.reduce(distances) + self._penalties(latents, plans, past_actions) + uncertain

    def _imagine(self, context: Tensor, past_actions: Tensor, plans: Tensor) -> tuple[Tensor, Tensor | float]:
        """Latents `(e, S, L, N, D)`, and the penalty `(e, S)` on what the members of an ensemble disagree on."""
        latents = self._rollout(context, past_actions, plans)
        members = latents.ndim == 6
        expected = (*plans.shape[:3], *context.shape[2:])
        if latents.shape[members:] != expected:
            raise ValueError(
                f"rollout returned shape {tuple(latents.shape)}; expected (E, S, L, N, D) = {expected}"
            )
        if self.config.disagreement and not members:
            raise ValueError(
                "cost.disagreement needs an ensemble: a rollout that returns its members' (P, E, S, L, N, D)"
            )
        if not members:
            return latents, 0.0
        doubt = disagreement(latents).mean(dim=-1) if self.config.disagreement else 0.0
        return latents.mean(dim=0), self.config.disagreement * doubt

    def _penalties(self, latents: Tensor, plans: Tensor, past_actions: Tensor) -> Tensor | float:
        c = self.config
        total: Tensor | float = 0.0
        if c.action or c.change:
            before = past_actions[:, -1, -1] if past_actions.shape[1] else None
            size, change = action_penalty(plans, self._scale, before)
            total = total + c.action * size + c.change * change
        half = plans.shape[2] // 2
        if c.consistency and half:
            middle = latents[:, :, half - 1].flatten(0, 1)[:, None]
            rest = plans[:, :, half:].flatten(0, 1)[:, None]
            nothing = rest.new_zeros(len(rest), 0, *rest.shape[3:])
            again = self._rollout(middle, nothing, rest)
            again = (again.mean(dim=0) if again.ndim == 6 else again)[:, 0, -1]
            gap = DISTANCES["rms"](again.float(), latents[:, :, -1].flatten(0, 1).float())
            total = total + c.consistency * gap.view(plans.shape[:2])
        return total

    def reduce(self, distances: Tensor) -> Tensor:
        """Distances `(..., L)` after each step to costs `(...)`."""
        c = self.config
        weight = torch.arange(1, distances.shape[-1] + 1, dtype=distances.dtype, device=distances.device)
        if c.weighting == "uniform":
            weight = torch.ones_like(weight)
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
        candidates: see `LatentGoalCost`.
        context: latents that the rollout can use; `MPCAgent` keeps as many.
        distance: see `LatentGoalCost`.
        proprio_tokens: see `LatentGoalCost`.
        action_scale: see `LatentGoalCost`.

    Raises:
        ValueError: a term of the cost needs what is not there.
    """

    def __init__(
        self,
        encode: Encode,
        rollout: Rollout,
        config: GoalCostConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        chunk: int | None = None,
        candidates: int | None = None,
        context: int = 1,
        distance: Distance | None = None,
        proprio_tokens: Sequence[int] = (),
        action_scale: Tensor | None = None,
    ) -> None:
        self._encode, self._rollout, self.context = encode, rollout, context
        self.config = replace(config or GoalCostConfig())
        self.device, self.chunk, self.candidates = torch.device(device), chunk, candidates
        self._distance, self._proprio_tokens, self._scale = distance, tuple(proprio_tokens), action_scale
        make_distance(self.config, distance, proprio_tokens)  # says what is wrong before there is a goal

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
            length=history.length, config=self.config, chunk=self.chunk, candidates=self.candidates,
            distance=self._distance, proprio_tokens=self._proprio_tokens, action_scale=self._scale,
        )  # fmt: skip


def make_distance(
    config: GoalCostConfig, distance: Distance | None, proprio_tokens: Sequence[int]
) -> Distance:
    """The distance that a cost measures with: the one given, or the one that its settings name.

    Raises:
        ValueError: proprioception has a weight, but there is none, or a learned distance takes it in already.
    """
    if config.proprio is None:
        return distance or DISTANCES[config.distance]
    if distance is not None:
        raise ValueError(
            "cost.proprio has no effect on a learned distance, which sees all tokens; leave it out"
        )
    if not proprio_tokens:
        raise ValueError(
            "cost.proprio needs a model with proprioception, and this one has none; leave it out"
        )
    return with_proprio(config.distance, proprio_tokens, config.proprio)


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

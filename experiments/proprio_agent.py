"""An agent for world models that see proprioception beside pictures: for robots, which have both."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.agents import first_plans, latent_costs
from planners.costs import GoalCostConfig, chunk_size
from planners.mpc import Decision, MPCAgent, MPCConfig
from planners.registry import build_planner
from planners.terms import Distance
from worldmodel.models.dynamics import RolloutConfig
from worldmodel.models.world_model import WorldModel


class ProprioAgent:
    """Plans from pictures and proprioception towards a goal that is known by both, or by its picture alone.

    Each step's latent is computed when the step is seen; an ``MPCAgent`` plans with the latents. Models that see
    several frames at each step are shown the last ones; an episode's first one is repeated where there are fewer, and
    a goal as often as needed: being there at rest.

    Args:
        agent: Its observations and goals are latents.
        model: In evaluation mode, where it computes.
        needs_goal: Whether goals without proprioception are refused, because the cost looks at it.

    Raises:
        ValueError: The model sees no proprioception.
    """

    def __init__(self, agent: MPCAgent, model: WorldModel, needs_goal: bool) -> None:
        if model.proprio is None:
            raise ValueError("the model sees no proprioception; use experiments.agents.latent_agent")
        self.agent, self._model, self._proprio = agent, model, model.proprio
        self._needs_goal = needs_goal
        self._device = model.proprio.mean.device
        self._seen: list[deque[tuple[Tensor, Tensor]]] = []
        self._goals = torch.empty(0)

    @property
    def last(self) -> Decision | None:
        """See ``MPCAgent``."""
        return self.agent.last

    def reset(self, goals: Tensor, goal_proprio: Tensor | None, seeds: Tensor | Sequence[int]) -> None:
        """Begin E episodes and forget everything of earlier ones.

        Args:
            goals: Pictures ``(E, C, H, W)`` uint8.
            goal_proprio: ``(E, Q)`` in the data's units. None where it is not known, which takes a cost that does not
                look at it: ``GoalCostConfig(proprio=0)``, and no learned value.
            seeds: ``(E,)`` integers.

        Raises:
            ValueError: Shapes do not match, or the goals' proprioception is missing.
        """
        goals = torch.as_tensor(goals)
        if goal_proprio is None:
            if self._needs_goal:
                raise ValueError(
                    "the cost looks at the goals' proprioception, and none is given: give goal_proprio, or set "
                    "cost.proprio=0 (and use no learned value) where goals are known by their pictures alone"
                )
            # Any will do; the mean is what the model knows best.
            goal_proprio = self._proprio.mean.expand(len(goals), -1)
        proprio = self._checked(goal_proprio, len(goals), "goal_proprio")
        window = self._model.config.window
        self._goals = self._encode([[one] * window for one in zip(goals, proprio, strict=True)])
        self._seen = [deque(maxlen=window) for _ in goals]
        self.agent.reset(self._goals, seeds)

    def act(self, frames: Tensor, proprio: Tensor, active: Tensor | None = None) -> Tensor:
        """The next actions ``(E, K, A)``; see ``MPCAgent.act``.

        Args:
            frames: ``(E, C, H, W)`` uint8.
            proprio: ``(E, Q)`` in the data's units.
            active: ``(E,)`` bool, the rows that are still going, all by default.

        Raises:
            ValueError: ``reset`` was not called, or shapes do not match.
        """
        began = time.perf_counter()
        frames = torch.as_tensor(frames)
        rows = self.agent.active_rows(frames, active)
        proprio = self._checked(proprio, len(frames), "proprio")
        for row in rows:
            step, seen = (frames[row].clone(), proprio[row].clone()), self._seen[row]
            seen.extend([step] if seen else [step] * self._model.config.window)
        latents = torch.zeros_like(self._goals)
        if rows:
            latents[rows] = self._encode([list(self._seen[row]) for row in rows])
        return self.agent.act(latents, active, began)

    def _checked(self, proprio: Tensor, rows: int, name: str) -> Tensor:
        proprio = torch.as_tensor(proprio, dtype=torch.float32)
        if proprio.shape != (rows, self._proprio.dim):
            names = ", ".join(self._model.config.proprio.names)
            raise ValueError(
                f"{name} has shape {tuple(proprio.shape)}; expected ({rows}, {self._proprio.dim})"
                + (f": {names}" if names else "")
            )
        return proprio

    def _encode(self, windows: list[list[tuple[Tensor, Tensor]]]) -> Tensor:
        """Latents ``(n, N, Z)`` of each window's last step; on a CPU one by one (``LatentGoalCost`` says why)."""
        size, parts = chunk_size(None, self._device, len(windows)), []
        for first in range(0, len(windows), size):
            some = windows[first : first + size]
            frames = torch.stack([torch.stack([frame for frame, _ in window]) for window in some])
            proprio = torch.stack([torch.stack([felt for _, felt in window]) for window in some])
            parts.append(self._model.encode(frames.to(self._device), proprio.to(self._device))[:, -1])
        return torch.cat(parts)


def proprio_agent(
    model: WorldModel,
    planner: Any,
    cost: GoalCostConfig,
    mpc: MPCConfig,
    device: str = "cpu",
    init_std: str = "data",
    value: Distance | None = None,
    rollout: RolloutConfig | None = None,
) -> ProprioAgent:
    """An agent that plans with a world model that sees proprioception.

    Arguments and errors are those of ``experiments.agents.latent_agent``. The weight of proprioception in the distance
    to the goal is ``cost.proprio``; without one, its token counts like any other.
    """
    costs = latent_costs(model, planner, cost, device, value, rollout, encode=lambda latents: latents)
    agent = MPCAgent(build_planner(planner), costs, *first_plans(model, init_std), mpc)
    return ProprioAgent(agent, model, needs_goal=cost.proprio != 0)

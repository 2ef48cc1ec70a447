"""Looking on while an agent plans: what its planner tried in the tasks of an evaluation. Plans stay what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from envs.evaluate import Goals, Observation, Policy
from planners.base import Bounds, Cost, History, Plan, Planner
from planners.mpc import Decision, MPCAgent


class WatchedPlanner:
    """Hands everything to a planner, and keeps the candidates of the latest search and their costs.

    Attributes:
        rounds: Candidates ``(E, S, L, K, A)`` and costs ``(E, S)`` of each call of the cost.
    """

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.rounds: list[tuple[Tensor, Tensor]] = []

    @property
    def horizon(self) -> int:
        """L."""
        return self.planner.horizon

    @property
    def action_block(self) -> int:
        """K."""
        return self.planner.action_block

    @property
    def memory(self) -> int:
        """How many elites a plan carries, see ``Planner``."""
        return getattr(self.planner, "memory", 0)

    def plan(
        self,
        cost: Cost,
        bounds: Bounds,
        init_mean: Tensor,
        init_std: Tensor,
        *,
        seeds: Tensor | Sequence[int],
        start: Tensor | None = None,
        deadline: float | None = None,
    ) -> Plan:
        """See ``Planner.plan``."""
        self.rounds = []

        def watched(plans: Tensor) -> Tensor:
            costs = cost(plans)
            self.rounds.append((plans.detach().clone(), costs.detach().clone()))
            return costs

        return self.planner.plan(
            watched, bounds, init_mean, init_std, seeds=seeds, start=start, deadline=deadline
        )


@dataclass(frozen=True, eq=False)
class Searched:
    """One decision in one environment."""

    step: int  # model steps taken before it
    history: History  # E = 1
    plan: Tensor  # (L, K, A)
    cost: float
    best: np.ndarray  # (I,)
    mean: np.ndarray  # (I,)
    first: list[np.ndarray]  # (S, A) of each iteration, mean over the K actions of the first step
    first_cost: list[np.ndarray]  # (S,)
    spread: list[np.ndarray]  # (L,)


@dataclass
class Watched:
    """One task, as far as it was played."""

    decisions: list[Searched] = field(default_factory=list)
    executed: list[np.ndarray] = field(default_factory=list)  # (K, A) each


class WatchedPolicy:
    """Acts as a policy that holds an ``MPCAgent`` does, and keeps how it searched in some tasks.

    Args:
        policy: The policy; its agent's planner is watched from now on.
        agent: Its agent.
        tasks: Seeds of the tasks to watch, as the evaluator gives them, to their ids.
    """

    def __init__(self, policy: Policy, agent: MPCAgent, tasks: dict[int, int]) -> None:
        self.policy, self.agent, self._tasks = policy, agent, tasks
        self.privileged = policy.privileged
        self._planner = WatchedPlanner(agent.planner)
        agent.planner = self._planner
        self._rows: dict[int, Watched] = {}
        #: By the tasks' ids.
        self.found: dict[int, Watched] = {}

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        """See ``Policy``."""
        watched = {row: self._tasks[seed] for row, seed in enumerate(seeds.tolist()) if seed in self._tasks}
        self.found = {task: Watched() for task in watched.values()}
        self._rows = {row: self.found[task] for row, task in watched.items()}
        self.policy.reset(goals, seeds)

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        """See ``Policy``."""
        before = self.agent.last
        actions = self.policy.act(observation, active)
        decision = self.agent.last
        if decision is not None and decision is not before:
            for place, row in enumerate(decision.rows):
                if row in self._rows:
                    watched = self._rows[row]
                    step = len(watched.executed)
                    watched.decisions.append(searched(decision, self._planner.rounds, place, step))
        for row, watched in self._rows.items():
            if active[row]:
                watched.executed.append(actions[row].copy())
        return actions


def searched(decision: Decision, rounds: Sequence[tuple[Tensor, Tensor]], place: int, step: int) -> Searched:
    """What one environment, at a place among those planned for, has of a decision."""
    many = [one for one in rounds if one[0].shape[1] > 1] or list(rounds)  # without a refit mean at the end
    plans = [candidates[place].cpu() for candidates, _ in many]
    history, plan = decision.history, decision.plan
    one = slice(place, place + 1)
    return Searched(
        step,
        History(*(getattr(history, name)[one] for name in History.__dataclass_fields__)),
        plan.actions[place].cpu(),
        float(plan.cost[place]),
        np.array([float(i.best[place]) for i in plan.trace]),
        np.array([float(i.mean[place]) for i in plan.trace]),
        [candidates[:, 0].mean(dim=1).numpy() for candidates in plans],
        [costs[place].float().cpu().numpy() for _, costs in many],
        [candidates.std(dim=0, correction=0).mean(dim=(1, 2)).numpy() for candidates in plans],
    )

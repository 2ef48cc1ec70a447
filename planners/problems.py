"""Problems with known dynamics to try a planner on, your own too: a point to park, a pendulum to swing up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from planners.base import Bounds, Cost, History, Planner
from planners.mpc import MPCAgent, MPCConfig


@dataclass(frozen=True, eq=False)
class Problem:
    """A system whose state `(..., D)` is known, and which is to be brought to rest at the origin."""

    name: str
    bounds: Bounds
    init_std: Tensor  # (A,), spread of the first candidates
    step: Callable[[Tensor, Tensor], Tensor]  # states (..., D) and actions (..., A) -> the next states
    distance: Callable[[Tensor], Tensor]  # states (..., D) -> how far from done (...)
    start: Tensor  # (D,)
    done: float  # at this distance the goal is reached
    action_block: int = 1  # K

    def cost(self, states: Tensor) -> Cost:
        """The mean distance on the way, and that at the end, from states `(E, D)`. Lets gradients through."""

        def cost(plans: Tensor) -> Tensor:
            state = states[:, None].expand(-1, plans.shape[1], -1)
            distances = []
            for actions in plans.flatten(2, 3).unbind(dim=2):
                state = self.step(state, actions)
                distances.append(self.distance(state))
            path = torch.stack(distances, dim=2)
            return path.mean(dim=2) + path[:, :, -1]

        return cost


def double_integrator() -> Problem:
    """A point mass in the plane, pushed with at most 1 unit of force in each direction: to be parked at the origin."""

    def step(state: Tensor, action: Tensor) -> Tensor:
        velocity = state[..., 2:] + 0.2 * action
        return torch.cat([state[..., :2] + 0.2 * velocity, velocity], dim=-1)

    return Problem(
        "double integrator", Bounds(-torch.ones(2), torch.ones(2)), torch.full((2,), 0.5), step,
        distance=lambda state: (state.square() + 1e-6).sum(dim=-1).sqrt(),
        start=torch.tensor([-1.0, 0.6, 0.0, 0.0]), done=0.15,
    )  # fmt: skip


def pendulum() -> Problem:
    """A pendulum that is too heavy for its motor, which has to swing it up. State: angle from the top, speed.

    The figures are those of gymnasium's Pendulum: 2 of the 5 units of torque that would hold it out sideways.
    """

    def step(state: Tensor, action: Tensor) -> Tensor:
        angle, speed = state[..., 0], state[..., 1]
        for _ in range(2):
            speed = speed + 0.05 * (15 * angle.sin() + 3 * action[..., 0])
            angle = angle + 0.05 * speed
        return torch.stack([angle, speed], dim=-1)

    return Problem(
        "pendulum", Bounds(torch.tensor([-2.0]), torch.tensor([2.0])), torch.tensor([1.0]), step,
        distance=lambda state: 1 - state[..., 0].cos() + 0.02 * state[..., 1].square(),
        start=torch.tensor([torch.pi, 0.0]), done=0.1, action_block=2,
    )  # fmt: skip


def drive(planner: Planner, problem: Problem, decisions: int, seeds: list[int]) -> Tensor:
    """Lets an `MPCAgent` act from the problem's start, once for each seed.

    Returns:
        Distances `(decisions + 1, E)` at the start and after each decision.
    """
    states = problem.start.expand(len(seeds), -1)

    def make_cost(history: History) -> Cost:
        return problem.cost(history.observations[:, -1])

    agent = MPCAgent(
        planner, make_cost, problem.bounds, torch.zeros_like(problem.init_std), problem.init_std, MPCConfig()
    )
    agent.reset(torch.zeros_like(states), seeds)
    distances = [problem.distance(states)]
    for _ in range(decisions):
        for action in agent.act(states).unbind(dim=1):
            states = problem.step(states, action)
        distances.append(problem.distance(states))
    return torch.stack(distances)


def progress(planner: Planner, problem: Problem, seeds: list[int]) -> tuple[list[int], Tensor]:
    """How the best cost falls during one search from the problem's start, once for each seed.

    Returns:
        How many plans were evaluated after each call of the cost, a gradient counting as two more, and the lowest
        costs `(calls, E)` by then.
    """
    cost = problem.cost(problem.start.expand(len(seeds), -1))
    counts, lowest = [0], [torch.full((len(seeds),), torch.inf)]

    def counting(plans: Tensor) -> Tensor:
        costs = cost(plans)
        counts.append(counts[-1] + plans.shape[1] * (3 if plans.requires_grad else 1))
        lowest.append(lowest[-1].minimum(costs.detach().amin(dim=1)))
        return costs

    planner.plan(counting, problem.bounds, torch.zeros_like(problem.init_std), problem.init_std, seeds=seeds)
    return counts[1:], torch.stack(lowest[1:])

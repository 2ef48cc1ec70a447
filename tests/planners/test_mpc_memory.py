"""An agent keeps the elites of a planner that remembers them, shifted like its plan."""

from __future__ import annotations

import torch
from torch import Tensor

from planners.base import Bounds, Cost, History, Plan
from planners.icem import ICEM, ICEMConfig
from planners.mpc import MPCAgent, MPCConfig
from planners.problems import double_integrator

FREE = Bounds(torch.tensor([-torch.inf]), torch.tensor([torch.inf]))


class Remembering:
    """Plan number i is 100 i, 100 i + 1, ...; its two elites are that plus 10 and plus 20."""

    horizon, action_block, memory = 4, 1, 2

    def __init__(self) -> None:
        self.starts: list[Tensor | None] = []

    def plan(
        self,
        cost: Cost,
        bounds: Bounds,
        init_mean: Tensor,
        init_std: Tensor,
        *,
        seeds: list[int],
        start: Tensor | None = None,
        deadline: float | None = None,
    ) -> Plan:
        numbers = (torch.arange(4.0) + 100 * len(self.starts)).view(1, 4, 1, 1).repeat(len(seeds), 1, 1, 1)
        self.starts.append(start)
        elites = torch.stack([numbers + 10, numbers + 20], dim=1)
        return Plan(numbers, torch.zeros(len(seeds)), elites=elites)


def agent_of(planner: Remembering, config: MPCConfig) -> MPCAgent:
    return MPCAgent(
        planner,
        lambda history: lambda plans: plans[:, :, 0, 0, 0],
        FREE,
        torch.tensor([0.5]),
        torch.ones(1),
        config,
    )


def test_elites_are_shifted_with_the_plan() -> None:
    planner = Remembering()
    agent = agent_of(planner, MPCConfig(execute=2))
    agent.reset(torch.zeros(1, 1), [0])
    for _ in range(3):
        agent.act(torch.zeros(1, 1))
    first, second = planner.starts
    assert first is not None and first.shape == (1, 3, 4, 1, 1) and (first == 0.5).all()
    assert second is not None
    assert second[0, :, :, 0, 0].tolist() == [[2, 3, 0.5, 0.5], [12, 13, 0.5, 0.5], [22, 23, 0.5, 0.5]]


def test_without_warm_start_nothing_is_remembered_and_reset_forgets() -> None:
    planner = Remembering()
    agent = agent_of(planner, MPCConfig(warm_start=False))
    agent.reset(torch.zeros(1, 1), [0])
    agent.act(torch.zeros(1, 1))
    agent.act(torch.zeros(1, 1))
    assert planner.starts == [None, None]
    warm = agent_of(planner, MPCConfig())
    for _ in range(2):
        warm.reset(torch.zeros(1, 1), [0])
        warm.act(torch.zeros(1, 1))
        start = planner.starts[-1]
        assert start is not None and (start == 0.5).all()


def test_with_a_memory_too_an_environment_does_not_depend_on_its_neighbours() -> None:
    problem = double_integrator()

    def make_cost(history: History) -> Cost:
        return problem.cost(history.observations[:, -1])

    def play(rows: list[int], active: Tensor) -> Tensor:
        planner = ICEM(ICEMConfig(24, 2, 5, 6, keep=0.6))
        agent = MPCAgent(planner, make_cost, problem.bounds, torch.zeros(2), problem.init_std)
        states = torch.linspace(-1, 1, 3)[rows, None] * problem.start
        agent.reset(torch.zeros(len(rows), 4), [10 + row for row in rows])
        for step in range(4):
            moves = agent.act(states, active[step, rows])
            states = torch.where(active[step, rows, None], problem.step(states, moves[:, 0]), states)
        return states

    active = torch.tensor([[True, True, True], [True, False, True], [False, True, True], [True, True, True]])
    together = play([0, 1, 2], active)
    for row in range(3):
        assert torch.equal(play([row], active)[0], together[row])

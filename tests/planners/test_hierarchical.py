"""The agent on two levels, with a point that has to leave a room by a door on its far side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from planners.base import Bounds, Cost, Plan
from planners.cem import CEM, CEMConfig
from planners.costs import GoalCostConfig, LatentCostFactory, Rollout
from planners.hierarchical import HierarchicalAgent, HierarchyConfig, Level
from planners.mpc import MPCAgent, MPCConfig
from planners.terms import DISTANCES

BOUNDS = Bounds(-torch.ones(2), torch.ones(2))
ZERO, HALF, WIDE = torch.zeros(2), torch.full((2,), 0.5), torch.full((2,), 1.5)
STEPS = 6
FAST = CEMConfig(samples=32, iterations=3, elites=6, horizon=8)
SLOW = CEMConfig(samples=512, iterations=5, elites=8, horizon=6)
SETTINGS = HierarchyConfig(planner=SLOW)
COST = GoalCostConfig(distance="l2")
SLOW_COST = replace(SETTINGS.cost, distance="l2")

# A world: a point that moves by a tenth of its action. A wall at x = 0 stops it, except above y = 0.6. The latent is
# the position, so that the distance to a goal behind the wall says nothing of the way.


def step(position: Tensor, action: Tensor) -> Tensor:
    after = (position + 0.1 * action).clamp(-1, 1)
    crosses = (position[..., 0] * after[..., 0] <= 0) & (torch.minimum(position[..., 1], after[..., 1]) < 0.6)
    x = torch.where(crosses, 0.01 * position[..., 0].sign(), after[..., 0])
    return torch.stack([x, after[..., 1]], dim=-1)


def rollout(context: Tensor, past_actions: Tensor, plans: Tensor, repeat: int = 1) -> Tensor:
    position, found = context[:, -1:, 0].expand(-1, plans.shape[1], -1), []
    for actions in plans.flatten(2, 3).unbind(dim=2):
        for _ in range(repeat):
            position = step(position, actions)
        found.append(position)
    return torch.stack(found, dim=2)[:, :, :, None]


def slow_rollout(context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
    """A macro-action is an action held for `STEPS` steps."""
    return rollout(context, past_actions, plans, STEPS)


def encode(positions: Tensor) -> Tensor:
    return positions[:, None].float()


def level(planner: Any, function: Rollout, cost: GoalCostConfig = COST, std: Tensor = HALF) -> Level:
    built = CEM(planner) if isinstance(planner, CEMConfig) else planner
    return Level(built, LatentCostFactory(encode, function, cost), BOUNDS, ZERO, std)


def two_levels(
    config: HierarchyConfig = SETTINGS, mpc: MPCConfig | None = None, fast: Any = FAST, slow: Any = None
) -> HierarchicalAgent:
    return HierarchicalAgent(
        level(fast, rollout), level(slow or config.planner, slow_rollout, SLOW_COST, WIDE), slow_rollout,
        DISTANCES["l2"], STEPS, config, mpc,
    )  # fmt: skip


def one_level() -> MPCAgent:
    return MPCAgent(CEM(FAST), LatentCostFactory(encode, rollout, COST), BOUNDS, ZERO, HALF)


def starts(envs: int) -> Tensor:
    return torch.tensor([-0.5, -0.6]) + 0.3 * torch.rand(envs, 2, generator=torch.Generator().manual_seed(0))


def nearest(agent: MPCAgent | HierarchicalAgent, envs: int, steps: int) -> Tensor:
    """How near `(E,)` each point comes to its goal behind the wall."""
    position, goals = starts(envs), starts(envs) * torch.tensor([-1.0, 1.0])
    agent.reset(goals, list(range(envs)))
    distances = []
    for _ in range(steps):
        position = step(position, agent.act(position)[:, 0])
        distances.append((position - goals).norm(dim=1))
    return torch.stack(distances).amin(dim=0)


def test_two_levels_find_the_door_and_one_does_not() -> None:
    assert nearest(one_level(), 5, 90).min() > 0.3
    assert nearest(two_levels(), 5, 90).max() < 0.1


def test_near_the_goal_it_is_the_goal_that_counts() -> None:
    agent, here = two_levels(), torch.tensor([[-0.5, 0.0], [-0.5, -0.5]])
    goals = torch.tensor([[-0.4, 0.1], [0.5, -0.5]])
    agent.reset(goals, [0, 1])
    agent.act(here)
    proposal = agent.proposal
    assert proposal is not None and proposal.rows == [0, 1]
    assert torch.equal(proposal.subgoals[0, 0], goals[0])
    assert torch.equal(proposal.subgoals[1], proposal.imagined[1, 0])
    assert proposal.imagined.shape == (2, SLOW.horizon, 1, 2)


def test_a_later_slow_step_may_be_the_sub_goal() -> None:
    agent = two_levels(replace(SETTINGS, subgoal=2))
    agent.reset(torch.tensor([[0.5, -0.5]]), [0])
    agent.act(torch.tensor([[-0.5, -0.5]]))
    assert agent.proposal is not None and agent.last is not None
    assert torch.equal(agent.proposal.subgoals[0], agent.proposal.imagined[0, 1])


# Independence, bit for bit


def network_agent(every: int) -> HierarchicalAgent:
    torch.manual_seed(0)
    eye = nn.Sequential(nn.Flatten(), nn.Linear(48, 37), nn.GELU(), nn.Linear(37, 10))

    def dynamics() -> Rollout:
        predictor = nn.Sequential(nn.Linear(12, 61), nn.GELU(), nn.Linear(61, 10))

        def imagine(context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
            state, found = context[:, -1:, 0].expand(-1, plans.shape[1], -1), []
            for actions in plans[:, :, :, 0].unbind(dim=2):
                state = state + predictor(torch.cat([state, actions], dim=-1))
                found.append(state)
            return torch.stack(found, dim=2)[:, :, :, None]

        return imagine

    def build(imagine: Rollout, bounds: Bounds) -> Level:
        factory = LatentCostFactory(lambda frames: eye(frames / 255)[:, None], imagine, COST)
        return Level(CEM(CEMConfig(33, 2, 5, horizon=4)), factory, bounds, ZERO, HALF)

    fast, slow = dynamics(), dynamics()
    sides = Bounds(torch.tensor([-0.2, -torch.inf]), torch.tensor([0.7, 0.3]))
    config = HierarchyConfig(every=every, planner=CEMConfig(horizon=4))
    return HierarchicalAgent(build(fast, sides), build(slow, BOUNDS), slow, DISTANCES["rms"], 3, config)


@pytest.mark.parametrize("every", [1, 2])
def test_actions_depend_on_no_neighbour_and_stay_inside_the_bounds(every: int) -> None:
    envs, steps = 4, 5
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (steps, envs, 3, 4, 4), dtype=torch.uint8, generator=generator)
    goals = torch.randint(256, (envs, 3, 4, 4), dtype=torch.uint8, generator=generator)

    def play(rows: list[int], active: Tensor | None = None) -> Tensor:
        agent = network_agent(every)
        agent.reset(goals[rows], [40 + row for row in rows])
        shown = [None if active is None else moment for moment in (active if active is not None else images)]
        return torch.stack([agent.act(images[t][rows], shown[t]) for t in range(steps)], dim=1)

    together = play(list(range(envs)))
    for row in range(envs):
        assert torch.equal(play([row])[0], together[row])
    going = torch.ones(steps, envs, dtype=torch.bool)
    going[2:, 0], going[3:, 2] = False, False
    assert torch.equal(play(list(range(envs)), going)[[1, 3]], together[[1, 3]])
    assert torch.equal(play([2, 0])[0], together[2])
    assert (
        (together[..., 0] >= -0.2).all()
        and (together[..., 0] <= 0.7).all()
        and (together[..., 1] <= 0.3).all()
    )


def test_no_row_going_is_no_mistake() -> None:
    agent = two_levels()
    agent.reset(starts(2), [0, 1])
    assert torch.equal(agent.act(starts(2), torch.zeros(2, dtype=torch.bool)), torch.zeros(2, 1, 2))


# When the slow level plans, from what, and how long


class Recorder:
    """A planner that proposes a ramp of macro-actions, and writes down what it was asked."""

    horizon, action_block = 4, 1

    def __init__(self, cost: float = 0.0) -> None:
        self.calls: list[dict[str, Any]] = []
        self.cost = cost

    def plan(
        self, cost: Cost, bounds: Bounds, init_mean: Tensor, init_std: Tensor, *,
        seeds: Sequence[int] | Tensor, start: Tensor | None = None, deadline: float | None = None,
    ) -> Plan:  # fmt: skip
        self.calls.append({"seeds": list(seeds), "start": start, "deadline": deadline})
        ramp = torch.arange(1.0, 5.0)[:, None, None].expand(len(seeds), -1, 1, 2) / 10
        return Plan(ramp.clone(), torch.full((len(seeds),), self.cost))


def test_each_row_plans_slowly_when_it_is_its_turn() -> None:
    slow = Recorder()
    agent = two_levels(HierarchyConfig(every=2, planner=CEMConfig(horizon=4)), slow=slow)
    agent.reset(starts(3), [0, 1, 2])
    for active in ([True, True, True], [True, False, True], [True, True, True], [False, True, False]):
        agent.act(starts(3), torch.tensor(active))
    assert [len(call["seeds"]) for call in slow.calls] == [3, 2, 1]
    assert len({seed for call in slow.calls for seed in call["seeds"]}) == 6
    agent.reset(starts(3), [0, 1, 2])
    agent.act(starts(3))
    assert slow.calls[-1]["seeds"] == slow.calls[0]["seeds"]
    assert torch.equal(slow.calls[-1]["start"], slow.calls[0]["start"])


@pytest.mark.parametrize("warm", [True, False])
def test_a_slow_search_starts_from_what_is_left_of_the_last(warm: bool) -> None:
    slow = Recorder()
    config = HierarchyConfig(every=STEPS // 2, warm_start=warm, planner=CEMConfig(horizon=4))
    agent = two_levels(config, slow=slow)
    agent.reset(starts(1), [0])
    for _ in range(STEPS // 2 + 1):
        agent.act(starts(1))
    if not warm:
        assert [call["start"] for call in slow.calls] == [None, None]
        return
    assert slow.calls[0]["start"].tolist() == torch.zeros(1, 4, 1, 2).tolist()
    assert slow.calls[1]["start"][0, :, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    agent = two_levels(replace(config, every=0), slow=slow)
    agent.reset(starts(1), [0])
    for _ in range(STEPS + 1):
        agent.act(starts(1))
    assert slow.calls[-1]["start"][0, :, 0, 0].tolist() == pytest.approx([0.2, 0.3, 0.4, 0.0])


def test_a_deadline_is_shared_by_both_levels() -> None:
    slow, fast = Recorder(), Recorder()
    config = HierarchyConfig(every=1, share=0.25, planner=CEMConfig(horizon=4))
    agent = two_levels(config, MPCConfig(deadline=1000.0), fast, slow)
    agent.reset(starts(1), [0])
    agent.act(starts(1))
    assert 200 < slow.calls[0]["deadline"] <= 250
    assert 900 < fast.calls[0]["deadline"] < 1000


def test_without_a_finite_cost_the_goal_itself_is_the_sub_goal() -> None:
    agent = two_levels(HierarchyConfig(planner=CEMConfig(horizon=4)), slow=Recorder(float("inf")))
    goals = torch.tensor([[0.5, -0.5]])
    agent.reset(goals, [0])
    with pytest.warns(RuntimeWarning, match=r"no slow plan had a finite cost in environments \[0\]"):
        agent.act(torch.tensor([[-0.5, -0.5]]))
    assert agent.proposal is not None and torch.equal(agent.proposal.subgoals[0, 0], goals[0])


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"every": -1}, "every is -1"),
        ({"spread": 0.0}, "spread is 0.0"),
        ({"tolerance": float("inf")}, "tolerance is inf"),
        ({"subgoal": 0}, "subgoal is 0"),
        ({"subgoal": 9}, "subgoal is 9, but slow plans have 8"),
        ({"share": 1.0}, "share is 1.0"),
        ({"planner": CEMConfig(action_block=2)}, "action_block must be 1"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        HierarchyConfig(**settings)


def test_levels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="a slow level of 0 steps"):
        HierarchicalAgent(level(FAST, rollout), level(SLOW, slow_rollout), slow_rollout, DISTANCES["l2"], 0)
    agent = two_levels()
    with pytest.raises(ValueError, match="has no goal yet"):
        agent.act(starts(1))

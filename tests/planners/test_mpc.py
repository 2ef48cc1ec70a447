"""The MPC agent with an analytic model: a double integrator whose state is drawn as a latent."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from planners.base import Bounds, Cost, History, Plan
from planners.cem import CEM, CEMConfig
from planners.costs import GoalCostConfig, LatentCostFactory
from planners.mpc import MPCAgent, MPCConfig, shift

A = 2
BOUNDS = Bounds(-torch.ones(A), torch.ones(A))
MEAN, STD = torch.zeros(A), torch.full((A,), 0.6)
SMALL = CEMConfig(samples=48, iterations=3, elites=8, horizon=8)


# A world: position and velocity in the plane, the action is an acceleration, an observation shows both.


def step(state: Tensor, action: Tensor) -> Tensor:
    """`(..., 4)` after one action `(..., 2)`."""
    velocity = 0.8 * state[..., 2:] + 0.1 * action
    return torch.cat([state[..., :2] + velocity, velocity], dim=-1)


def draw(states: Tensor) -> Tensor:
    """States `(E, 4)` as images `(E, 4, 1, 2)` uint8: 16 bits per number."""
    whole = ((states / 8 + 0.5).clamp(0, 1) * 65535).round().long()
    return torch.stack([whole // 256, whole % 256], dim=-1)[:, :, None].to(torch.uint8)


def encode(frames: Tensor) -> Tensor:
    """The inverse of `draw`: latents `(E, N=1, D=4)`."""
    high, low = frames[:, :, 0].long().unbind(-1)
    return (((high * 256 + low) / 65535 - 0.5) * 8)[:, None]


def rollout(context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
    state, states = context[:, -1:, 0].expand(-1, plans.shape[1], -1), []
    for t in range(plans.shape[2]):
        for k in range(plans.shape[3]):
            state = step(state, plans[:, :, t, k])
        states.append(state)
    return torch.stack(states, dim=2)[:, :, :, None]


def starts(envs: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.rand(envs, 2, generator=generator) * 2 - 1, torch.zeros(envs, 2)], dim=1)


def run(
    agent: MPCAgent, states: Tensor, goals: Tensor, seeds: list[int], steps: int
) -> tuple[Tensor, Tensor]:
    """Distances to the goals after each step `(steps, E)` and actions `(steps, E, K, A)`."""
    agent.reset(draw(goals), seeds)
    distances, taken = [], []
    for _ in range(steps):
        actions = agent.act(draw(states))
        for k in range(actions.shape[1]):
            states = step(states, actions[:, k])
        distances.append((states[:, :2] - goals[:, :2]).norm(dim=1))
        taken.append(actions)
    return torch.stack(distances), torch.stack(taken)


def agent_for(config: MPCConfig | None = None, cem: CEMConfig = SMALL) -> MPCAgent:
    return MPCAgent(CEM(cem), LatentCostFactory(encode, rollout), BOUNDS, MEAN, STD, config)


@pytest.mark.parametrize(
    "config, cem",
    [
        (MPCConfig(), SMALL),
        (MPCConfig(execute=2), SMALL),
        (MPCConfig(warm_start=False), SMALL),
        (MPCConfig(history=3), SMALL),
        (MPCConfig(execute=4), CEMConfig(samples=48, elites=8, horizon=4, action_block=2)),
    ],
    ids=["default", "execute 2", "cold", "history 3", "action blocks, whole plans"],
)
def test_the_agent_reaches_its_goal(config: MPCConfig, cem: CEMConfig) -> None:
    goals = starts(4, seed=1)
    distances, actions = run(agent_for(config, cem), starts(4), goals, [0, 1, 2, 3], 30)
    assert (starts(4)[:, :2] - goals[:, :2]).norm(dim=1).min() > 0.3
    assert distances.amin(dim=0).max() < 0.1
    assert distances[-5:].mean() < 0.1
    assert actions.shape == (30, 4, cem.action_block, A) and actions.dtype == torch.float32
    assert actions.abs().max() <= 1


def test_one_robot_needs_no_environment() -> None:
    agent = agent_for()
    agent.reset(draw(starts(1, seed=1)).numpy(), np.array([3]))  # arrays will do
    assert agent.act(draw(starts(1)).numpy()).shape == (1, 1, A)


# What the planner is given: a planner and a cost that only take notes


class Notes:
    """Planner, cost factory and cost in one; plan number i consists of the numbers 100 i, 100 i + 1, ..."""

    horizon, action_block = 4, 1

    def __init__(self) -> None:
        self.histories: list[History] = []
        self.starts: list[Tensor | None] = []
        self.seeds: list[list[int]] = []
        self.deadlines: list[float | None] = []
        self.encoded: list[int] = []

    def encode(self, observations: Tensor) -> Tensor:
        self.encoded += observations.flatten().tolist()
        return observations * 10.0

    def __call__(self, history: History) -> Cost:
        self.histories.append(history)
        return lambda plans: torch.zeros(plans.shape[:2])

    def plan(
        self,
        cost: Cost,
        bounds: Bounds,
        init_mean: Tensor,
        init_std: Tensor,
        *,
        seeds: Tensor | list[int],
        start: Tensor | None = None,
        deadline: float | None = None,
    ) -> Plan:
        numbers = torch.arange(4.0) + 100 * len(self.seeds)
        self.starts.append(start)
        self.seeds.append([int(seed) for seed in seeds])
        self.deadlines.append(deadline)
        return Plan(numbers.view(1, 4, 1, 1).repeat(len(seeds), 1, 1, 1), torch.zeros(len(seeds)))


WIDE = Bounds(torch.tensor([-torch.inf]), torch.tensor([torch.inf]))


def noting_agent(config: MPCConfig) -> tuple[MPCAgent, Notes]:
    notes = Notes()
    return MPCAgent(notes, notes, WIDE, torch.tensor([0.5]), torch.ones(1), config), notes


def seen(*numbers: int) -> Tensor:
    return torch.tensor(numbers).view(-1, 1)


def test_a_plan_is_executed_for_some_steps_and_then_made_anew() -> None:
    agent, notes = noting_agent(MPCConfig(execute=2))
    agent.reset(seen(9), [5])
    assert agent.last is None
    actions = [agent.act(seen(t)).item() for t in range(5)]
    assert actions == [0, 1, 100, 101, 200]
    assert len(notes.histories) == 3
    assert agent.last is not None and agent.last.rows == [0] and agent.last.seconds > 0


def test_warm_start_shifts_the_plan_by_what_was_executed() -> None:
    agent, notes = noting_agent(MPCConfig(execute=1))
    agent.reset(seen(9), [5])
    for t in range(3):
        agent.act(seen(t))
    assert [s.flatten().tolist() for s in notes.starts if s is not None] == [
        [0.5, 0.5, 0.5, 0.5],  # nothing to start from: the mean
        [1, 2, 3, 0.5],
        [101, 102, 103, 0.5],
    ]
    agent, notes = noting_agent(MPCConfig(execute=3))
    agent.reset(seen(9), [5])
    for t in range(4):
        agent.act(seen(t))
    assert notes.starts[1] is not None and notes.starts[1].flatten().tolist() == [3, 0.5, 0.5, 0.5]


def test_nothing_is_left_of_a_plan_that_was_executed_to_its_end() -> None:
    agent, notes = noting_agent(MPCConfig(execute=4))
    agent.reset(seen(9), [5])
    for t in range(5):
        agent.act(seen(t))
    assert notes.starts[1] is not None and notes.starts[1].flatten().tolist() == [0.5] * 4


def test_shift_keeps_order_and_shape() -> None:
    plan, fill = torch.arange(12.0).view(3, 2, 2), torch.tensor([-1.0, -2.0])
    assert shift(plan, 1, fill).flatten().tolist() == [4, 5, 6, 7, 8, 9, 10, 11, -1, -2, -1, -2]
    for steps in range(5):
        assert shift(plan, steps, fill).shape == plan.shape


def test_without_warm_start_every_search_begins_anew() -> None:
    agent, notes = noting_agent(MPCConfig(warm_start=False))
    agent.reset(seen(9), [5])
    agent.act(seen(0)), agent.act(seen(1))
    assert notes.starts == [None, None]


def test_history_grows_from_the_episodes_start_and_then_slides() -> None:
    agent, notes = noting_agent(MPCConfig(history=3))
    agent.reset(seen(9), [5])
    for t in range(1, 6):
        agent.act(seen(t))
    got = [
        (h.length.tolist(), h.observations.flatten().tolist(), h.past_actions.flatten().tolist())
        for h in notes.histories
    ]
    assert got == [
        ([1], [10, 10, 10], [0, 0]),
        ([2], [10, 10, 20], [0, 0]),  # the first action executed was 0
        ([3], [10, 20, 30], [0, 100]),
        ([3], [20, 30, 40], [100, 200]),
        ([3], [30, 40, 50], [200, 300]),
    ]
    assert notes.histories[0].observations.shape == (1, 3, 1)
    assert notes.histories[0].past_actions.shape == (1, 2, 1, 1)
    assert all(h.goals.tolist() == [[90.0]] for h in notes.histories)


def test_history_holds_the_steps_between_plannings_too() -> None:
    agent, notes = noting_agent(MPCConfig(history=3, execute=2))
    agent.reset(seen(9), [5])
    for t in range(1, 6):
        agent.act(seen(t))
    assert [h.observations.flatten().tolist() for h in notes.histories] == [
        [10, 10, 10],
        [10, 20, 30],
        [30, 40, 50],
    ]
    assert [h.past_actions.flatten().tolist() for h in notes.histories] == [[0, 0], [0, 1], [100, 101]]


def test_without_history_there_are_no_past_actions() -> None:
    agent, notes = noting_agent(MPCConfig())
    agent.reset(seen(9, 9), [5, 6])
    agent.act(seen(1, 2)), agent.act(seen(3, 4))
    assert notes.histories[1].observations.tolist() == [[[30.0]], [[40.0]]]
    assert notes.histories[1].past_actions.shape == (2, 0, 1, 1)


def test_goals_and_observations_are_encoded_once_and_only_if_needed() -> None:
    agent, notes = noting_agent(MPCConfig(history=2))
    agent.reset(seen(9), [5])
    for t in range(4):
        agent.act(seen(t))
    assert notes.encoded == [9, 0, 1, 2, 3]
    agent, notes = noting_agent(MPCConfig(history=1, execute=3))
    agent.reset(seen(9), [5])
    for t in range(4):
        agent.act(seen(t))
    assert notes.encoded == [9, 0, 3]


def test_a_factory_without_encode_gets_raw_observations() -> None:
    notes = Notes()
    agent = MPCAgent(notes, notes.__call__, WIDE, torch.zeros(1), torch.ones(1))
    agent.reset(seen(9), [5])
    agent.act(seen(7))
    assert notes.histories[0].observations.tolist() == [[[7]]] and notes.histories[0].goals.tolist() == [[9]]


def test_the_callers_buffers_may_be_overwritten() -> None:
    agent, notes = noting_agent(MPCConfig(history=2, execute=2))
    buffer, goal = np.array([[1]]), np.array([[9]])
    agent.reset(goal, [5])  # type: ignore[arg-type]
    goal[:] = 0
    for t in range(1, 4):
        buffer[:] = t
        agent.act(buffer)[:] = 77  # type: ignore[arg-type]
    assert notes.histories[1].observations.flatten().tolist() == [20, 30]
    assert notes.histories[1].past_actions.flatten().tolist() == [1]

    notes = Notes()  # and nothing is encoded, which would have made a copy
    agent = MPCAgent(notes, notes.__call__, WIDE, torch.zeros(1), torch.ones(1))
    goal[:] = 9
    agent.reset(goal, [5])  # type: ignore[arg-type]
    goal[:] = 0
    agent.act(buffer)  # type: ignore[arg-type]
    assert notes.histories[0].goals.tolist() == [[9]]


def test_reset_forgets_everything() -> None:
    agent, notes = noting_agent(MPCConfig(history=2, execute=3))
    agent.reset(seen(9), [5])
    agent.act(seen(1)), agent.act(seen(2))
    agent.reset(seen(8), [5])
    agent.act(seen(3))
    history = notes.histories[-1]
    assert len(notes.histories) == 2  # planned at once, although the old plan had a step left
    assert history.length.tolist() == [1] and history.observations.flatten().tolist() == [30, 30]
    assert history.past_actions.flatten().tolist() == [0] and history.goals.tolist() == [[80.0]]
    assert notes.starts[1] is not None and notes.starts[1].flatten().tolist() == [0.5] * 4
    assert notes.seeds[0] == notes.seeds[1]
    agent.reset(seen(7, 7, 7), [1, 2, 3])  # also to another number of environments
    assert agent.act(seen(0, 0, 0)).shape == (3, 1, 1)


def test_a_reset_agent_acts_like_a_new_one() -> None:
    used, fresh = agent_for(MPCConfig(history=2)), agent_for(MPCConfig(history=2))
    run(used, starts(2, seed=5), starts(2, seed=6), [8, 9], 3)
    _, again = run(used, starts(2), starts(2, seed=1), [0, 1], 4)
    _, first = run(fresh, starts(2), starts(2, seed=1), [0, 1], 4)
    assert torch.equal(again, first)


def test_inactive_rows_are_neither_planned_nor_advanced() -> None:
    agent, notes = noting_agent(MPCConfig(history=3, execute=2))
    agent.reset(seen(7, 8, 9), [1, 2, 3])
    yes, no = True, False
    agent.act(seen(10, 20, 30), torch.tensor([yes, no, yes]))
    agent.act(seen(11, 21, 31), torch.tensor([yes, no, no]))
    actions = agent.act(seen(12, 22, 32), torch.tensor([no, yes, yes]))
    assert [h.rows.tolist() for h in notes.histories] == [[0, 2], [1]]
    assert notes.encoded == [7, 8, 9, 10, 30, 22]
    assert notes.histories[1].length.tolist() == [1]
    assert actions.flatten().tolist() == [
        0,
        100,
        1,
    ]  # idle; first step of a new plan; second of the first one
    agent.act(seen(13, 23, 33), torch.tensor([yes, yes, yes]))
    mixed = notes.histories[2]  # row 0 returns after a pause: its time did not pass
    assert mixed.rows.tolist() == [0, 2] and mixed.length.tolist() == [3, 3]
    assert mixed.observations.flatten().tolist() == [100, 110, 130, 300, 320, 330]
    assert agent.act(seen(0, 0, 0), torch.tensor([no, no, no])).shape == (3, 1, 1)
    assert len(notes.histories) == 3


def test_idle_actions_lie_inside_the_bounds() -> None:
    bounds = Bounds(torch.tensor([0.5]), torch.tensor([2.0]))
    agent = MPCAgent(Notes(), Notes(), bounds, torch.ones(1), torch.ones(1))
    agent.reset(seen(1), [0])
    assert agent.act(seen(0), torch.tensor([False])).item() == 0.5


def test_every_decision_has_its_own_seed() -> None:
    agent, notes = noting_agent(MPCConfig())
    agent.reset(seen(9, 9), [5, 6])
    for t in range(3):
        agent.act(seen(t, t))
    seeds = [seed for decision in notes.seeds for seed in decision]
    assert len(set(seeds)) == 6 and min(seeds) >= 0
    alone, other = noting_agent(MPCConfig())
    alone.reset(seen(9), [6])
    for t in range(3):
        alone.act(seen(t))
    assert [decision[0] for decision in other.seeds] == [decision[1] for decision in notes.seeds]


# Independence, bit for bit


def network_agent(history: int, execute: int) -> MPCAgent:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(48, 37), nn.GELU(), nn.Linear(37, 10))
    predictor = nn.Sequential(nn.Linear(10 * history + A, 61), nn.GELU(), nn.Linear(61, 10))

    def encode(frames: Tensor) -> Tensor:
        return encoder(frames / 255)[:, None]

    def rollout(context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
        steps = [context[:, :1]] * (history - context.shape[1]) + list(context.split(1, dim=1))
        steps = [step.expand(-1, plans.shape[1], -1, -1).flatten(2) for step in steps]
        for t in range(plans.shape[2]):
            change = predictor(torch.cat([*steps[-history:], plans[:, :, t, 0]], dim=-1))
            steps.append(steps[-1] + change)
        return torch.stack(steps[-plans.shape[2] :], dim=2)[:, :, :, None]

    planner = CEM(CEMConfig(samples=33, iterations=2, elites=5, horizon=5))
    factory = LatentCostFactory(encode, rollout, GoalCostConfig(distance="l2"))
    return MPCAgent(planner, factory, BOUNDS, MEAN, STD, MPCConfig(execute=execute, history=history))


@pytest.mark.parametrize("history, execute", [(1, 1), (3, 1), (2, 2)])
def test_actions_do_not_depend_on_the_neighbours(history: int, execute: int) -> None:
    """Beside others, alone, and with others that pause and end early."""
    envs, steps = 5, 6
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (steps, envs, 3, 4, 4), dtype=torch.uint8, generator=generator)
    goals = torch.randint(256, (envs, 3, 4, 4), dtype=torch.uint8, generator=generator)
    seeds = torch.arange(40, 40 + envs)

    def play(rows: list[int], active: Tensor | None = None) -> Tensor:
        agent = network_agent(history, execute)
        agent.reset(goals[rows], seeds[rows])
        return torch.stack(
            [agent.act(images[t][rows], None if active is None else active[t]) for t in range(steps)], dim=1
        )

    together = play(list(range(envs)))
    for rows in ([0], [4], [3, 1], [2, 4, 0]):
        assert torch.equal(play(rows), together[rows])
    active = torch.rand(steps, envs, generator=generator) < 0.6
    active[:, 2] = True
    assert torch.equal(play(list(range(envs)), active)[2], together[2])


# Failures


def test_a_deadline_covers_encoding_and_search() -> None:
    def slow_encode(frames: Tensor) -> Tensor:
        time.sleep(0.05)
        return encode(frames)

    def slow_rollout(context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
        time.sleep(0.02)
        return rollout(context, past_actions, plans)

    config = CEMConfig(samples=8, iterations=1000, elites=2, horizon=2)
    factory = LatentCostFactory(slow_encode, slow_rollout)
    agent = MPCAgent(CEM(config), factory, BOUNDS, MEAN, STD, MPCConfig(deadline=0.2))
    agent.reset(draw(starts(1, seed=1)), [0])
    began = time.perf_counter()
    agent.act(draw(starts(1)))
    took = time.perf_counter() - began
    assert agent.last is not None
    longest = max(entry.seconds for entry in agent.last.plan.trace)
    assert took < 0.2 + longest + 0.1
    assert sum(entry.seconds for entry in agent.last.plan.trace) < 0.16 + longest


def test_a_model_that_knows_nothing_is_reported_and_the_agent_goes_on() -> None:
    def broken(context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
        latents = rollout(context, past_actions, plans)
        return torch.where(context[:, None, None, -1, :, :1] > 0, latents, torch.nan)

    agent = MPCAgent(CEM(SMALL), LatentCostFactory(encode, broken), BOUNDS, torch.tensor([0.1, 9.0]), STD)
    states = torch.tensor([[0.5, 0, 0, 0], [-0.5, 0, 0, 0]])
    agent.reset(draw(starts(2, seed=1)), [0, 1])
    with pytest.warns(RuntimeWarning, match=r"finite cost in environments \[1\]"):
        actions = agent.act(draw(states))
    assert actions.isfinite().all()
    torch.testing.assert_close(actions[1, 0], torch.tensor([0.1, 1.0]))
    assert agent.last is not None and agent.last.plan.cost[0].isfinite() and agent.last.plan.cost[1].isinf()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"execute": 0}, "execute is 0"),
        ({"history": 0}, "history is 0"),
        ({"deadline": 0.0}, "deadline is 0.0"),
        ({"deadline": float("nan")}, "deadline is nan"),
    ],
)
def test_bad_settings_are_named(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MPCConfig(**values)  # type: ignore[arg-type]


def test_more_steps_than_a_plan_has_cannot_be_executed() -> None:
    with pytest.raises(ValueError, match="execute is 9, but plans have 8 steps"):
        agent_for(MPCConfig(execute=9))


def test_misuse_is_named() -> None:
    agent = agent_for()
    with pytest.raises(ValueError, match="call reset"):
        agent.act(draw(starts(1)))
    with pytest.raises(ValueError, match="one goal per seed"):
        agent.reset(draw(starts(2)), [1])
    with pytest.raises(ValueError, match="one goal per seed"):
        agent.reset(draw(starts(0)), [])
    agent.reset(draw(starts(2)), [1, 2])
    with pytest.raises(ValueError, match="expected 2 rows"):
        agent.act(draw(starts(3)))
    for active in (torch.tensor([True]), torch.tensor([1, 0])):
        with pytest.raises(ValueError, match=r"expected \(2,\) bool"):
            agent.act(draw(starts(2)), active)


def test_the_settings_are_a_hydra_node() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    node = omegaconf.OmegaConf.merge(omegaconf.OmegaConf.structured(MPCConfig), {"deadline": 0.1})
    assert omegaconf.OmegaConf.to_object(node) == MPCConfig(deadline=0.1)


def test_encoders_and_rollouts_may_run_in_inference_mode() -> None:
    factory = LatentCostFactory(torch.inference_mode()(encode), torch.inference_mode()(rollout))
    agent = MPCAgent(CEM(SMALL), factory, BOUNDS, MEAN, STD, MPCConfig(history=2))
    _, inference = run(agent, starts(2), starts(2, seed=1), [0, 1], 3)
    _, plain = run(agent_for(MPCConfig(history=2)), starts(2), starts(2, seed=1), [0, 1], 3)
    assert torch.equal(inference, plain)

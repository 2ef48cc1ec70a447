"""The MPC agent with an analytic model: a double integrator whose state is drawn as a latent."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from planners.base import Bounds
from planners.cem import CEM, CEMConfig
from planners.costs import GoalCostConfig, LatentCostFactory
from planners.mpc import MPCAgent, MPCConfig

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


def test_a_reset_agent_acts_like_a_new_one() -> None:
    used, fresh = agent_for(MPCConfig(history=2)), agent_for(MPCConfig(history=2))
    run(used, starts(2, seed=5), starts(2, seed=6), [8, 9], 3)
    _, again = run(used, starts(2), starts(2, seed=1), [0, 1], 4)
    _, first = run(fresh, starts(2), starts(2, seed=1), [0, 1], 4)
    assert torch.equal(again, first)


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

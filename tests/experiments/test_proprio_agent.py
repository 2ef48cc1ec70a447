"""An agent of a model that sees proprioception beside pictures."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from experiments.agents import latent_agent
from experiments.proprio_agent import ProprioAgent, proprio_agent
from planners.cem import CEMConfig
from planners.costs import GoalCostConfig
from planners.mpc import MPCConfig
from worldmodel.models.dynamics import MLPDynamicsConfig
from worldmodel.models.dynamics.base import Dynamics
from worldmodel.models.heads import TokenHeadConfig
from worldmodel.models.video_encoder import VideoEncoderConfig
from worldmodel.models.world_model import ActionSpec, ProprioSpec, WorldModel, WorldModelConfig

PLANNER = CEMConfig(samples=16, iterations=2, elites=4, horizon=3)
CONFIG = WorldModelConfig(
    encoder=VideoEncoderConfig(image_size=16, patch_size=8, width=24, depth=1, heads=2),
    head=TokenHeadConfig(width=4),
    dynamics=MLPDynamicsConfig(hidden=16, layers=2),
    actions=ActionSpec(low=[-1, -0.1], high=[0.5, 2], mean=[0, 0], std=[1, 1]),
    proprio=ProprioSpec(dim=2, names=["joint", "grip"]),
)


def build(config: WorldModelConfig = CONFIG) -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(config).eval()


def agent_of(model: WorldModel, proprio: float | None = None) -> ProprioAgent:
    return proprio_agent(model, PLANNER, GoalCostConfig(proprio=proprio), MPCConfig())


def pictures(*shape: int) -> Tensor:
    return torch.randint(256, (*shape, 3, 16, 16), generator=torch.Generator().manual_seed(1)).byte()


def values(*shape: int) -> Tensor:
    return torch.randn(*shape, 2, generator=torch.Generator().manual_seed(2))


class Toy(Dynamics):
    """The first action moves the picture's latent along a direction, and every value of proprioception by ``pull``."""

    def __init__(self, tokens: int, direction: Tensor, pull: float) -> None:
        super().__init__(tokens, 4, 1, 2)
        self.direction, self.pull = direction, pull

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        step = actions[:, :, 0, :1, None]
        moved = tokens[:, :, :1] + 0.3 * step * self.direction
        return torch.cat([moved, tokens[:, :, 1:] + self.pull * step], dim=2)


def test_without_weight_it_plans_as_an_agent_that_sees_pictures_only() -> None:
    model, frames, goals = build(), pictures(2, 3), pictures(2)
    blind = build(dataclasses.replace(CONFIG, proprio=ProprioSpec()))
    for one in ("encoder", "head"):
        getattr(blind, one).load_state_dict(getattr(model, one).state_dict())
    direction = blind.encode(goals[:1])[0] - blind.encode(frames[:1, 0])[0]
    model.dynamics, blind.dynamics = Toy(2, direction, 0.0), Toy(1, direction, 0.0)
    usual = latent_agent(blind, PLANNER, GoalCostConfig(), MPCConfig())
    agent = agent_of(model, 0.0)
    usual.reset(goals, [3, 4])
    agent.reset(goals, None, [3, 4])
    for t in range(3):
        assert torch.allclose(agent.act(frames[:, t], values(2)), usual.act(frames[:, t]), atol=1e-5)


def test_the_weight_says_whether_the_picture_or_proprioception_leads() -> None:
    model, start, goal = build(), pictures(1), pictures(2)[1:]
    direction = model.encode(goal, values(1))[0, :1] - model.encode(start, values(1))[0, :1]
    model.dynamics = Toy(2, direction, -0.3)  # towards the goal's picture, proprioception falls

    def first_action(weight: float, goal_proprio: float) -> float:
        agent = agent_of(model, weight)
        agent.reset(goal, torch.full((1, 2), goal_proprio), [0])
        return agent.act(start, torch.zeros(1, 2))[0, 0, 0].item()

    assert first_action(0.0, 2.0) > 0.2 and first_action(0.0, -2.0) > 0.2
    assert first_action(100.0, 2.0) < -0.2 and first_action(100.0, -2.0) > 0.2


def test_both_reach_the_model_and_actions_stay_inside_the_bounds() -> None:
    agent = agent_of(build())
    low, high = torch.tensor(CONFIG.actions.low), torch.tensor(CONFIG.actions.high)

    def costs(frames: Tensor, proprio: Tensor, goal_proprio: Tensor) -> Tensor:
        """Of the first candidates ``(E, S)``, which are the same in every call."""
        agent.reset(pictures(2), goal_proprio, [0, 1])
        actions = agent.act(frames, proprio)
        assert actions.shape == (2, 1, 2) and (actions >= low).all() and (actions <= high).all()
        assert agent.last is not None
        return agent.last.plan.trace[0].costs

    frames, felt, aim = pictures(3)[1:], values(2), 3 * values(4)[2:]
    usual = costs(frames, felt, aim)
    assert torch.equal(costs(frames.clone(), felt.numpy(), aim), usual)
    for other in (costs(255 - frames, felt, aim), costs(frames, felt + 3, aim), costs(frames, felt, aim - 5)):
        assert ((other - usual).abs().amax(dim=1) > 1e-3).all(), "each row's"


@pytest.mark.parametrize("window", [1, 4])
def test_it_plans_from_the_latents_of_the_whole_recording(window: int) -> None:
    config = dataclasses.replace(CONFIG, window=window, dynamics=MLPDynamicsConfig(hidden=16, context=2))
    model, frames, proprio = build(config), pictures(2, 6), values(2, 6)
    agent = agent_of(model)
    agent.reset(frames[:, 5], proprio[:, 5], [0, 1])
    known = model.encode(frames, proprio)
    for t in range(6):
        shown, felt = frames[:, t].clone(), proprio[:, t].clone()
        agent.act(shown, felt)
        shown.zero_(), felt.zero_()  # the caller may overwrite them
        assert agent.last is not None
        history = agent.last.history
        assert torch.allclose(history.observations[:, -1], known[:, t], atol=1e-5)
        assert not t or torch.allclose(history.observations[:, -2], known[:, t - 1], atol=1e-5)
        assert torch.allclose(history.goals, model.encode(frames[:, 5], proprio[:, 5]), atol=1e-5)


def test_a_row_depends_on_what_it_saw_itself_while_it_was_active() -> None:
    model, frames, proprio = build(dataclasses.replace(CONFIG, window=2)), pictures(2, 4), values(2, 4)
    alone, both = agent_of(model), agent_of(model)
    alone.reset(frames[1:, 3], proprio[1:, 3], [1])
    expected = [alone.act(frames[1:, t], proprio[1:, t]) for t in (0, 1)]
    both.reset(frames[:, 3], proprio[:, 3], [0, 1])
    found = [both.act(frames[:, 0], proprio[:, 0])[1:]]
    both.act(frames[:, 2], proprio[:, 2] * torch.nan, torch.tensor([False, False]))
    both.act(frames[:, 2], proprio[:, 2], torch.tensor([True, False]))
    found.append(both.act(frames[:, 1], proprio[:, 1])[1:])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_what_is_missing_or_does_not_fit_is_said() -> None:
    model, search = build(), (PLANNER, GoalCostConfig(), MPCConfig())
    agent = agent_of(model)
    with pytest.raises(ValueError, match="call reset"):
        agent.act(pictures(1), values(1))
    for weight in (None, 1.0):
        with pytest.raises(ValueError, match=r"give goal_proprio, or set cost\.proprio=0"):
            agent_of(model, weight).reset(pictures(1), None, [0])
    with pytest.raises(ValueError, match=r"goal_proprio has shape \(1, 3\); expected \(1, 2\): joint, grip"):
        agent.reset(pictures(1), torch.zeros(1, 3), [0])
    agent.reset(pictures(2), values(2), [0, 1])
    with pytest.raises(ValueError, match=r"proprio has shape \(1, 2\); expected \(2, 2\)"):
        agent.act(pictures(2), values(1))
    with pytest.raises(ValueError, match="expected 2 rows"):
        agent.act(pictures(3), values(3))
    with pytest.raises(ValueError, match=r"robots have both: experiments\.proprio_agent"):
        latent_agent(model, *search)
    blind = build(dataclasses.replace(CONFIG, proprio=ProprioSpec()))
    with pytest.raises(ValueError, match="sees no proprioception; use experiments.agents.latent_agent"):
        proprio_agent(blind, *search)

"""An agent of a model that sees several frames at each step."""

from __future__ import annotations

import pytest
import torch

from experiments.agents import latent_agent
from experiments.window_agent import WindowAgent
from planners.cem import CEMConfig
from planners.costs import GoalCostConfig
from planners.mpc import MPCConfig
from worldmodel.models.dynamics import MLPDynamicsConfig
from worldmodel.models.world_model import ActionSpec, WorldModel, WorldModelConfig

PLANNER = CEMConfig(samples=4, iterations=1, elites=2, horizon=2)


@pytest.fixture(scope="module")
def model() -> WorldModel:
    """It sees four frames at each step, and predicts from two latents."""
    torch.manual_seed(0)
    spec = ActionSpec(low=[-1], high=[1], mean=[0], std=[1])
    config = WorldModelConfig(actions=spec, window=4, dynamics=MLPDynamicsConfig(context=2))
    return WorldModel(config).eval()


def agent_of(model: WorldModel) -> WindowAgent:
    agent = latent_agent(model, PLANNER, GoalCostConfig(), MPCConfig())
    assert isinstance(agent, WindowAgent)
    return agent


def pictures(*shape: int) -> torch.Tensor:
    return torch.randint(256, (*shape, 3, 64, 64), generator=torch.Generator().manual_seed(1)).byte()


def test_what_is_planned_from_are_the_latents_of_the_whole_recording(model: WorldModel) -> None:
    frames, goals = pictures(2, 6), pictures(2)
    agent = agent_of(model)
    agent.reset(goals, [0, 1])
    known = model.encode(frames)
    for t in range(6):
        shown = frames[:, t].clone()
        agent.act(shown)
        shown.zero_()  # the caller may overwrite it
        assert agent.last is not None
        history = agent.last.history
        assert torch.allclose(history.observations[:, -1], known[:, t], atol=1e-5)
        if t:
            assert torch.allclose(history.observations[:, -2], known[:, t - 1], atol=1e-5)
        assert torch.allclose(history.goals, model.encode(goals), atol=1e-5), "at rest there"


def test_rows_depend_on_their_own_frames_only_and_stand_still_when_inactive(model: WorldModel) -> None:
    frames, goals = pictures(2, 4), pictures(2)
    alone = agent_of(model)
    alone.reset(goals[1:], [1])
    expected = [alone.act(frames[1:, t]) for t in range(3)]
    both = agent_of(model)
    both.reset(goals, [0, 1])
    active = torch.tensor([True, True])
    found = [both.act(frames[:, 0], active)[1:]]
    both.act(frames[:, 3], torch.tensor([True, False]))  # the second is not shown this frame
    found += [both.act(frames[:, t], active)[1:] for t in (1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    again = agent_of(model)
    again.reset(goals[1:], [1])
    again.act(frames[:1, 3])
    again.reset(goals[1:], [1])
    assert torch.equal(again.act(frames[1:, 0]), expected[0]), "a new episode has no earlier frames"


def test_wrong_numbers_of_frames_are_named(model: WorldModel) -> None:
    agent = agent_of(model)
    with pytest.raises(ValueError, match="call reset"):
        agent.act(pictures(1))
    agent.reset(pictures(2), [0, 1])
    with pytest.raises(ValueError, match="expected 2 rows"):
        agent.act(pictures(3))

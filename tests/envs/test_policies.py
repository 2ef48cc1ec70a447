from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from envs.policies import POLICIES, make_policy
from envs.seeding import keyed_rng

PICTURE = np.zeros((64, 64, 3), np.uint8)
SPACE = gym.spaces.Box(np.float32([-1.0, 0.0, 2.0]), np.float32([1.0, 0.5, 8.0]))


def episode(name: str, steps: int = 400, block: int = 1, key: int = 0, **options: float) -> np.ndarray:
    policy = make_policy(name, SPACE, block, options)
    policy.reset(keyed_rng("test", key))
    return np.concatenate([policy.act(PICTURE) for _ in range(steps)])


@pytest.mark.parametrize("name", POLICIES)
def test_actions_stay_in_asymmetric_bounds_and_use_their_range(name):
    actions = episode(name, block=3)
    assert actions.shape == (1200, 3) and actions.dtype == np.float32
    assert (actions >= SPACE.low).all() and (actions <= SPACE.high).all()
    spread = (actions.max(axis=0) - actions.min(axis=0)) / (SPACE.high - SPACE.low)
    assert (spread > 0.95).all()
    assert np.allclose(
        actions.mean(axis=0), (SPACE.low + SPACE.high) / 2, atol=0.15 * (SPACE.high - SPACE.low)
    )


@pytest.mark.parametrize("name", POLICIES)
def test_an_episode_depends_on_its_generator_only(name):
    policy = make_policy(name, SPACE)
    policy.reset(keyed_rng("test", 1))
    for _ in range(7):
        policy.act(PICTURE)
    policy.reset(keyed_rng("test", 0))
    again = np.concatenate([policy.act(PICTURE) for _ in range(20)])
    assert np.array_equal(again, episode(name, 20))
    assert not np.array_equal(again, episode(name, 20, key=1))


def test_held_direction_switches_as_often_as_it_says():
    actions = episode("held_direction", 4000, noise=0.0)
    switches = (np.diff(actions, axis=0) != 0).any(axis=1).mean()
    assert switches == pytest.approx(0.15, abs=0.02)
    assert (np.diff(episode("held_direction", 50, noise=0.0, switch=0.0), axis=0) == 0).all()


def test_unknown_names_and_options_list_the_choices():
    with pytest.raises(ValueError, match="held_direction, uniform_random"):
        make_policy("held", SPACE)
    with pytest.raises(ValueError, match="no option swich; its options are switch, noise, slowest"):
        make_policy("held_direction", SPACE, options={"swich": 0.1})
    with pytest.raises(ValueError, match="no option noise; its options are none"):
        make_policy("uniform_random", SPACE, options={"noise": 0.1})
    with pytest.raises(ValueError, match="probability"):
        make_policy("held_direction", SPACE, options={"switch": 1.5})
    with pytest.raises(ValueError, match="finite"):
        make_policy("uniform_random", gym.spaces.Box(-np.inf, np.inf, (2,)))
    with pytest.raises(ValueError, match="at least 1"):
        make_policy("uniform_random", SPACE, block=0)


def test_smooth_actions_forget_as_fast_as_they_say():
    for memory in (2.0, 6.0):
        actions = episode("smooth_random", 6000, memory=memory, spread=0.2)
        middle = actions - actions.mean(axis=0)
        lag = round(memory)
        correlation = (middle[lag:] * middle[:-lag]).mean() / (middle**2).mean()
        assert correlation == pytest.approx(np.exp(-1), abs=0.08)
        half = (SPACE.high - SPACE.low) / 2
        assert middle.std(axis=0) / half == pytest.approx(0.2, rel=0.15)
    with pytest.raises(ValueError, match="memory > 0"):
        make_policy("smooth_random", SPACE, options={"memory": 0.0})

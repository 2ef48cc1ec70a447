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


AIMLESS = [name for name in POLICIES if name != "goal_directed"]


@pytest.mark.parametrize("name", AIMLESS)
def test_actions_stay_in_asymmetric_bounds_and_use_their_range(name):
    actions = episode(name, block=3)
    assert actions.shape == (1200, 3) and actions.dtype == np.float32
    assert (actions >= SPACE.low).all() and (actions <= SPACE.high).all()
    spread = (actions.max(axis=0) - actions.min(axis=0)) / (SPACE.high - SPACE.low)
    assert (spread > 0.95).all()
    assert np.allclose(
        actions.mean(axis=0), (SPACE.low + SPACE.high) / 2, atol=0.15 * (SPACE.high - SPACE.low)
    )


@pytest.mark.parametrize("name", AIMLESS)
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


# with a goal


class Line:
    """Three numbers that actions change; a stand-in for a world, which tells what was asked of it."""

    action_space = SPACE
    horizon = 60

    def __init__(self) -> None:
        self.state = np.zeros(3)
        self.goals: list[np.ndarray] = []

    def get_state(self) -> np.ndarray:
        return self.state.copy()

    def set_state(self, state: np.ndarray) -> None:
        self.state = np.array(state)

    def step(self, action: np.ndarray) -> None:
        middle = (SPACE.low + SPACE.high) / 2
        self.state = self.state + 0.1 * (action - middle) / (SPACE.high - SPACE.low)

    def success(self, state: np.ndarray, goal: np.ndarray) -> bool:
        return bool(np.abs(state - goal).max() < 0.06)

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        self.state = np.full(3, np.nan)  # a world may use its own simulation for this
        self.goals.append(rng.uniform(-1, 1, 3))
        return np.zeros(3), self.goals[-1], "any"

    def scripted_action(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        share = np.clip(10.0 * (goal - state), -0.5, 0.5)
        return ((SPACE.low + SPACE.high) / 2 + share * (SPACE.high - SPACE.low)).astype(np.float32)


def pursue(steps: int = 400, key: int = 0, **options: float) -> tuple[Line, np.ndarray]:
    world = Line()
    policy = make_policy("goal_directed", SPACE, block=3, options=options, world=world)  # type: ignore[arg-type]
    policy.reset(keyed_rng("test", key))
    actions = []
    for _ in range(steps):
        (action,) = policy.act(PICTURE)  # one at a time, whatever the block: it looks after each
        assert action.dtype == np.float32 and (action >= SPACE.low).all() and (action <= SPACE.high).all()
        world.step(action)
        actions.append(action)
    assert np.isfinite(world.state).all()
    return world, np.stack(actions)


def test_goals_are_reached_one_after_another():
    expert, _ = pursue(noise=0.0, wander=0.0)
    assert len(expert.goals) > 10
    # At most 2 / 0.05 steps to a goal, so none is given up for lack of time.
    assert len(pursue(noise=0.0, wander=0.0, patience=1000)[0].goals) == len(expert.goals)
    assert len(pursue(wander=1.0, patience=1000)[0].goals) < len(expert.goals) / 2
    assert len(pursue(patience=1)[0].goals) == 400
    assert np.array_equal(pursue()[1], pursue(patience=60)[1])  # by default the world's horizon


def test_noise_is_as_large_as_it_says():
    class NeverThere(Line):
        def success(self, state: np.ndarray, goal: np.ndarray) -> bool:
            return False

    world, options = NeverThere(), {"noise": 0.1, "wander": 0.0, "patience": 1000}
    policy = make_policy("goal_directed", SPACE, 1, options, world=world)  # type: ignore[arg-type]
    policy.reset(keyed_rng("test", 0))
    half, off = (SPACE.high - SPACE.low) / 2, []
    for _ in range(500):
        (action,) = policy.act(PICTURE)
        off.append((action - world.scripted_action(world.state, world.goals[-1])) / half)
        world.set_state(
            world.goals[-1]
        )  # where the action is in the middle of the box, so noise is not clipped
    assert np.std(off[1:]) == pytest.approx(0.1, rel=0.1)


def test_what_is_done_for_a_goal_depends_on_the_generator_only():
    assert np.array_equal(pursue(60, 1)[1], pursue(60, 1)[1])
    assert not np.array_equal(pursue(60, 1)[1], pursue(60, 2)[1])


def test_a_policy_with_goals_says_what_it_needs():
    with pytest.raises(ValueError, match="cannot be used without a world"):
        make_policy("goal_directed", SPACE)
    with pytest.raises(ValueError, match="needs a world with sample_task and scripted_action"):
        make_policy("goal_directed", SPACE, world=object())  # type: ignore[arg-type]
    for bad in ({"wander": 1.5}, {"noise": -1.0}, {"patience": -1}):
        with pytest.raises(ValueError, match="wander in"):
            make_policy("goal_directed", SPACE, options=bad, world=Line())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no option world; its options are noise, wander, patience"):
        make_policy("goal_directed", SPACE, options={"world": 1.0}, world=Line())  # type: ignore[arg-type]

    class NoScript(Line):
        def scripted_action(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
            raise ValueError("nothing is known of this world")

    policy = make_policy("goal_directed", SPACE, options={"wander": 0.0}, world=NoScript())  # type: ignore[arg-type]
    policy.reset(keyed_rng("test", 0))
    with pytest.raises(ValueError, match=r"nothing is known of this world; choose smooth_random"):
        policy.act(PICTURE)

"""The contract of a world, checked on a fake one and on every world of ours. Add a new world to ``WORLDS``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.collect import collect
from envs.evaluate import NoOp, RandomPolicy, Scripted, evaluate
from envs.task import make_suite
from envs.world import TaskWorld, describe, make_world

NEEDS_MAZES = pytest.mark.skipif(
    find_spec("gymnasium_robotics") is None, reason="PointMaze reads the mazes of gymnasium-robotics"
)
WORLDS = [
    "fake/Corridor-v0",
    "worldmodel/TwoRoom-v0",
    "worldmodel/TwoRoomPublished-v0",
    "worldmodel/TwoRoomRandomWall-v0",
    pytest.param("worldmodel/PointMaze-UMaze-v0", marks=NEEDS_MAZES),
    pytest.param("worldmodel/PointMaze-Medium-v0", marks=NEEDS_MAZES),
    pytest.param("worldmodel/PointMaze-Large-v0", marks=NEEDS_MAZES),
    pytest.param("worldmodel/PointMazePublished-UMaze-v0", marks=NEEDS_MAZES),
    "worldmodel/Reacher-v0",
]


class Corridor(gym.Env[np.ndarray, np.ndarray]):
    """A dot on a line: the smallest world that keeps the contract."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    horizon = 20
    task_mix: ClassVar[dict[str, float]] = {"left": 0.5, "right": 0.5}

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (4, 32, 3), np.uint8)
        self.action_space = gym.spaces.Box(-0.1, 0.1, (1,), np.float32)
        self._x, self._goal = np.zeros(1), None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        self._goal = options.get("goal")
        self.set_state(options.get("state", self.np_random.uniform(-1, 1, 1)))
        return self.render_state(self._x), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._x = np.clip(self._x + np.clip(action, -0.1, 0.1).astype(float), -1, 1)
        done = self._goal is not None and self.success(self._x, self._goal)
        return self.render_state(self._x), float(done), done, False, {}

    def get_state(self) -> np.ndarray:
        return self._x.copy()

    def set_state(self, state: np.ndarray) -> None:
        self._x = np.array(state, dtype=float)

    def render_state(self, state: np.ndarray) -> np.ndarray:
        picture = np.zeros((4, 32, 3), np.uint8)
        picture[:, int((state[0] + 1) / 2 * 31)] = 255
        return picture

    def success(self, state: np.ndarray, goal: np.ndarray) -> bool:
        return bool(abs(state[0] - goal[0]) < 0.05)

    def distance(self, state: np.ndarray, goal: np.ndarray) -> float:
        return float(abs(state[0] - goal[0]))

    def distances(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return np.abs(states - goals)[..., 0]

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        side = str(rng.choice(["left", "right"]))
        start = rng.uniform(-0.4, 0.4, 1)
        return start, start + (0.5 if side == "right" else -0.5), side

    def scripted_action(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        return np.clip(goal - state, -0.1, 0.1).astype(np.float32)


@pytest.fixture(params=WORLDS)
def env_id(request: pytest.FixtureRequest) -> Iterator[str]:
    if "fake/Corridor-v0" not in gym.registry:
        gym.register("fake/Corridor-v0", entry_point=lambda: Corridor())
    yield request.param
    gym.registry.pop("fake/Corridor-v0", None)


@pytest.fixture
def world(env_id: str) -> TaskWorld:
    return make_world(env_id)


@pytest.mark.filterwarnings("error")
def test_gymnasiums_checker_is_content(env_id: str) -> None:
    check_env(gym.make(env_id).unwrapped, skip_render_check=True)


def test_a_state_set_back_leads_to_the_same_future(world: TaskWorld) -> None:
    rng = np.random.default_rng(0)
    world.reset(seed=0)
    actions = rng.uniform(world.action_space.low, world.action_space.high, (10, *world.action_space.shape))
    for action in actions[:5]:
        world.step(action.astype(np.float32))
    state = world.get_state()
    assert state.dtype == np.float64
    assert state.ndim == 1

    def future() -> list[tuple[bytes, bytes]]:
        steps = [world.step(action.astype(np.float32))[0].tobytes() for action in actions[5:]]
        return [(picture, world.get_state().tobytes()) for picture in steps]

    first = future()
    world.set_state(state)
    assert world.get_state().tobytes() == state.tobytes()
    assert future() == first


def test_rendering_a_state_disturbs_nothing_and_shows_what_reset_shows(world: TaskWorld) -> None:
    start, goal, _ = world.sample_task(np.random.default_rng(0))
    picture, _ = world.reset(options={"state": start, "goal": goal})
    np.testing.assert_array_equal(world.render_state(start), picture)
    before = world.get_state()
    assert world.render_state(goal).tobytes() != picture.tobytes()
    np.testing.assert_array_equal(world.get_state(), before)
    a = world.step(world.action_space.high)[0]
    world.reset(options={"state": start, "goal": goal})
    np.testing.assert_array_equal(world.step(world.action_space.high)[0], a)


def test_distance_agrees_with_success_and_with_its_batched_form(world: TaskWorld) -> None:
    rng = np.random.default_rng(1)
    pairs = [world.sample_task(rng)[:2] for _ in range(20)]
    starts, goals = (np.stack(side) for side in zip(*pairs, strict=True))
    batched = world.distances(starts[:, None], goals[None])
    for i, (start, goal) in enumerate(pairs):
        assert world.distance(start, goal) == pytest.approx(batched[i, i])
        assert world.distance(goal, goal) == pytest.approx(0, abs=1e-12)
        assert world.success(goal, goal)
        assert not world.success(start, goal)
        assert world.distance(start, goal) > 0


def test_tasks_are_reachable_and_not_for_free(env_id: str) -> None:
    suite = make_suite(env_id, 10, seed=0)
    suite.verify()
    assert sum(result.success for result in evaluate(suite, Scripted(env_id), 5)) == 10
    assert sum(result.success for result in evaluate(suite, NoOp(env_id), 5)) == 0
    assert sum(result.success for result in evaluate(suite, RandomPolicy(env_id), 5)) < 10


def test_collection_gives_aligned_arrays(env_id: str) -> None:
    spec = describe(env_id)
    world = make_world(env_id)
    for _, episode in collect(env_id, 2, 6, seed=3):
        assert episode["frames"].shape == (7, *spec["frame_shape"])
        assert episode["actions"].shape == (6, 1, len(spec["action_low"]))
        assert len(episode["states"]) == 7
        # actions[t] leads from state t to state t + 1.
        for t in range(6):
            world.set_state(episode["states"][t])
            world.step(episode["actions"][t, 0])
            np.testing.assert_allclose(world.get_state(), episode["states"][t + 1], atol=1e-12)

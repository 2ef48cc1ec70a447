"""MuJoCo environments of gymnasium as worlds. Everything that draws is skipped where there is no OpenGL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv
from gymnasium.utils.env_checker import check_env

from envs.gym_trial import Trial, get_state
from envs.gym_world import GymWorld, SimulatedGymWorld, SteppedGymWorld, gym_world
from envs.rendering import NoOpenGL, find_gl
from envs.simulate import SimulatorCost
from envs.task import make_suite
from envs.world import describe, make_world


class HalfForce(ReacherEnv):
    """Its forces are half of its actions."""

    def step(self, action: np.ndarray) -> Any:
        return super().step(0.5 * action)


class SpeedLimit(ReacherEnv):
    """Limits velocities before every step, as gymnasium-robotics' PointMaze does."""

    def step(self, action: np.ndarray) -> Any:
        self.data.qvel[:] = np.clip(self.data.qvel, -5, 5)
        return super().step(action)


class LooksFirst(ReacherEnv):
    """Its forces depend on where a body is, which MuJoCo computes from the state and does not keep in it."""

    def step(self, action: np.ndarray) -> Any:
        return super().step(action * (1 + self.data.body("fingertip").xpos[0]))


class Remembers(ReacherEnv):
    """Smooths its actions, so what it does next depends on what was before."""

    last = 0.0

    def step(self, action: np.ndarray) -> Any:
        self.last = 0.9 * self.last + 0.1 * action
        return super().step(self.last)


class OtherMass(ReacherEnv):
    """Every episode has an arm of another mass."""

    def reset_model(self) -> Any:
        self.model.body_mass[1] = self.np_random.uniform(0.1, 1.0)
        return super().reset_model()


class OtherMarker(ReacherEnv):
    """Every episode has another colour."""

    def reset_model(self) -> Any:
        self.model.geom_rgba[1] = self.np_random.uniform(size=4)
        return super().reset_model()


class OtherGravity(ReacherEnv):
    """Every episode has another gravity."""

    def reset_model(self) -> Any:
        self.model.opt.gravity[2] = self.np_random.uniform(-9, -1)
        return super().reset_model()


class NotSeeded(ReacherEnv):
    """Begins anywhere, whatever the seed."""

    count = 0

    def reset_model(self) -> Any:
        observation = super().reset_model()
        self.count += 1
        self.data.qpos[0] = self.count
        return observation


class Broken(ReacherEnv):
    """Fails at its first step."""

    def step(self, action: np.ndarray) -> Any:
        raise AssertionError("no such joint")


class Choices(ReacherEnv):
    """Has no continuous actions."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Discrete(3)


@pytest.fixture
def draws() -> None:
    try:
        find_gl()
    except NoOpenGL as error:
        pytest.skip(str(error))


@pytest.fixture
def registered() -> Iterator[None]:
    gym.register("test/HalfForce-v0", entry_point=lambda: HalfForce())
    settings = {"env": "Reacher-v5", "size": 32, "tolerance": 3.0, "horizon": 30, "view": {"distance": 0.6}}
    gym.register("test/Near-v0", entry_point="envs.gym_world:gym_world", kwargs=settings)
    yield
    for name in ("test/HalfForce-v0", "test/Near-v0"):
        gym.registry.pop(name)


def actions(world: GymWorld, count: int = 8) -> np.ndarray:
    space = world.action_space
    return (
        np.random.default_rng(2).uniform(space.low, space.high, (count, *space.low.shape)).astype(np.float32)
    )


# What a trial finds out, without OpenGL


@pytest.mark.parametrize(
    ("kind", "simulated"),
    [(ReacherEnv, True), (OtherMarker, True), (HalfForce, False), (SpeedLimit, False), (LooksFirst, False)],
)
def test_whether_the_simulator_alone_does_what_the_environment_does(kind: type, simulated: bool) -> None:
    trial = Trial(kind(), "it")
    assert trial.simulated is simulated
    assert (trial.substeps, round(trial.seconds, 9)) == (2, 0.02)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Remembers, "a step of it depends on more than MuJoCo's state"),
        (OtherMass, r"a reset of it changes its MuJoCo model \(body_mass\)"),
        (OtherGravity, r"a reset of it changes its MuJoCo model \(opt.gravity\)"),
        (NotSeeded, "begins two episodes of the same seed differently"),
    ],
)
def test_what_cannot_be_a_world(kind: type, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Trial(kind(), "it")


def test_what_is_no_mujoco_environment_is_told_where_to_read_on() -> None:
    with pytest.raises(ValueError, match=r"'CartPole-v1' has no get_state.*docs/extending.md"):
        make_world("CartPole-v1")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Broken, r"Broken fails by itself with MuJoCo .* \(AssertionError: no such joint\)"),
        (Choices, "the action space of Choices is Discrete"),
    ],
)
def test_environments_that_do_not_work(draws: None, kind: type, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gym_world(kind())


# Worlds


@pytest.mark.filterwarnings("error")
def test_gymnasiums_checker_is_content(draws: None) -> None:
    world: Any = make_world("Reacher-v5")
    assert isinstance(world, SimulatedGymWorld)
    check_env(world, skip_render_check=True)


def test_a_world_does_bit_for_bit_what_its_environment_does(draws: None) -> None:
    world: Any = make_world("Pusher-v5")
    env: Any = gym.make("Pusher-v5").unwrapped
    env.reset(seed=3)
    world.reset(seed=3)
    for action in actions(world, 20):
        np.testing.assert_array_equal(world.get_state(), get_state(env))
        env.step(action)
        world.step(action)
    assert world.horizon == 50
    assert world.metadata["render_fps"] == pytest.approx(20)


@pytest.mark.parametrize("kind", [ReacherEnv, HalfForce, LooksFirst])
def test_a_state_set_back_leads_to_the_same_future(draws: None, kind: type) -> None:
    world = gym_world(kind())
    assert isinstance(world, SimulatedGymWorld if kind is ReacherEnv else SteppedGymWorld)
    world.reset(seed=1)
    plan = actions(world)
    for action in plan[:3]:
        world.step(action)
    state = world.get_state()

    def future() -> list[bytes]:
        steps = [world.step(action)[0].tobytes() for action in plan[3:]]
        return [*steps, world.get_state().tobytes()]

    first = future()
    world.set_state(state)
    assert world.get_state().tobytes() == state.tobytes()
    assert future() == first


def test_drawing_disturbs_nothing_and_shows_what_reset_shows(draws: None) -> None:
    world: Any = make_world("Reacher-v5")
    start, goal, _ = world.sample_task(np.random.default_rng(0))
    picture, _ = world.reset(options={"state": start, "goal": goal})
    np.testing.assert_array_equal(world.render_state(start), picture)
    shown = world.render_state(goal)
    assert not np.array_equal(shown, picture)
    np.testing.assert_array_equal(world.get_state(), start)
    np.testing.assert_array_equal(world.render_state(goal), shown)
    np.testing.assert_array_equal(world.render(), picture)


@pytest.mark.parametrize("env_id", ["Reacher-v5", "test/HalfForce-v0"])
def test_the_simulator_as_a_cost_goes_where_the_world_goes(
    draws: None, registered: None, env_id: str
) -> None:
    world: Any = make_world(env_id)
    world.reset(seed=0)
    start, plan = world.get_state(), actions(world, 5)
    ends = SimulatorCost(env_id, threads=1).rollout(start[None], plan[None, None, :, None])
    for action, end in zip(plan, ends[0, 0], strict=True):
        np.testing.assert_array_equal(world.next_state(world.get_state(), action), end)
        world.step(action)
        np.testing.assert_array_equal(world.get_state(), end)


def test_only_what_the_simulator_does_alone_is_left_to_it(draws: None, registered: None) -> None:
    SimulatorCost("Reacher-v5", backend="loop")
    with pytest.raises(ValueError, match="has no substeps, controls"):
        SimulatorCost("test/HalfForce-v0", backend="loop")


def test_success_distance_and_labels_agree(draws: None) -> None:
    world: Any = make_world("Reacher-v5")
    rng, labels = np.random.default_rng(1), []
    before = world.get_state()
    for _ in range(20):
        start, goal, label = world.sample_task(rng)
        distance = world.distance(start, goal)
        assert world.success(goal, goal) and world.distance(goal, goal) == 0
        assert not world.success(start, goal)
        assert world.distances(np.stack([start, goal]), goal).tolist() == [distance, 0]
        labels.append((distance, label))
    assert {label for _, label in labels} == set(world.task_mix)
    assert max(d for d, label in labels if label == "easy") < min(d for d, label in labels if label == "hard")
    np.testing.assert_array_equal(world.get_state(), before)  # it is where it was
    near = goal.copy()
    near[1:3] += 0.09  # rad, both joints of the arm
    assert world.success(near, goal)
    near[2] += 0.02
    assert not world.success(near, goal)


@pytest.mark.parametrize(
    ("env_id", "protocol"),
    [("Reacher-v5", "scripted"), ("test/HalfForce-v0", "scripted"), ("Reacher-v5", "ahead")],
)
def test_tasks_are_certified_by_what_an_explorer_did(
    draws: None, registered: None, env_id: str, protocol: str
) -> None:
    suite = make_suite(env_id, 2, seed=0, protocol=protocol, ahead=10)
    suite.verify()
    again = make_suite(env_id, 2, seed=0, protocol=protocol, ahead=10)
    assert suite.hash == again.hash
    assert {len(task.solution) for task in suite} <= set(range(1, 26))


def test_there_is_no_policy_for_any_other_goal(draws: None) -> None:
    world: Any = make_world("Reacher-v5")
    start, goal, _ = world.sample_task(np.random.default_rng(0))
    assert world.scripted_action(start, goal).any()
    late = start.copy()
    late[0] += 26 * 0.02  # a step after the last
    assert not world.scripted_action(late, goal).any()
    for other in (world, make_world("Reacher-v5")):
        with pytest.raises(ValueError, match="nobody wrote a policy for Reacher-v5"):
            other.scripted_action(start, start)


def test_settings_have_an_id_of_their_own(draws: None, registered: None) -> None:
    world: Any = make_world("test/Near-v0")
    assert (world.spec.id, world.horizon) == ("test/Near-v0", 30)
    assert describe("test/Near-v0")["frame_shape"] == [3, 32, 32]
    start = world.reset(seed=0)[0]
    assert not np.array_equal(gym_world("Reacher-v5", size=32).reset(seed=0)[0], start)
    turned = world.get_state()
    turned[1:3] += 0.25
    assert world.success(turned, world.get_state())


def test_seeds_decide_where_episodes_begin(draws: None) -> None:
    one, other = make_world("Reacher-v5"), make_world("Reacher-v5")
    np.testing.assert_array_equal(one.reset(seed=5)[0], other.reset(seed=5)[0])
    np.testing.assert_array_equal(one.reset()[0], other.reset()[0])  # goes on with the same generator
    first = one.get_state()
    assert not np.array_equal(one.reset(seed=6)[0], other.render_state(first))


def test_what_is_refused(draws: None) -> None:
    world = make_world("Reacher-v5")
    with pytest.raises(ValueError, match="2 dimensions"):
        world.step(np.zeros(3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        world.step(np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="finite numbers"):
        world.set_state(np.zeros(4))
    with pytest.raises(ValueError, match="'state' and 'goal'"):
        world.reset(options={"start": 1})
    high = world.action_space.high
    world.reset(seed=0)
    world.step(10 * high)
    far = world.get_state()
    world.reset(seed=0)
    world.step(high)
    np.testing.assert_array_equal(world.get_state(), far)  # clipped to the bounds

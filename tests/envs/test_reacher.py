from __future__ import annotations

import importlib.util
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.collect import collect
from envs.evaluate import NoOp, RandomPolicy, evaluate
from envs.reacher import ELBOW_LIMIT, FAR, MIN_TASK_DISTANCE, PUBLISHED_TOLERANCE, Reacher
from envs.seeding import keyed_rng
from envs.simulate import SimulatorCost
from envs.task import TaskSuite, make_suite
from envs.world import make_world

REACHER = "worldmodel/Reacher-v0"


@pytest.fixture
def world() -> Reacher:
    made = make_world(REACHER)
    assert isinstance(made, Reacher)
    return made


@pytest.fixture(scope="module")
def suite() -> TaskSuite:
    return make_suite(REACHER, 30, 0)


def push(world: Reacher, pose: tuple[float, float], action: tuple[float, float], steps: int) -> np.ndarray:
    """Angles and velocities (4,) after some steps from rest."""
    world.set_state(world.state_at(*pose))
    for _ in range(steps):
        world.step(np.array(action, np.float32))
    return world.get_state()[1:5]


def with_velocity(world: Reacher, pose: tuple[float, float], velocity: tuple[float, float]) -> np.ndarray:
    state = world.state_at(*pose)
    state[3:5] = velocity
    return state


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_passes_gymnasium_checker_without_warnings(render_mode: str | None) -> None:
    env = gym.make(REACHER, render_mode=render_mode).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)


def test_torques_turn_their_joint_and_the_shoulder_has_inertia(world: Reacher) -> None:
    assert (
        push(world, (0.0, 0.0), (1.0, 0.0), 3)[0] > 0.1 and push(world, (0.0, 0.0), (-1.0, 0.0), 3)[0] < -0.1
    )
    assert (
        push(world, (0.0, 0.0), (0.0, 1.0), 3)[1] > 0.1 and push(world, (0.0, 0.0), (0.0, -1.0), 3)[1] < -0.1
    )
    first, later = push(world, (0.0, 0.0), (1.0, 0.0), 1), push(world, (0.0, 0.0), (1.0, 0.0), 20)
    assert 0.02 < first[0] < 0.06 and first[2] < 0.4 * later[2]  # it takes several steps to get up to speed
    assert 0.12 < later[2] * 0.04 <= 0.2  # rad per step at full torque
    world.set_state(with_velocity(world, (0.0, 0.0), (4.0, 0.0)))
    world.step(np.zeros(2, np.float32))
    assert world.get_state()[1] > 0.1  # and it coasts


def test_the_elbow_stops_at_its_limits_and_the_shoulder_turns_on(world: Reacher) -> None:
    for side in (1.0, -1.0):
        angles = push(world, (0.0, side * 2.0), (0.0, side), 40)
        assert abs(angles[1]) == pytest.approx(ELBOW_LIMIT, abs=0.05)
    assert push(world, (3.0, 0.5), (1.0, 0.0), 60)[0] > 3.0 + 2 * np.pi


def test_the_picture_shows_the_pose_and_not_the_velocity(world: Reacher) -> None:
    at_rest = world.state_at(0.4, -1.2)
    moving = with_velocity(world, (0.4, -1.2), (3.0, -2.0))
    full_turns = world.state_at(0.4 + 4 * np.pi, -1.2)
    picture = world.render_state(at_rest)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, world.render_state(moving))
    assert np.abs(picture.astype(int) - world.render_state(full_turns)).max() <= 1


def test_each_joint_can_be_read_from_the_picture(world: Reacher) -> None:
    rng = keyed_rng("test", 0)
    for _ in range(40):
        pose = world._free_position(rng)
        picture = world.render_state(world.state_at(*pose)).astype(int)
        for change in ((0.05, 0.0), (0.0, 0.05)):
            other = world.render_state(world.state_at(*(pose + change))).astype(int)
            assert (np.abs(other - picture).max(axis=2) > 25).sum() >= 5  # half the tolerance shows
    # The two links and their order can be told apart: folding to the left is not folding to the right.
    left, right = (world.render_state(world.state_at(0.0, side * 2.65)).astype(int) for side in (1, -1))
    assert np.abs(left - right).max(axis=2).astype(bool).sum() > 50


def test_the_whole_arm_is_in_the_picture(world: Reacher) -> None:
    floor = world.render_state(world.state_at(0.0, 0.0))[0, 0]
    for angle in np.linspace(0, 2 * np.pi, 17):
        picture = world.render_state(world.state_at(angle, 0.0))
        edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (edge == floor).all()


def test_larger_pictures_show_the_same_scene() -> None:
    small, large = Reacher(), Reacher(size=256)
    state = small.state_at(0.3, -2.0)
    pooled = large.render_state(state).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(pooled - small.render_state(state)).max() < 40  # edges


def test_success_needs_both_joints_within_the_tolerance(world: Reacher) -> None:
    goal = world.state_at(1.0, 0.5)
    assert world.success(world.state_at(1.099, 0.401), goal)
    assert world.success(with_velocity(world, (1.0, 0.5), (5.0, 5.0)), goal)
    assert not world.success(world.state_at(1.101, 0.5), goal)
    assert not world.success(world.state_at(1.0, 0.399), goal)
    strict = Reacher(tolerance=PUBLISHED_TOLERANCE)
    assert strict.success(strict.state_at(1.049, 0.451), goal)
    assert not strict.success(strict.state_at(1.051, 0.5), goal)


def test_the_shoulder_is_compared_modulo_full_turns_and_the_elbow_is_not(world: Reacher) -> None:
    goal = world.state_at(-3.1, 2.6)
    assert world.success(world.state_at(3.13, 2.6), goal)
    assert world.distance(world.state_at(3.1, 2.6), goal) == pytest.approx(2 * np.pi - 6.2)
    assert world.distance(world.state_at(-3.1 + 4 * np.pi, 2.6), goal) == pytest.approx(0, abs=1e-12)
    assert world.distance(world.state_at(-3.1, -2.6), goal) == pytest.approx(5.2)


def test_distance_is_symmetric_and_keeps_the_triangle_inequality(world: Reacher) -> None:
    rng = keyed_rng("test", 1)
    states = np.stack([world.state_at(*(world._free_position(rng) * (3.0, 1.0))) for _ in range(40)])
    d = world.distances(states[:, None], states[None])
    assert d.shape == (40, 40) and d.dtype == np.float64
    assert d == pytest.approx(d.T, abs=1e-12) and (np.diag(d) == 0).all()
    assert (d[:, None, :] <= d[:, :, None] + d[None] + 1e-9).all()
    assert d[3, 7] == world.distance(states[3], states[7])


def test_distances_leave_their_arguments_alone(world: Reacher) -> None:
    states = world.state_at(3.0, 1.0)[None]
    before = states.copy()
    world.distances(states, world.state_at(-3.0, 1.0))
    assert np.array_equal(states, before)


def test_sampled_tasks_keep_their_promises(world: Reacher) -> None:
    rng, labels = keyed_rng("test", 3), []
    for _ in range(300):
        start, goal, label = world.sample_task(rng)
        labels.append(label)
        distance = world.distance(start, goal)
        assert distance >= MIN_TASK_DISTANCE and (label == "far") == (distance >= FAR)
        for state in (start, goal):
            assert abs(state[2]) <= 0.95 * ELBOW_LIMIT and (state[3:5] == 0).all() and state[0] == 0
    assert 0.5 < np.mean([label == "far" for label in labels]) < 0.75


def test_tasks_are_certified_with_time_to_spare_and_not_for_free(suite: TaskSuite) -> None:
    suite.verify()
    assert max(len(task.solution) for task in suite) <= 0.7 * suite.horizon
    assert sum(result.success for result in evaluate(suite, NoOp(REACHER), 10)) == 0
    assert sum(result.success for result in evaluate(suite, RandomPolicy(REACHER), 10)) <= 2


@pytest.mark.parametrize(
    "backend",
    [
        "loop",
        pytest.param(
            "batch",
            marks=pytest.mark.skipif(importlib.util.find_spec("mujoco.batch") is None, reason="old MuJoCo"),
        ),
    ],
)
def test_the_simulator_as_a_cost_knows_the_velocity(world: Reacher, backend: str) -> None:
    rng = keyed_rng("test", 4)
    states = np.stack([with_velocity(world, (0.2, 1.0), v) for v in ((4.0, 0.0), (-4.0, 3.0), (0.0, 0.0))])
    plans = rng.uniform(-1, 1, (3, 4, 5, 2, 2)).astype(np.float32)
    simulator = SimulatorCost(REACHER, backend=backend, threads=1)
    ends = simulator.rollout(states, plans)
    for e in range(3):
        for n in range(4):
            world.set_state(states[e])
            for step in range(5):
                for action in plans[e, n, step]:
                    world.step(action)
                assert np.array_equal(world.get_state(), ends[e, n, step])
    still = np.zeros((3, 1, 3, 1, 2), np.float32)
    ahead = np.tile(world.state_at(0.8, 1.0), (3, 1))
    costs = simulator(states, ahead, still)[:, 0]
    assert costs[0] < costs[2] < costs[1]  # on the way there, at rest, on the way away


def test_going_to_the_goal_costs_less_than_not(suite: TaskSuite) -> None:
    simulator = SimulatorCost(REACHER)
    for task in suite:
        plans = np.zeros((1, 2, len(task.solution), 1, 2), np.float32)
        plans[0, 1, :, 0] = task.solution
        stay, go = simulator(task.start[None], task.goal[None], plans)[0]
        assert go < stay


@pytest.mark.parametrize("policy", ["held_direction", "smooth_random"])
def test_exploring_policies_visit_all_poses(policy: str) -> None:
    states = np.concatenate([e["states"] for _, e in collect(REACHER, 60, 50, policy)])
    shoulder, elbow = states[:, 1] % (2 * np.pi), states[:, 2]
    visits, _, _ = np.histogram2d(
        shoulder, elbow, bins=12, range=((0, 2 * np.pi), (-ELBOW_LIMIT, ELBOW_LIMIT))
    )
    assert (visits > 0).mean() > 0.97
    share = visits[visits > 0] / visits.sum()
    assert np.exp(-(share * np.log(share)).sum()) / visits.size > 0.8  # evenly
    assert (np.quantile(np.abs(states[:, 3:5]), 0.95, axis=0) > 3.0).all()  # rad/s; the greatest is 5


def test_bad_input_is_named(world: Reacher) -> None:
    with pytest.raises(ValueError, match="actions of Reacher have 2 dimensions"):
        world.step(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="NaN"):
        world.step(np.array([np.nan, 0.0], np.float32))
    with pytest.raises(ValueError, match="state of Reacher"):
        world.set_state(np.zeros(4))
    with pytest.raises(ValueError, match="'gaol'"):
        world.reset(options={"gaol": world.get_state()})
    with pytest.raises(ValueError, match="rgb_array"):
        Reacher(render_mode="human")
    for tolerance in (0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="tolerance of Reacher"):
            Reacher(tolerance=tolerance)

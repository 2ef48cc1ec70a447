"""Looks change pictures and nothing else: states decide pictures, and the task is the plain world's."""

from __future__ import annotations

from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.collect import collect
from envs.evaluate import Replay, evaluate
from envs.look_pictures import LOOKS, Look
from envs.looks import LookWorld
from envs.simulate import SimulatorCost
from envs.task import make_suite
from envs.two_room import TwoRoom
from envs.two_room_published import TwoRoomRandomWall
from envs.world import describe, make_world

NOISE, PLAIN = "worldmodel/TwoRoom-Noise-v0", "worldmodel/TwoRoom-v0"
WORLDS = [
    "TwoRoom",
    "Reacher",
    pytest.param(
        "PointMaze-UMaze",
        marks=pytest.mark.skipif(find_spec("gymnasium_robotics") is None, reason="needs gymnasium-robotics"),
    ),
    pytest.param("PushT", marks=pytest.mark.skipif(find_spec("gym_pusht") is None, reason="needs gym-pusht")),
]
ALL = pytest.mark.parametrize("look", LOOKS)


def episode(env_id: str, seed: int, steps: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (T, H, W, 3) and states (T, S) of an episode of random actions."""
    world, rng = make_world(env_id), np.random.default_rng(0)
    pictures, states = [world.reset(seed=seed)[0]], [world.get_state()]
    for _ in range(steps):
        pictures.append(world.step(rng.uniform(-1, 1, 2).astype(np.float32))[0])
        states.append(world.get_state())
    return np.stack(pictures), np.stack(states)


def two_room(look: str) -> LookWorld:
    return LookWorld(TwoRoom(), look)


@pytest.mark.parametrize("world", WORLDS)
@ALL
def test_a_picture_is_a_function_of_the_state(world: str, look: str) -> None:
    env_id = f"worldmodel/{world}-{look.title()}-v0"
    pictures, states = episode(env_id, seed=3)
    other = make_world(env_id)
    other.reset(seed=9)
    before, drawn = other.get_state(), other.np_random.bit_generator.state  # type: ignore[attr-defined]
    for picture, state in zip(pictures[::-1], states[::-1], strict=True):
        np.testing.assert_array_equal(other.render_state(state), picture)
    np.testing.assert_array_equal(other.get_state(), before)
    assert other.np_random.bit_generator.state == drawn  # type: ignore[attr-defined]


@pytest.mark.parametrize("world", WORLDS)
def test_physics_and_starts_are_those_of_the_plain_world(world: str) -> None:
    _, states = episode(f"worldmodel/{world}-Hard-v0", seed=5)
    plain, plain_states = episode(f"worldmodel/{world}-v0", seed=5)
    np.testing.assert_array_equal(states[:, : plain_states.shape[1]], plain_states)
    assert plain.shape[1:] == (64, 64, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("world", WORLDS)
def test_gymnasiums_checker_is_content(world: str) -> None:
    check_env(gym.make(f"worldmodel/{world}-Hard-v0").unwrapped, skip_render_check=True)


@ALL
def test_a_seed_is_an_episode(look: str) -> None:
    env_id = f"worldmodel/TwoRoom-{look.title()}-v0"
    first, again, other = (episode(env_id, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    world = two_room(look)
    a, b = (world.render_state(world.state_at(0.5, 0.5, look_seed=seed)) for seed in (1, 2))
    assert (a != b).mean() > 0.02  # in the same place
    assert (first[0] != other[0]).any()


@ALL
def test_start_and_goal_of_a_task_look_different(look: str) -> None:
    world = two_room(look)
    start, goal, label = world.sample_task(np.random.default_rng(0))
    assert start[-1] != goal[-1]
    there = np.append(start[:-1], goal[-1])
    assert (world.render_state(there) != world.render_state(start)).mean() > 0.02
    plain_start, plain_goal, plain_label = TwoRoom().sample_task(np.random.default_rng(0))
    np.testing.assert_array_equal(start[:-1], plain_start)
    np.testing.assert_array_equal(goal[:-1], plain_goal)
    assert label == plain_label
    assert world.distance(start, goal) == TwoRoom().distance(plain_start, plain_goal)
    assert world.success(there, start)


def test_noise_is_new_in_every_frame_and_colours_stay_for_the_episode() -> None:
    def frames(look: str) -> np.ndarray:
        """Two frames (2, pixels) of one episode, the ball in the same place."""
        world = two_room(look)
        states = np.stack([world.state_at(0.5, 0.5, look_seed=7)] * 2)
        states[1, 0] = 0.15  # MuJoCo's time after one step
        return np.stack([world.render_state(state).ravel() for state in states]).astype(float)

    empty = TwoRoom().render_state(TwoRoom().state_at(0.5, 0.5)).ravel()
    first, second = frames("noise")
    floor = empty > 200  # where the picture is flat, all variance is noise
    assert abs(np.corrcoef(first[floor], second[floor])[0, 1]) < 0.2
    assert first[floor].std() > 10
    assert (frames("colours")[0] == frames("colours")[1]).all()
    drift, jump = (np.abs(np.diff(frames(look), axis=0)).mean() for look in ("discs", "jumping"))
    assert 0 < drift < 0.6 * jump
    bright = frames("flicker").reshape(2, -1, 3).mean(axis=1)
    assert (np.abs(bright[0] / bright[1] - 1) > 0.02).any()


def test_noise_outweighs_the_ball_which_is_still_there() -> None:
    world, rng = two_room("noise"), np.random.default_rng(0)
    states = np.stack([world.reset(seed=seed) and world.get_state() for seed in range(100)])
    pictures = np.stack([world.render_state(state) for state in states]).astype(float)
    plain = np.stack([world.plain.render_state(state[:-1]) for state in states]).astype(float)
    assert pictures.var(axis=0).mean() > 2 * plain.var(axis=0).mean()
    x, y = rng.uniform(0.3, 0.8, 2)
    around = [world.render_state(world.state_at(x, y, look_seed=seed)).astype(float) for seed in range(30)]
    column, row = round((x + 8 / 7) * 28), round((8 / 7 - y) * 28)
    red, green, blue = np.mean(around, axis=0)[row, column]
    assert red > green + 60
    assert red > blue + 60


def test_collection_does_not_depend_on_workers() -> None:
    one, two = (dict(collect(NOISE, 4, 5, seed=1, workers=workers)) for workers in (1, 2))
    assert one.keys() == two.keys()
    for index, made in one.items():
        for key, array in made.items():
            assert array.tobytes() == two[index][key].tobytes()
    plain = dict(collect(PLAIN, 4, 5, seed=1, workers=0))  # the same episodes without the look
    np.testing.assert_array_equal(plain[3]["actions"], one[3]["actions"])
    np.testing.assert_array_equal(plain[3]["states"], one[3]["states"][:, :-1])


@pytest.mark.parametrize("env_id", [NOISE, "worldmodel/Reacher-Hard-v0"])
def test_a_suite_is_made_verified_and_replayed(env_id: str) -> None:
    suite = make_suite(env_id, 4, seed=0)
    suite.verify()
    assert all(result.success for result in evaluate(suite, Replay(suite), 2))
    plain = make_suite(env_id.replace("-Noise", "").replace("-Hard", ""), 4, seed=0)
    for task, same in zip(suite, plain, strict=True):
        np.testing.assert_array_equal(task.solution, same.solution)
        np.testing.assert_array_equal(task.goal[:-1], same.goal)


def test_a_goal_ahead_in_an_episode_has_a_look_of_its_own() -> None:
    task = make_suite(NOISE, 1, seed=0, protocol="ahead", ahead=10).tasks[0]
    assert task.start[-1] != task.goal[-1]
    np.testing.assert_array_equal(
        make_suite(PLAIN, 1, seed=0, protocol="ahead", ahead=10).tasks[0].goal, task.goal[:-1]
    )


@pytest.mark.parametrize("backend", ["batch", "loop", "world"])
def test_the_simulator_rolls_out_long_states(backend: str) -> None:
    if backend == "batch":
        pytest.importorskip("mujoco.batch")
    cost = SimulatorCost(NOISE, backend=backend, threads=1)
    world = make_world(NOISE)
    start, goal, _ = world.sample_task(np.random.default_rng(0))
    plans = np.random.default_rng(1).uniform(-1, 1, (1, 2, 2, 2, 2))
    ends = cost.rollout(start[None], plans)
    for plan, states in zip(plans[0], ends[0], strict=True):
        world.set_state(start)
        for actions, state in zip(plan, states, strict=True):
            for action in actions:
                world.step(action)
            np.testing.assert_array_equal(world.get_state(), state)
    plain = SimulatorCost(PLAIN, backend=backend, threads=1)
    np.testing.assert_array_equal(
        cost(start[None], goal[None], plans), plain(start[None, :-1], goal[None, :-1], plans)
    )


@pytest.mark.skipif(find_spec("gym_pusht") is None, reason="needs gym-pusht")
def test_a_world_without_a_clock_counts_its_steps() -> None:
    _, states = episode("worldmodel/PushT-Noise-v0", seed=0, steps=3)
    assert states[:, -1].tolist() == [0, 1, 2, 3]
    world = make_world("worldmodel/PushT-Noise-v0")
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 2)).astype(np.float32)
    np.testing.assert_array_equal(world.next_state(states[0], actions[0]), states[1])  # type: ignore[attr-defined]


def test_size_and_a_look_of_ones_own() -> None:
    large = gym.make(NOISE, size=128, render_mode="rgb_array").unwrapped
    assert large.reset(seed=0)[0].shape == (128, 128, 3)
    assert large.render().shape == (128, 128, 3)  # type: ignore[union-attr]
    both = LookWorld(TwoRoom(), Look(colours=True, drifting=3))
    assert both.reset(seed=0)[0].shape == (64, 64, 3)
    assert describe(NOISE)["fps"] == describe(PLAIN)["fps"]


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match="unknown look 'fog'; the choices are colours, discs"):
        LookWorld(TwoRoom(), "fog")
    with pytest.raises(ValueError, match="TwoRoomRandomWall has no background and no paint"):
        LookWorld(TwoRoomRandomWall(), "noise")
    world = two_room("noise")
    with pytest.raises(ValueError, match="made without a look"):
        world.set_state(TwoRoom().state_at(0.5, 0.5))
    bad = world.state_at(0.5, 0.5)
    bad[-1] = 0.5
    with pytest.raises(ValueError, match="whole numbers"):
        world.render_state(bad)

from __future__ import annotations

import subprocess
import sys
import zlib

import numpy as np
import pytest

from envs import point_maze
from envs.point_maze import MAX_SPEED, PointMaze, PointMazeUMaze
from envs.seeding import keyed_rng
from envs.simulate import Batch, SimulatorCost
from envs.world import make_world

pytest.importorskip("gymnasium_robotics", reason="PointMaze reads the mazes of gymnasium-robotics")

IDS = [f"worldmodel/PointMaze-{name}-v0" for name in ("UMaze", "Medium", "Large")]
RIGHT = np.array([1.0, 0.0], np.float32)


@pytest.fixture
def world() -> PointMaze:
    return PointMazeUMaze()


def random_forces(seed: int, count: int) -> np.ndarray:
    """Actions (count, 2) at full force, held for four steps each, so that the ball gets fast and hits walls."""
    forces = keyed_rng("test", seed).uniform(-1, 1, (count // 4 + 1, 2))
    forces /= np.abs(forces).max(axis=1, keepdims=True)
    return np.repeat(forces, 4, axis=0)[:count].astype(np.float32)


@pytest.mark.parametrize("env_id", IDS)
def test_moves_as_the_wrapped_package_does(env_id: str) -> None:
    from gymnasium_robotics.envs.maze import maps
    from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

    ours = make_world(env_id)
    assert isinstance(ours, PointMaze)
    theirs = PointMazeEnv(maze_map=getattr(maps, ours.maze))
    theirs.reset(seed=0)
    point = theirs.point_env
    assert (point.model.opt.timestep, point.frame_skip) == (ours.model.opt.timestep, 1)
    errors, fast = [], 0
    for episode in range(6):
        ours.set_state(ours.sample_task(keyed_rng("test", episode))[0])
        for action in random_forces(episode, 60):
            before = ours.get_state()
            point.set_state(before[1:3].copy(), before[3:5].copy())
            ours.step(action)
            for _ in range(ours.substeps):
                point.step(action)
            fast += bool((np.abs(before[3:5]) > MAX_SPEED).any())
            errors.append(np.abs(ours.get_state()[1:5] - [*point.data.qpos, *point.data.qvel]).max())
    theirs.close()
    assert fast > 20  # their clipping was at work
    # The rest are steps in which the ball hits a wall at more than the limit.
    assert np.mean(np.array(errors) < 1e-9) > 0.9
    assert max(errors) < 0.02


def test_importing_neither_prints_nor_loads_the_package() -> None:
    code = (
        "import sys; from envs.world import make_world; make_world('worldmodel/PointMaze-UMaze-v0');"
        "sys.exit('gymnasium_robotics' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_maze.importlib.util, "find_spec", lambda name: None)
    point_maze._load.cache_clear()
    with pytest.raises(ValueError, match=r"pip install worldmodel\[pointmaze\]"):
        make_world("worldmodel/PointMaze-UMaze-v0")
    point_maze._load.cache_clear()


def test_speed_is_limited_and_force_is_what_the_docstring_says(world: PointMaze) -> None:
    world.set_state(world.state_at(-1.2, 1.0))
    world.step(RIGHT)
    assert world.get_state()[3] == pytest.approx(1.2, abs=0.02)
    for _ in range(20):
        world.set_state(np.concatenate([world.state_at(-1.2, 1.0)[:3], world.get_state()[3:]]))
        world.step(RIGHT)
        assert world.get_state()[3] <= MAX_SPEED + 0.24  # one substep's worth
    assert world.get_state()[3] > MAX_SPEED


def test_walls_stop_the_ball_and_a_corridor_does_not(world: PointMaze) -> None:
    world.set_state(world.state_at(-1.0, 1.0))
    for _ in range(12):
        world.step(np.array([0.0, -1.0], np.float32))  # into the wall
    assert world.get_state()[1:3] == pytest.approx([-1.0, 0.6], abs=0.05)
    world.set_state(world.state_at(1.0, 1.0))
    for _ in range(12):
        world.step(np.array([0.0, -1.0], np.float32))  # down the bend
    assert world.get_state()[2] < -1.3


@pytest.mark.parametrize(
    "backend",
    ["loop", pytest.param("batch", marks=pytest.mark.skipif(Batch is None, reason="MuJoCo has no batch"))],
)
def test_the_simulator_as_a_cost_makes_the_same_states(backend: str) -> None:
    cost = SimulatorCost(IDS[0], backend=backend, threads=1)
    world = make_world(IDS[0])
    start, goal, _ = world.sample_task(keyed_rng("test", 5))
    plans = np.stack([random_forces(seed, 24) for seed in range(3)]).reshape(1, 3, 12, 2, 2)
    states = cost.rollout(start[None], plans)[0]
    for plan, reached in zip(plans[0], states, strict=True):
        world.set_state(start)
        for block, state in zip(plan, reached, strict=True):
            for action in block:
                world.step(action)
            assert world.get_state().tobytes() == state.tobytes()
    assert cost(start[None], goal[None], plans).shape == (1, 3)


@pytest.mark.parametrize("env_id", IDS)
def test_sampled_tasks_keep_their_promises(env_id: str) -> None:
    world = make_world(env_id)
    assert isinstance(world, PointMaze)
    labels = []
    for i in range(60):
        start, goal, label = world.sample_task(keyed_rng("test", i))
        length = world.distance(start, goal)
        assert length >= world.lengths[0] > 2 * world.threshold
        assert label == ("hard" if length >= world.lengths[1] else "easy")
        labels.append(label)
        for state in (start, goal):
            assert state[0] == 0 and (state[3:5] == 0).all()
            world.set_state(state)
            world.step(np.zeros(2, np.float32))
            np.testing.assert_allclose(world.get_state()[1:3], state[1:3], atol=1e-9)  # touches no wall
    assert set(labels) == {"easy", "hard"}


def test_success_is_within_the_threshold_in_a_straight_line(world: PointMaze) -> None:
    goal = world.state_at(-1.0, 1.0)
    assert world.success(world.state_at(-0.551, 1.0), goal)
    assert not world.success(world.state_at(-0.549, 1.0), goal)
    wider = make_world("worldmodel/PointMazePublished-UMaze-v0")
    assert wider.success(world.state_at(-0.501, 1.0), goal)
    assert not wider.success(world.state_at(-0.499, 1.0), goal)
    assert PointMazeUMaze(threshold=0.2).threshold == 0.2
    with pytest.raises(ValueError, match="threshold"):
        PointMazeUMaze(threshold=0)


def test_distance_goes_round_the_wall(world: PointMaze) -> None:
    above, below = world.state_at(-1.0, 1.0), world.state_at(-1.0, -1.0)
    assert world.distance(above, below) == pytest.approx(2 * np.hypot(1.602, 0.398) + 1.204)
    many = world.distances(np.stack([above, below])[:, None], np.stack([above, below]))
    np.testing.assert_allclose(many, [[0, many[0, 1]], [many[0, 1], 0]])


def test_bad_actions_are_named(world: PointMaze) -> None:
    with pytest.raises(ValueError, match="2 dimensions"):
        world.step(np.zeros(6, np.float32))  # six actuators, of which four limit the speed
    with pytest.raises(ValueError, match="NaN"):
        world.step(np.array([np.nan, 0.0], np.float32))
    assert world.controls(np.full((3, 2), 9.0)).shape == (3, 6)
    assert world.controls(np.full(2, 9.0)).tolist() == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("env_id", "checksum"),
    list(zip(IDS, (0xD139A8CA, 0xAFD0F48E, 0xF3822410), strict=True)),
    ids=["UMaze", "Medium", "Large"],
)
def test_pictures_are_pixel_stable(env_id: str, checksum: int) -> None:
    """The checksum changes only when the drawing does, and then every stored dataset is out of date."""
    world = make_world(env_id)
    centers = world._ways.centers()  # type: ignore[attr-defined]
    seen = 0
    for i in range(20):
        x, y = centers[i % len(centers)] + 0.02 * (i - 10)
        seen = zlib.crc32(world.render_state(world.state_at(x, y)).tobytes(), seen)  # type: ignore[attr-defined]
    assert seen == checksum


def test_the_picture_shows_walls_floor_and_ball(world: PointMaze) -> None:
    picture = world.render_state(world.state_at(0.0, 1.0))
    assert picture.shape == (64, 64, 3)
    assert tuple(picture[14, 32]) == (222, 32, 38)  # 18 pixels per cell
    assert tuple(picture[32, 20]) == tuple(picture[2, 32]) == (44, 50, 64)
    assert tuple(picture[50, 20]) == tuple(picture[32, 50]) == (242, 241, 236)
    background = world.render_state(world.state_at(1.0, 1.0))[:, :40].reshape(-1, 3)
    assert len({tuple(pixel) for pixel in background}) == 2, "walls end between two pixels"

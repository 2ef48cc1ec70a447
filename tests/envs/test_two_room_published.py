from __future__ import annotations

import numpy as np
import pytest

from envs.seeding import keyed_rng
from envs.simulate import Batch, SimulatorCost
from envs.two_room_published import EB_JEPA, SWM, TwoRoomPublished, TwoRoomRandomWall, _Published

WORLDS = [TwoRoomPublished, TwoRoomRandomWall]
each_world = pytest.mark.parametrize("make", WORLDS)


def push(world: _Published, start: tuple[float, ...], action: tuple[float, float], steps: int) -> np.ndarray:
    world.set_state(world.state_at(*start))
    for _ in range(steps):
        world.step(np.array(action, np.float32))
    return world.get_state()[1:3]


@each_world
def test_an_action_moves_the_ball_by_the_published_step(make: type[_Published]) -> None:
    world, layout = make(), make.layout
    x, y = push(world, (-20, 0, 10, 0), (1.0, -0.5), 1)
    assert (x + 20, -y) == pytest.approx((layout.speed, layout.speed / 2), rel=1e-9)
    world.step(np.array([-1.0, 0.5], np.float32))  # and it has no inertia
    assert world.get_state()[1:3] == pytest.approx((-20, 0), abs=1e-9)


@each_world
def test_wall_and_border_stop_the_balls_centre_where_they_should(make: type[_Published]) -> None:
    world, layout = make(), make.layout
    soft = 0.001 * layout.speed
    for wall, door in ((0, 10), (-12, -22), (12, 22)):
        far = -20 if door > 0 else 20
        right, _ = push(world, (wall - 10 - layout.gate, far, wall, door), (1.0, 0.0), 20)
        left, _ = push(world, (wall + 10 + layout.gate, far, wall, door), (-1.0, 0.0), 20)
        assert (right, left) == pytest.approx((wall - layout.gate, wall + layout.gate), abs=soft)
    corner = push(world, (-20, 0, 10, 0), (-1.0, 1.0), 80)
    assert corner == pytest.approx([-layout.border, layout.border], abs=soft)


@each_world
def test_the_door_lets_the_centre_through_at_its_published_width(make: type[_Published]) -> None:
    world, layout = make(), make.layout
    edge, beside = 0.97 * layout.opening, 1.6 * layout.opening + 1
    begin = -layout.gate - layout.speed
    for height in (-edge, 0, edge):
        assert push(world, (3 + begin, -5 + height, 3, -5), (1.0, 0.0), 20)[0] > 3 + layout.gate
    for height in (-beside, beside):
        assert push(world, (3 + begin, -5 + height, 3, -5), (1.0, 0.0), 20)[0] < 3
    assert push(world, (3, -5, 3, -5), (0.0, 1.0), 20)[1] < -5 + layout.opening + 0.1  # stopped by the post


def test_the_published_layout_is_stable_worldmodels() -> None:
    """224 pixels, y down: border 14, wall 10.5 thick around 112, door 28 wide around 49, radius 7."""
    world = TwoRoomPublished(size=224)
    picture = world.render_state(world.state_at(-60, 0, 0, 63))
    wall, floor = [44, 50, 64], [242, 241, 236]
    assert picture[112, 13].tolist() == wall and picture[112, 14].tolist() == floor
    assert picture[34, 112].tolist() == wall and picture[35, 112].tolist() == floor
    assert picture[62, 112].tolist() == floor and picture[63, 112].tolist() == wall
    assert picture[150, 117].tolist() != floor and picture[150, 118].tolist() == floor
    assert picture[112, 52].tolist() == [222, 32, 38]
    assert SWM.gate == 5 + 7 and SWM.border == 112 - 14 - 7
    assert world.success(world.state_at(0, 0, 0, 63), world.state_at(15.9, 0, 0, 63))
    assert not world.success(world.state_at(0, 0, 0, 63), world.state_at(16.0, 0, 0, 63))


def test_the_random_walls_are_eb_jepas() -> None:
    """Pixels of 65, counted from 0, y down: wall at 20 to 44, door at 10 to 54."""
    world, walls, doors = TwoRoomRandomWall(), [], []
    for seed in range(400):
        world.reset(seed=seed)
        x, y, wall, door = world.get_state()[world._configuration]
        walls.append(32 + wall)
        doors.append(32 - door)
        assert abs(x - wall) >= 1 + 2.6 and max(abs(x), abs(y)) <= 25.4
    assert (min(walls), max(walls)) == (20, 44) and (min(doors), max(doors)) == (10, 54)
    assert all(float(place).is_integer() for place in walls + doors)
    assert EB_JEPA.reach == 4.5 and EB_JEPA.speed == 2.45


def test_the_wall_is_part_of_the_state_and_of_the_picture() -> None:
    world = TwoRoomRandomWall()
    left, right = world.state_at(20, 0, -10, 5), world.state_at(20, 0, 10, 5)
    pictures = [world.render_state(state) for state in (left, right)]
    assert (pictures[0] != pictures[1]).any()
    world.set_state(left)
    assert world.step(np.zeros(2, np.float32))[0].tobytes() == pictures[0].tobytes()
    world.set_state(right)
    assert world.step(np.zeros(2, np.float32))[0].tobytes() == pictures[1].tobytes()
    # From the left room to (20, 0) it is farther through a door that is out of the way.
    goal = world.state_at(20, 0, 0, 0)
    straight, round_about = world.state_at(-20, 0, 0, 0), world.state_at(-20, 0, 0, 22)
    assert world.distance(straight, goal) == pytest.approx(40)
    assert world.distance(round_about, goal) == pytest.approx(2 * np.hypot(19, 18) + 2)


@each_world
def test_sampled_tasks_have_one_wall_and_keep_their_promises(make: type[_Published]) -> None:
    world, layout = make(), make.layout
    labels = set()
    for i in range(100):
        start, goal, label = world.sample_task(keyed_rng("test", i))
        np.testing.assert_array_equal(start[world._wall], goal[world._wall])
        assert world.distance(start, goal) >= layout.min_way > layout.reach
        wall = start[world._wall][0]
        assert ((start[1] - wall) * (goal[1] - wall) < 0) == (label == "other room")
        labels.add(label)
    assert labels == set(world.task_mix)


@pytest.mark.parametrize(
    "backend",
    ["loop", pytest.param("batch", marks=pytest.mark.skipif(Batch is None, reason="MuJoCo has no batch"))],
)
def test_the_simulator_as_a_cost_knows_each_environments_wall(backend: str) -> None:
    cost = SimulatorCost("worldmodel/TwoRoomRandomWall-v0", backend=backend, threads=1)
    world = TwoRoomRandomWall()
    starts = np.stack([world.state_at(-20, 3, wall, 3) for wall in (-10, 0, 10)])
    goals = np.stack([world.state_at(20, 3, wall, 3) for wall in (-10, 0, 10)])
    plans = keyed_rng("test", 0).uniform(-1, 1, (3, 2, 15, 1, 2)).astype(np.float32)
    plans[:, 0] = 1.0, 0.3  # past the door's edge, so that it matters where the wall is
    reached = cost.rollout(starts, plans)
    for i, j in np.ndindex(3, 2):
        world.set_state(starts[i])
        for step in range(15):
            world.step(plans[i, j, step, 0])
            assert world.get_state().tobytes() == reached[i, j, step].tobytes()
    assert len(np.unique(reached[:, 0, -1, 1].round(3))) == 3
    assert cost(starts, goals, plans).shape == (3, 2)

from __future__ import annotations

import warnings
import zlib

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.draw import TopDownCanvas
from envs.seeding import keyed_rng
from envs.two_room import DOOR_HALF, GATE, OPENING, RADIUS, REACH, ROOM, WALL_HALF, TwoRoom, shortest_way
from envs.world import make_world


def push(world: TwoRoom, start: tuple[float, float], action: tuple[float, float], steps: int) -> np.ndarray:
    world.set_state(world.state_at(*start))
    for _ in range(steps):
        world.step(np.array(action, np.float32))
    return world.get_state()[1:3]


def free_positions(count: int) -> np.ndarray:
    """Positions of the ball's centre, in both rooms, in the doorway and right at the wall."""
    rng = keyed_rng("test", 0)
    points = rng.uniform(-REACH, REACH, (4 * count, 2))
    points[::4, 0] *= 0.15  # many near the door
    points[1::16, 0] = GATE
    return points[(np.abs(points[:, 0]) >= GATE) | (np.abs(points[:, 1]) <= OPENING)][:count]


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_passes_gymnasium_checker_without_warnings(render_mode):
    env = gym.make("worldmodel/TwoRoom-v0", render_mode=render_mode).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)


def test_importing_twice_registers_once():
    import importlib

    import envs

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # gymnasium warns when an id is overridden
        importlib.reload(envs)
    assert "worldmodel/TwoRoom-v0" in gym.registry


def test_full_speed_moves_the_ball_at_most_0_15_units(world):
    x, y = push(world, (-0.6, 0.0), (1.0, 0.0), 1)
    assert 0.13 < x + 0.6 <= 0.15 and y == 0.0
    x2, _ = push(world, (-0.6, 0.0), (1.0, 0.0), 2)
    assert x2 - x == pytest.approx(0.15, abs=1e-3)  # the velocity settles within the first step


def test_the_wall_stops_the_ball_and_the_door_lets_it_through(world):
    assert push(world, (-0.5, 0.6), (1.0, 0.0), 10)[0] == pytest.approx(-GATE, abs=0.01)
    assert push(world, (0.5, -0.6), (-1.0, 0.0), 10)[0] == pytest.approx(GATE, abs=0.01)
    assert push(world, (-0.5, 0.0), (1.0, 0.0), 8)[0] > 0.5
    assert push(world, (-0.5, OPENING - 0.01), (1.0, 0.0), 8)[0] > 0.5  # just fits


def test_the_ball_slides_along_walls_and_stays_in_the_room(world):
    x, y = push(world, (-0.5, 0.4), (1.0, 0.5), 5)
    assert x == pytest.approx(-GATE, abs=0.01) and y > 0.7  # no friction
    for action in [(1, 1), (-1, 1), (1, -1), (-1, -1)]:
        corner = push(world, (0.5 * action[0], 0.5 * action[1]), action, 10)
        assert np.abs(corner).max() <= REACH + 0.01


def test_state_set_back_repeats_every_step_bit_for_bit(world):
    world.reset(seed=1)
    rng = keyed_rng("test", 1)
    actions = rng.uniform(-1, 1, (30, 2)).astype(np.float32)
    for action in actions[:10]:
        world.step(action)
    saved, first = world.get_state(), []
    for action in actions[10:]:
        world.step(action)
        first.append(world.get_state())
    world.reset(seed=2)
    world.set_state(saved)
    assert np.array_equal(world.get_state(), saved)
    for action, state in zip(actions[10:], first, strict=True):
        world.step(action)
        assert np.array_equal(world.get_state(), state)


def test_render_state_disturbs_nothing_and_equals_the_observation(world):
    observation, _ = world.reset(seed=3)
    assert np.array_equal(world.render_state(world.get_state()), observation)
    generator, state = world.np_random.bit_generator.state, world.get_state()
    world.render_state(world.state_at(0.5, 0.5))
    assert world.np_random.bit_generator.state == generator
    assert np.array_equal(world.get_state(), state)
    observation, *_ = world.step(np.array([0.3, -0.2], np.float32))
    assert np.array_equal(world.render_state(world.get_state()), observation)


def test_returned_arrays_are_copies(world):
    observation, _ = world.reset(seed=4)
    state = world.get_state()
    observation[:], state[:] = 0, 0.5
    assert world.render_state(world.get_state()).max() > 200
    assert not np.array_equal(world.get_state(), state)


def test_the_picture_is_what_the_docstring_says(world):
    picture = world.render_state(world.state_at(-0.5, 0.5))
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert tuple(picture[18, 18]) == (
        222,
        32,
        38,
    )  # ball: 28 pixels per unit, (0, 0) between pixels 31 and 32
    assert tuple(picture[0, 0]) == tuple(picture[10, 31]) == (44, 50, 64)  # outer and inner wall
    assert tuple(picture[31, 31]) == tuple(picture[50, 10]) == (242, 241, 236)  # doorway and floor
    empty = world.render_state(world.state_at(0.5, 0.5))
    edges = {tuple(pixel) for pixel in empty[:, :31].reshape(-1, 3)}
    assert len(edges) == 2, "every edge of the background falls between two pixels"


def test_pictures_are_pixel_stable(world):
    """The checksum changes only when the drawing does, and then every stored dataset is out of date."""
    checksum = 0
    for i in range(20):
        picture = world.render_state(world.state_at(-0.9 + 0.09 * i, 0.9 - 0.083 * i))
        checksum = zlib.crc32(picture.tobytes(), checksum)
    assert checksum == 0xDB8752E1


def test_the_disc_is_anti_aliased():
    canvas = TopDownCanvas(64, 1.0, (0, 0, 0))
    area = [
        canvas.with_disc(x, 0.0, 0.1, (255, 255, 255))[..., 0].sum() / 255 for x in np.linspace(0, 0.05, 9)
    ]
    assert np.allclose(area, np.pi * 3.2**2, rtol=0.02)  # the same area wherever it is within a pixel
    before, after = (
        canvas.with_disc(x, 0.0, 0.1, (255, 255, 255)) for x in (0.0, 0.004)
    )  # an eighth of a pixel
    assert (before != after).any()
    outside = canvas.with_disc(5.0, 0.0, 0.1, (255, 255, 255))
    assert outside.max() == 0


def test_larger_pictures_show_the_same_scene():
    small, large = TwoRoom(), TwoRoom(size=256)
    state = small.state_at(0.3, -0.4)
    pooled = large.render_state(state).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(pooled - small.render_state(state)).max() < 30  # the ball's edge


def test_reward_and_termination_come_with_a_goal_only(world):
    start, goal = world.state_at(-0.5, 0.0), world.state_at(-0.3, 0.0)
    right = np.array([1.0, 0.0], np.float32)
    world.reset(options={"state": start})
    assert world.step(right)[1:4] == (0.0, False, False)
    world.reset(options={"state": start, "goal": goal})
    assert world.step(right)[1:4] == (1.0, True, False)
    world.reset(options={"state": start, "goal": world.state_at(0.5, 0.0)})
    assert world.step(right)[1:4] == (0.0, False, False)


def test_success_is_within_a_tenth_of_a_unit(world):
    assert world.success(world.state_at(0.3, 0.3), world.state_at(0.3, 0.399))
    assert not world.success(world.state_at(0.3, 0.3), world.state_at(0.3, 0.401))


def test_distance_is_symmetric_and_at_least_euclidean():
    points = free_positions(300)
    a, b = points[:, None], points[None]
    length = shortest_way(a, b)[0]
    assert np.array_equal(length, length.T)
    assert (length >= np.hypot(*np.moveaxis(a - b, -1, 0))).all()
    assert (np.diag(length) == 0).all()
    # The triangle inequality holds, as for any shortest way.
    assert (length[:, None, :] <= length[:, :, None] + length[None] + 1e-9).all()


def test_distance_is_the_straight_line_where_that_is_free(world):
    cases = [((0.3, 0.5), (0.8, -0.7)), ((-0.5, 0.1), (0.5, -0.1)), ((-0.9, 0.0), (0.05, 0.1))]
    for start, goal in cases:
        expected = np.hypot(start[0] - goal[0], start[1] - goal[1])
        assert world.distance(world.state_at(*start), world.state_at(*goal)) == pytest.approx(
            expected, abs=1e-12
        )


def test_distance_goes_through_the_door(world):
    def brute_force(start, goal):
        heights = np.linspace(-OPENING, OPENING, 801)
        y1, y2 = heights[:, None], heights[None]
        first = np.hypot(start[0] + GATE, start[1] - y1)
        return (first + np.hypot(2 * GATE, y1 - y2) + np.hypot(goal[0] - GATE, goal[1] - y2)).min()

    cases = [
        ((-0.5, 0.8), (0.5, 0.8)),
        ((-0.9, 0.9), (0.9, -0.9)),
        ((-0.2, -0.5), (0.9, 0.1)),
        ((-0.3, 0.3), (0.2, 0.0)),
    ]
    for start, goal in cases:
        length = world.distance(world.state_at(*start), world.state_at(*goal))
        assert length == pytest.approx(brute_force(start, goal), abs=1e-5)
        assert length > np.hypot(start[0] - goal[0], start[1] - goal[1])
    # From wall to wall beside each other: all the way down to the door and up again.
    start, goal = (-GATE, 0.8), (GATE, 0.8)
    expected = 2 * (0.8 - OPENING) + 2 * GATE
    assert shortest_way(start, goal)[0] == pytest.approx(expected)
    # Contacts are soft: a ball pushed against the wall is a little inside, and still far from the other side.
    pushed = (push(world, (-0.5, 0.8), (1.0, 0.0), 10)[0], 0.8)
    assert -GATE < pushed[0] < -GATE + 0.01
    assert shortest_way(pushed, goal)[0] == pytest.approx(expected)


def test_distances_broadcast_and_agree_with_distance(world):
    states = np.stack([world.state_at(*p) for p in free_positions(6)]).reshape(2, 3, -1)
    goal = world.state_at(0.5, -0.5)
    many = world.distances(states, goal)
    assert many.shape == (2, 3) and many.dtype == np.float64
    assert many[1, 2] == world.distance(states[1, 2], goal)


def test_sampled_tasks_keep_their_promises(world):
    rng = keyed_rng("test", 3)
    labels = []
    for _ in range(200):
        start, goal, label = world.sample_task(rng)
        labels.append(label)
        assert (start[1] * goal[1] < 0) == (label == "other room")
        assert world.distance(start, goal) >= 0.5
        for state in (start, goal):
            assert GATE <= abs(state[1]) <= REACH and abs(state[2]) <= REACH
            assert (state[3:5] == 0).all() and state[0] == 0
    assert 0.5 < np.mean([label == "other room" for label in labels]) < 0.7


def test_bad_input_is_named(world):
    with pytest.raises(ValueError, match="2 dimensions"):
        world.step(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="NaN"):
        world.step(np.array([np.nan, 0.0], np.float32))
    with pytest.raises(ValueError, match="shape"):
        world.set_state(np.zeros(4))
    with pytest.raises(ValueError, match="goal"):
        world.reset(options={"goal": np.full(world.get_state().shape, np.inf)})
    with pytest.raises(ValueError, match="'gaol'"):
        world.reset(options={"gaol": world.get_state()})
    with pytest.raises(ValueError, match="rgb_array"):
        TwoRoom(render_mode="human")


def test_actions_beyond_the_bounds_are_clipped(world):
    assert np.array_equal(push(world, (-0.6, 0.0), (5.0, 0.0), 2), push(world, (-0.6, 0.0), (1.0, 0.0), 2))


def test_unknown_world_lists_the_choices():
    with pytest.raises(ValueError, match=r"worldmodel/TwoRoom-v0"):
        make_world("worldmodel/TwoRooms-v0")
    with pytest.raises(ValueError, match=r"worldmodel/TwoRoom-v0"):
        make_world("no_such_module:Some-v0")
    with pytest.raises(ValueError, match="get_state"):
        make_world("CartPole-v1")


def test_keyed_rng_depends_on_name_and_key_only():
    first = keyed_rng("collect", 0, 5).random(4)
    assert np.array_equal(first, keyed_rng("collect", 0, 5).random(4))
    others = [keyed_rng("tasks", 0, 5), keyed_rng("collect", 0, 6), keyed_rng("collect", 1, 5)]
    assert all(not np.array_equal(first, other.random(4)) for other in others)
    with pytest.raises(ValueError, match="negative"):
        keyed_rng("collect", -1)


def test_geometry_constants_fit_together():
    assert RADIUS < DOOR_HALF and WALL_HALF < ROOM and GATE < REACH


def test_the_world_that_suites_were_made_in_has_not_changed(world):
    """Tasks and geometry bit for bit: if this fails, the world needs a new id, and the shipped suites stay its own."""
    checksum = 0
    rng = np.random.default_rng(1)
    for _ in range(20):
        start, goal, label = world.sample_task(rng)
        checksum = zlib.crc32(start[1:3].tobytes() + goal[1:3].tobytes() + label.encode(), checksum)
    assert checksum == 788928936

from __future__ import annotations

import math

import numpy as np
import pytest

from envs.push_t import PushT, PushTCoverage, block_distance
from envs.push_t_geometry import CENTER, OUTLINE, blocked, out_of, outside, rotate, to_block, to_world
from envs.push_t_pusher import Pusher, _screw, _towards
from envs.seeding import keyed_rng

pytest.importorskip("gym_pusht")


def steps_to_success(world: PushT, start: np.ndarray, goal: np.ndarray) -> int:
    """Steps that the pusher takes; the horizon and 1 more if it does not get there."""
    state = start
    for step in range(world.horizon):
        if world.success(state, goal):
            return step
        state = world.next_state(state, world.scripted_action(state, goal))
    return world.horizon + 1


@pytest.mark.parametrize("kind", [PushT, PushTCoverage])
def test_it_reaches_tasks_that_nobody_has_certified(kind: type[PushT]) -> None:
    world = kind()
    tasks = [world.sample_task(keyed_rng("test", 10, k)) for k in range(14)]
    assert {label for *_, label in tasks} == {"easy", "hard"}
    steps = [steps_to_success(world, start, goal) for start, goal, _ in tasks]
    assert sum(step <= world.horizon for step in steps) >= 13
    assert np.median(steps) < 0.5 * world.horizon


def test_a_push_leads_where_the_closed_form_says() -> None:
    world, pusher = PushT(), Pusher()
    place, angle, length = np.array([256.0, 256.0]), 0.7, 30.0
    for number in (0, 3, 6, 12, 13, 16, 19, 22, 27, 30, 35, 44):
        agent = to_world(pusher._before[number], place, angle)
        state = world.state_at((agent[0], agent[1]), (256.0, 256.0), angle)
        for step in range(14):  # along the way of the touching point, 6 px at a time
            shift, spin = _screw(
                pusher._move[number], pusher._turn[number], np.array(min(6.0 * step, length))
            )
            touch = CENTER + shift + rotate(pusher._touch[number] - CENTER, spin)
            action = _towards(state[:2], state[2:4], to_world(touch, place, angle))
            state = world.next_state(state, action)
        assert state[6] - angle == pytest.approx(pusher._turn[number] * length, abs=0.01)
        moved = to_world(CENTER, state[4:6], state[6]) - to_world(CENTER, place, angle)
        np.testing.assert_allclose(moved, rotate(shift, angle), atol=0.3)


def test_pushes_in_a_row_are_one_push() -> None:
    move, turn = np.array([0.6, 0.3]), 0.02
    first, angle = _screw(move, np.array(turn), np.array(30.0))
    second, more = _screw(move, np.array(turn), np.array(50.0))
    both, whole = _screw(move, np.array(turn), np.array(80.0))
    np.testing.assert_allclose(first + rotate(second, angle), both)
    assert angle + more == pytest.approx(whole)
    straight, _ = _screw(move, np.array(0.0), np.array(10.0))
    np.testing.assert_allclose(straight, [6.0, 3.0])


def test_from_every_side_some_push_lessens_the_error() -> None:
    # The pushes at all places span all directions of the error with positive weights, so there is no dead end.
    pusher = Pusher()
    rng = keyed_rng("test", 11)
    for _ in range(200):
        error, turn = rng.normal(0, 40, 2), rng.normal(0, 1)
        size = math.hypot(*error, 3000**0.5 * turn)
        best = pusher._best_lengths(error, turn)
        shifts, spins = _screw(pusher._move, pusher._turn, best)
        left = np.sqrt(np.square(error - shifts).sum(axis=-1) + 3000 * np.square(turn - spins))
        assert left.min() < 0.95 * size


def test_the_agent_walks_round_the_block_without_touching_it() -> None:
    world = PushT()
    sides = ((256.0, 130.0), (120.0, 220.0), (256.0, 440.0), (390.0, 220.0), (200.0, 330.0), (310.0, 330.0))
    for begin in sides:
        for end in sides:
            if begin == end:
                continue
            state = start = world.state_at(begin, (256.0, 220.0), 0.0)
            goal = world.state_at(end, (256.0, 220.0), 0.0)
            for _ in range(30):
                state = world.next_state(state, world.scripted_action(state, goal))
            assert np.hypot(*(state[:2] - end)) < 2.0
            assert block_distance(state, start) < 0.01


def test_any_state_has_an_action_and_nothing_is_remembered() -> None:
    world, fresh = PushT(), PushT()
    rng = keyed_rng("test", 12)
    goals = [world.sample_task(rng)[1] for _ in range(4)]
    cases = []
    for k in range(200):  # inside the block, in the walls and beyond them, too
        agent, block = rng.uniform(-30, 540, 2), rng.uniform(-20, 530, 2)
        state = world.state_at((agent[0], agent[1]), (block[0], block[1]), rng.uniform(-9, 9))
        state[2:4] = rng.normal(0, 200, 2)
        action = world.scripted_action(state, goals[k % 4])
        assert action.shape == (2,) and action.dtype == np.float32
        assert np.isfinite(action).all() and np.abs(action).max() <= 1
        cases.append((state, goals[k % 4], action))
    for state, goal, action in reversed(cases):
        assert (fresh.scripted_action(state, goal) == action).all()


def test_geometry_agrees_with_shapely() -> None:
    from shapely.geometry import LineString, Point, Polygon

    tee, rng = Polygon(OUTLINE), keyed_rng("test", 13)
    for _ in range(200):
        a, b = rng.uniform(-120, 180, (2, 2))
        assert max(float(outside(a)), 0.0) == pytest.approx(tee.distance(Point(a)), abs=1e-9)
        assert (outside(a) < 0) == tee.contains(Point(a))
        # Grown with square corners, so that it blocks a little more than the distance says.
        reach = tee.buffer(15.0, join_style="mitre")
        assert bool(blocked(a, b, 15.0)) == (LineString([a, b]).intersection(reach).length > 1e-6)
        free = out_of(a, 15.0)
        assert not reach.buffer(-1e-6).contains(Point(free))
        assert reach.contains(Point(a)) or (free == a).all()
    point, place = np.array([3.0, 4.0]), np.array([100.0, 50.0])
    np.testing.assert_allclose(to_block(to_world(point, place, 1.2), place, 1.2), point)

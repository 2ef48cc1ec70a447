"""The world Cube: what is said without OGBench; with it and OpenGL, that it keeps the contract of a world."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from envs import cube
from envs.rendering import NoOpenGL, find_gl
from envs.simulate import SimulatorCost
from envs.world import make_world

NAME = "worldmodel/Cube-v0"


@pytest.fixture(scope="module")
def world() -> Any:
    pytest.importorskip("ogbench")
    try:
        find_gl()
    except NoOpenGL as error:
        pytest.skip(str(error))
    return make_world(NAME)


def test_without_ogbench_there_is_a_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cube, "find_gl", lambda: "egl")
    monkeypatch.setitem(sys.modules, "ogbench", None)
    with pytest.raises(ValueError, match=r"needs ogbench.*: pip install 'worldmodel\[cube\]'"):
        make_world(NAME)


def test_a_state_set_back_leads_to_the_same_future_and_picture(world: Any) -> None:
    picture, _ = world.reset(seed=3)
    assert picture.shape == (64, 64, 3)
    assert world.observation_space.contains(picture)
    rng = np.random.default_rng(0)
    plan = rng.uniform(-1, 1, (6, 5)).astype(np.float32)
    for action in plan[:3]:
        world.step(action)
    state, before = world.get_state(), world.render()
    world.scripted_action(state, state)  # disturbs nothing
    np.testing.assert_array_equal(world.get_state(), state)

    def future() -> list[bytes]:
        return [world.step(action)[0].tobytes() for action in plan[3:]] + [world.get_state().tobytes()]

    first = future()
    world.set_state(state)
    np.testing.assert_array_equal(world.render(), before)
    assert future() == first


def test_success_is_four_centimetres_of_the_cube(world: Any) -> None:
    start, goal, label = world.sample_task(np.random.default_rng(0))
    assert label == ("far" if world.distance(start, goal) >= 0.25 else "near")
    assert world.distance(start, goal) >= 0.1
    assert not np.array_equal(world.render_state(start), world.render_state(goal))
    close = goal.copy()
    close[world._cube.start] += 0.039
    assert world.success(close, goal)
    close[world._cube.start] += 0.002
    assert not world.success(close, goal)
    np.testing.assert_allclose(world.distances(np.stack([start, close]), goal)[1], 0.041)


def test_the_scripted_policy_carries_the_cube_to_its_goal(world: Any) -> None:
    start, goal, _ = world.sample_task(np.random.default_rng(1))
    state, steps = start, 0
    while not world.success(state, goal):
        state, steps = world.next_state(state, world.scripted_action(state, goal)), steps + 1
        assert steps < world.horizon
    assert steps > 10


def test_plans_can_be_tried_in_it(world: Any) -> None:
    start, goal, _ = world.sample_task(np.random.default_rng(2))
    plans = np.zeros((1, 2, 3, 1, 5), np.float32)
    plans[0, 1, :, 0, 0] = 1.0
    rolled = SimulatorCost(NAME).rollout(start[None], plans)[0]
    state = start
    for action, end in zip(plans[0, 1, :, 0], rolled[1], strict=True):
        state = world.next_state(state, action)
        np.testing.assert_array_equal(state, end)
    assert not np.array_equal(rolled[0], rolled[1])

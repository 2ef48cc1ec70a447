from __future__ import annotations

import numpy as np
import pytest

from envs import simulate
from envs.seeding import keyed_rng
from envs.simulate import SimulatorCost

TWO_ROOM = "worldmodel/TwoRoom-v0"
BACKENDS = [
    "world",
    "loop",
    pytest.param("batch", marks=pytest.mark.skipif(simulate.Batch is None, reason="old MuJoCo")),
]


def problem(world, environments=3, candidates=5, length=4, block=2):
    """States in the middle of a motion, two of them at a wall, with goals and plans."""
    rng = keyed_rng("test", 0)
    states, goals = [], []
    for _ in range(environments):
        start, goal, _ = world.sample_task(rng)
        world.set_state(start)
        for _ in range(8):
            world.step(np.array([1.0, 0.3], np.float32))
        states.append(world.get_state())
        goals.append(goal)
    plans = rng.uniform(-1, 1, (environments, candidates, length, block, 2)).astype(np.float32)
    return np.stack(states), np.stack(goals), plans


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_equals_stepping_the_environment_one_by_one(world, backend, threads):
    states, goals, plans = problem(world)
    simulator = SimulatorCost(TWO_ROOM, path=0.7, final=1.3, minimum=0.4, threads=threads, backend=backend)
    ends, costs = simulator.rollout(states, plans), simulator(states, goals, plans)
    assert ends.shape == (3, 5, 4, states.shape[1]) and costs.shape == (3, 5) and costs.dtype == np.float64
    for e in range(3):
        for n in range(5):
            world.set_state(states[e])
            distances = []
            for step in range(4):
                for action in plans[e, n, step]:
                    world.step(action)
                assert np.array_equal(world.get_state(), ends[e, n, step])
                distances.append(world.distance(world.get_state(), goals[e]))
            expected = (
                0.7 * np.average(distances, weights=[1, 2, 3, 4]) + 1.3 * distances[-1] + 0.4 * min(distances)
            )
            assert costs[e, n] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_of_different_sizes_do_not_influence_each_other(world, backend):
    states, goals, plans = problem(world)
    simulator = SimulatorCost(TWO_ROOM, backend=backend)
    large = simulator(states, goals, plans)
    assert np.array_equal(simulator(states[1:2], goals[1:2], plans[1:2, :2]), large[1:2, :2])
    assert np.array_equal(simulator(states, goals, plans), large)


def test_the_arguments_are_left_alone(world):
    states, goals, plans = problem(world)
    before = [array.copy() for array in (states, goals, plans)]
    SimulatorCost(TWO_ROOM)(states, goals, plans)
    assert all(np.array_equal(a, b) for a, b in zip((states, goals, plans), before, strict=True))


def test_going_to_the_goal_costs_less_than_not(world, suite):
    simulator = SimulatorCost(TWO_ROOM)
    for task in suite:
        length = len(task.solution)
        plans = np.zeros((1, 2, length, 1, 2), np.float32)
        plans[0, 1, :, 0] = task.solution
        stay, go = simulator(task.start[None], task.goal[None], plans)[0]
        assert go < stay
        assert simulator.rollout(task.start[None], plans)[0, 1, -1].shape == task.goal.shape


def test_a_mujoco_without_batch_still_works(world, monkeypatch):
    expected = SimulatorCost(TWO_ROOM)(*problem(world))
    monkeypatch.setattr(simulate, "Batch", None)
    assert np.array_equal(SimulatorCost(TWO_ROOM)(*problem(world)), expected)
    with pytest.raises(ValueError, match=r"has no mujoco\.batch"):
        SimulatorCost(TWO_ROOM, backend="batch")


def test_bounds_are_the_environments():
    simulator = SimulatorCost(TWO_ROOM)
    assert simulator.action_low.tolist() == [-1, -1] and simulator.action_high.tolist() == [1, 1]


def test_bad_input_is_named(world):
    states, _, plans = problem(world)
    simulator = SimulatorCost(TWO_ROOM)
    with pytest.raises(ValueError, match=r"\(E, N, L, K, A\)"):
        simulator.rollout(states, plans[:, :, :, 0])
    with pytest.raises(ValueError, match=r"states have shape \(3, 4\)"):
        simulator.rollout(states[:, :4], plans)
    with pytest.raises(ValueError, match="plans"):
        simulator.rollout(states[:2], plans)
    plans[0, 0, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="infinite"):
        simulator.rollout(states, plans)
    with pytest.raises(ValueError, match="batch, loop"):
        SimulatorCost(TWO_ROOM, backend="gpu")
    with pytest.raises(ValueError, match="TwoRoom-v0"):
        SimulatorCost("worldmodel/Nowhere-v0")

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.evaluate import NoOp, RandomPolicy, evaluate
from envs.push_t import CLEARANCE, EASY, PushT, PushTCoverage, block_distance
from envs.push_t_geometry import AGENT_RADIUS, INNER_WALL, OUTLINE, outside, to_block, to_world
from envs.seeding import keyed_rng
from envs.task import make_suite
from envs.world import make_world

pytest.importorskip("gym_pusht")

PUSH_T, COVERAGE = "worldmodel/PushT-v0", "worldmodel/PushTCoverage-v0"


@pytest.fixture
def world() -> PushT:
    made = make_world(PUSH_T)
    assert isinstance(made, PushT)
    return made


def pushing(world: PushT) -> np.ndarray:
    """A state in which the agent, at full speed, has just begun to push the bar of the T at its end."""
    state = world.state_at((216.0, 170.0), (256.0, 256.0), 0.2)
    while not np.abs(state[7:]).any():
        state = world.next_state(state, np.array([0.0, 1.0], np.float32))
    return state


def some_actions(count: int) -> np.ndarray:
    return keyed_rng("test", count).uniform(-1, 1, (count, 2)).astype(np.float32)


@pytest.mark.parametrize("env_id", [PUSH_T, COVERAGE])
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_passes_gymnasium_checker_without_warnings(env_id: str, render_mode: str | None) -> None:
    env = gym.make(env_id, render_mode=render_mode).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)


# Physics


def test_a_state_set_back_in_the_middle_of_a_push_leads_to_the_same_bits(world: PushT) -> None:
    begin, actions = pushing(world), np.concatenate([np.tile([[0.1, 0.8]], (4, 1)), some_actions(8)])
    world.set_state(begin)
    states = [begin]
    for action in actions:
        world.step(action)
        states.append(world.get_state())
    assert block_distance(begin, states[-1]) > 30  # it is a push
    other = PushT()
    other.reset(seed=5)
    for at in (0, 1, 2, 5):
        other.step(np.ones(2, np.float32))  # another past
        other.set_state(states[at])
        for action, wanted in zip(actions[at:], states[at + 1 :], strict=True):
            other.step(action)
            assert other.get_state().tobytes() == wanted.tobytes()


def test_another_process_makes_the_same_bits(world: PushT) -> None:
    code = (
        "import hashlib, numpy as np; from envs.push_t import PushT\n"
        "w = PushT(); s = np.array({state}); h = hashlib.sha256()\n"
        "for a in {actions}: s = w.next_state(s, np.array(a, np.float32)); h.update(s.tobytes())\n"
        "print(h.hexdigest())"
    )
    state, actions = pushing(world), [*np.tile([[0.1, 0.8]], (6, 1)).tolist(), *some_actions(4).tolist()]
    done = subprocess.run(
        [sys.executable, "-c", code.format(state=state.tolist(), actions=actions)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    digest = hashlib.sha256()
    for action in actions:
        state = world.next_state(state, np.array(action, np.float32))
        digest.update(state.tobytes())
    assert done.stdout.strip() == digest.hexdigest()  # and nothing else is printed, pygame's greeting neither


def test_it_moves_as_gym_pusht_does(world: PushT) -> None:
    from gym_pusht.envs.pusht import PushTEnv

    theirs = PushTEnv(obs_type="state")
    theirs.reset(seed=0)
    start, goal, _ = world.sample_task(keyed_rng("test", 3))
    theirs.agent.position, theirs.agent.velocity = tuple(start[:2]), (0, 0)
    theirs.block.angle, theirs.block.position = float(start[6]), tuple(start[4:6])
    theirs.block.velocity, theirs.block.angular_velocity = (0, 0), 0
    state, touched = start, False
    for _ in range(60):
        action = world.scripted_action(state, goal)
        target = np.clip(np.array(theirs.agent.position) + 100.0 * action.astype(float), 0, 512)
        theirs.step(target)
        state = world.next_state(state, action)
        pose = np.array([*theirs.agent.position, 0, 0, *theirs.block.position, theirs.block.angle, 0, 0, 0])
        if not touched:
            np.testing.assert_allclose(state[:2], pose[:2], atol=1e-9)
        touched = touched or not np.array_equal(state[4:7], start[4:7])
        # Contacts begin anew with each of our steps, in theirs they are kept: hundredths of a px per step.
        assert block_distance(state, pose) < 1.0
    assert block_distance(start, state) > 40


def test_actions_are_relative_and_clipped_and_the_agent_stays_on_the_table(world: PushT) -> None:
    state = world.state_at((100.0, 100.0), (300.0, 300.0), 0.0)
    right = world.next_state(state, np.array([1.0, 0.0], np.float32))
    assert (
        right[0] - 100 == pytest.approx(29.57, abs=0.01)
        and right[1] == 100
        and (right[4:] == state[4:]).all()
    )
    assert (world.next_state(state, np.array([7.0, 0.0])) == right).all()
    half = world.next_state(state, np.array([0.5, 0.0], np.float32))
    assert half[0] - 100 == pytest.approx((right[0] - 100) / 2)
    for _ in range(20):
        state = world.next_state(state, np.array([-1.0, -0.5], np.float32))
    assert np.abs(state[:2]).max() < 0.5


def test_the_block_stops_with_the_agent_and_turns_when_pushed_beside_its_middle(world: PushT) -> None:
    state = world.state_at((256.0, 200.0), (256.0, 256.0), 0.0)
    for _ in range(6):
        state = world.next_state(state, np.array([0.0, 0.5], np.float32))
    assert state[5] > 300 and state[4] == pytest.approx(256, abs=0.1) and abs(state[6]) < 1e-3
    for _ in range(5):
        state = world.next_state(state, np.array([0.0, -0.5], np.float32))
    assert (state[7:] == 0).all()
    beside = world.state_at((216.0, 200.0), (256.0, 256.0), 0.0)
    for _ in range(6):
        beside = world.next_state(beside, np.array([0.0, 0.5], np.float32))
    assert beside[6] < -0.2


# Success and distance


def test_success_is_20_px_jointly_and_20_degrees(world: PushT) -> None:
    goal = world.state_at((100.0, 100.0), (300.0, 300.0), 1.0)
    assert world.success(world.state_at((114.0, 100.0), (300.0, 314.0), 1.0), goal)  # 14, 14: 19.8
    assert not world.success(world.state_at((115.0, 100.0), (300.0, 315.0), 1.0), goal)  # 21.2
    assert not world.success(world.state_at((100.0, 100.0), (320.0, 300.0), 1.0), goal)
    assert world.success(world.state_at((100.0, 100.0), (300.0, 300.0), 1.0 + math.radians(19.9)), goal)
    assert not world.success(world.state_at((100.0, 100.0), (300.0, 300.0), 1.0 - math.radians(20.1)), goal)


def test_angles_are_compared_modulo_full_turns(world: PushT) -> None:
    def at(angle: float) -> np.ndarray:
        return world.state_at((100.0, 100.0), (300.0, 300.0), angle)

    assert world.success(at(math.pi - 0.1), at(-math.pi + 0.1))
    assert world.success(at(0.1 + 6 * math.pi), at(0.0))
    assert not world.success(
        at(2 * math.pi + 1.0), at(0.0)
    )  # passes where 2 pi - difference is taken as it is
    assert world.distance(at(math.pi - 0.1), at(-math.pi + 0.1)) == pytest.approx(math.degrees(0.2))
    picture = world.render_state(at(0.5)).astype(int)
    assert np.abs(picture - world.render_state(at(0.5 + 4 * math.pi))).max() <= 1


def test_distances_know_agent_block_and_angle(world: PushT) -> None:
    a = world.state_at((100.0, 100.0), (300.0, 300.0), 0.0)
    b = world.state_at((103.0, 104.0), (300.0, 312.0), math.radians(-84.0))
    assert world.distance(a, b) == pytest.approx(math.sqrt(25 + 144 + 84**2))
    assert block_distance(a, b) == pytest.approx(math.sqrt(144 + 84**2)) == PushTCoverage().distance(a, b)
    many = np.stack([world.sample_task(keyed_rng("test", k))[0] for k in range(12)])
    before = many.copy()
    table = world.distances(many[:, None], many[None])
    assert table.shape == (12, 12) and (np.diag(table) == 0).all() and np.allclose(table, table.T)
    assert (many == before).all()


def test_coverage_is_gym_pushts() -> None:
    from gym_pusht.envs.pusht import PushTEnv

    world, theirs, rng = PushTCoverage(), PushTEnv(obs_type="state"), keyed_rng("test", 9)
    theirs.reset(seed=0)
    outcomes = set()
    for _ in range(40):
        goal = np.array([256.0, 256.0, math.pi / 4])
        pose = goal + rng.normal(0, 1, 3) * rng.choice([1.5, 6.0, 40.0]) * (1, 1, 1 / 60)
        theirs.goal_pose = goal
        theirs.block.angle, theirs.block.position = float(pose[2]), tuple(pose[:2])
        state = world.state_at((10.0, 10.0), (pose[0], pose[1]), pose[2])
        wanted = world.state_at((400.0, 10.0), (goal[0], goal[1]), goal[2])
        coverage = theirs._get_coverage()
        assert world.coverage(state, wanted) == pytest.approx(coverage, abs=1e-9)
        assert world.success(state, wanted) == (coverage > 0.95)
        outcomes.add(bool(coverage > 0.95))
    assert outcomes == {True, False}


# Pictures


def test_the_picture_shows_agent_block_and_walls_where_they_are(world: PushT) -> None:
    picture = world.render_state(world.state_at((100.0, 400.0), (300.0, 100.0), 0.0)).astype(int)
    assert picture.shape == (64, 64, 3)
    blue, orange, floor = picture[50, 12], picture[14, 37], picture[32, 10]
    assert blue[2] > 150 > 60 > blue[0] and orange[0] > 200 > 60 > orange[2] and (floor > 230).all()
    assert (picture[0, 1:-1] < 120).all() and (picture[-1] < 120).all() and (picture[2:-2, 0] < 120).all()
    # The bar is on top and the stem reaches down 120 px: y points down, as in gym-pusht.
    assert picture[13, 44, 2] < 60 and picture[26, 37, 2] < 60 and picture[26, 44, 2] > 200


def test_small_changes_are_visible_and_velocities_are_not(world: PushT) -> None:
    rng = keyed_rng("test", 2)
    for _ in range(20):
        state, _, _ = world.sample_task(rng)
        picture = world.render_state(state).astype(int)
        for entry, change in ((0, 4.0), (1, 4.0), (4, 4.0), (5, 4.0), (6, math.radians(4.0))):
            other = state.copy()
            other[entry] += change  # a fifth of the tolerance
            seen = np.abs(world.render_state(other).astype(int) - picture).max(axis=2)
            assert (seen > 25).sum() >= 4
        moving = state.copy()
        moving[[2, 3, 7, 8, 9]] = 50.0
        assert (world.render_state(moving) == picture).all()


def test_larger_pictures_show_the_same_scene_and_the_edge_of_the_table_is_no_problem() -> None:
    small, large = PushT(), PushT(size=256)
    for state in (
        small.state_at((300.0, 80.0), (200.0, 200.0), 0.7),
        small.state_at((0.0, 512.0), (500.0, 20.0), 2.0),
        small.state_at((900.0, -90.0), (-300.0, 700.0), 2.0),
    ):
        pooled = large.render_state(state).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
        assert np.abs(pooled - small.render_state(state)).max() < 45  # edges


# Tasks


def test_sampled_tasks_keep_their_promises(world: PushT) -> None:
    rng, labels = keyed_rng("test", 4), []
    for _ in range(120):
        start, goal, label = world.sample_task(rng)
        labels.append(label)
        moved = float(block_distance(start, goal))
        assert (EASY[0] <= moved < EASY[1]) if label == "easy" else moved >= EASY[1]
        assert not world.success(start, goal)
        for state in (start, goal):
            corners = to_world(OUTLINE, state[4:6], state[6])
            assert corners.min() >= INNER_WALL[0] + CLEARANCE and corners.max() <= INNER_WALL[1] - CLEARANCE
            assert outside(to_block(state[:2], state[4:6], state[6])) >= AGENT_RADIUS + CLEARANCE
            assert (state[[2, 3, 7, 8, 9]] == 0).all()
    assert 0.35 < np.mean([label == "easy" for label in labels]) < 0.65


def test_nothing_moves_while_the_agent_rests(world: PushT) -> None:
    for k in range(5):
        start, _, _ = world.sample_task(keyed_rng("test", k))
        state = start
        for _ in range(10):
            state = world.next_state(state, np.zeros(2, np.float32))
        np.testing.assert_allclose(state, start, rtol=0, atol=1e-11)  # pymunk rounds positions


@pytest.mark.parametrize("env_id", [PUSH_T, COVERAGE])
def test_tasks_are_certified_with_time_to_spare_and_not_for_free(env_id: str) -> None:
    suite = make_suite(env_id, 6, 0)
    suite.verify()
    assert max(len(task.solution) for task in suite) <= 0.8 * suite.horizon
    assert sum(result.success for result in evaluate(suite, NoOp(env_id), 6)) == 0
    assert sum(result.success for result in evaluate(suite, RandomPolicy(env_id), 6)) == 0


def test_a_step_that_reaches_the_goal_ends_the_episode(world: PushT) -> None:
    goal = world.state_at((130.0, 100.0), (300.0, 300.0), 0.0)
    world.reset(options={"state": world.state_at((66.0, 100.0), (300.0, 300.0), 0.0), "goal": goal})
    rewards = [world.step(np.array([0.5, 0.0], np.float32))[1:3] for _ in range(3)]
    assert rewards == [(0.0, False), (0.0, False), (1.0, True)]


def test_bad_input_is_named(world: PushT, monkeypatch: pytest.MonkeyPatch) -> None:
    for action in (np.zeros(3), np.array([np.nan, 0.0])):
        with pytest.raises(ValueError, match="action for PushT is 2 finite numbers"):
            world.step(action)
    with pytest.raises(ValueError, match="state of PushT is 10 finite numbers"):
        world.set_state(np.zeros(7))
    with pytest.raises(ValueError, match="'gaol'"):
        world.reset(options={"gaol": world.get_state()})
    with pytest.raises(ValueError, match="rgb_array"):
        PushT(render_mode="human")
    monkeypatch.setitem(sys.modules, "gym_pusht.envs.pusht", None)
    with pytest.raises(ValueError, match=r"pip install worldmodel\[pusht\]") as error:
        make_world(PUSH_T)
    assert "\n" not in str(error.value)

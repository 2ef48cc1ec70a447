from __future__ import annotations

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest

from envs.task import TaskEnv, TaskSuite, make_suite
from envs.world import make_world

TWO_ROOM = "worldmodel/TwoRoom-v0"
STILL = np.zeros(2, np.float32)


def test_every_task_is_certified_and_not_solved_at_its_start(suite):
    suite.verify()
    world = make_world(TWO_ROOM)
    for task in suite:
        assert 0 < len(task.solution) <= suite.horizon
        assert not world.success(task.start, task.goal)


def test_the_solution_solves_the_task_in_task_env(suite):
    env = TaskEnv(make_world(TWO_ROOM), suite)
    for task in suite:
        env.reset(options={"task": task.id})
        results = [env.step(action) for action in task.solution]
        assert [result[2] for result in results] == [False] * (len(results) - 1) + [True]
        assert results[-1][1] == 1.0


def test_verify_notices_a_wrong_certificate(suite):
    tasks = list(suite)
    tasks[3] = dataclasses.replace(tasks[3], solution=np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="solution of task 3"):
        dataclasses.replace(suite, tasks=tuple(tasks)).verify()


def test_at_least_half_of_every_prefix_goes_through_the_door(suite):
    other = np.array([task.label == "other room" for task in suite])
    share = other.cumsum() / np.arange(1, len(other) + 1)
    assert (share >= 0.5).all() and share[-1] == pytest.approx(0.6)


def test_no_two_tasks_are_alike(suite):
    assert len({task.start.tobytes() for task in suite}) == len({task.goal.tobytes() for task in suite}) == 20


def test_suites_are_reproducible_and_prefixes_agree(suite):
    assert make_suite(TWO_ROOM, 20, 0).hash == suite.hash
    shorter = make_suite(TWO_ROOM, 5, 0)
    assert [t.to_json() for t in shorter] == [t.to_json() for t in suite.tasks[:5]]
    assert make_suite(TWO_ROOM, 20, 1).hash != suite.hash


def test_save_and_load_keep_every_bit(suite, tmp_path):
    path = tmp_path / "suites" / "two_room.json"
    suite.save(path)
    loaded = TaskSuite.load(path)
    assert loaded.hash == suite.hash and len(loaded.hash) == 64
    assert (loaded.name, loaded.env_id, loaded.horizon) == (suite.name, suite.env_id, suite.horizon)
    for ours, theirs in zip(suite, loaded, strict=True):
        for name in ("start", "goal", "solution"):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
    assert [p.name for p in path.parent.iterdir()] == ["two_room.json"]  # no temporary files


def test_a_changed_file_is_refused(suite, tmp_path):
    path = tmp_path / "suite.json"
    suite.save(path)
    content = json.loads(path.read_text())
    content["tasks"][0]["goal"][1] += 1e-16 + 1e-9
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"suite\.json.*sha256"):
        TaskSuite.load(path)
    del content["horizon"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="'horizon' is missing"):
        TaskSuite.load(path)
    content["format"] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="format 99"):
        TaskSuite.load(path)
    path.write_text("not json")
    with pytest.raises(ValueError, match=r"suite\.json"):
        TaskSuite.load(path)
    with pytest.raises(OSError):
        TaskSuite.load(tmp_path / "missing.json")


def test_tasks_cannot_be_changed_by_accident(suite):
    with pytest.raises(ValueError):
        suite[0].start[0] = 1.0


def test_both_ways_to_start_a_task_agree(suite):
    env = TaskEnv(gym.make(TWO_ROOM), suite)
    by_seed, info = env.reset(seed=7)
    assert info == {"task": 7, "success": False, "steps": 0}
    by_option, _ = env.reset(options={"task": 7})
    assert np.array_equal(by_seed, by_option)
    assert np.array_equal(env.world.get_state(), suite[7].start)
    assert np.array_equal(env.goal_frame(7), env.world.render_state(suite[7].goal))
    assert env.reset()[1]["task"] == 8


def test_finished_tasks_freeze(suite):
    env = TaskEnv(make_world(TWO_ROOM), suite)
    env.reset(seed=0)
    for action in suite[0].solution:
        observation, _, terminated, _, _ = env.step(action)
    assert terminated
    state = env.world.get_state()
    again, reward, terminated, truncated, info = env.step(np.array([1.0, 1.0], np.float32))
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert np.array_equal(again, observation) and np.array_equal(env.world.get_state(), state)
    assert info["steps"] == len(suite[0].solution)


def test_the_horizon_truncates(suite):
    env = TaskEnv(make_world(TWO_ROOM), suite)
    env.reset(seed=0)
    ends = [env.step(STILL)[2:4] for _ in range(suite.horizon)]
    assert ends == [(False, False)] * (suite.horizon - 1) + [(False, True)]


def test_a_suite_of_another_world_is_refused(suite):
    other = TaskSuite("other", "worldmodel/Elsewhere-v0", 40, suite.tasks)
    with pytest.raises(ValueError, match="Elsewhere"):
        TaskEnv(make_world(TWO_ROOM), other)
    task = suite[0]
    short = dataclasses.replace(task, start=task.start[:5].copy())
    with pytest.raises(ValueError, match="another length"):
        TaskEnv(make_world(TWO_ROOM), TaskSuite("short", TWO_ROOM, 40, (short,)))


def test_bad_requests_are_named(suite):
    env = TaskEnv(make_world(TWO_ROOM), suite)
    with pytest.raises(ValueError, match="no task 20; its ids are 0 to 19"):
        env.reset(seed=20)
    with pytest.raises(ValueError, match="'tsak'"):
        env.reset(options={"tsak": 1})
    with pytest.raises(ValueError, match="at least 1"):
        make_suite(TWO_ROOM, 0, 0)
    with pytest.raises(ValueError, match="TwoRoom-v0"):
        make_suite("worldmodel/Three-v0", 1, 0)
    with pytest.raises(ValueError, match="twice"):
        TaskSuite("twice", TWO_ROOM, 40, (suite[0], suite[0]))
    with pytest.raises(ValueError, match="no tasks"):
        TaskSuite("empty", TWO_ROOM, 40, ())

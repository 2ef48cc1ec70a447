"""Suites that come with the toolkit, and the protocol whose goals are moments of an exploring episode."""

from __future__ import annotations

import importlib.util

import mujoco
import numpy as np
import pytest

from envs.evaluate import NoOp, Replay, evaluate
from envs.suites import COUNT, FOLDER, RECIPES, load_suite, make_again, suite_names
from envs.suites.__main__ import main
from envs.task import TaskSuite, make_suite
from envs.world import make_world

TWO_ROOM = "worldmodel/TwoRoom-v0"
#: The version of MuJoCo that the files were made with.
MADE_WITH = "4.0.0"


#: Packages that worlds come from, by what their ids begin with.
PACKAGES = {"worldmodel/PointMaze": "gymnasium_robotics", "worldmodel/PushT": "gym_pusht"}


def load(name: str) -> TaskSuite:
    """The suite, or a skipped test where its world is not installed."""
    for begin, package in PACKAGES.items():
        if RECIPES[name].env_id.startswith(begin) and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return load_suite(name)


def test_every_suite_has_its_recipe_and_its_file():
    assert set(suite_names()) == set(RECIPES)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_suite_is_certified(name):
    suite = load(name)
    suite.verify(idle=False)  # every solution reaches its goal, and no task is solved at its start
    suite.first(25).verify()  # nor by doing nothing, which was seen of all tasks when the suite was made
    recipe = RECIPES[name]
    assert suite.name == name and suite.env_id == recipe.env_id and len(suite) == COUNT >= 200
    assert suite.horizon == (recipe.budget or make_world(suite.env_id).horizon)
    assert [task.id for task in suite] == list(range(COUNT))
    assert len({task.start.tobytes() + task.goal.tobytes() for task in suite}) == COUNT
    assert 1 <= len({task.label for task in suite}) <= 2


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_suite_can_be_made_again(name):
    suite = load(name).first(3)
    again = make_again(name, 3)
    for one, other in zip(suite, again, strict=True):  # another MuJoCo or processor may round differently
        assert one.label == other.label and one.solution.shape == other.solution.shape
        for old, new in ((one.start, other.start), (one.goal, other.goal), (one.solution, other.solution)):
            np.testing.assert_allclose(new, old, atol=1e-3)
    if mujoco.__version__ == MADE_WITH:
        assert again.hash == suite.hash


def test_replay_and_doing_nothing_frame_a_suite():
    suite = load("two_room").first(10)
    assert all(result.success for result in evaluate(suite, Replay(suite), 5))
    assert not any(result.success for result in evaluate(suite, NoOp(suite.env_id), 5))


def test_the_published_tolerance_of_the_arm_is_stricter():
    ours, published = make_world("worldmodel/Reacher-v0"), make_world("worldmodel/ReacherPublished-v0")
    goal, near = ours.state_at(1.0, 0.5), ours.state_at(1.07, 0.5)
    assert ours.success(near, goal) and not published.success(near, goal)
    assert published.success(ours.state_at(1.04, 0.5), goal)


def test_a_suite_is_found_by_its_name_or_its_file(suite, tmp_path):
    suite.save(tmp_path / "mine.json")
    assert load_suite(str(tmp_path / "mine.json")).hash == suite.hash
    with pytest.raises(ValueError, match=r"'no_room'.*two_room"):
        load_suite("no_room")
    with pytest.raises(ValueError, match=r"'no_room'.*two_room"):
        make_again("no_room")


def test_the_first_tasks_are_a_suite_of_their_own(suite):
    few = suite.first(3)
    assert [task.id for task in few] == [0, 1, 2] and few.hash != suite.hash
    assert suite.first(len(suite)).hash == suite.hash
    for count in (0, 21):
        with pytest.raises(ValueError, match="choose 1 to 20"):
            suite.first(count)


def test_a_file_has_a_line_for_each_task(suite, tmp_path):
    suite.save(tmp_path / "suite.json")
    assert len((tmp_path / "suite.json").read_text().splitlines()) == len(suite) + 2


@pytest.fixture(scope="module")
def ahead() -> TaskSuite:
    return make_suite(TWO_ROOM, 12, 0, protocol="ahead", ahead=25, budget=50)


def test_goals_ahead_are_reached_by_the_recorded_actions(ahead):
    assert ahead.horizon == 50
    ahead.verify()
    assert all(1 <= len(task.solution) <= 25 for task in ahead)
    assert max(len(task.solution) for task in ahead) > 20
    assert {task.label for task in ahead} == {"easy", "hard"}
    # The start is a moment in the middle of a motion, and neither is rounded more than six decimals do.
    assert sum(np.abs(task.start[3:5]).max() > 0.01 for task in ahead) >= 6
    assert all(np.array_equal(np.round(task.goal, 6), task.goal) for task in ahead)


def test_goals_ahead_are_reproducible(ahead):
    again = make_suite(TWO_ROOM, 3, 0, protocol="ahead", ahead=25, budget=50)
    assert [t.to_json() for t in again] == [t.to_json() for t in ahead.tasks[:3]]
    assert make_suite(TWO_ROOM, 3, 1, protocol="ahead", ahead=25, budget=50).hash != again.hash


def test_verify_notices_a_task_that_solves_itself(suite):
    from dataclasses import replace

    world, task = make_world(TWO_ROOM), suite[0]
    start = world.state_at(*task.goal[1:3])
    start[1] += 0.12 if start[1] < 0 else -0.12
    start[3] = -10.0 * np.sign(start[1] - task.goal[1])  # it rolls into the goal
    rolling = replace(task, start=start)
    with pytest.raises(ValueError, match="solved by doing nothing"):
        replace(suite, tasks=(rolling,)).verify()
    still = replace(task, start=task.goal.copy())
    with pytest.raises(ValueError, match="solved at its start"):
        replace(suite, tasks=(still,)).verify()


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match="protocol 'behind'"):
        make_suite(TWO_ROOM, 1, 0, protocol="behind")
    with pytest.raises(ValueError, match="100 steps ahead does not fit a budget of 40"):
        make_suite(TWO_ROOM, 1, 0, protocol="ahead", ahead=100)
    with pytest.raises(ValueError, match="clever"):
        make_suite(TWO_ROOM, 1, 0, protocol="ahead", policy="clever")


def test_the_command_leaves_a_frozen_suite_alone(capsys):
    before = (FOLDER / "two_room.json").stat().st_mtime_ns
    assert main(["two_room"]) == 0
    printed = capsys.readouterr().out
    assert "200 tasks" in printed
    assert "the file has the same" in printed or mujoco.__version__ != MADE_WITH
    assert (FOLDER / "two_room.json").stat().st_mtime_ns == before
    assert main(["nothing"]) == 2
    assert "two_room" in capsys.readouterr().err

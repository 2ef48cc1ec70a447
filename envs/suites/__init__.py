"""Task suites that come with the toolkit: one JSON file each, frozen, and how each was made.

A suite's tasks never change under its name. `python -m envs.suites NAME` makes one anew, as it was made, and writes
its file only if there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from envs.task import TaskSuite, make_suite

FOLDER = Path(__file__).parent
COUNT = 200


@dataclass(frozen=True)
class Recipe:
    """The arguments of `envs.task.make_suite` that a suite was made with; its seed is 0."""

    env_id: str
    protocol: str = "scripted"
    ahead: int = 25
    budget: int | None = None
    policy: str = "held_direction"
    label: str = ""
    min_distance: float = 0.0


#: Every suite by its name. "published" are the worlds, the thresholds and the protocols of DINO-WM (arXiv:2411.04983),
#: LeWM (arXiv:2603.19312) and eb_jepa; a number at the end says how many steps ahead on an episode a goal is. Theirs
#: are drawn from the data that models are trained on, and some are solved at their start; ours are held out, and none
#: is. docs/benchmark.md has the table.
RECIPES: dict[str, Recipe] = {
    "two_room": Recipe("worldmodel/TwoRoom-v0"),
    "two_room_published": Recipe("worldmodel/TwoRoomPublished-v0"),
    "two_room_published_25": Recipe("worldmodel/TwoRoomPublished-v0", "ahead", 25, 50, "goal_directed"),
    "two_room_published_100": Recipe("worldmodel/TwoRoomPublished-v0", "ahead", 100, 150, "goal_directed"),
    "two_room_published_far": Recipe(
        "worldmodel/TwoRoomPublished-v0", budget=150, label="other room", min_distance=240.0
    ),
    "two_room_random_wall": Recipe("worldmodel/TwoRoomRandomWall-v0", budget=200),
    "reacher": Recipe("worldmodel/Reacher-v0"),
    "reacher_published_25": Recipe("worldmodel/ReacherPublished-v0", "ahead", 25, 50, "smooth_random"),
    "point_maze": Recipe("worldmodel/PointMaze-UMaze-v0"),
    "point_maze_medium": Recipe("worldmodel/PointMaze-Medium-v0"),
    "point_maze_published": Recipe("worldmodel/PointMazePublished-UMaze-v0"),
    "push_t": Recipe("worldmodel/PushT-v0"),
    "push_t_coverage": Recipe("worldmodel/PushTCoverage-v0"),
    "push_t_published_25": Recipe("worldmodel/PushT-v0", "ahead", 25, 50, "goal_directed"),
}


def suite_names() -> list[str]:
    """The names of the suites that come with the toolkit."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_suite(name: str) -> TaskSuite:
    """The suite of this name, or in this file (what `TaskSuite.save` wrote).

    Raises:
        ValueError: there is neither, or the file is no task suite.
    """
    if name in suite_names():
        return TaskSuite.load(FOLDER / f"{name}.json")
    if Path(name).is_file():
        return TaskSuite.load(name)
    raise ValueError(f"there is no task suite {name!r}; give a file, or one of {', '.join(suite_names())}")


def make_again(name: str, count: int = COUNT) -> TaskSuite:
    """The first `count` tasks of a suite, made anew.

    Raises:
        ValueError: no recipe has this name.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe for a task suite {name!r}; the choices are {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    return make_suite(
        recipe.env_id, count, 0, name, recipe.protocol, ahead=recipe.ahead, budget=recipe.budget,
        policy=recipe.policy, label=recipe.label, min_distance=recipe.min_distance,
    )  # fmt: skip

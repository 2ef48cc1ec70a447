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


#: Every suite by its name. Those called "published" follow the protocol of DINO-WM (arXiv:2411.04983), LeWM
#: (arXiv:2603.19312) and others: a goal so many steps ahead on a recorded way, a budget of steps, success if the
#: goal is ever reached. Theirs are drawn from the training data, and some of their tasks are solved at the start; ours
#: are held out, and none is.
RECIPES: dict[str, Recipe] = {
    "two_room": Recipe("worldmodel/TwoRoom-v0"),
    "reacher": Recipe("worldmodel/Reacher-v0"),
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
        policy=recipe.policy,
    )  # fmt: skip

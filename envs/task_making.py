"""How tasks are drawn and certified: by a world's hand-written policy, or as two moments of an exploring episode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from envs.policies import make_policy
from envs.world import TaskWorld

MAX_DRAWS = 1000
#: Episodes of uniform random actions that make a task "easy" if one of them reaches its goal.
CHANCES = 4


@dataclass(frozen=True, eq=False)
class Drawn:
    """A certified task: start (S,), goal (S,), label, and the actions (n, A) float32 that reach the goal."""

    start: np.ndarray
    goal: np.ndarray
    label: str
    solution: np.ndarray


def scripted_task(
    world: TaskWorld, rng: np.random.Generator, wanted: str, horizon: int, min_distance: float = 0.0
) -> Drawn | None:
    """A task of the world's own with the label `wanted`, which `scripted_action` solves within the horizon.

    Its goal is at least `min_distance` away, by the world's own distance.

    Returns:
        None after `MAX_DRAWS` draws.
    """
    for _ in range(MAX_DRAWS):
        start, goal, label = world.sample_task(rng)
        if label != wanted or world.distance(start, goal) < min_distance:
            continue
        if not solves_itself(world, start, goal, horizon):
            solution = _scripted_solution(world, start, goal, horizon)
            if solution is not None:
                return Drawn(start, goal, label, solution)
    return None


def ahead_task(
    world: TaskWorld, rng: np.random.Generator, policy: str, ahead: int, horizon: int
) -> Drawn | None:
    """A start and the goal that an exploring policy reached `ahead` environment steps later.

    The actions in between are the certificate, as far as the first of them that reaches the goal. Tasks that are
    solved at their start, or by doing nothing within the horizon, are drawn again. The label is "easy" if one of
    `CHANCES` episodes of uniform random actions reaches the goal, else "hard".

    Returns:
        None after `MAX_DRAWS` draws.
    """
    explorer = make_policy(policy, world.action_space, world=world)
    for _ in range(MAX_DRAWS):
        frame, _ = world.reset(seed=int(rng.integers(2**63)))
        explorer.reset(rng)
        for _ in range(int(rng.integers(ahead + 1))):  # the start is any moment of an episode, not its first
            frame, *_ = world.step(explorer.act(frame)[0])
        start = _rounded(world.get_state())
        world.set_state(start)
        actions = []
        for _ in range(ahead):
            actions.append(_short(world, explorer.act(frame)[0]))
            frame, *_ = world.step(actions[-1])
        goal = _rounded(world.get_state())
        if hasattr(world, "another_look"):  # of envs.looks: a goal shows other distractors than its episode
            goal = world.another_look(goal, rng)
        if solves_itself(world, start, goal, horizon):
            continue
        steps = steps_to_goal(world, start, goal, actions)
        if steps is not None:
            return Drawn(start, goal, _label(world, rng, start, goal, horizon), np.stack(actions[:steps]))
    return None


def solves_itself(world: TaskWorld, start: np.ndarray, goal: np.ndarray, horizon: int) -> bool:
    """Whether the goal is reached at the start, or by doing nothing for `horizon` steps (an arm that swings on)."""
    if world.success(start, goal):
        return True
    idle = idle_action(world)
    world.set_state(start)
    before = start
    for _ in range(horizon):
        world.step(idle)
        after = world.get_state()
        if world.success(after, goal):
            return True
        if np.array_equal(after, before):  # a state determines what follows, so nothing more will happen
            return False
        before = after
    return False


def steps_to_goal(
    world: TaskWorld, start: np.ndarray, goal: np.ndarray, actions: Iterable[np.ndarray]
) -> int | None:
    """The number of actions after which the goal is reached for the first time; None if none of them does it."""
    world.set_state(start)
    for steps, action in enumerate(actions, 1):
        world.step(action)
        if world.success(world.get_state(), goal):
            return steps
    return None


def idle_action(world: TaskWorld) -> np.ndarray:
    """The action zero (A,) float32, or what is nearest to it inside the bounds."""
    space = world.action_space
    idle: np.ndarray = np.clip(np.zeros(space.shape, np.float32), space.low, space.high)
    return idle


def _label(
    world: TaskWorld, rng: np.random.Generator, start: np.ndarray, goal: np.ndarray, horizon: int
) -> str:
    space = world.action_space
    for _ in range(CHANCES):
        chance = rng.uniform(space.low, space.high, (horizon, *space.shape)).astype(np.float32)
        if steps_to_goal(world, start, goal, chance) is not None:
            return "easy"
    return "hard"


def _scripted_solution(
    world: TaskWorld, start: np.ndarray, goal: np.ndarray, horizon: int
) -> np.ndarray | None:
    world.set_state(start)
    actions: list[np.ndarray] = []
    while not world.success(world.get_state(), goal):
        if len(actions) == horizon:
            return None
        actions.append(_short(world, world.scripted_action(world.get_state(), goal)))
        world.step(actions[-1])
    return np.stack(actions)


def _short(world: TaskWorld, action: np.ndarray) -> np.ndarray:
    """Three decimals are as good for a certificate and make the file a third of the size."""
    space = world.action_space
    short: np.ndarray = np.clip(np.round(action, 3).astype(np.float32), space.low, space.high)
    return short


def _rounded(state: np.ndarray) -> np.ndarray:
    """Six decimals: a shorter file, which does not depend on how a machine rounds the last bits of a simulation."""
    rounded: np.ndarray = np.round(state, 6) + 0.0  # no negative zeros
    return rounded

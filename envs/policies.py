"""Policies that explore: they make training data, and know nothing of the tasks that come later.

What a world model learns depends on them. Independent random actions stay near where they start; a
direction that is held for a few steps crosses rooms, runs into walls and finds the door; where things have to be
pushed, only somebody with a goal pushes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from envs.own_policy import OwnPolicy, PolicyError
from envs.world import TaskWorld


class ExploringPolicy(Protocol):
    """Chooses the actions of one episode at a time."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; every random choice in it is drawn from `rng`."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The next actions, float32 inside the bounds, for an observation (H, W, C) uint8.

        (K, A), a whole model step; or (1, A) from a policy that has to look at the world after every environment
        step. It is asked again until there are K.
        """


@dataclass
class UniformRandom:
    """An independent uniform action at every environment step."""

    low: np.ndarray
    high: np.ndarray
    block: int = 1

    def reset(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def act(self, observation: np.ndarray) -> np.ndarray:
        return self._rng.uniform(self.low, self.high, (self.block, self.low.size)).astype(np.float32)


@dataclass
class HeldDirection:
    """A random direction and speed, held for a while, plus noise.

    Args:
        low, high: action bounds (A,), finite.
        block: environment steps K per call of `act`.
        switch: probability per environment step that a new direction and speed are drawn.
        noise: standard deviation of the noise on every action, as a share of half the action range.
        slowest: the least speed, as a share of the full one. The full one reaches the edge of the action box.
    """

    low: np.ndarray
    high: np.ndarray
    block: int = 1
    switch: float = 0.15
    noise: float = 0.2
    slowest: float = 0.2

    def __post_init__(self) -> None:
        if not 0.0 <= self.switch <= 1.0:
            raise ValueError(f"switch of held_direction is a probability in [0, 1], not {self.switch}")
        if self.noise < 0.0 or not 0.0 <= self.slowest <= 1.0:
            raise ValueError(
                f"held_direction needs noise >= 0 and slowest in [0, 1], not {self.noise}, {self.slowest}"
            )

    def reset(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._held = self._draw()

    def act(self, observation: np.ndarray) -> np.ndarray:
        actions = np.empty((self.block, self.low.size))
        for action in actions:
            if self._rng.random() < self.switch:
                self._held = self._draw()
            action[:] = self._held + self.noise * self._rng.standard_normal(self.low.size)
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return np.clip(middle + half * actions, self.low, self.high).astype(np.float32)

    def _draw(self) -> np.ndarray:
        """Direction times speed, in [-1, 1]^A; the corners of the box are reached, because planners go there too."""
        direction = self._rng.standard_normal(self.low.size)
        return direction / np.abs(direction).max() * self._rng.uniform(self.slowest, 1.0)


@dataclass
class SmoothRandom:
    """Actions that wander: an Ornstein-Uhlenbeck process for each dimension, from its stationary distribution.

    For worlds with inertia, where forces that change from step to step cancel out, and forces that are
    held drive everything to its limits and its greatest speed.

    Source: Uhlenbeck & Ornstein, Physical Review 36 (1930); for exploration, DDPG (arXiv:1509.02971).

    Args:
        low, high: action bounds (A,), finite.
        block: environment steps K per call of `act`.
        memory: environment steps after which the correlation of an action with itself has fallen to 1/e.
        spread: standard deviation, as a share of half the action range; what exceeds the bounds is clipped.
    """

    low: np.ndarray
    high: np.ndarray
    block: int = 1
    memory: float = 4.0
    spread: float = 0.7

    def __post_init__(self) -> None:
        if not self.memory > 0 or not self.spread > 0:
            raise ValueError(
                f"smooth_random needs memory > 0 and spread > 0, not {self.memory}, {self.spread}"
            )

    def reset(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._value = rng.standard_normal(self.low.size)

    def act(self, observation: np.ndarray) -> np.ndarray:
        keep = np.exp(-1.0 / self.memory)
        actions = np.empty((self.block, self.low.size))
        for action in actions:
            action[:] = self._value
            noise = self._rng.standard_normal(self.low.size)
            self._value = keep * self._value + np.sqrt(1.0 - keep**2) * noise
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return np.clip(middle + half * self.spread * actions, self.low, self.high).astype(np.float32)


@dataclass
class GoalDirected:
    """Goes to one random goal after another, by the world's hand-written policy, with noise.

    For worlds in which random actions seldom do what matters, such as pushing. It reads the simulator's state and is
    asked at every environment step. Goals are those of `world.sample_task`, drawn from the episode's own random
    numbers, so they are not the goals of any task suite.

    Args:
        low, high: action bounds (A,), finite.
        world: the world that is acted in, with `sample_task`, `scripted_action` and `success`.
        noise: standard deviation of the noise on every action, as a share of half the action range; 0: none.
        wander: share of the time that is spent as `held_direction` instead, a few steps at a time. With noise=0
            and wander=0, the data are the expert's; with wander=1, nothing has a goal.
        patience: environment steps after which a goal that was not reached is given up; 0: as many as a task of
            this world may take.
    """

    low: np.ndarray
    high: np.ndarray
    world: TaskWorld
    noise: float = 0.2
    wander: float = 0.2
    patience: float = 0
    _aimless: HeldDirection = field(init=False, repr=False)

    def __post_init__(self) -> None:
        missing = [name for name in ("sample_task", "scripted_action") if not hasattr(self.world, name)]
        if not getattr(self.world, "has_script", True):
            missing = ["a hand-written policy"]
        if missing:
            raise ValueError(
                f"goal_directed needs a world with {' and '.join(missing)}, which this one lacks; "
                "choose smooth_random or held_direction"
            )
        if self.noise < 0.0 or not 0.0 <= self.wander <= 1.0 or self.patience < 0:
            raise ValueError(
                "goal_directed needs noise >= 0, wander in [0, 1] and patience >= 0, not "
                f"{self.noise}, {self.wander}, {self.patience}"
            )
        self._aimless = HeldDirection(self.low, self.high)

    def reset(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._aimless.reset(rng)
        self._goal: np.ndarray | None = None
        self._left = 0.0
        self._wandering = bool(rng.random() < self.wander)

    def act(self, observation: np.ndarray) -> np.ndarray:
        state = self.world.get_state()
        if self._goal is None or self._left <= 0 or self.world.success(state, self._goal):
            _, self._goal, _ = self.world.sample_task(self._rng)
            self.world.set_state(state)  # a world may use its own simulation to find tasks
            self._left = self.patience or self.world.horizon
        self._left -= 1
        if self._rng.random() < 0.1:
            self._wandering = bool(self._rng.random() < self.wander)
        if self._wandering:
            return self._aimless.act(observation)
        try:
            action = np.asarray(self.world.scripted_action(state, self._goal), dtype=np.float64)
        except ValueError as error:  # a world that has none
            raise PolicyError(
                f"goal_directed cannot act in this world: {error}; choose smooth_random or held_direction"
            ) from error
        noise = self._rng.standard_normal(self.low.size) * self.noise * (self.high - self.low) / 2
        return np.clip(action + noise, self.low, self.high).astype(np.float32)[None]


POLICIES: dict[str, type[UniformRandom | HeldDirection | SmoothRandom | GoalDirected]] = {
    "held_direction": HeldDirection,
    "uniform_random": UniformRandom,
    "smooth_random": SmoothRandom,
    "goal_directed": GoalDirected,
}


def make_policy(
    name: str,
    action_space: gym.spaces.Box,
    block: int = 1,
    options: Mapping[str, float] | None = None,
    *,
    world: TaskWorld | None = None,
    own_code: bool = False,
) -> ExploringPolicy:
    """The exploring policy of this name.

    Args:
        name: a key of `POLICIES`, or "module:ClassName", see `envs.own_policy`.
        action_space: the environment's; its bounds must be finite.
        block: environment steps K per model step.
        options: the policy's own settings, such as `{"switch": 0.1}`.
        world: the world that will be acted in; `goal_directed` needs it.
        own_code: whether "module:ClassName" is allowed. Say so only where the user wrote the name: importing a
            module runs it, so a name out of a file must never get here.

    Raises:
        ValueError: unknown name or option, unbounded actions, block < 1, or no world where one is needed.
    """
    if name not in POLICIES and not (own_code and ":" in name):
        raise ValueError(
            f"unknown exploring policy {name!r}; the choices are {', '.join(POLICIES)}"
            + (", or module:ClassName for one of your own" if own_code else "")
        )
    if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all()):
        raise ValueError(
            f"the policy {name!r} needs finite action bounds, the environment has {action_space}"
        )
    if block < 1:
        raise ValueError(f"a model step has at least 1 environment step, not {block}")
    given = {"low": action_space.low, "high": action_space.high, "block": block, "world": world}
    if name not in POLICIES:
        return OwnPolicy(name, given, options or {})
    policy, options = POLICIES[name], dict(options or {})
    known = [entry.name for entry in fields(policy) if entry.init]
    choices = [option for option in known if option not in given]
    if unknown := sorted(set(options) - set(choices)):
        said = ", ".join(choices) or "none"
        raise ValueError(f"the policy {name!r} has no option {', '.join(unknown)}; its options are {said}")
    if "world" in known and world is None:
        raise ValueError(f"the policy {name!r} reads the world's state, and cannot be used without a world")
    arguments: dict[str, Any] = {**{key: given[key] for key in given if key in known}, **options}
    return policy(**arguments)

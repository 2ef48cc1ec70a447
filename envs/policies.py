"""Policies that explore: they make training data, see no goal and have no aim.

What a world model learns depends on them. Independent random actions stay near where they start; a
direction that is held for a few steps crosses rooms, runs into walls and finds the door.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Protocol

import gymnasium as gym
import numpy as np


class ExploringPolicy(Protocol):
    """Chooses the actions of one episode at a time."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; every random choice in it is drawn from `rng`."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Actions (K, A) float32 inside the bounds, for an observation (H, W, C) uint8."""


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


POLICIES: dict[str, type[UniformRandom] | type[HeldDirection] | type[SmoothRandom]] = {
    "held_direction": HeldDirection,
    "uniform_random": UniformRandom,
    "smooth_random": SmoothRandom,
}


def make_policy(
    name: str, action_space: gym.spaces.Box, block: int = 1, options: Mapping[str, float] | None = None
) -> ExploringPolicy:
    """The exploring policy of this name.

    Args:
        name: a key of `POLICIES`.
        action_space: the environment's; its bounds must be finite.
        block: environment steps K per model step.
        options: the policy's own settings, such as `{"switch": 0.1}`.

    Raises:
        ValueError: unknown name or option, unbounded actions, or block < 1.
    """
    if name not in POLICIES:
        raise ValueError(f"unknown exploring policy {name!r}; the choices are {', '.join(POLICIES)}")
    if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all()):
        raise ValueError(
            f"the policy {name!r} needs finite action bounds, the environment has {action_space}"
        )
    if block < 1:
        raise ValueError(f"a model step has at least 1 environment step, not {block}")
    policy, options = POLICIES[name], dict(options or {})
    choices = [field.name for field in fields(policy) if field.name not in ("low", "high", "block")]
    if unknown := sorted(set(options) - set(choices)):
        known = ", ".join(choices) or "none"
        raise ValueError(f"the policy {name!r} has no option {', '.join(unknown)}; its options are {known}")
    return policy(action_space.low, action_space.high, block, **options)

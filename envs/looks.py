"""Visually hard variants of worlds: the pictures change, everything else stays.

A world model should know the ball, not the wallpaper. Each look adds what a camera of a real place sees beside the
task, and differs in whether it can be predicted: colours that stay for an episode, distractors that drift, and
distractors and noise that are new in every frame (after the Distracting Control Suite, arXiv:2101.02722).
`envs.look_pictures` draws them.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Protocol, SupportsFloat, cast

import gymnasium as gym
import numpy as np

from envs.look_pictures import LOOKS, Look, LookPainter
from envs.world import TaskWorld

SEEDS = 2**32  # of looks: exact as a float64, and when a state is rounded to six decimals


class PaintedWorld(TaskWorld, Protocol):
    """A world whose picture is a background that never changes, with what moves painted over it."""

    @property
    def background(self) -> np.ndarray:
        """The picture without what moves, (H, W, 3) float64."""

    def paint(self, picture: np.ndarray, state: np.ndarray) -> None:
        """Paint what moves in a state (S,) over a picture (H, W, 3) of floats, in place."""


class LookWorld(gym.Env[np.ndarray, np.ndarray]):
    """A world in another look: the same physics, tasks, distances and scripted policy, other pictures.

    A state is the plain world's, followed by the look seed of the episode, a whole number, and, where the plain
    world's first entry is not MuJoCo's time, by the number of steps taken. So a state determines its picture, and
    `render_state` draws any moment of any episode. `reset` and `sample_task` draw look seeds beside the random
    numbers of the plain world, not from them: with the same generator both worlds start, and have their goals, at
    the same places. A goal has a look seed of its own, so its picture shows other distractors than the episode.

    Whatever else the plain world offers (`model`, `threshold`, ...) is an attribute of this one too.

    Args:
        world: the plain world, or its gymnasium id.
        look: a name in `LOOKS`, or a `Look` of your own.
        render_mode: None or "rgb_array"; the observation is the picture in either case.
        size: height and width of the picture in pixels, where the world is given by its id.

    Raises:
        ValueError: an unknown look, or a world that cannot be painted over a background, see `PaintedWorld`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}  # type: ignore[misc]

    def __init__(
        self, world: str | TaskWorld, look: str | Look, render_mode: str | None = None, size: int = 64
    ) -> None:
        if isinstance(look, str) and look not in LOOKS:
            raise ValueError(f"unknown look {look!r}; the choices are {', '.join(LOOKS)}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode of LookWorld is None or 'rgb_array', not {render_mode!r}")
        if isinstance(world, str):
            world = cast(TaskWorld, gym.make(world, disable_env_checker=True, size=size).unwrapped)
        if missing := [name for name in ("background", "paint") if not hasattr(world, name)]:
            raise ValueError(
                f"{type(world).__name__} has no {' and no '.join(missing)}, which a look needs; see "
                "envs.looks.PaintedWorld"
            )
        self.plain = cast(PaintedWorld, world)
        self.render_mode = render_mode
        self.metadata = {**getattr(world, "metadata", {}), **type(self).metadata}  # type: ignore[misc]
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self.horizon, self.task_mix = world.horizon, world.task_mix
        self._painter = LookPainter(LOOKS[look] if isinstance(look, str) else look, self.plain.background)
        self._plain_size = world.get_state().size
        model = getattr(world, "model", None)
        self._period = 0.0 if model is None else float(model.opt.timestep) * world.substeps  # type: ignore[attr-defined]
        self._look = np.zeros(
            1 if self._period else 2
        )  # the end of the state: seed, and steps unless there is a time

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "plain":
            raise AttributeError(f"{type(self).__name__} has no {name}")
        return getattr(self.plain, name)

    # gymnasium

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        options = dict(options or {})
        self.plain.np_random = self.np_random  # type: ignore[attr-defined]  # one generator for both
        look = None
        if options.get("state") is not None:
            options["state"], look = self._split(options["state"], "state")
        if options.get("goal") is not None:
            options["goal"], _ = self._split(options["goal"], "goal")
        _, info = self.plain.reset(options=options)
        self._look = self._new_look(*_draw_seeds(self.np_random, 1)) if look is None else look
        return self._picture(), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = self.plain.step(action)
        self._look = self._next_look(self._look)
        return self._picture(), reward, terminated, truncated, info

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        return self._picture() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self.plain.close()

    # the task contract (envs.world.TaskWorld)

    def get_state(self) -> np.ndarray:
        """The state (S,) float64: the plain world's, then the look's; see the class."""
        return np.concatenate([self.plain.get_state(), self._look])

    def set_state(self, state: np.ndarray) -> None:
        """Continue from a state.

        Raises:
            ValueError: the vector has another length, is not finite, or has no look seed.
        """
        plain, look = self._split(state, "state")
        self.plain.set_state(plain)
        self._look = look

    def render_state(self, state: np.ndarray) -> np.ndarray:
        """The picture of a state, (H, W, 3) uint8. Disturbs neither simulation nor random generator."""
        return self._draw(*self._split(state, "state"))

    def success(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether `state` (S,) reaches the goal state (S,) in the plain world, whatever either looks like."""
        return self.plain.success(self._plain_part(state), self._plain_part(goal))

    def distance(self, state: np.ndarray, goal: np.ndarray) -> float:
        """What is left to go from `state` (S,) to `goal` (S,) in the plain world."""
        return self.plain.distance(self._plain_part(state), self._plain_part(goal))

    def distances(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """`distance` for (..., S) and (..., S), broadcast together, to (...) float64."""
        return self.plain.distances(self._plain_part(states), self._plain_part(goals))

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        """The plain world's task, in which start and goal get a look seed each."""
        start, goal, label = self.plain.sample_task(rng)
        ours, goals = (self._new_look(seed) for seed in _draw_seeds(rng, 2))
        return np.concatenate([start, ours]), np.concatenate([goal, goals]), label

    def scripted_action(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """One action (A,) float32 of the plain world's hand-written policy."""
        return self.plain.scripted_action(self._plain_part(state), self._plain_part(goal))

    # beyond the contract

    def another_look(self, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The same state (S,) in the look of another episode; `rng` goes on as if nothing had been drawn."""
        plain, _ = self._split(state, "state")
        return np.concatenate([plain, self._new_look(*_draw_seeds(rng, 1))])

    def state_at(self, *position: Any, look_seed: int = 0) -> np.ndarray:
        """The plain world's `state_at`, in the look with this seed."""
        plain: np.ndarray = self.plain.state_at(*position)  # type: ignore[attr-defined]
        return np.concatenate([plain, self._new_look(look_seed)])

    def next_state(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The state (S,) after one step from a state (S,); disturbs nothing, and draws no picture in this look."""
        plain, look = self._split(state, "state")
        if hasattr(self.plain, "next_state"):
            plain = self.plain.next_state(plain, action)
        else:
            before = self.plain.get_state()
            self.plain.set_state(plain)
            self.plain.step(action)
            plain = self.plain.get_state()
            self.plain.set_state(before)
        return np.concatenate([plain, self._next_look(look)])

    # looks

    def _picture(self) -> np.ndarray:
        return self._draw(self.plain.get_state(), self._look)

    def _draw(self, plain: np.ndarray, look: np.ndarray) -> np.ndarray:
        step = round(plain[0] / self._period) if self._period else int(look[1])
        seed = int(look[0])
        picture = self._painter.behind(seed, step)
        self.plain.paint(picture, plain)
        return self._painter.finished(picture, seed, step)

    def _new_look(self, seed: int) -> np.ndarray:
        look = np.zeros_like(self._look)
        look[0] = seed
        return look

    def _next_look(self, look: np.ndarray) -> np.ndarray:
        return look if self._period else look + np.array([0.0, 1.0])

    def _plain_part(self, states: np.ndarray) -> np.ndarray:
        return np.asarray(states)[..., : self._plain_size]

    def _split(self, state: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        """The plain world's part of a state, and the look's."""
        state = np.array(state, dtype=np.float64)
        size = self._plain_size + self._look.size
        if state.shape != (size,) or not np.isfinite(state).all():
            raise ValueError(
                f"the {what} of {type(self.plain).__name__} with a look is {size} finite numbers, got shape "
                f"{state.shape}; was it made without a look?"
            )
        look = state[self._plain_size :]
        if not 0 <= look[0] < SEEDS or (look % 1).any() or (look < 0).any():
            raise ValueError(
                f"the {what} ends in a look seed and steps {look}; both are whole numbers from 0"
            )
        return state[: self._plain_size], look


def _draw_seeds(rng: np.random.Generator, count: int) -> list[int]:
    """Look seeds, drawn from a copy: the generator goes on as if nothing had been drawn."""
    seeds: list[int] = copy.deepcopy(rng).integers(SEEDS, size=count).tolist()
    return seeds

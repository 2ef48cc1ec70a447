"""What our MuJoCo worlds share: exact state, goals, pictures drawn with numpy. A world adds physics and tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import mujoco
import numpy as np

from envs.draw import TopDownCanvas

_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)


class MujocoTaskWorld(gym.Env[np.ndarray, np.ndarray], ABC):
    """A world that keeps the contracts `envs.world.TaskWorld` and `envs.simulate.MujocoWorld`.

    A step writes the clipped action to MuJoCo's controls and steps the model `substeps` times, and no more.
    Observation: the picture, (size, size, 3) uint8. State: MuJoCo's full integration state, (S,) float64.

    `reset(options={"state": ..., "goal": ...})` starts from a given state and sets a goal state; both are
    optional. With a goal, the step that reaches it has reward 1 and ends the episode; every other reward is
    0. There is no time limit: that is the task's (`envs.task.TaskEnv`).

    Args:
        xml: the MuJoCo model; its actuators are controlled by one action in [-1, 1] each.
        canvas: what pictures are drawn on.
        render_mode: None or "rgb_array"; the observation is the picture in either case.
        actions: how many actuators, the model's first, have an action; None: all. The others' control is 0.
    """

    metadata: ClassVar[dict[str, Any]]  # type: ignore[misc]  # gymnasium declares it on instances
    horizon: int
    substeps: int
    task_mix: Mapping[str, float]

    def __init__(
        self, xml: str, canvas: TopDownCanvas, render_mode: str | None, actions: int | None = None
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode of {self._name} is None or 'rgb_array', not {render_mode!r}")
        self.render_mode = render_mode
        self.model = mujoco.MjModel.from_xml_string(xml)
        self._data = mujoco.MjData(self.model)
        self._actions: int = self.model.nu if actions is None else actions
        self.observation_space = gym.spaces.Box(0, 255, (canvas.size, canvas.size, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (self._actions,), np.float32)
        self._state_size = mujoco.mj_stateSize(self.model, _STATE)
        # Entries of the state vector; entry 0 is the time.
        self._qpos = slice(1, 1 + self.model.nq)
        self._qvel = slice(self._qpos.stop, self._qpos.stop + self.model.nv)
        # What a state is made and drawn from: the joints' positions, unless a world can move other things too.
        self._configuration: slice | np.ndarray = self._qpos
        self._rest = self.get_state()
        self._goal: np.ndarray | None = None
        self._canvas = canvas

    # what a world adds

    @abstractmethod
    def success(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether `state` (S,) reaches the goal state (S,)."""

    @abstractmethod
    def distances(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """`distance` for many pairs: (..., S) and (..., S), broadcast together, to (...) float64."""

    @abstractmethod
    def _draw(self, configuration: np.ndarray) -> np.ndarray:
        """The picture (H, W, 3) uint8 of a configuration: the joints' positions (nq,), if not said otherwise."""

    @abstractmethod
    def _free_position(self, rng: np.random.Generator) -> np.ndarray:
        """A random configuration, from which an episode may begin at rest."""

    # gymnasium

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        if unknown := set(options) - {"state", "goal"}:
            raise ValueError(f"{self._name}.reset has the options 'state' and 'goal', not {sorted(unknown)}")
        state = options.get("state")
        self.set_state(self.state_at(*self._free_position(self.np_random)) if state is None else state)
        goal = options.get("goal")
        self._goal = None if goal is None else self._checked(goal, "goal")
        return self._picture(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._data.ctrl[:] = self.controls(action)
        mujoco.mj_step(self.model, self._data, nstep=self.substeps)
        success = self._goal is not None and self.success(self.get_state(), self._goal)
        return self._picture(), float(success), success, False, {}

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        return self._picture() if self.render_mode == "rgb_array" else None

    # the task contract (envs.world.TaskWorld)

    def get_state(self) -> np.ndarray:
        """The full integration state, (S,) float64; setting it back makes every later step bit-identical."""
        state = np.empty(self._state_size)
        mujoco.mj_getState(self.model, self._data, state, _STATE)
        return state

    def set_state(self, state: np.ndarray) -> None:
        """Put the world into a state that `get_state` returned.

        Raises:
            ValueError: the vector has another length, or is not finite.
        """
        mujoco.mj_setState(self.model, self._data, self._checked(state, "state"), _STATE)

    def render_state(self, state: np.ndarray) -> np.ndarray:
        """The picture of a state, (H, W, 3) uint8. Disturbs neither simulation nor random generator."""
        return self._draw(self._checked(state, "state")[self._configuration])

    def distance(self, state: np.ndarray, goal: np.ndarray) -> float:
        """What is left to go from `state` (S,) to `goal` (S,), see `distances`."""
        return float(self.distances(state, goal))

    def straight_distances(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Euclidean distances of configurations, which know nothing of walls in between; shapes as in `distances`."""
        states, goals = np.asarray(states), np.asarray(goals)
        apart: np.ndarray = np.linalg.norm(
            states[..., self._configuration] - goals[..., self._configuration], axis=-1
        )
        return apart

    def state_at(self, *position: float) -> np.ndarray:
        """The state (S,) at rest in the configuration `position`, at time 0."""
        state = self._rest.copy()
        state[self._configuration] = position
        return state

    # the simulator's side (envs.simulate)

    def controls(self, actions: np.ndarray) -> np.ndarray:
        """MuJoCo controls (..., nu) float64 for actions (..., A), clipped to the action bounds.

        Raises:
            ValueError: wrong last dimension, or an action that is not finite.
        """
        actions, wanted = np.asarray(actions, dtype=np.float64), self._actions
        if actions.shape[-1:] != (wanted,):
            raise ValueError(
                f"actions of {self._name} have {wanted} dimensions, got an array of shape {actions.shape}"
            )
        if not np.isfinite(actions).all():
            raise ValueError(f"an action for {self._name} is NaN or infinite; check the policy that made it")
        clipped = np.clip(actions, -1.0, 1.0)
        if without := self.model.nu - wanted:
            return np.concatenate([clipped, np.zeros((*clipped.shape[:-1], without))], axis=-1)
        return clipped

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _picture(self) -> np.ndarray:
        return self._draw(self.get_state()[self._configuration])

    def _checked(self, state: np.ndarray, what: str) -> np.ndarray:
        state = np.array(state, dtype=np.float64)
        if state.shape != (self._state_size,) or not np.isfinite(state).all():
            raise ValueError(
                f"the {what} of {self._name} is {self._state_size} finite numbers, got shape {state.shape}; "
                "was it made with another environment or MuJoCo version?"
            )
        return state

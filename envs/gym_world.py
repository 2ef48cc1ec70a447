"""Any MuJoCo environment of gymnasium as a world: seen by a camera, its goals are poses.

`make_world("Pusher-v5")` uses this. The environment's own observations, rewards and ends do not count; what is
taken from it are the model, how an episode begins, what an action does, and where its camera stands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import gymnasium as gym
import mujoco
import numpy as np

from envs.gym_trial import STATE, Trial, get_state, is_mujoco, put_state, step_afresh
from envs.joint_gaps import JointGaps
from envs.policies import SmoothRandom
from envs.rendering import Camera, find_gl

HORIZON = 50
AHEAD = 25  # steps between the start and the goal of `sample_task`
_PAIRS = 16  # pairs of states of which the median distance divides easy tasks from hard ones


def gym_world(
    env: str | gym.Env[Any, Any],
    *,
    size: int = 64,
    camera: str | int | None = None,
    view: Mapping[str, Any] | None = None,
    shadows: bool = False,
    reflections: bool = False,
    samples: int = 0,
    tolerance: float = 1.0,
    horizon: int = HORIZON,
    options: Mapping[str, Any] | None = None,
) -> GymWorld:
    """Make a world of a MuJoCo environment. Register it with these settings to give them an id of their own.

    Args:
        env: an environment, or its gymnasium id.
        size, camera, view, shadows, reflections, samples: of the picture, see `envs.rendering.Camera`. By default
            the camera stands where the environment's own one does, and does not move; `view` changes a part of that.
        tolerance: factor on the tolerances within which a goal is reached, see `envs.joint_gaps`.
        horizon: environment steps that a task may take.
        options: settings of the environment itself, where it is named by its id.

    Raises:
        NoOpenGL: this machine cannot draw; the message says what to install.
        ValueError: the environment is not simulated by MuJoCo, has something in its state that MuJoCo does not
            know, or fails by itself.
    """
    if isinstance(env, str):
        env = gym.make(env, disable_env_checker=True, **(options or {}))
    env = env.unwrapped
    find_gl()  # before anything is simulated
    name = env.spec.id if env.spec is not None else type(env).__name__
    if not is_mujoco(env):
        raise ValueError(
            f"{name} has no MuJoCo model and data, so its state cannot be read and set; see docs/extending.md"
        )
    if not isinstance(env.action_space, gym.spaces.Box) or len(env.action_space.shape) != 1:
        raise ValueError(f"the action space of {name} is {env.action_space}; a Box of shape (A,) is needed")
    try:
        trial = Trial(env, name)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"{name} fails by itself with MuJoCo {mujoco.__version__} ({type(error).__name__}: {error}); "
            "another version of MuJoCo or of the environment may do"
        ) from error
    kind = SimulatedGymWorld if trial.simulated else SteppedGymWorld
    picture: dict[str, Any] = {
        "size": size,
        "shadows": shadows,
        "reflections": reflections,
        "samples": samples,
    }
    picture |= _own_view(env, trial.model, view or {}) if camera is None else {"camera": camera}
    return kind(env, trial, name, picture, tolerance, horizon)


class GymWorld(gym.Env[np.ndarray, np.ndarray], ABC):
    """A world made of a MuJoCo environment of gymnasium; see `gym_world`, which makes it.

    Observation: the picture, (size, size, 3) uint8. Action: the environment's own, clipped to its bounds. State:
    MuJoCo's full integration state, (S,) float64. `reset` and `step` are those of every world
    (`envs.world.TaskWorld`).

    Pictures show the state alone: nothing of what an environment changes in its model when it is reset, such as
    the place of a marker.
    """

    action_space: gym.spaces.Box
    #: Whether `scripted_action` goes to any goal; else it only replays how the last sampled one was found.
    has_script = False
    task_mix: Mapping[str, float] = {"easy": 0.5, "hard": 0.5}

    def __init__(
        self,
        env: gym.Env[Any, Any],
        trial: Trial,
        name: str,
        picture: Mapping[str, Any],
        tolerance: float,
        horizon: int,
    ) -> None:
        self.model, self.horizon, self.spec = trial.model, horizon, env.spec
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 1.0 / trial.seconds}
        self.render_mode = "rgb_array"
        self.action_space = cast(gym.spaces.Box, env.action_space)
        self.observation_space = gym.spaces.Box(0, 255, (picture["size"], picture["size"], 3), np.uint8)
        self._env, self._name = env, name
        self._gaps = JointGaps(self.model, tolerance)
        self._goal: np.ndarray | None = None
        self._seconds, self._median = trial.seconds, cast("float | None", None)
        self._recorded = b"", 0.0, np.empty((0, 0), np.float32)  # goal, time at the start, actions
        self._seen = mujoco.MjData(self.model)  # what is drawn: never what is simulated
        self._picture_of = picture
        self._camera: Camera | None = None
        self._state_size = mujoco.mj_stateSize(self.model, STATE)

    # gymnasium

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        if unknown := set(options) - {"state", "goal"}:
            raise ValueError(f"{self._name}.reset has the options 'state' and 'goal', not {sorted(unknown)}")
        state = options.get("state")
        if state is None:
            state = self._first_state(int(self.np_random.integers(2**31)) if seed is None else seed)
        self.set_state(state)
        goal = options.get("goal")
        self._goal = None if goal is None else self._checked(goal, "goal")
        return self._picture(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._advance(self._clipped(action))
        success = self._goal is not None and self.success(self.get_state(), self._goal)
        return self._picture(), float(success), success, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        return self._picture()

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        self._env.close()

    # the task contract (envs.world.TaskWorld)

    @abstractmethod
    def get_state(self) -> np.ndarray:
        """The full integration state, (S,) float64; setting it back makes every later step bit-identical."""

    @abstractmethod
    def set_state(self, state: np.ndarray) -> None:
        """Continue from a state (S,) that `get_state` returned.

        Raises:
            ValueError: the vector has another length, or is not finite.
        """

    @abstractmethod
    def _advance(self, action: np.ndarray) -> None:
        """One step of the environment without a picture, under an action (A,) inside the bounds."""

    def render_state(self, state: np.ndarray) -> np.ndarray:
        """The picture of a state, (size, size, 3) uint8. Disturbs neither simulation nor random generator."""
        mujoco.mj_setState(self.model, self._seen, self._checked(state, "state"), STATE)
        mujoco.mj_fwdPosition(self.model, self._seen)
        if self._camera is None:
            self._camera = Camera(self.model, **self._picture_of)
        return self._camera.draw(self._seen)

    def success(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether every joint is within its tolerance of the goal's; velocities do not matter."""
        return bool((np.abs(self._gaps(state, goal)) < 1.0).all())

    def distance(self, state: np.ndarray, goal: np.ndarray) -> float:
        """What is left to go, see `distances`."""
        return float(self.distances(state, goal))

    def distances(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Euclidean distance of the joints' positions in rad, see `envs.joint_gaps` for lengths.

        (..., S) and (..., S), broadcast together, to (...) float64.
        """
        return self._gaps.rad * np.sqrt(np.square(self._gaps(states, goals)).sum(axis=-1))

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        """Two states of an exploring episode, 25 steps apart; "hard" if farther apart than the median of such pairs."""
        before = self.get_state()
        if self._median is None:
            pairs = [self._explored(np.random.default_rng(pair))[:2] for pair in range(_PAIRS)]
            self._median = float(np.median([self.distance(*pair) for pair in pairs]))
        start, goal, actions = self._explored(rng)
        self._recorded = goal.tobytes(), float(start[0]), actions
        self.set_state(before)
        return start, goal, "hard" if self.distance(start, goal) > self._median else "easy"

    def scripted_action(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """What the explorer did on its way to the goal of the last `sample_task`, and nothing after that.

        Nobody wrote a policy for this world, so this is all that certifies a task.

        Raises:
            ValueError: for any other goal.
        """
        recorded, began, actions = self._recorded
        if np.asarray(goal, dtype=np.float64).tobytes() != recorded:
            raise ValueError(
                f"nobody wrote a policy for {self._name}; that its tasks can be done is shown by their solutions, "
                "which were recorded"
            )
        step = round((float(state[0]) - began) / self._seconds)  # entry 0 is the time
        if 0 <= step < len(actions):
            return actions[step]
        return self._clipped(np.zeros(actions.shape[1])).astype(np.float32)

    def next_state(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The state (S,) one step after `state` (S,) under an action (A,); no picture is drawn, nothing disturbed."""
        before = self.get_state()
        self.set_state(state)
        self._advance(self._clipped(action))
        after = self.get_state()
        self.set_state(before)
        return after

    # helpers

    def _explored(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Two states (S,) of an episode that are not the same pose, and the actions (25, A) in between."""
        explorer = SmoothRandom(self.action_space.low, self.action_space.high)
        blank = np.empty(0)  # the explorer does not look
        while True:
            self.set_state(self._first_state(int(rng.integers(2**31))))
            explorer.reset(rng)
            for _ in range(int(rng.integers(AHEAD + 1))):
                self._advance(self._clipped(explorer.act(blank)[0]))
            # Six and three decimals: shorter files, and the same on machines that round a last bit otherwise.
            start = np.round(self.get_state(), 6) + 0.0
            self.set_state(start)
            actions = np.stack([explorer.act(blank)[0] for _ in range(AHEAD)]).round(3).astype(np.float32)
            actions = np.clip(actions, self.action_space.low, self.action_space.high)
            for action in actions:
                self._advance(self._clipped(action))
            goal = np.round(self.get_state(), 6) + 0.0
            if not self.success(start, goal):
                return start, goal, actions

    def _first_state(self, seed: int) -> np.ndarray:
        """Where the environment begins an episode of this seed."""
        self._env.reset(seed=seed)
        return get_state(self._env)

    def _picture(self) -> np.ndarray:
        return self.render_state(self.get_state())

    def _clipped(self, actions: np.ndarray) -> np.ndarray:
        """Actions (..., A) float64 inside the bounds.

        Raises:
            ValueError: wrong last dimension, or an action that is not finite.
        """
        actions, dims = np.asarray(actions, dtype=np.float64), self.action_space.low.size
        if actions.shape[-1:] != (dims,):
            raise ValueError(
                f"actions of {self._name} have {dims} dimensions, got an array of shape {actions.shape}"
            )
        if not np.isfinite(actions).all():
            raise ValueError(f"an action for {self._name} is NaN or infinite; check the policy that made it")
        return np.clip(actions, self.action_space.low, self.action_space.high)

    def _checked(self, state: np.ndarray, what: str) -> np.ndarray:
        state = np.array(state, dtype=np.float64)
        if state.shape != (self._state_size,) or not np.isfinite(state).all():
            raise ValueError(
                f"the {what} of {self._name} is {self._state_size} finite numbers, got shape {state.shape}; "
                "was it made with another environment or MuJoCo version?"
            )
        return state


class SimulatedGymWorld(GymWorld):
    """Of an environment whose step writes the action to MuJoCo's controls, steps the model, and no more.

    So the simulator alone does what it does, many times at once (`envs.simulate.SimulatorCost`).
    """

    def __init__(self, env: gym.Env[Any, Any], trial: Trial, *args: Any) -> None:
        super().__init__(env, trial, *args)
        self.substeps = trial.substeps
        self._data = mujoco.MjData(self.model)
        self.set_state(get_state(env))

    def controls(self, actions: np.ndarray) -> np.ndarray:
        """MuJoCo controls (..., nu) float64 for actions (..., A): the actions, clipped to their bounds."""
        return self._clipped(actions)

    def get_state(self) -> np.ndarray:
        state = np.empty(self._state_size)
        mujoco.mj_getState(self.model, self._data, state, STATE)
        return state

    def set_state(self, state: np.ndarray) -> None:
        mujoco.mj_setState(self.model, self._data, self._checked(state, "state"), STATE)

    def _advance(self, action: np.ndarray) -> None:
        self._data.ctrl[:] = action
        mujoco.mj_step(self.model, self._data, nstep=self.substeps)


class SteppedGymWorld(GymWorld):
    """Of an environment that turns actions into forces by code of its own, and so is stepped itself.

    `envs.simulate.SimulatorCost` tries plans in it one after the other, which is much slower.
    """

    def get_state(self) -> np.ndarray:
        return get_state(self._env)

    def set_state(self, state: np.ndarray) -> None:
        put_state(self._env, self._checked(state, "state"))

    def _advance(self, action: np.ndarray) -> None:
        step_afresh(self._env, action)


def _own_view(env: Any, model: Any, view: Mapping[str, Any]) -> dict[str, Any]:
    """The camera that the environment itself would draw with, as arguments of `Camera`; changed by `view`."""
    renderer = getattr(env, "mujoco_renderer", None)
    if renderer is None:
        return {"view": view}
    if (renderer.camera_id if renderer.camera_id is not None else -1) >= 0 and not view:
        return {"camera": int(renderer.camera_id)}
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    # The middle of the shapes, as gymnasium has it; there, it is that of the first state that is drawn.
    middle = {"lookat": np.median(data.geom_xpos, axis=0), "distance": model.stat.extent}
    own = {**middle, **(renderer.default_cam_config or {})}
    return {"view": {**{k: v for k, v in own.items() if k not in ("type", "fixedcamid")}, **view}}

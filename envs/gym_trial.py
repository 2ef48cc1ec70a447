"""The first steps of a foreign MuJoCo environment: what they tell about its states, and whether it can be a world."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
# Fields of a model that are only looked at; what an environment changes in them does not move anything.
_LOOKS = ("site_", "light_", "cam_", "mat_", "tex_", "geom_rgba", "geom_matid", "skin_", "tendon_rgba")
_FAST = 8.0  # velocity of every joint, in rad/s or m/s, from which a trial begins
_TRIAL = 10  # steps of each kind of action in `_trial_actions`


def is_mujoco(env: object) -> bool:
    """Whether an environment has a MuJoCo model and its data."""
    # The attributes of some environments raise until the first reset.
    try:
        model = getattr(env, "model", None)
    except ValueError:
        return True
    return isinstance(model, mujoco.MjModel)


class Trial:
    """What a new environment does in its first steps: which kind of world it is, or why it is none.

    Attributes:
        model: a copy of its model.
        seconds: duration of a step.
        substeps: MuJoCo's steps in one.
        simulated: whether its steps are bit for bit those of MuJoCo under the action.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str) -> None:
        env.reset(seed=0)
        self.model = copy.copy(_mujoco(env)[0])
        start = get_state(env)
        env.reset(seed=1)
        if changed := _changes(self.model, _mujoco(env)[0]):
            raise ValueError(
                f"a reset of {name} changes its MuJoCo model ({', '.join(changed[:3])}), so a state does not "
                "tell what happens next; write a world of its own, see docs/extending.md"
            )
        env.reset(seed=0)
        if not np.array_equal(get_state(env), start):
            raise ValueError(
                f"{name} begins two episodes of the same seed differently: it cannot be repeated"
            )
        actions = _trial_actions(env.action_space)
        own = _steps(env, actions)
        self.seconds = float(own[0][0] - start[0])
        self.substeps = round(self.seconds / self.model.opt.timestep)
        if self.substeps < 1:
            raise ValueError(f"a step of {name} does not advance MuJoCo's time; see docs/extending.md")
        # Once more from a state in full motion, where an environment that limits velocities does it.
        fast = start.copy()
        fast[1 + self.model.nq : 1 + self.model.nq + self.model.nv] = _FAST
        put_state(env, fast)
        own_fast = _steps(env, actions[:3])
        self.simulated = np.array_equal(own, self._simulate(start, actions)) and np.array_equal(
            own_fast, self._simulate(fast, actions[:3])
        )
        if not self.simulated:
            _check_memory(env, start, actions, name)
        env.reset(seed=0)

    def _simulate(self, start: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The same steps by MuJoCo alone; NaN if the actions are not its controls."""
        if actions.shape[1] != self.model.nu:
            return np.full((len(actions), len(start)), np.nan)
        data = mujoco.MjData(self.model)
        mujoco.mj_setState(self.model, data, start, STATE)
        states = np.empty((len(actions), len(start)))
        for action, state in zip(actions, states, strict=True):
            data.ctrl[:] = action
            mujoco.mj_step(self.model, data, nstep=self.substeps)
            mujoco.mj_getState(self.model, data, state, STATE)
        return states


def _check_memory(env: gym.Env[Any, Any], start: np.ndarray, actions: np.ndarray, name: str) -> None:
    """Raise ValueError unless the state decides about the future, whatever has happened before."""
    put_state(env, start)
    first = _steps(env, actions, afresh=True)
    env.reset(seed=1)
    _steps(env, actions[::-1])
    put_state(env, start)
    if not np.array_equal(_steps(env, actions, afresh=True), first):
        raise ValueError(
            f"a step of {name} depends on more than MuJoCo's state, so it cannot be set back to a state; write a "
            "world of its own, see docs/extending.md"
        )


def _trial_actions(space: Any) -> np.ndarray:
    """Actions (n, A) that go to the limits, where environments that clip or filter something do it."""
    low, high = (np.clip(bound, -1e3, 1e3) for bound in (space.low, space.high))
    random = np.random.default_rng(0).uniform(low, high, (_TRIAL, *space.shape))
    return np.concatenate([np.tile(high, (_TRIAL, 1)), random, np.tile(low, (_TRIAL, 1))]).astype(space.dtype)


def _steps(env: gym.Env[Any, Any], actions: np.ndarray, afresh: bool = False) -> np.ndarray:
    """The states (n, S) after each of some steps of the environment."""
    states = []
    for action in actions:
        step_afresh(env, action) if afresh else env.step(action)
        states.append(get_state(env))
    return np.stack(states)


def step_afresh(env: gym.Env[Any, Any], action: np.ndarray) -> None:
    """Step with everything computed from the state, and nothing left over from the step before."""
    put_state(env, get_state(env))
    env.step(np.asarray(action, dtype=env.action_space.dtype))


def _mujoco(env: Any) -> tuple[Any, Any]:
    return env.model, env.data


def get_state(env: gym.Env[Any, Any]) -> np.ndarray:
    """The full integration state (S,) of an environment."""
    model, data = _mujoco(env)
    state = np.empty(mujoco.mj_stateSize(model, STATE))
    mujoco.mj_getState(model, data, state, STATE)
    return state


def put_state(env: gym.Env[Any, Any], state: np.ndarray) -> None:
    """Set an environment back to a state (S,)."""
    model, data = _mujoco(env)
    mujoco.mj_setState(model, data, state, STATE)
    mujoco.mj_forward(model, data)  # positions of bodies and the like, which environments read
    mujoco.mj_setState(model, data, state, STATE)  # forward changes the part that the solver starts from


def _changes(before: Any, after: Any) -> list[str]:
    """Names of a model's fields that differ and move something."""
    names = [name for name in dir(before) if isinstance(getattr(before, name), np.ndarray)]
    names = [name for name in names if not name.startswith(_LOOKS)]
    changed = [name for name in names if not np.array_equal(getattr(before, name), getattr(after, name))]
    options = [
        name for name in dir(before.opt) if isinstance(getattr(before.opt, name), int | float | np.ndarray)
    ]
    return changed + [
        f"opt.{name}"
        for name in options
        if not np.array_equal(getattr(before.opt, name), getattr(after.opt, name))
    ]

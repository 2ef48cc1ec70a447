"""The true simulator as a cost: what a planner could do with a perfect model of the world.

Run the same search with this cost and with a learned one, and the difference is the model's, not the
search's.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, cast

import mujoco
import numpy as np

from envs.world import TaskWorld, make_world

try:  # newer MuJoCo only; bit-identical to a loop over single simulations
    from mujoco.batch import Batch
except ImportError:
    Batch = None

#: What a simulator's cost may measure, and the world's method that does.
DISTANCES = {"way": "distances", "straight": "straight_distances"}
_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)


class MujocoWorld(TaskWorld, Protocol):
    """A world whose step writes `controls(action)` and then steps `model` `substeps` times, and no more.

    Its state is mjSTATE_INTEGRATION. What a longer state has behind that (the look of an episode, see `envs.looks`)
    stays as it is.
    """

    model: Any
    substeps: int

    def controls(self, actions: np.ndarray) -> np.ndarray:
        """MuJoCo controls (..., nu) float64 for actions (..., A)."""


class SimulatorCost:
    """Rolls candidate plans out in the simulator and scores the way that is left to the goal.

    Exact: the states are bit for bit those of stepping the environment. One object must not be used from
    several threads.

    Args:
        env_id: a world. One that is not simulated by MuJoCo alone is stepped itself, one candidate after
            another in one thread, which is much slower; by `next_state(state, action)`, which draws no picture,
            if it has that.
        path: weight of the mean distance over the plan's L model steps, in which step t weighs t.
        final: weight of the distance after the last step.
        minimum: weight of the least distance on the way.
        threads: 0 for all cores that this process may use.
        distance: what is scored: "way", the world's own distance, which knows the way to the goal; or "straight", the
            Euclidean distance, which knows as little of walls as a latent's does.
        backend: "batch" (mujoco.batch), "loop" (over simulations) or "world" (see `env_id`); by default the
            first that this world and this MuJoCo have.

    Raises:
        ValueError: the environment is unknown or has not what the backend needs, or the backend is missing.
    """

    def __init__(
        self,
        env_id: str,
        path: float = 1.0,
        final: float = 1.0,
        minimum: float = 0.5,
        threads: int = 0,
        backend: str | None = None,
        distance: str = "way",
    ) -> None:
        world = make_world(env_id)
        if distance not in DISTANCES:
            raise ValueError(f"unknown distance {distance!r} of a simulator; choose {' or '.join(DISTANCES)}")
        if not hasattr(world, measure := DISTANCES[distance]):
            raise ValueError(f"{env_id!r} has no {measure}; use distance='way'")
        missing = [name for name in ("model", "substeps", "controls") if not hasattr(world, name)]
        if backend not in (None, "batch", "loop", "world"):
            raise ValueError(f"unknown simulator backend {backend!r}; the choices are batch, loop, world")
        if missing and backend in ("batch", "loop"):
            raise ValueError(
                f"{env_id!r} has no {', '.join(missing)}; see envs.simulate.MujocoWorld, or use backend='world'"
            )
        if backend == "batch" and Batch is None:
            raise ValueError(
                f"MuJoCo {mujoco.__version__} has no mujoco.batch; use backend='loop' or a newer MuJoCo"
            )
        self.world = cast(MujocoWorld, world)
        self.path, self.final, self.minimum = path, final, minimum
        self._distances = getattr(world, measure)
        self.action_low: np.ndarray = world.action_space.low
        self.action_high: np.ndarray = world.action_space.high
        self._state_size = self._simulated_size = world.get_state().size
        self._threads = threads or _cores()
        if missing or backend == "world":
            self._simulate = self._simulate_world
        elif Batch is None or backend == "loop":
            self._simulate = self._simulate_loop
        else:
            self._simulate = self._simulate_batch
        if self._simulate != self._simulate_world:
            self._simulated_size = mujoco.mj_stateSize(self.world.model, _STATE)
        self._batch: Any = None
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, states: np.ndarray, goals: np.ndarray, plans: np.ndarray) -> np.ndarray:
        """Costs (E, N) float64, lower is better, of N plans for each of E environments.

        Args:
            states: (E, S) float64, where each environment is.
            goals: (E, S) float64.
            plans: (E, N, L, K, A) actions.
        """
        goals = np.asarray(goals, dtype=np.float64)
        distances = self._distances(self.rollout(states, plans), goals[:, None, None])
        weight = np.arange(1, distances.shape[2] + 1)
        path = distances @ (weight / weight.sum())
        final, least = distances[:, :, -1], distances.min(axis=2)
        return self.path * path + self.final * final + self.minimum * least

    def rollout(self, states: np.ndarray, plans: np.ndarray) -> np.ndarray:
        """The state after each model step, (E, N, L, S) float64, for states (E, S) and plans (E, N, L, K, A).

        Raises:
            ValueError: shapes that do not fit together, or an action that is not finite.
        """
        states = np.asarray(states, dtype=np.float64)
        plans = np.asarray(plans)
        fits = states.ndim == 2 and states.shape[1] == self._state_size and plans.ndim == 5
        if not fits or len(plans) != len(states):
            raise ValueError(
                f"states have shape {states.shape} and plans {plans.shape}; needed are (E, {self._state_size}) "
                "and (E, N, L, K, A)"
            )
        environments, candidates, length, block = plans.shape[:4]
        actions = plans.reshape(environments * candidates, length * block, -1)
        rows = np.repeat(states, candidates, axis=0)
        ends = self._simulate(rows[:, : self._simulated_size], actions, block)
        if kept := self._state_size - self._simulated_size:
            rest = np.broadcast_to(rows[:, None, -kept:], (*ends.shape[:2], kept))
            ends = np.concatenate([ends, rest], axis=2)
        return ends.reshape(environments, candidates, length, -1)

    def _simulate_batch(self, rows: np.ndarray, actions: np.ndarray, block: int) -> np.ndarray:
        """States (n, L, S) every `block` steps, from rows (n, S) under actions (n, L * K, A)."""
        controls = self.world.controls(actions)
        count, steps = controls.shape[:2]
        if self._batch is None or self._batch.nsim < count:
            self._batch = Batch(self.world.model, count, self._threads)
        ids = None if self._batch.nsim == count else np.arange(count)
        self._batch.state[:count] = rows
        ends = np.empty((count, steps // block, rows.shape[1]))
        for step in range(steps):
            self._batch.ctrl[:count] = controls[:, step]
            self._batch.step(ids, nstep=self.world.substeps)
            if (step + 1) % block == 0:
                ends[:, step // block] = self._batch.state[:count]
        return ends

    def _simulate_loop(self, rows: np.ndarray, actions: np.ndarray, block: int) -> np.ndarray:
        """The same with one simulation after the other in each thread; MuJoCo lets go of the GIL while it steps."""
        controls = self.world.controls(actions)
        model, ends = self.world.model, np.empty((len(rows), controls.shape[1] // block, rows.shape[1]))

        def work(share: range) -> None:
            data = mujoco.MjData(model)
            for i in share:
                mujoco.mj_setState(model, data, rows[i], _STATE)
                for step, control in enumerate(controls[i]):
                    data.ctrl[:] = control
                    mujoco.mj_step(model, data, nstep=self.world.substeps)
                    if (step + 1) % block == 0:
                        mujoco.mj_getState(model, data, ends[i, step // block], _STATE)

        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads)
        list(self._pool.map(work, [range(first, len(rows), self._threads) for first in range(self._threads)]))
        return ends

    def _simulate_world(self, rows: np.ndarray, actions: np.ndarray, block: int) -> np.ndarray:
        """The same by the world's own `step`, for worlds that are simulated by something else."""
        if not np.isfinite(actions).all():
            raise ValueError("an action of a plan is NaN or infinite; check the planner that made it")
        ends = np.empty((len(rows), actions.shape[1] // block, rows.shape[1]))
        next_state = getattr(self.world, "next_state", self._step)
        for state, plan, states in zip(rows, actions, ends, strict=True):
            for step, action in enumerate(plan):
                state = next_state(state, action)
                if (step + 1) % block == 0:
                    states[step // block] = state
        return ends

    def _step(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        self.world.set_state(state)
        self.world.step(action)
        return self.world.get_state()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

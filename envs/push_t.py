"""PushT: a disc pushes a T-shaped block over a table, seen from above.

The physics are gym-pusht's (Diffusion Policy, arXiv:2303.04137), simulated by pymunk; actions are relative and a
goal is a picture of block and agent, as in DINO-WM (arXiv:2411.04983) and stable-worldmodel. Install with
`pip install worldmodel[pusht]`.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from envs.push_t_geometry import AGENT_RADIUS, INNER_WALL, OUTLINE, SIDE, outside, to_block, to_world
from envs.push_t_picture import Picture
from envs.push_t_pusher import Pusher

REACH = 100.0  # px of an action of 1

SUBSTEPS = 10
TIMESTEP = 0.01
STIFFNESS, DAMPING = 100.0, 20.0  # of the controller that moves the agent
WALL_LINE, WALL_RADIUS = (5.0, 506.0), 2.0

SUCCESS_DISTANCE = 20.0  # px
SUCCESS_ANGLE = math.pi / 9
COVERAGE = 0.95
EASY = (40.0, 100.0)  # how far the block of an easy task is moved, see `block_distance`
CLEARANCE = 10.0  # px between the agent and the block, and the block and the walls, where tasks begin and end

_AGENT, _POSE = slice(0, 2), slice(4, 7)  # of the state vector
_STATE_SIZE = 10


class PushT(gym.Env[np.ndarray, np.ndarray]):
    """Push a block until it lies, and the agent stands, as in a picture.

    Observation: the picture, (64, 64, 3) uint8. Action: where the agent is to go, (2,) float32 in [-1, 1] x 100 px
    from where it is; a controller pulls it there for 0.1 s and it gets a part of the way, at most 30 px from rest and
    41 px at full speed along each axis. The wanted place is kept on the table. The agent is stronger than anything:
    it goes through walls, and presses the block into them.

    State (10,) float64: the agent's x, y in px and velocity in px/s; the block's x, y and angle in rad (at the
    middle of the T's upper edge), and its velocities. Every step begins with a new simulation that is made from
    the state, so nothing is hidden in pymunk's caches, and a state that is set back leads to the same bits.

    `reset(options={"state": ..., "goal": ...})` starts from a given state and sets a goal state; both are
    optional. With a goal, the step that reaches it has reward 1 and ends the episode; every other reward is 0.

    Args:
        render_mode: None or "rgb_array"; the observation is the picture in either case.
        size: height and width of the picture in pixels; 64 unless a larger one is wanted for a figure.

    Raises:
        ValueError: gym-pusht is not installed, or an unknown render mode.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]  # gymnasium declares it on instances
        "render_modes": ["rgb_array"],
        "render_fps": 1.0 / (SUBSTEPS * TIMESTEP),
    }
    horizon = 150
    task_mix: Mapping[str, float] = {"hard": 0.5, "easy": 0.5}

    def __init__(self, render_mode: str | None = None, size: int = 64) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode of {self._name} is None or 'rgb_array', not {render_mode!r}")
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._pymunk, self._builder = _load_simulator()
        self._picture = Picture(size)
        self._state = self.state_at((256.0, 400.0), (256.0, 256.0), 0.0)
        self._goal: np.ndarray | None = None
        self._pusher = self._make_pusher()

    # gymnasium

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        if unknown := set(options) - {"state", "goal"}:
            raise ValueError(f"{self._name}.reset has the options 'state' and 'goal', not {sorted(unknown)}")
        state = options.get("state")
        self.set_state(self._random_state(self.np_random) if state is None else state)
        goal = options.get("goal")
        self._goal = None if goal is None else self._checked(goal, "goal")
        return self._draw(self._state), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._state = self.next_state(self._state, action)
        success = self._goal is not None and self.success(self._state, self._goal)
        return self._draw(self._state), float(success), success, False, {}

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        return self._draw(self._state) if self.render_mode == "rgb_array" else None

    # the task contract (envs.world.TaskWorld)

    def get_state(self) -> np.ndarray:
        """The state (10,) float64."""
        return self._state.copy()

    def set_state(self, state: np.ndarray) -> None:
        """Continue from a state; every later step is bit for bit what it was after `get_state`.

        Raises:
            ValueError: the vector has another length, or is not finite.
        """
        self._state = self._checked(state, "state")

    def render_state(self, state: np.ndarray) -> np.ndarray:
        """The picture of a state, (H, W, 3) uint8."""
        return self._draw(self._checked(state, "state"))

    def success(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether agent and block are within 20 px of the goal's, jointly, and the angle within pi/9.

        Jointly: it is the length of the vector of four coordinates that counts, as in DINO-WM and
        stable-worldmodel. Velocities do not matter.
        """
        gap = _gap(state, goal)
        return bool(math.sqrt((gap[:4] ** 2).sum()) < SUCCESS_DISTANCE and abs(gap[4]) < SUCCESS_ANGLE)

    def distance(self, state: np.ndarray, goal: np.ndarray) -> float:
        """What is left to go from `state` (S,) to `goal` (S,), see `distances`."""
        return float(self.distances(state, goal))

    def distances(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Length of the difference of agent and block in px and angle in degrees: 20 px weigh as much as pi/9.

        (..., S) and (..., S), broadcast together, to (...) float64.
        """
        gap = _gap(states, goals)
        gap[..., 4] *= 180.0 / math.pi
        return np.sqrt(np.square(gap).sum(axis=-1))

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        """A start and a goal at rest, and the label: "hard" from a block distance of 100 on, "easy" from 40.

        The start is drawn as in gym-pusht: agent in [50, 450], block in [100, 400] along each axis, any angle. A hard
        goal is another such state; the block of an easy one lies up to 60 px along each axis and 60 degrees away.
        Agent, block and walls are at least 10 px apart.
        """
        label = str(rng.choice(list(self.task_mix), p=list(self.task_mix.values())))
        low, high = EASY if label == "easy" else (EASY[1], math.inf)
        while True:
            start = self._random_state(rng)
            near = start[_POSE] if label == "easy" else None
            goal = self._random_state(rng, near)
            if low <= block_distance(start, goal) < high:
                return start, goal, label

    def scripted_action(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """One action (2,) float32 of a hand-written pusher, see `envs.push_t_pusher`."""
        return self._pusher.action(np.asarray(state, dtype=float), np.asarray(goal, dtype=float))

    def state_at(self, agent: tuple[float, float], block: tuple[float, float], angle: float) -> np.ndarray:
        """The state (10,) at rest with the agent and the block at these places (px) and the block's angle (rad)."""
        return np.array([*agent, 0, 0, *block, angle, 0, 0, 0], dtype=np.float64)

    # simulation

    def next_state(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The state (10,) after one step from a state (10,); depends on its arguments alone, and draws nothing.

        Raises:
            ValueError: the action is not two finite numbers.
        """
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (2,) or not np.isfinite(action).all():
            raise ValueError(f"an action for {self._name} is 2 finite numbers, got {action}")
        space, agent, block = self._build(state.tolist())
        x, y = np.clip(state[_AGENT] + REACH * np.clip(action, -1.0, 1.0), 0.0, SIDE).tolist()
        for _ in range(SUBSTEPS):
            px, py = agent.position
            vx, vy = agent.velocity
            ax, ay = STIFFNESS * (x - px) - DAMPING * vx, STIFFNESS * (y - py) - DAMPING * vy
            agent.velocity = vx + ax * TIMESTEP, vy + ay * TIMESTEP
            space.step(TIMESTEP)
        turn = block.angle, *block.velocity, block.angular_velocity
        return np.array([*agent.position, *agent.velocity, *block.position, *turn])

    def _build(self, state: list[float]) -> tuple[Any, Any, Any]:
        """A new pymunk space with the agent's and the block's body in a state."""
        space, builder = self._pymunk.Space(), self._builder
        space.damping = 0.0  # the table takes all speed at once: the block only moves while it is pushed
        low, high = WALL_LINE
        corners = ((low, high), (low, low), (high, low), (high, high))
        ends = (*corners[1:], corners[0])
        space.add(
            *(builder.add_segment(space, a, b, WALL_RADIUS) for a, b in zip(corners, ends, strict=True))
        )
        agent = builder.add_circle(space, (state[0], state[1]), AGENT_RADIUS)
        agent.velocity = state[2], state[3]
        block, _ = builder.add_tee(space, (state[4], state[5]), 0.0)
        block.angle = state[6]  # turns it about its centre of gravity, so the position comes after
        block.position, block.velocity = (state[4], state[5]), (state[7], state[8])
        block.angular_velocity = state[9]
        return space, agent, block

    # tasks and pictures

    def _make_pusher(self) -> Pusher:
        return Pusher()

    def _random_state(self, rng: np.random.Generator, near: np.ndarray | None = None) -> np.ndarray:
        """A state at rest in which nothing touches; `near` (3,) limits the block to poses around it."""
        while True:
            if near is None:
                block, angle = rng.uniform(100.0, 400.0, 2), rng.uniform(-math.pi, math.pi)
            else:
                block, angle = (
                    near[:2] + rng.uniform(-60.0, 60.0, 2),
                    near[2] + rng.uniform(-math.pi / 3, math.pi / 3),
                )
            agent = rng.uniform(50.0, 450.0, 2)
            corners = to_world(OUTLINE, block, angle)
            low, high = INNER_WALL[0] + CLEARANCE, INNER_WALL[1] - CLEARANCE
            gap = float(outside(to_block(agent, block, angle))) - AGENT_RADIUS
            if corners.min() >= low and corners.max() <= high and gap >= CLEARANCE:
                return self.state_at((agent[0], agent[1]), (block[0], block[1]), angle)

    @property
    def background(self) -> np.ndarray:
        """The picture without agent and block, (H, W, 3) float64."""
        return self._picture.table

    def paint(self, picture: np.ndarray, state: np.ndarray) -> None:
        """Paint agent and block of a state (S,) over a picture (H, W, 3) of floats, in place."""
        self._picture.paint(picture, state[_AGENT], state[4:6], float(state[6]))

    def _draw(self, state: np.ndarray) -> np.ndarray:
        return self._picture.draw(state[_AGENT], state[4:6], float(state[6]))

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _checked(self, state: np.ndarray, what: str) -> np.ndarray:
        state = np.array(state, dtype=np.float64)
        if state.shape != (_STATE_SIZE,) or not np.isfinite(state).all():
            raise ValueError(
                f"the {what} of {self._name} is {_STATE_SIZE} finite numbers, got shape {state.shape}; "
                "was it made with another environment?"
            )
        return state


class PushTCoverage(PushT):
    """PushT in which the block alone counts: 95% of the goal T must be covered, as in gym-pusht.

    Everything else is `PushT`'s, goals too: they are any pose, not gym-pusht's one.
    """

    def success(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether the block covers more than 95% of the goal's; see `coverage`."""
        return self.coverage(state, goal) > COVERAGE

    def distances(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """`block_distance`: how far the block is away, in px and degrees, whatever the agent does.

        (..., S) and (..., S), broadcast together, to (...) float64.
        """
        return block_distance(states, goals)

    def coverage(self, state: np.ndarray, goal: np.ndarray) -> float:
        """The share of the goal's T that the state's T covers, 0 to 1."""
        gap = _gap(state, goal)
        if math.hypot(gap[2], gap[3]) > 300.0:
            return 0.0
        shape, wanted = (self._tee(np.asarray(s, dtype=float)[_POSE]) for s in (state, goal))
        return float(wanted.intersection(shape).area / wanted.area)

    def _make_pusher(self) -> Pusher:
        return Pusher(tolerance=1.0, place_agent=False)

    def _tee(self, pose: np.ndarray) -> Any:
        geometry = importlib.import_module("shapely.geometry")  # gym-pusht needs it too
        return geometry.Polygon(to_world(OUTLINE, pose[:2], pose[2]))


def block_distance(states: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Length of the difference of the block's place in px and angle in degrees, (..., S) and (..., S) to (...)."""
    gap = _gap(states, goals)[..., 2:]
    gap[..., 2] *= 180.0 / math.pi
    return np.sqrt(np.square(gap).sum(axis=-1))


def _gap(states: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """States minus goals, (..., 5): agent x, y, block x, y in px, and the angle in rad in [-pi, pi)."""
    gap = np.asarray(states, dtype=float) - np.asarray(goals, dtype=float)
    gap = np.concatenate([gap[..., _AGENT], gap[..., _POSE]], axis=-1)
    gap[..., 4] = (gap[..., 4] + math.pi) % (2 * math.pi) - math.pi
    return gap


def _load_simulator() -> tuple[Any, Any]:
    """pymunk, and the class of gym-pusht that builds bodies and shapes; imported when a world is made."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # gym-pusht imports pygame
    try:
        return importlib.import_module("pymunk"), importlib.import_module("gym_pusht.envs.pusht").PushTEnv
    except ImportError as error:
        raise ValueError(f"PushT needs gym-pusht: pip install worldmodel[pusht] ({error})") from error

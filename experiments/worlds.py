"""What an evaluation learns from a known environment: names of its state, the true distance, pictures of states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.evaluation.plannability import Distances, euclidean
from worldmodel.evaluation.state_probes import Targets, varying_targets
from worldmodel.evaluation.surprise import FreeMotion, Render
from worldmodel.evaluation.trajectories import Trajectory

#: Share of free motion that actions must explain, before an agent is sent through a wall by it.
EXPLAINED = 0.8
#: Mean difference of drawn and stored frames, in grey levels, up to which they are the same: what a codec leaves.
ALIKE = 4.0


@dataclass(frozen=True)
class KnownWorld:
    """What is known about the states of some data; None where nothing is.

    Attributes:
        targets: What probes read.
        distances: The true distance.
        distance_name: What it is, for axes.
        render: Draws a state.
        motion: How the agent moves where nothing is in its way.
        notes: What is not known, and why.
    """

    targets: Targets | None
    distances: Distances | None
    distance_name: str
    render: Render | None
    motion: FreeMotion | None
    notes: list[str]


def know(
    env_id: str,
    env_args: dict[str, Any],
    train: Sequence[Trajectory],
    state_dims: Sequence[int],
    state_names: Sequence[str],
) -> KnownWorld:
    """What can be told about the states of these data.

    Args:
        env_id, env_args: The environment, as the data name it; it need not exist here.
        train: Training episodes.
        state_dims: Dimensions of the state to look at; empty: the world's coordinates and velocities, or all that vary.
        state_names: Names of the state's dimensions, where the data have them.

    Raises:
        ValueError: ``state_dims`` are not those of the states.
    """
    if any(episode.states is None for episode in train):
        why = "the data have no states: no probes, no plannability, no walls to pass through"
        return KnownWorld(None, None, "", None, None, [why])
    assert train[0].states is not None
    size = train[0].states.shape[1]
    if any(not 0 <= dim < size for dim in state_dims):
        raise ValueError(
            f"state_dims={list(state_dims)}: the data's states have {size} dimensions, 0 to {size - 1}"
        )
    world, draws, notes = open_world(env_id, env_args, train)
    if state_dims:
        names = [state_names[i] if i < len(state_names) else f"state {i}" for i in state_dims]
        chosen = list(state_dims)
        targets = Targets(names, lambda states: states[:, chosen])
    else:
        targets = (world and coordinates(world, size)) or varying_targets(train, state_names)
    if world is None:
        if not state_dims:
            notes.append(
                "plannability left out: the true distance is not known; state_dims=[...] takes the Euclidean one"
            )
            return KnownWorld(targets, None, "", None, None, notes)
        name = f"Euclidean distance of {', '.join(targets.names)}"
        return KnownWorld(targets, euclidean(state_dims), name, None, None, notes)

    def render(state: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(world.render_state(state), -1, 0))

    motion = free_motion(world, train, size)
    return KnownWorld(targets, world.distances, "true distance", render if draws else None, motion, notes)


def open_world(
    env_id: str, env_args: dict[str, Any], train: Sequence[Trajectory]
) -> tuple[Any, bool, list[str]]:
    """The environment that the data came from, or None; whether it draws their frames; and what is missing."""
    try:
        import envs  # noqa: F401 (registers the worlds)
        from envs.world import make_world
    except ModuleNotFoundError as error:
        return None, False, [f"the environment is left out: {error.name} is not installed"]
    assert train[0].states is not None
    try:
        world: Any = make_world(env_id, **env_args) if env_args else make_world(env_id)
        drawn = np.moveaxis(world.render_state(train[0].states[0]), -1, 0)
    except (ValueError, TypeError) as error:
        return None, False, [f"the environment {env_id!r} is left out: {error}"]
    frame = train[0].frames[0]
    same = drawn.shape == frame.shape and np.abs(drawn.astype(int) - frame).mean() <= ALIKE
    return (
        world,
        same,
        [] if same else ["the environment draws other frames than the data have: nothing passes walls"],
    )


def coordinates(world: Any, size: int) -> Targets | None:
    """Joint coordinates and velocities of a MuJoCo world, whose states are integration states; angles as sine, cosine.

    None for any other world.
    """
    model: Any = getattr(world, "model", None)
    joints = int(getattr(model, "njnt", 0))
    if not joints or size < 1 + model.nq + model.nv or model.nq != joints or model.nv != joints:
        return None
    names = [model.joint(j).name or f"joint {j}" for j in range(joints)]
    turns = [bool(model.jnt_type[j] == 3) for j in range(joints)]  # a hinge
    places = [
        name
        for name, turn in zip(names, turns, strict=True)
        for name in ([f"sin {name}", f"cos {name}"] if turn else [name])
    ]

    def read(states: np.ndarray) -> np.ndarray:
        parts = []
        for j, turn in enumerate(turns):
            place = states[:, 1 + j]
            parts += [np.sin(place), np.cos(place)] if turn else [place]
        return np.stack([*parts, *states[:, 1 + joints : 1 + 2 * joints].T], axis=1)

    return Targets([*places, *[f"velocity of {name}" for name in names]], read)


def free_motion(world: Any, train: Sequence[Trajectory], size: int) -> FreeMotion | None:
    """Free motion of a world that only slides, if actions explain its displacements; None otherwise."""
    model = getattr(world, "model", None)
    if coordinates(world, size) is None or model is None or (model.jnt_type != 2).any():
        return None
    motion = FreeMotion.fit(train, range(1, 1 + model.nq))
    return motion if motion.explained >= EXPLAINED else None

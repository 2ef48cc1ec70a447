"""A red square that moves as its actions say, and models of it whose qualities are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.trajectories import Imagination, Trajectory
from worldmodel.seeding import keyed_rng

SIZE, SIDE, STEP = 24, 4, 3.0
LIMIT = SIZE - SIDE
#: A wall that stops the square from above: its top row stays above this while it is in the left half.
WALL = 12.0


def draw(state: np.ndarray) -> np.ndarray:
    """The picture ``(3, 24, 24)`` uint8 of a state ``(row, column)``."""
    frame = np.full((3, SIZE, SIZE), 40, dtype=np.uint8)
    row, column = np.clip(np.round(state[:2]).astype(int), 0, LIMIT)
    frame[0, row : row + SIDE, column : column + SIDE] = 220
    return frame


def move(state: np.ndarray, action: np.ndarray, wall: bool = False) -> np.ndarray:
    """One step, stopped by the borders, and by the wall if there is one."""
    wanted = np.clip(state + STEP * action, 0, LIMIT)
    if wall and state[0] <= WALL and wanted[1] < LIMIT / 2:
        wanted[0] = min(wanted[0], WALL)
    return wanted


def look(frames: Tensor, proprio: Tensor | None = None) -> Tensor:
    """An encoder: where the red is, as ``(B, T, 1, 2)``; other colours count less, so that their change shows."""
    shape = frames.shape
    seen = (frames.float() - 40).clamp_min(0) * torch.tensor([1.0, 0.1, 0.5]).view(3, 1, 1)
    weight = seen.sum(dim=2)
    places = torch.arange(SIZE, dtype=torch.float32)
    total = torch.tensor(180.0 * SIDE * SIDE)
    row = (weight.sum(dim=3) * places).sum(dim=2) / total
    column = (weight.sum(dim=2) * places).sum(dim=2) / total
    return torch.stack([row, column], dim=-1).reshape(*shape[:2], 1, 2)


def exact(context: Tensor, past: Tensor, plans: Tensor) -> Tensor:
    """The true dynamics, wall and all, on what ``look`` sees."""
    middle = (SIDE - 1) / 2
    state = context[:, None, -1, 0].expand(-1, plans.shape[1], -1) - middle
    steps = []
    for t in range(plans.shape[2]):
        wanted = (state + STEP * plans[:, :, t, 0]).clamp(0, LIMIT)
        stopped = (state[..., 0] <= WALL + 0.6) & (wanted[..., 1] < LIMIT / 2)
        row = torch.where(stopped, wanted[..., 0].clamp_max(WALL), wanted[..., 0])
        state = torch.stack([row, wanted[..., 1]], dim=-1)
        steps.append(state + middle)
    return torch.stack(steps, dim=2)[:, :, :, None]


def deaf(context: Tensor, past: Tensor, plans: Tensor) -> Tensor:
    """Dynamics that do not listen to actions: nothing moves."""
    return context[:, None, -1:].expand(-1, plans.shape[1], plans.shape[2], -1, -1)


EXACT, DEAF = Imagination(look, exact), Imagination(look, deaf)


def episodes(
    count: int,
    steps: int = 20,
    first: int = 0,
    wall: bool = False,
    latents: Callable[[np.ndarray, np.ndarray], Tensor] | None = None,
) -> list[Trajectory]:
    """Random walks; latents are what ``look`` sees, or a function of (states, frames)."""
    found = []
    for position in range(first, first + count):
        rng = keyed_rng("moving point", position)
        states = [rng.uniform(0, LIMIT, 2)]
        if wall and states[0][0] > WALL:
            states[0][0] -= WALL / 2
        actions = rng.uniform(-1, 1, (steps, 1, 2)).astype(np.float32)
        # Actions are held for a while, so that a walk gets somewhere.
        actions = actions[np.arange(steps) // 4 * 4]
        for action in actions:
            states.append(move(states[-1], action[0], wall))
        frames = np.stack([draw(state) for state in states])
        seen = (
            look(torch.from_numpy(frames)[None])[0] if latents is None else latents(np.array(states), frames)
        )
        found.append(Trajectory(position, frames, torch.from_numpy(actions), seen, np.array(states)))
    return found

"""How an agent searched in one episode, as arrays in a file."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from worldmodel.atomic import write_bytes


@dataclass(frozen=True, eq=False)
class SearchRecord:
    """How an agent searched in one episode: n decisions, of which D are shown closely.

    Where decisions differ in length, NaN fills up. Frames are uint8; actions are in the environment's units.
    """

    step: np.ndarray  # (n,) environment step of each decision
    best: np.ndarray  # (n, I) lowest cost among an iteration's candidates
    mean: np.ndarray  # (n, I) mean cost of those that the iteration learned from
    cost: np.ndarray  # (n,) of the chosen plan
    shown: np.ndarray  # (D,) which decisions
    rounds: np.ndarray  # (D, R) number of the iteration, from 1
    first: np.ndarray  # (D, R, S, A) first action of each candidate
    first_cost: np.ndarray  # (D, R, S) cost of each candidate
    spread: np.ndarray  # (D, R, L) standard deviation of the candidates' actions at each step of the plan
    chosen: np.ndarray  # (D, A) first action of the chosen plan
    low: np.ndarray  # (A,) bounds
    high: np.ndarray  # (A,)
    dims: np.ndarray  # (2,) or (1,) action dimensions that the landscape is over
    axes: np.ndarray  # (D, 2 or 1, G) their values
    landscape: (
        np.ndarray
    )  # (D, G, G) or (D, 1, G) cost with the first action replaced; rows are the second dimension
    columns: np.ndarray  # (C,) model steps after the decision at which futures are shown; the first is 0
    imagined: np.ndarray  # (D, C, 3, H, W) what the model imagined; D = 0 where the simulator imagines
    planned: np.ndarray  # (D, C, 3, H, W) the plan, executed to its end in the world
    came: np.ndarray  # (D, C, 3, H, W) what came
    came_there: np.ndarray  # (D, C) bool; False: the episode had ended
    goal: np.ndarray  # (3, H, W)
    viewer: np.ndarray  # text: how imagined latents became pictures

    def save(self, path: Path) -> None:
        """Write a file that ``load`` reads."""
        memory = io.BytesIO()
        np.savez_compressed(memory, **vars(self))
        write_bytes(path, memory.getvalue())

    @classmethod
    def load(cls, path: Path) -> SearchRecord:
        """Read what ``save`` wrote.

        Raises:
            ValueError: The file is damaged.
        """
        try:
            with np.load(path) as file:
                return cls(**{field.name: file[field.name] for field in fields(cls)})
        except (KeyError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged ({error}); delete its directory and plan again") from error

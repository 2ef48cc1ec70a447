"""An agent for world models whose encoder sees several frames at each step (``encoder_window``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from planners.base import Bounds, Cost, History, Planner
from planners.mpc import MPCAgent, MPCConfig


class WindowAgent(MPCAgent):
    """An ``MPCAgent`` whose costs see, for each step, the last ``window`` frames ``(E, W, C, H, W)`` instead of one.

    An episode's first frame is repeated where there are fewer, as in training. A goal is one picture, repeated: being
    there at rest.

    Args:
        window: Frames of a step, its own included.
        planner: See ``MPCAgent``, as for the others.
        make_cost: Its ``encode`` takes windows.
        bounds: Of the actions.
        init_mean: ``(A,)``.
        init_std: ``(A,)``.
        config: The agent's settings.
    """

    def __init__(
        self,
        window: int,
        planner: Planner,
        make_cost: Callable[[History], Cost],
        bounds: Bounds,
        init_mean: Tensor,
        init_std: Tensor,
        config: MPCConfig | None = None,
    ) -> None:
        super().__init__(planner, make_cost, bounds, init_mean, init_std, config)
        self.window = window
        self._frames: list[Tensor | None] = []

    def reset(self, goals: Tensor, seeds: Tensor | Sequence[int]) -> None:
        """See ``MPCAgent.reset``."""
        goals = torch.as_tensor(goals)
        self._frames = [None] * len(goals)
        super().reset(goals[:, None].repeat_interleave(self.window, 1), seeds)

    def act(self, observations: Tensor, active: Tensor | None = None, began: float | None = None) -> Tensor:
        """See ``MPCAgent.act``; frames ``(E, C, H, W)`` as for any other model."""
        observations = torch.as_tensor(observations)
        rows = self.active_rows(observations, active)
        for row in rows:
            frame, seen = observations[row].clone(), self._frames[row]
            self._frames[row] = self._still(frame) if seen is None else torch.cat([seen[1:], frame[None]])
        still = [self._still(frame) for frame in observations]
        windows = [one if seen is None else seen for one, seen in zip(still, self._frames, strict=True)]
        return super().act(torch.stack(windows), active, began)

    def _still(self, frame: Tensor) -> Tensor:
        return frame[None].expand(self.window, *frame.shape)

"""Training an objective with the real loop, in any number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.worldmodel.squares import small_objective, squares
from worldmodel.masks import MaskConfig, draw_masks
from worldmodel.objectives.base import Batch, ObjectiveConfig
from worldmodel.training.distributed import current_world, rank_indices
from worldmodel.training.loop import LoopConfig, fit
from worldmodel.training.run import Run

MASKS = {
    "short": MaskConfig(kind="blocks", blocks=4),
    "long": MaskConfig(kind="blocks", blocks=1, scale_min=0.6, scale_max=0.6),
}


def train(path: Path, config: ObjectiveConfig, **settings: Any) -> str:
    """Four steps of 8 clips over all processes; returns a digest of the weights."""
    objective = small_objective(config)
    torch.manual_seed(current_world().rank)  # whatever a process draws for itself must not matter
    grid = objective.parts()["encoder"].grid

    def draw(step: int) -> Batch:
        ids = rank_indices(step, 8)
        return Batch(step, ids, (squares(ids),), draw_masks(MASKS, grid, 0, ids))  # type: ignore[arg-type]

    run = Run(path, {})
    loop = LoopConfig(steps=4, batch_size=8, log_every=1, monitor_every=2, precision="fp32", **settings)
    fit(objective, draw, loop, run, "test")
    run.close()
    return " ".join(f"{float(p.detach().abs().sum()):.3f}" for p in objective.parameters())

"""Systems on this process's share of a batch; run by one process or by several."""

from __future__ import annotations

import torch
import torch.distributed as dist

from tests.worldmodel.objectives.systems import batch_of, settings, small
from worldmodel.nn.global_batch import process_count
from worldmodel.training.distributed import rank_indices
from worldmodel.training.loop import LoopConfig, make_optimizer, train_step
from worldmodel.training.parallel import spread


def losses(name: str, changes: tuple[str, ...], strategy: str = "ddp") -> list[float]:
    """Losses of three training steps of 8 clips over all processes."""
    config = settings(name, *changes)
    replica = spread(small(config), strategy)
    loop = LoopConfig(steps=3, batch_size=8, lr=1e-2, precision="fp32")
    optimizer, found = make_optimizer(replica.objective, loop), []
    for step in range(3):
        torch.manual_seed(step)
        batch = batch_of(rank_indices(step, 8), config.mask, step)
        values = train_step(replica, optimizer, batch, loop)
        found += [values["loss"], values["grad_norm"]]
    mean = torch.tensor(found)
    if process_count() > 1:
        dist.all_reduce(mean)
    return (mean / process_count()).tolist()


def all_losses(cases: list[tuple[str, tuple[str, ...], str]]) -> list[list[float]]:
    """``losses`` of several systems, in the same processes."""
    return [losses(*case) for case in cases]

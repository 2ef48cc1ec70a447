"""AdamW as the loop's settings want it, and its learning rate and weight decay at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from worldmodel.training.schedules import cosine, warmup_constant, warmup_cosine, warmup_linear

if TYPE_CHECKING:
    from worldmodel.training.loop import LoopConfig

DECAYS = ("cosine", "linear", "constant")


def make_optimizer(objective: nn.Module, config: LoopConfig) -> torch.optim.AdamW:
    """AdamW; weight decay for what has more than one dimension and is no bias, as in the V-JEPA papers' code."""
    named = [(name, p) for name, p in objective.named_parameters() if p.requires_grad]
    decayed = [p for name, p in named if p.ndim > 1 and "bias" not in name]
    free = [p for name, p in named if p.ndim <= 1 or "bias" in name]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    first, second = config.betas
    return torch.optim.AdamW(groups, lr=config.lr, betas=(first, second), eps=config.eps, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, config: LoopConfig, step: int) -> dict[str, float]:
    """Set a step's learning rate and weight decay; returns them by name."""
    rates = {"lr": learning_rate(config, step), "weight_decay": weight_decay(config, step)}
    decayed, free = optimizer.param_groups
    decayed["lr"] = free["lr"] = rates["lr"]
    decayed["weight_decay"] = rates["weight_decay"]
    return rates


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up from ``start_lr * lr`` to ``lr``, then ``decay`` to ``final_lr * lr``."""
    peak, start, final = config.lr, config.lr * config.start_lr, config.lr * config.final_lr
    warmup = round(config.warmup * config.steps)
    if config.decay == "constant":
        return warmup_constant(step, peak, warmup, start=start)
    schedule = warmup_cosine if config.decay == "cosine" else warmup_linear
    return schedule(step, config.steps, peak, warmup, final, start=start, stretch=config.stretch)


def weight_decay(config: LoopConfig, step: int) -> float:
    """Half a cosine from ``weight_decay`` to ``final_weight_decay`` times it."""
    last = config.weight_decay * config.final_weight_decay
    return cosine(step / config.steps, config.weight_decay, last, config.stretch)

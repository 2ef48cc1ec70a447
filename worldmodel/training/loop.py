"""The training loop, the same for every objective: batch, objective, step, EMA, log, checkpoint."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from worldmodel.objectives.base import Batch, Objective
from worldmodel.training.checkpoint import load_training_state, save_training_state
from worldmodel.training.run import Metrics, Run
from worldmodel.training.schedules import warmup_cosine


@dataclass
class LoopConfig:
    """How long and how fast to train."""

    #: Optimiser steps.
    steps: int = 1000
    #: Samples per step, over all processes.
    batch_size: int = 32
    #: Peak learning rate of AdamW: linear warm-up, then half a cosine down to lr * final_lr.
    lr: float = 1e-3
    #: Last learning rate, as a share of lr.
    final_lr: float = 0.01
    #: Share of the steps that warm up.
    warmup: float = 0.05
    #: Weight decay of matrices; biases, norms and other vectors are not decayed.
    weight_decay: float = 0.04
    #: Largest norm of the gradient; 0 turns clipping off.
    clip_norm: float = 1.0
    #: "fp32", "bf16" (autocast; weights stay float32) or "auto": bf16 where the machine multiplies faster in it.
    precision: str = "auto"
    #: Steps between rows in metrics.jsonl.
    log_every: int = 20
    #: Steps between the monitors (spread, rank) in metrics.jsonl.
    monitor_every: int = 200
    #: Seconds between training states on disk. They change nothing but what an interruption costs.
    checkpoint_seconds: float = 20.0

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"loop.precision={self.precision!r} is unknown; choose auto, fp32 or bf16")
        if min(self.steps, self.batch_size, self.log_every, self.monitor_every) < 1 or self.lr <= 0:
            raise ValueError("loop.steps, batch_size, log_every, monitor_every and lr must be positive")
        if min(self.clip_norm, self.weight_decay, self.checkpoint_seconds) < 0:
            raise ValueError("loop.clip_norm, weight_decay and checkpoint_seconds must not be negative")
        if not (0 <= self.warmup <= 1 and 0 <= self.final_lr <= 1):
            raise ValueError("loop.warmup and loop.final_lr are shares, from 0 to 1")


def fit(objective: Objective, draw: Callable[[int], Batch], config: LoopConfig, run: Run, label: str) -> None:
    """Train ``objective`` for ``config.steps`` steps, or continue where ``run``'s last training state stands.

    Given the same configuration, ``draw`` and thread count, an interrupted and resumed run ends with the weights of
    an uninterrupted one, bit for bit on a CPU. Ctrl-C and SIGTERM save first, then raise.

    Args:
        objective: The networks and their loss.
        draw: The batch of a step; depends on nothing but the step.
        config: Steps, learning rate and so on.
        run: Where state and metrics go.
        label: Stands before the progress bar.

    Raises:
        ValueError: The loss is not finite, or the training state does not fit.
        KeyboardInterrupt: Interrupted; the state is saved.
    """
    optimizer = make_optimizer(objective, config)
    state = run.path / "state.safetensors"
    first = load_training_state(state, objective, optimizer) if state.exists() else 0
    metrics = Metrics(run.path / "metrics.jsonl", resume_step=first)
    device = next(objective.parameters()).device.type
    saved = time.monotonic()
    bar = tqdm(total=config.steps, initial=first, desc=label, unit="step", disable=None, leave=False)
    with contextlib.closing(metrics), bar, _stop_signal() as stop:
        objective.train()
        for step in range(first, config.steps):
            batch = draw(step).to(device)
            lr = set_lr(optimizer, config, step)
            values = train_step(objective, optimizer, batch, config)
            if not math.isfinite(values["loss"] + values["grad_norm"]):
                raise _not_finite(values, batch, state)

            last = step + 1 == config.steps
            monitored = step % config.monitor_every == 0 or last
            if step % config.log_every == 0 or monitored:
                row: dict[str, Any] = {"step": step, **values, "lr": lr}
                if monitored:
                    row |= monitor(objective, batch)
                metrics.log(row)
                bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
            bar.update()
            if last or stop.is_set() or time.monotonic() - saved > config.checkpoint_seconds:
                save_training_state(state, objective, optimizer, step + 1)
                run.record_seconds()
                saved = time.monotonic()
            if stop.is_set() and not last:
                raise KeyboardInterrupt
    objective.eval()


def train_step(
    objective: Objective, optimizer: torch.optim.Optimizer, batch: Batch, config: LoopConfig
) -> dict[str, float]:
    """Forward, backward, optimiser step, EMA; returns the losses and the gradient's norm before clipping.

    Where loss or gradient are not finite, no weight is changed: the caller decides.
    """
    with torch.autocast(batch.views[0].device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        losses = objective(batch)
    values = {name: float(value.detach()) for name, value in losses.items()}
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    norm = torch.nn.utils.clip_grad_norm_(objective.parameters(), config.clip_norm or math.inf)
    values["grad_norm"] = float(norm)
    if math.isfinite(values["loss"] + values["grad_norm"]):
        optimizer.step()
        objective.after_step((batch.step + 1) / config.steps)
    return values


def make_optimizer(objective: Objective, config: LoopConfig) -> torch.optim.AdamW:
    """AdamW; weight decay for matrices only, not for vectors (biases, norms) nor mask tokens."""
    named = [(name, p) for name, p in objective.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.ndim > 1 and "mask_token" not in name]
    vectors = [p for name, p in named if p.ndim <= 1 or "mask_token" in name]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, config: LoopConfig, step: int) -> float:
    """Set, and return, the learning rate of a step."""
    warmup = round(config.warmup * config.steps)
    lr = warmup_cosine(step, config.steps, config.lr, warmup, config.lr * config.final_lr)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def monitor(objective: Objective, batch: Batch) -> dict[str, float]:
    """The objective's monitors in evaluation mode, leaving no trace in it."""
    objective.eval()
    with torch.no_grad():
        figures = objective.monitor(batch)
    objective.train()
    return figures


def _not_finite(values: dict[str, float], batch: Batch, state: Any) -> ValueError:
    kept = (
        f"the last good training state is {state}"
        if os.path.exists(state)
        else "no training state was saved yet"
    )
    return ValueError(
        f"the loss is not finite at step {batch.step} ({values}), samples {batch.ids.start} to {batch.ids.stop - 1}; "
        f"{kept}. Try a lower loop.lr, or loop.precision=fp32"
    )


@contextlib.contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that the step in hand ends before the loop stops."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

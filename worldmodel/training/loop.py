"""The training loop, the same for every objective: batch, objective, step, EMA, log, checkpoint."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from worldmodel.objectives.base import Batch, Objective
from worldmodel.seeding import keyed_rng
from worldmodel.training.distributed import World, current_world
from worldmodel.training.interrupt import Interrupted, stop_signals
from worldmodel.training.monitors import gradient_norms
from worldmodel.training.parallel import STRATEGIES, Replica, spread, whole
from worldmodel.training.progress import Progress
from worldmodel.training.rates import DECAYS, make_optimizer, set_rates
from worldmodel.training.run import Run
from worldmodel.training.states import States

__all__ = ["LoopConfig", "fit", "make_optimizer", "monitor", "train_step"]


@dataclass
class LoopConfig:
    """How long and how fast to train."""

    #: Optimiser steps.
    steps: int = 1000
    #: Samples per step, over all processes and micro-batches.
    batch_size: int = 32
    #: Micro-batches per step and process: the same step in less memory (gradient accumulation).
    accumulate: int = 1
    #: Peak learning rate of AdamW: linear warm-up, then a decay down to lr * final_lr.
    lr: float = 1e-3
    #: Learning rate that the warm-up begins at, as a share of lr.
    start_lr: float = 0.0
    #: Last learning rate, as a share of lr.
    final_lr: float = 0.01
    #: Share of the steps that warm up.
    warmup: float = 0.05
    #: After the warm-up: cosine, linear or constant.
    decay: str = "cosine"
    #: Weight decay of matrices; biases, norms and other vectors are not decayed.
    weight_decay: float = 0.04
    #: Last weight decay, as a multiple of weight_decay, reached by half a cosine; 1 keeps it constant.
    final_weight_decay: float = 1.0
    #: Schedules (learning rate, weight decay, EMA) are laid out for this times the steps, and cut off. V-JEPA: 1.25.
    stretch: float = 1.0
    #: AdamW's decay rates of the gradient's mean and square.
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    #: AdamW's epsilon.
    eps: float = 1e-8
    #: Largest norm of the gradient; 0 turns clipping off.
    clip_norm: float = 1.0
    #: "fp32", "bf16" (autocast; weights stay float32) or "auto": bf16 where the machine multiplies faster in it.
    precision: str = "auto"
    #: With several processes: ddp (each holds all weights) or fsdp (each holds its share of weights and moments).
    strategy: str = "ddp"
    #: Compile the transformer blocks (torch.compile): a slower start, faster steps.
    compile: bool = False
    #: Steps between rows in metrics.jsonl.
    log_every: int = 20
    #: Steps between the monitors (spread, rank) in metrics.jsonl.
    monitor_every: int = 200
    #: Seconds between training states on disk, more where saving is slow. They change nothing but what an interruption
    #: costs.
    checkpoint_seconds: float = 20.0
    #: Steps between training states, besides those by time; 0: by time only.
    checkpoint_steps: int = 0

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"loop.precision={self.precision!r} is unknown; choose auto, fp32 or bf16")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"loop.strategy={self.strategy!r} is unknown; choose {' or '.join(STRATEGIES)}")
        if self.decay not in DECAYS:
            raise ValueError(f"loop.decay={self.decay!r} is unknown; choose {', '.join(DECAYS)}")
        counts = (self.steps, self.batch_size, self.log_every, self.monitor_every, self.accumulate)
        if min(counts) < 1 or self.lr <= 0:
            raise ValueError(
                "loop.steps, batch_size, accumulate, log_every, monitor_every and lr must be positive"
            )
        limits = (self.clip_norm, self.weight_decay, self.final_weight_decay, self.checkpoint_seconds)
        if min(*limits, self.checkpoint_steps) < 0:
            raise ValueError(
                "loop.clip_norm, weight_decay, final_weight_decay, checkpoint_seconds and checkpoint_steps must not "
                "be negative"
            )
        if not all(0 <= share <= 1 for share in (self.warmup, self.start_lr, self.final_lr)):
            raise ValueError("loop.warmup, loop.start_lr and loop.final_lr are shares, from 0 to 1")
        if self.stretch < 1:
            raise ValueError(f"loop.stretch={self.stretch} must be at least 1")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas) or self.eps <= 0:
            raise ValueError(
                "loop.betas are two numbers from 0 up to, not including, 1, and loop.eps is positive"
            )


def fit(objective: Objective, draw: Callable[[int], Batch], config: LoopConfig, run: Run, label: str) -> None:
    """Train ``objective`` for ``config.steps`` steps, or continue where ``run``'s last training state stands.

    Given the same configuration, ``draw`` and thread count, an interrupted and resumed run ends with the weights of
    an uninterrupted one, bit for bit on a CPU. Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 save first, then raise. Under
    torchrun (inside ``distributed.processes``) every process calls it, and has the trained weights in the end; it may
    continue what another number of processes began.

    Args:
        objective: The networks and their loss, on their device.
        draw: This process's part of a step's batch (see ``rank_indices``); depends on nothing but the step.
        config: Steps, learning rate and so on.
        run: Where state and metrics go.
        label: Stands before the progress bar.

    Raises:
        ValueError: The loss is not finite, the batch cannot be shared, or the training state does not fit.
        OSError: The state cannot be saved; the previous one stays.
        Interrupted: A KeyboardInterrupt; the state is saved.
    """
    world = current_world()
    check_batch(config, world)
    device = str(next(objective.parameters()).device)
    replica = spread(objective, config.strategy, config.compile)
    optimizer = make_optimizer(replica.objective, config)
    states = States(run, replica, optimizer, config, world)
    first = states.load()
    with Progress(run, config, label, first, world) as progress, stop_signals() as stop:
        replica.objective.train()
        for step in range(first, config.steps):
            batch = world.together(draw, step).to(device)
            if step == first:
                progress.announce(replica, batch)

            last = step + 1 == config.steps
            monitored = step % config.monitor_every == 0 or last
            rates = set_rates(optimizer, config, step)
            values = train_step(replica, optimizer, batch, config, monitored)
            rows = world.gather([*values.values()])
            values = {name: _mean(row[i] for row in rows) for i, name in enumerate(values)}
            if not math.isfinite(values["loss"] + values["grad_norm"]):
                raise _not_finite(values, rows, batch, world, states)

            if step % config.log_every == 0 or monitored:
                row: dict[str, Any] = {"step": step, **values, **rates}
                if monitored:
                    row |= monitor(replica.objective, batch)
                progress.log(row)
            progress.advance(values["loss"])

            stopping, due = world.any(stop.is_set(), states.due(step + 1))
            if last or stopping or due:
                states.save(step + 1)
            if stopping and not last:
                raise Interrupted
    replica.finish()
    objective.eval()


def train_step(
    replica: Replica | Objective,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: LoopConfig,
    details: bool = False,
) -> dict[str, float]:
    """Forward and backward of each micro-batch, optimiser step, EMA; returns losses and the gradient's norm unclipped.

    Where loss or gradient are not finite, no weight is changed: the caller decides. What a network draws at random
    (drop path) is keyed by the micro-batch's first sample.

    Args:
        replica: The objective as ``spread`` prepared it, or the objective itself.
        optimizer: Over the replica's objective.
        batch: This process's part, on the device.
        config: The loop's settings.
        details: Also the norm of each part's gradient.
    """
    if not isinstance(replica, Replica):
        replica = Replica(replica, replica, replica)
    objective = replica.objective
    optimizer.zero_grad(set_to_none=True)
    parts = batch.split(config.accumulate) if config.accumulate > 1 else [batch]
    kept: list[dict[str, torch.Tensor]] = []
    for part in parts:
        torch.manual_seed(int(keyed_rng("step", part.step, part.ids.start).integers(2**63)))
        with replica.synchronised(part is parts[-1]):
            with torch.autocast(
                part.views[0].device.type, torch.bfloat16, enabled=config.precision == "bf16"
            ):
                losses = replica.entry(part)
            (losses["loss"] / len(parts)).backward()
        kept.append({name: value.detach() for name, value in losses.items()})
    values = {name: _mean(float(losses[name]) for losses in kept) for name in kept[0]}
    norms = gradient_norms(objective.parts()) if details else {}
    norm = torch.nn.utils.clip_grad_norm_(objective.parameters(), config.clip_norm or math.inf)
    values |= {"grad_norm": float(whole(norm)), **norms}
    if math.isfinite(values["loss"] + values["grad_norm"]):
        optimizer.step()
        objective.after_step((batch.step + 1) / (config.steps * config.stretch))
    return values


def monitor(objective: Objective, batch: Batch) -> dict[str, float]:
    """The objective's monitors in evaluation mode, leaving no trace in it."""
    objective.eval()
    with torch.no_grad():
        figures = objective.monitor(batch)
    objective.train()
    return figures


def check_batch(config: LoopConfig, world: World) -> None:
    """See that the batch can be shared by processes and micro-batches.

    Raises:
        ValueError: It cannot.
    """
    if config.batch_size % (world.size * config.accumulate):
        parts = [f"{world.size} processes"] if world.size > 1 else []
        parts += [f"loop.accumulate={config.accumulate}"] if config.accumulate > 1 else []
        raise ValueError(
            f"loop.batch_size={config.batch_size} cannot be shared by {' x '.join(parts)}; choose a multiple of "
            f"{world.size * config.accumulate}"
        )


def _mean(values: Any) -> float:
    values = list(values)
    return values[0] if len(values) == 1 else math.fsum(values) / len(values)


def _not_finite(
    values: dict[str, float], rows: list[list[float]], batch: Batch, world: World, states: States
) -> ValueError:
    """The error for a loss or gradient that is not finite, naming the samples of the processes where it began."""
    bounds = world.gather([batch.ids.start, batch.ids.stop])
    place = list(values).index("loss")
    culprits = [i for i, row in enumerate(rows) if not math.isfinite(row[place])] or range(len(rows))
    samples = ", ".join(f"{bounds[i][0]:.0f} to {bounds[i][1] - 1:.0f}" for i in culprits)
    return ValueError(
        f"the loss is not finite at step {batch.step} ({values}), samples {samples}; {states.last_good()}. "
        "Try a lower loop.lr, or loop.precision=fp32"
    )

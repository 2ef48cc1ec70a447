"""Training many heads at once on the same features: one pass over the data serves a whole grid of settings."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from worldmodel.atomic import write_atomic
from worldmodel.seeding import keyed_rng
from worldmodel.training.schedules import warmup_cosine

CHECKPOINT_SECONDS = 60.0

#: Inputs and classes of a batch, from the step and the positions of its samples.
Read = Callable[[int, Sequence[int]], tuple[Tensor, Tensor]]


def train_heads(
    heads: Sequence[nn.Module],
    grid: Sequence[tuple[float, float]],
    rows: Sequence[int],
    read: Read,
    *,
    steps: int,
    batch_size: int,
    warmup: float,
    seed: int,
    scales: Callable[[nn.Module], list[tuple[float, list[nn.Parameter]]]] | None = None,
    state: Path | None = None,
    label: str = "heads",
) -> None:
    """Train ``heads[i]`` by AdamW with ``grid[i] = (learning rate, weight decay)``, all on the same batches.

    The heads share nothing but the data: each ends as it would if it were trained alone. As in V-JEPA 2, all
    parameters are decayed, and the learning rate falls to zero by half a cosine.

    Args:
        heads: The heads, on their device.
        grid: Settings, one for each head.
        rows: Positions of the training samples; each epoch takes them in a new keyed order.
        read: Gives inputs and classes of a batch.
        steps, batch_size: Optimiser steps, and samples in each.
        warmup: Share of the steps over which the learning rate rises.
        seed: Of the order.
        scales: Divides a head's parameters into groups, each with a factor on the learning rate.
        state: File that keeps the training's state now and then, so that an interrupted one goes on from there.
        label: Stands before the progress bar.

    Raises:
        ValueError: All heads diverged.
    """
    order = _Order(rows, batch_size, seed)
    groups = [
        {"params": parameters, "weight_decay": decay, "peak": lr * scale}
        for head, (lr, decay) in zip(heads, grid, strict=True)
        for scale, parameters in (scales(head) if scales else [(1.0, list(head.parameters()))])
    ]
    optimizer = torch.optim.AdamW(groups)
    first = _resume(state, heads, optimizer)
    saved = time.monotonic()
    for head in heads:
        head.train()
    for step in tqdm(range(first, steps), desc=label, unit="step", disable=None, leave=False):
        inputs, classes = read(step, order.batch(step))
        share = warmup_cosine(step, steps, 1.0, round(warmup * steps))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share
        optimizer.zero_grad(set_to_none=True)
        # The gradient of a sum reaches each head from its own loss alone.
        torch.stack([cross_entropy(head(inputs), classes) for head in heads]).sum().backward()
        optimizer.step()
        if state is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
            _save(state, heads, optimizer, step + 1)
            saved = time.monotonic()
    for head in heads:
        head.eval()
    if not any(all(p.isfinite().all() for p in head.parameters()) for head in heads):
        raise ValueError(f"all {len(heads)} probes diverged; give smaller learning rates ({label})")
    if state is not None:
        state.unlink(missing_ok=True)


class _Order:
    """Which samples a step takes: a keyed permutation per epoch; the last batch of an epoch may be smaller."""

    def __init__(self, rows: Sequence[int], batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed = list(rows), batch_size, seed
        self.per_epoch = math.ceil(len(self.rows) / batch_size)

    def batch(self, step: int) -> list[int]:
        epoch, position = divmod(step, self.per_epoch)
        permutation = keyed_rng("probe order", self.seed, epoch).permutation(len(self.rows))
        chosen = permutation[position * self.batch_size : (position + 1) * self.batch_size]
        return [self.rows[i] for i in chosen]


def _save(state: Path, heads: Sequence[nn.Module], optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {"step": torch.tensor(step)}
    for number, head in enumerate(heads):
        for name, parameter in head.named_parameters():
            moments = optimizer.state[parameter]
            tensors |= {f"{number}.{name}": parameter.detach()}
            tensors |= {f"{number}.{name}.{key}": value.detach() for key, value in moments.items()}
    tensors = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
    write_atomic(state, lambda file: save_file(tensors, file))


@torch.no_grad()
def _resume(state: Path | None, heads: Sequence[nn.Module], optimizer: torch.optim.Optimizer) -> int:
    if state is None or not state.is_file():
        return 0
    tensors = load_file(state)
    for number, head in enumerate(heads):
        for name, parameter in head.named_parameters():
            prefix = f"{number}.{name}"
            parameter.copy_(tensors[prefix])
            if f"{prefix}.step" not in tensors:
                continue  # it had no gradient: a block behind the last layer that is read
            optimizer.state[parameter] = {
                # AdamW keeps its step counts on the CPU.
                key: value if key == "step" else value.to(parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                for value in (tensors[f"{prefix}.{key}"],)
            }
    return int(tensors["step"])

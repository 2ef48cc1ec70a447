"""Several processes on this machine, and a tiny objective to train in them."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.objectives.base import Batch, Objective
from worldmodel.training.checkpoint import load_training_state
from worldmodel.training.distributed import current_world, processes, rank_indices
from worldmodel.training.ema import ema_update
from worldmodel.training.loop import LoopConfig, fit, make_optimizer
from worldmodel.training.run import Run

CONTEXT = multiprocessing.get_context("forkserver")
# torch imports the first of these with the first optimiser: seconds, in every process.
CONTEXT.set_forkserver_preload(
    ["torch._dynamo", "torch.distributed.fsdp", "worldmodel.training.loop", __name__]
)


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(nn.functional.gelu(self.norm(x)))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 5)  # 5 rows on 2 processes: 3 and 2
        self.blocks = nn.ModuleList(Layer(5) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x


class Distillation(Objective):
    """An encoder that predicts a moving average of itself: transformer blocks, EMA weights, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.target, self.head = Encoder(), Encoder().requires_grad_(False), nn.Linear(5, 1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = batch.views[0]
        seen = self.encoder(x)
        distance = (seen - self.target(x)).square().mean()
        return {
            "loss": distance + (self.head(seen) - x.sum(1, keepdim=True)).square().mean(),
            "distance": distance,
        }

    def after_step(self, progress: float) -> None:
        ema_update(self.target, self.encoder, 0.9 + 0.1 * progress)

    def monitor(self, batch: Batch) -> dict[str, float]:
        return {"spread": float(self.target(batch.views[0]).std())}


def draw(step: int) -> Batch:
    """Samples that depend on their global index only."""
    ids = rank_indices(step, 8)
    rows = [torch.randn(3, generator=torch.Generator().manual_seed(i)) for i in ids]
    return Batch(step, ids, (torch.stack(rows),))


@dataclass(frozen=True)
class Draw:
    """``draw``, and at one step something that goes wrong in one process."""

    event: str
    step: int
    rank: int = 0

    def __call__(self, step: int) -> Batch:
        if (step, current_world().rank) == (self.step, self.rank):
            if self.event == "error":
                raise ValueError("videos/a.mp4 is broken")
            if self.event == "nan":
                return dataclasses.replace(draw(step), views=(draw(step).views[0] * float("nan"),))
            os.kill(os.getpid(), {"stop": signal.SIGTERM, "kill": signal.SIGKILL}[self.event])
        return draw(step)


def train(path: Path, draw: Callable[[int], Batch] = draw, **settings: Any) -> Distillation:
    """Train or continue."""
    torch.manual_seed(current_world().rank)  # processes need not begin alike
    objective = Distillation()
    defaults = {"steps": 12, "batch_size": 8, "log_every": 1, "monitor_every": 4, "precision": "fp32"}
    run = Run(path, {})
    try:
        fit(objective, draw, LoopConfig(**{**defaults, **settings}), run, "test")
    finally:
        run.close()
    return objective


def losses(path: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (path / "metrics.jsonl").open()]


def state(path: Path) -> dict[str, Tensor]:
    """The weights and moments in a run's newest training state."""
    objective = Distillation()
    optimizer = make_optimizer(objective, LoopConfig())
    load_training_state(path / "state.safetensors", objective, optimizer)
    found = dict(objective.state_dict())
    for name, parameter in objective.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{name}.{key}"] = value
    return found


def start(size: int, work: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
    """Start ``work`` in ``size`` processes; join with ``finish``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(size):
        here, there = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_enter, args=(there, rank, size, port, work, args, kwargs))
        process.start()
        there.close()
        started.append((process, here))
    return started


def finish(started: list[Any]) -> list[Any]:
    """What each process returned, or ``"Error: text"`` of how it ended; "killed" for one that was."""
    results = []
    for process, pipe in started:
        try:
            results.append(pipe.recv() if pipe.poll(60) else "no answer")
        except EOFError:
            results.append("killed")
        process.join(10)
        if process.is_alive():
            process.kill()
    return results


def run(size: int, work: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
    return finish(start(size, work, *args, **kwargs))


def _enter(
    pipe: Any, rank: int, size: int, port: int, work: Callable[..., Any], args: Any, kwargs: Any
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    try:
        with processes():
            result = work(*args, **kwargs)
        pipe.send(result if isinstance(result, int | str | list) else None)
    except BaseException as error:
        traceback.print_exc()
        pipe.send(f"{type(error).__name__}: {error}")
        os._exit(1)  # as the command line: letting go of the error's frames may hang
    os._exit(0)

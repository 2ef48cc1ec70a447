"""How an objective is spread over processes: alone, DDP (each has all weights), or FSDP2 (each has a share of them)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from worldmodel.objectives.base import Objective
from worldmodel.training.distributed import World, current_world

STRATEGIES = ("ddp", "fsdp")


@dataclass(frozen=True)
class Replica:
    """This process's copy, or share, of the objective.

    Attributes:
        objective: The module whose parameters are trained; under FSDP they are DTensors, of which each
            process holds some rows.
        entry: What is called with a batch: ``objective``, or DDP around it.
        original: What ``spread`` was given; ``finish`` brings it up to date.
    """

    objective: Objective
    entry: nn.Module
    original: Objective

    @contextlib.contextmanager
    def synchronised(self, on: bool) -> Iterator[None]:
        """Whether a backward pass inside exchanges gradients; all but the last micro-batch of a step do not."""
        if self.objective is not self.original:
            sharded: Any = self.objective
            sharded.set_requires_gradient_sync(on)
            yield
        elif isinstance(self.entry, DistributedDataParallel) and not on:
            with self.entry.no_sync():
                yield
        else:
            yield

    def finish(self) -> None:
        """Give ``original`` the trained weights, whole, in every process: on its device, or the CPU under FSDP."""
        if self.objective is self.original:
            return
        trained = dict(self.objective.named_parameters())
        with torch.no_grad():
            for name, parameter in self.original.named_parameters():
                parameter.data = whole(trained[name]).cpu()
            for buffer, new in zip(self.original.buffers(), self.objective.buffers(), strict=True):
                buffer.copy_(new)
        self.original.cpu()


def spread(objective: Objective, strategy: str, compile: bool = False) -> Replica:
    """Prepare ``objective`` for the processes at hand; its weights become those of the first one.

    FSDP2 shards every transformer block and what remains, in the target encoder as in the context encoder, so that the
    moving average works on each process's own rows. Weights are gathered in float32: losses are those of DDP.

    Args:
        objective: On its device. Under FSDP its weights are taken away until ``Replica.finish``.
        strategy: "ddp" or "fsdp"; without meaning for one process.
        compile: Compile the transformer blocks with torch.compile. All blocks of a kind share one compilation.
    """
    world = current_world()
    device = next(objective.parameters()).device
    if world.size > 1 and strategy == "fsdp":
        sharded = _shard(objective, world, device, compile)
        return Replica(sharded, sharded, objective)
    if compile:
        _compile_blocks(objective)
    if world.size == 1:
        return Replica(objective, objective, objective)
    if device.type == "cuda":
        objective = _global_batch_norm(objective)
    entry = DistributedDataParallel(
        objective,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )
    return Replica(objective, entry, objective)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its rows; where they are shared, every process must ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this process holds; writing to them writes to the tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _shard(objective: Objective, world: World, device: torch.device, compile: bool) -> Objective:
    # Imported here, because it takes a second.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for parameter in [*objective.parameters(), *objective.buffers()]:
        torch.distributed.broadcast(parameter.data, src=0)
    sharded = copy.deepcopy(objective)
    for parameter in objective.parameters():  # its memory; shapes come back with Replica.finish
        parameter.data = parameter.data.new_empty(0)
    if compile:  # not before: a copy is not compiled
        _compile_blocks(sharded)
    mesh = init_device_mesh(device.type, (world.size,))
    for block in _blocks(sharded):
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    # Not entered through forward, but needs the weights of the root gathered all the same.
    register_fsdp_forward_method(sharded, "monitor")
    return sharded


def _blocks(objective: nn.Module) -> Iterator[nn.Module]:
    """The entries of all module lists named ``blocks``: the transformers' layers, which are called one by one."""
    for name, module in objective.named_modules():
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] == "blocks":
            yield from module


def _compile_blocks(objective: nn.Module) -> None:
    # Blocks are called with as many shapes as there are masks, with and without gradient, training or not; each is
    # compiled for its own (static) shape, and all count towards one limit.
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 64)
    for block in _blocks(objective):
        block.compile(dynamic=False)


def _global_batch_norm(objective: Objective) -> Objective:
    """Batch norms with the statistics of the global batch; changes the modules in place."""
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(objective)
    assert converted is objective
    return objective

"""How large a training is, before its first step."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from worldmodel.objectives.base import Batch
from worldmodel.training.parallel import Replica

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Size:
    """Parameters, and bytes per process.

    Attributes:
        trained: Parameters with a gradient.
        frozen: Parameters without: EMA copies and frozen encoders.
        state: Bytes of weights, gradients and AdamW's two moments.
        activations: Bytes that the backward pass of one micro-batch keeps, or None where that could not be counted.
    """

    trained: int
    frozen: int
    state: int
    activations: int | None

    def __str__(self) -> str:
        parts = f"{_count(self.trained)} parameters trained"
        if self.frozen:
            parts += f", {_count(self.frozen)} not (EMA, frozen)"
        state = f"{_bytes(self.state)} for weights, gradients and AdamW"
        if self.activations is None:
            return f"{parts}; memory per process: {state}, and activations"
        total = _bytes(self.state + self.activations)
        return (
            f"{parts}; memory per process about {total}: {state} + {_bytes(self.activations)} for activations"
        )


def estimate(replica: Replica, batch: Batch, precision: str, shards: int = 1) -> Size:
    """Count parameters and bytes.

    Bytes: 4 per parameter for weights, and 12 more where it is trained (gradient and AdamW's two moments), all over
    ``shards`` under FSDP; plus every tensor that autograd saves in the forward pass of ``batch`` (one micro-batch),
    counted once, by running it on tensors that have shapes but no content.
    """
    trained = sum(p.numel() for p in replica.objective.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in replica.objective.parameters() if not p.requires_grad)
    state = (16 * trained + 4 * frozen) // shards
    try:
        activations: int | None = _activation_bytes(replica, batch, precision)
    except Exception as error:  # an objective that looks at values, say: the estimate is only a help
        logger.debug("activations not counted: %s", error)
        activations = None
    return Size(trained, frozen, state, activations)


def _activation_bytes(replica: Replica, batch: Batch, precision: str) -> int:
    saved: dict[Any, int] = {}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        weights = {}
        for name, parameter in replica.objective.named_parameters():
            fake = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
            weights[name] = fake.requires_grad_(parameter.requires_grad)
        buffers = {name: mode.from_tensor(buffer) for name, buffer in replica.original.named_buffers()}
        own = {tensor.untyped_storage()._cdata for tensor in [*weights.values(), *buffers.values()]}

        def pack(tensor: Tensor) -> Tensor:
            key = tensor.untyped_storage()._cdata
            if key not in own:
                saved[key] = tensor.untyped_storage().nbytes()
            return tensor

        fake_batch = _fake(batch, mode)
        device = fake_batch.views[0].device.type
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"),
            torch.compiler.set_stance("force_eager"),
        ):
            kept = torch.func.functional_call(replica.original, {**weights, **buffers}, (fake_batch,))
        del kept
    return sum(saved.values())


def _fake(batch: Batch, mode: FakeTensorMode) -> Batch:
    return dataclasses.replace(
        batch,
        views=tuple(mode.from_tensor(view) for view in batch.views),
        masks=tuple(
            mask._replace(context=mode.from_tensor(mask.context), target=mode.from_tensor(mask.target))
            for mask in batch.masks
        ),
        actions=None if batch.actions is None else mode.from_tensor(batch.actions),
    )


def _count(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _bytes(number: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 2**10:.3g} KiB"

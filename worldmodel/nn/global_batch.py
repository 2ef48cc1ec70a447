"""Statistics over the samples of all processes, through which gradients flow.

Data-parallel training averages the gradients of the processes' losses: it minimises the mean of these losses. With
statistics of each process's own samples, that is another loss than the one of the whole batch in one process. Here the
statistic is of all samples, in every process, and its gradient goes back to all of them: the backward pass of a sum
over processes is the same sum of gradients. So the averaged gradient is the gradient of the loss on the whole batch,
and no factor is to be set anywhere.

Every process must have equally many samples (see ``rank_indices``) and make the same calls in the same order. With one
process all of this is the identity.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def process_count() -> int:
    """How many processes share the batch; 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_sum(value: Tensor) -> Tensor:
    """The sum of ``value`` over all processes, in each of them; a collective call, forward and backward."""
    return _Sum.apply(value) if process_count() > 1 else value


def global_mean(value: Tensor) -> Tensor:
    """The mean of ``value`` over all processes, in each of them; a collective call, forward and backward."""
    count = process_count()
    return _Sum.apply(value) / count if count > 1 else value


def global_rows(value: Tensor) -> Tensor:
    """The rows of all processes: ``(B, ...)`` of each to ``(P B, ...)`` in all, in the order of their ranks.

    A collective call, forward and backward. This process's own rows begin at ``first_row(B)``.
    """
    if process_count() == 1:
        return value
    everyone = value.new_zeros(process_count(), *value.shape)
    everyone[dist.get_rank()] = value
    return global_sum(everyone).flatten(0, 1)


def first_row(count: int) -> int:
    """Where this process's rows begin in ``global_rows`` of ``count`` rows each."""
    return dist.get_rank() * count if process_count() > 1 else 0


class _Sum(torch.autograd.Function):
    """All-reduce, whose derivative is the all-reduce of the gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` with the statistics of all processes' samples, on CPU and GPU alike.

    With one process, and in evaluation mode, it is ``nn.BatchNorm1d`` bit for bit: the same parameters and buffers, and
    so the same checkpoints. (``nn.SyncBatchNorm`` refuses CPU tensors.) Computed in float32. Input ``(B, C)`` or
    ``(B, C, L)``.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or process_count() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        with torch.autocast(input.device.type, enabled=False):
            x = input.float()
            over = [0] if x.ndim == 2 else [0, 2]
            shape = [1, -1] if x.ndim == 2 else [1, -1, 1]
            count = x.numel() // x.shape[1] * process_count()
            mean = global_mean(x.mean(dim=over))
            centred = x - mean.reshape(shape)
            variance = global_mean(centred.square().mean(dim=over))
            self._track(mean, variance * (count / (count - 1)))
            normal = centred * (variance + self.eps).rsqrt().reshape(shape)
            if self.affine:
                normal = normal * self.weight.reshape(shape) + self.bias.reshape(shape)
        return normal.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics as ``nn.BatchNorm1d`` does, with the unbiased variance."""
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)

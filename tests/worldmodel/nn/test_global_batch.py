"""Batch norm over all processes, alone; in two processes it is tested with the objectives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from worldmodel.nn.global_batch import GlobalBatchNorm1d, global_mean, global_sum


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(8, 5), (8, 5, 3)])
def test_alone_it_is_batch_norm_bit_for_bit(affine: bool, shape: tuple[int, ...]) -> None:
    ours, theirs = GlobalBatchNorm1d(5, affine=affine), nn.BatchNorm1d(5, affine=affine)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    generator = torch.Generator().manual_seed(0)
    for training in (True, True, False):
        x = 3 * torch.randn(shape, generator=generator) + 1
        mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        found, wanted = ours.train(training)(mine), theirs.train(training)(other)
        assert torch.equal(found, wanted)
        found.square().mul(x).sum().backward()
        wanted.square().mul(x).sum().backward()
        assert mine.grad is not None and other.grad is not None and torch.equal(mine.grad, other.grad)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_alone_sums_and_means_are_the_value_itself() -> None:
    value = torch.randn(3)
    assert global_sum(value) is value
    assert global_mean(value) is value


def test_one_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 1 value"):
        GlobalBatchNorm1d(4)(torch.randn(1, 4))

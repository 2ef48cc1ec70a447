"""Losses of pairs of embeddings against their formulas, written with loops over samples and features."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from worldmodel.objectives.distances import (
    alignment,
    cross_correlation_loss,
    info_nce,
    nt_xent,
    uniformity,
)

B, D = 6, 4


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, B, D, generator=generator, dtype=torch.float64)
    return first.requires_grad_(), (second + first.detach()).requires_grad_()


def cos(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a @ a).sqrt() / (b @ b).sqrt()


def same(found: Tensor, wanted: Tensor, *inputs: Tensor) -> None:
    """Equal values, and equal gradients of all inputs."""
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    for a, b in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(wanted, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)


def test_info_nce(pair: tuple[Tensor, Tensor]) -> None:
    q, k = pair
    wanted = torch.zeros((), dtype=torch.float64)
    for i in range(B):
        scores = [torch.exp(cos(q[i], k[j]) / 0.2) for j in range(B)]
        wanted = wanted - torch.log(scores[i] / sum(scores)) / B
    same(info_nce(q, k, 0.2), wanted, q, k)


def test_nt_xent(pair: tuple[Tensor, Tensor]) -> None:
    z = torch.cat(pair)  # sample i and sample i + B are two views of one
    wanted = torch.zeros((), dtype=torch.float64)
    for i in range(2 * B):
        scores = {j: torch.exp(cos(z[i], z[j]) / 0.5) for j in range(2 * B) if j != i}
        wanted = wanted - torch.log(scores[(i + B) % (2 * B)] / sum(scores.values())) / (2 * B)
    first, second = pair
    same((nt_xent(first, second, 0.5) + nt_xent(second, first, 0.5)) / 2, wanted, first, second)


def test_cross_correlation(pair: tuple[Tensor, Tensor]) -> None:
    first, second = pair
    wanted = torch.zeros((), dtype=torch.float64)
    for i in range(D):
        for j in range(D):
            a, b = first[:, i] - first[:, i].mean(), second[:, j] - second[:, j].mean()
            c = (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()
            wanted = wanted + ((1 - c) ** 2 if i == j else 0.01 * c**2)
    found = cross_correlation_loss(first, second, 0.01)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)  # a variance of 0 is guarded against
    mine, theirs = (torch.autograd.grad(value, [first, second]) for value in (found, wanted))
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_alignment_and_uniformity(pair: tuple[Tensor, Tensor]) -> None:
    first, second = (x / x.norm(dim=1, keepdim=True) for x in pair)
    gaps = [(first[i] - second[i]).square().sum() for i in range(B)]
    torch.testing.assert_close(alignment(*pair).double(), sum(gaps) / B)  # type: ignore[arg-type]
    kernel = [
        torch.exp(-2 * (first[i] - first[j]).square().sum()) for i in range(B) for j in range(B) if i != j
    ]
    torch.testing.assert_close(uniformity(pair[0]).double(), (sum(kernel) / len(kernel)).log())  # type: ignore[union-attr]


def test_uniformity_of_a_point_and_of_a_sphere() -> None:
    assert abs(float(uniformity(torch.ones(8, 16)))) < 1e-5
    spread = torch.randn(512, 256, generator=torch.Generator().manual_seed(0))
    assert math.isclose(float(uniformity(spread)), -4, abs_tol=0.1)
    with pytest.raises(ValueError, match="at least 2 samples"):
        uniformity(torch.ones(1, 16))


def test_info_nce_of_equal_embeddings_is_the_logarithm_of_their_number() -> None:
    point = torch.ones(16, 3)
    assert math.isclose(float(info_nce(point, point, 0.1)), math.log(16), abs_tol=1e-4)
    apart = torch.eye(16)
    assert float(info_nce(apart, apart, 0.1)) < 0.01

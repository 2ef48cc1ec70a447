"""SIGReg against its plain formula, and what it does to collapsed batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.objectives.regularizers import sigreg


def plain_sigreg(latents: Tensor, axes: Tensor, knots: int = 17) -> Tensor:
    """Written from the formula: per direction, N * integral of |phi_N(t) - phi(t)|^2 exp(-t^2 / 2) over [-3, 3]."""
    total = torch.zeros((), dtype=torch.float64)
    t = np.linspace(0, 3, knots)
    for column in range(axes.shape[1]):
        axis = axes[:, column] / axes[:, column].norm()
        values = []
        for knot in t:
            phi = torch.exp(1j * knot * (latents @ axis)).mean()
            gap = phi - np.exp(-knot * knot / 2)
            values.append((gap.real**2 + gap.imag**2) * np.exp(-knot * knot / 2))
        area = sum((a + b) / 2 * (t[1] - t[0]) for a, b in zip(values[:-1], values[1:], strict=True))
        total = total + 2 * len(latents) * area
    return total / axes.shape[1]


def test_value_and_gradient_are_the_plain_formulas() -> None:
    latents = torch.randn(40, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 1.3 + 0.2
    axes = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    ours, plain = latents.float().requires_grad_(), latents.clone().requires_grad_()
    loss = sigreg(ours, torch.Generator().manual_seed(2), directions=8)
    wanted = plain_sigreg(plain, axes.double())
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-4, atol=1e-5)
    loss.backward()
    wanted.backward()
    assert ours.grad is not None and plain.grad is not None
    torch.testing.assert_close(ours.grad.double(), plain.grad, rtol=1e-3, atol=1e-5)


def test_a_standard_normal_scores_lowest() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(512, 8, generator=generator)

    def score(latents: Tensor) -> float:
        return float(sigreg(latents, torch.Generator().manual_seed(3)))

    others = [normal * 0.3, normal * 3, normal + 1, normal * torch.tensor([1.0] * 4 + [0.0] * 4)]
    assert all(score(normal) < 0.2 * score(other) for other in others)


def test_it_is_computed_in_float32_under_autocast() -> None:
    latents = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        inside = sigreg(latents, torch.Generator().manual_seed(3))
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, sigreg(latents, torch.Generator().manual_seed(3)))


def test_zero_spread_is_a_stationary_point_that_batch_norm_makes_unreachable() -> None:
    """The end-to-end prototype collapsed: without an output BatchNorm, SIGReg's gradient vanishes at the origin."""
    point = torch.zeros(64, 8, requires_grad=True)
    sigreg(point, torch.Generator().manual_seed(0)).backward()
    assert point.grad is not None
    assert point.grad.abs().max() < 1e-7

    nearly = (1e-3 * torch.randn(64, 8, generator=torch.Generator().manual_seed(0))).requires_grad_()
    sigreg(nn.BatchNorm1d(8, affine=False)(nearly), torch.Generator().manual_seed(0)).backward()
    assert nearly.grad is not None
    assert nearly.grad.abs().max() > 1e-2

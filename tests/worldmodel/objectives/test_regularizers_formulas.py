"""Terms on latents against plain formulas, written as the papers have them, in float64; gradients included."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from worldmodel.objectives.regularizers import (
    covariance_loss,
    sigreg,
    straightening_loss,
    time_similarity_loss,
    time_variance_loss,
    variance_loss,
)


def latents(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    mixed = torch.randn(*shape, generator=generator, dtype=torch.float64) @ torch.randn(
        shape[-1], shape[-1], generator=generator, dtype=torch.float64
    )
    return 0.2 * mixed + 0.7


def plain_variance(z: Tensor) -> Tensor:
    """Bardes et al. (2105.04906), equation 1: the mean over features of max(0, 1 - sqrt(Var + 1e-4))."""
    total = torch.zeros((), dtype=torch.float64)
    for j in range(z.shape[1]):
        mean = sum(z[i, j] for i in range(len(z))) / len(z)
        variance = sum((z[i, j] - mean) ** 2 for i in range(len(z))) / (len(z) - 1)
        total = total + torch.clamp(1 - (variance + 1e-4).sqrt(), min=0)
    return total / z.shape[1]


def plain_covariance(z: Tensor) -> Tensor:
    """Equations 3 and 4, over the pairs of features instead of over the features."""
    n, d = z.shape
    mean = sum(z[i] for i in range(n)) / n
    matrix = sum(torch.outer(z[i] - mean, z[i] - mean) for i in range(n)) / (n - 1)
    bardes = sum(matrix[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    return bardes / (d - 1)


def plain_straightening(z: Tensor) -> Tensor:
    """1 - cos(z[t+1] - z[t], z[t+2] - z[t+1]) (2603.12231)."""
    found = []
    for window in z:
        for t in range(len(window) - 2):
            a, b = window[t + 1] - window[t], window[t + 2] - window[t + 1]
            found.append(1 - a @ b / (a.norm() * b.norm()))
    return torch.stack(found).mean()


def plain_time_variance(z: Tensor) -> Tensor:
    return torch.stack([plain_variance(window) for window in z]).mean()


def plain_time_similarity(z: Tensor) -> Tensor:
    return torch.stack([((w[t + 1] - w[t]) ** 2).mean() for w in z for t in range(len(w) - 1)]).mean()


def grouped(term: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda z: torch.stack([term(group) for group in z]).mean()


@pytest.mark.parametrize(
    ("ours", "plain", "shape", "rtol"),
    [
        (variance_loss, plain_variance, (9, 5), 1e-4),
        (variance_loss, grouped(plain_variance), (3, 9, 5), 1e-4),
        (covariance_loss, plain_covariance, (9, 5), 1e-4),
        (covariance_loss, grouped(plain_covariance), (3, 9, 5), 1e-4),
        (time_similarity_loss, plain_time_similarity, (4, 5, 3), 1e-4),
        (time_variance_loss, plain_time_variance, (4, 5, 3), 1e-4),
        (straightening_loss, plain_straightening, (4, 6, 8), 2e-3),
    ],
)
def test_value_and_gradient(
    ours: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], shape: tuple[int, ...], rtol: float
) -> None:
    wanted_at = latents(*shape).requires_grad_()
    found_at = wanted_at.detach().float().requires_grad_()
    found, wanted = ours(found_at), plain(wanted_at)
    assert float(wanted.detach()) > 0.01  # a hinge that is off would be equal for nothing
    torch.testing.assert_close(found.double(), wanted, rtol=rtol, atol=1e-6)
    found.backward()
    wanted.backward()
    assert found_at.grad is not None and wanted_at.grad is not None
    gap = (found_at.grad.double() - wanted_at.grad).norm()
    assert gap < rtol * wanted_at.grad.norm() + 1e-7


def test_sigreg_of_groups_is_the_mean_of_theirs() -> None:
    z = latents(3, 20, 6).float()
    apart = [sigreg(group, torch.Generator().manual_seed(2), 8) for group in z]
    torch.testing.assert_close(sigreg(z, torch.Generator().manual_seed(2), 8), torch.stack(apart).mean())


@pytest.mark.parametrize(
    "term", [variance_loss, covariance_loss, time_similarity_loss, time_variance_loss, straightening_loss]
)
def test_float32_under_autocast(term: Callable[[Tensor], Tensor]) -> None:
    z = latents(6, 5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = term(z.bfloat16())
    assert inside.dtype == torch.float32
    assert torch.equal(inside, term(z.bfloat16().float()))


def test_straight_bent_and_still() -> None:
    direction = torch.tensor([3.0, 4.0])
    line = torch.arange(5.0)[None, :, None] * direction
    assert float(straightening_loss(line)) == pytest.approx(0, abs=2e-4)
    back = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])[None, :, None] * direction
    assert float(straightening_loss(back)) == pytest.approx(2, abs=2e-4)
    assert float(straightening_loss(line * 1e-3)) == pytest.approx(0, abs=2e-4)  # of any scale
    # A step without movement has no direction: no NaN, and no gradient that drowns the others.
    still = torch.tensor([0.0, 0.0, 1.0, 2.0, 2.0])[None, :, None] * direction
    still = still.requires_grad_()
    loss = straightening_loss(still)
    assert float(loss.detach()) == pytest.approx(1 - 1 / 3, abs=1e-2)
    loss.backward()
    assert still.grad is not None and float(still.grad.abs().max()) < 100
    stopped = torch.ones(2, 4, 3, requires_grad=True)
    straightening_loss(stopped).backward()
    assert stopped.grad is not None and torch.equal(stopped.grad, torch.zeros(2, 4, 3))


def test_variance_has_a_slope_next_to_collapse_and_covariance_none() -> None:
    """SIGReg's point at zero spread is one of VICReg's too; beside it, the hinge pushes apart."""
    point = torch.zeros(16, 4, requires_grad=True)
    (variance_loss(point) + covariance_loss(point)).backward()
    assert point.grad is not None and torch.equal(point.grad, torch.zeros(16, 4))
    nearly = (1e-3 * latents(16, 4)).float().requires_grad_()
    loss = variance_loss(nearly)
    loss.backward()
    assert nearly.grad is not None
    with torch.no_grad():
        moved = variance_loss(nearly - nearly.grad / nearly.grad.norm())
    assert float(moved) < float(loss.detach()) - 0.1


@pytest.mark.parametrize(
    ("term", "shape", "message"),
    [
        (variance_loss, (1, 4), "at least 2 samples; raise loop.batch_size"),
        (covariance_loss, (1, 4), "at least 2 samples; raise loop.batch_size"),
        (covariance_loss, (4, 1), "at least 2 features"),
        (time_variance_loss, (4, 1, 2), "at least 2 frames; lengthen window"),
        (straightening_loss, (4, 2, 2), "at least 3 frames; lengthen window"),
    ],
)
def test_too_little_data_is_refused(
    term: Callable[[Tensor], Tensor], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        term(torch.randn(shape))


def test_a_constant_shift_or_turn_of_all_latents() -> None:
    """Variance and covariance do not see a shift; SIGReg, which wants mean 0, does."""
    z = latents(40, 6).float()
    torch.testing.assert_close(variance_loss(z + 3), variance_loss(z), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(covariance_loss(z + 3), covariance_loss(z), rtol=1e-4, atol=1e-6)
    assert float(sigreg(z + 3, torch.Generator().manual_seed(0))) > float(
        sigreg(z, torch.Generator().manual_seed(0))
    )
    assert math.isfinite(float(sigreg(1e4 * z, torch.Generator().manual_seed(0))))

"""What SimCLR's negatives do, and that terms against collapse keep as many directions as there are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.worldmodel.objectives.formulas import mean_token
from tests.worldmodel.objectives.vectors import trained, vectors
from worldmodel.objectives.distances import nt_xent, uniformity
from worldmodel.training.monitors import effective_rank

NARROW = ("projector.hidden=32", "projector.width=8")


def simclr(first: Tensor, second: Tensor, temperature: float) -> float:
    """The mean over both views as anchors."""
    ways = nt_xent(first, second, temperature), nt_xent(second, first, temperature)
    return float((ways[0] + ways[1]) / 2)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    first, noise = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    return first, first + 0.5 * noise


def test_all_views_of_other_samples_are_negatives(pair: tuple[Tensor, Tensor]) -> None:
    """Each pushes, with a weight of its own: 12 of them for 7 samples."""
    rows = torch.cat(pair).requires_grad_()
    loss = nt_xent(rows[:7], rows[7:], 0.5) * 7
    anchor = torch.autograd.grad(loss, rows)[0]
    assert (anchor.norm(dim=1) > 1e-3).all()
    # One point: the positive is one of 2 N - 1 candidates that cannot be told apart.
    same = torch.ones(7, 5)
    assert simclr(same, same, 0.1) == pytest.approx(math.log(13), abs=1e-4)
    # Of N - 1 far samples and one that is twice there, the twin's two views are what is left to confuse.
    twins = torch.eye(7)
    twins[1] = twins[0]
    confused = nt_xent(twins, twins, 0.02)
    assert float(confused) == pytest.approx(2 / 7 * math.log(3), abs=1e-4)


def test_a_low_temperature_looks_at_the_nearest_negative_and_a_high_one_at_all(
    pair: tuple[Tensor, Tensor],
) -> None:
    unit = torch.cat([x / x.norm(dim=1, keepdim=True) for x in pair])
    cosines, gaps = unit @ unit.T, []
    for i in range(14):
        own = (i + 7) % 14
        nearest = max(float(cosines[i, j]) for j in range(14) if j not in (i, own))
        gaps.append(max(0.0, nearest - float(cosines[i, own])))
    assert 1e-4 * simclr(*pair, 1e-4) == pytest.approx(sum(gaps) / 14, abs=1e-3)
    assert simclr(*pair, 1e4) == pytest.approx(math.log(13), abs=1e-3)


def embeddings(name: str, *changes: str, steps: int = 200, seed: int = 0) -> Tensor:
    objective = trained(name, *NARROW, *changes, steps=steps, seed=seed).train()
    with torch.no_grad():
        x: Tensor = objective.projector(mean_token(objective.encoder, vectors(0, 256)))
    return x


def test_simclr_spreads_embeddings_over_the_sphere() -> None:
    before, after = (float(uniformity(embeddings("simclr", steps=steps))) for steps in (0, 200))
    assert after < before - 0.4


@pytest.mark.parametrize("name", ["vicreg", "barlow_twins", "lejepa"])
def test_terms_keep_all_directions_where_invariance_alone_leaves_a_point(name: str) -> None:
    alone, kept = embeddings("vicreg", "variance=0", "covariance=0"), embeddings(name)
    assert alone.std(dim=0).mean() < 0.1
    assert kept.std(dim=0).mean() > 0.35
    assert effective_rank(kept) > 5  # of 8

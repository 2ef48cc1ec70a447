"""Monitors against plain computations, and what they must not do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from worldmodel.training.monitors import (
    baseline_losses,
    effective_rank,
    feature_monitors,
    gradient_norms,
    output_gap,
    sample_rows,
    weight_gap,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_effective_rank_is_the_same_from_the_smaller_side() -> None:
    wide = noise(12, 50)
    centred = wide - wide.mean(dim=0)
    values = torch.linalg.svdvals(centred.double())
    share = values / values.sum()
    wanted = float(torch.exp(-(share * share.clamp_min(1e-30).log()).sum()))
    assert effective_rank(wide) == pytest.approx(wanted, rel=1e-3)
    assert effective_rank(torch.cat([wide] * 5)) == pytest.approx(wanted, rel=1e-3)  # more rows than columns


def test_a_sample_of_rows_gives_the_rank_of_all() -> None:
    tokens = noise(20_000, 4) @ noise(4, 32, seed=1)
    assert effective_rank(tokens) == pytest.approx(effective_rank(tokens, max_rows=20_000), rel=0.02)
    assert effective_rank(torch.full((10, 3), float("nan"))) != effective_rank(torch.ones(10, 3))


def test_rows_are_sampled_without_repetition_and_always_the_same() -> None:
    rows = torch.arange(10_000)[:, None]
    first = sample_rows(rows, 100)
    assert torch.equal(first, sample_rows(rows, 100))
    assert len(first.unique()) == 100
    # Not every n-th one, which would be the same few positions of each clip.
    assert len(first.ravel().sort().values.diff().unique()) > 20
    assert sample_rows(rows[:50], 100) is not None and len(sample_rows(rows[:50], 100)) == 50


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_baselines_in_plain_words(loss: str) -> None:
    targets = noise(5, 7, 3) + 4 * noise(1, 7, 3, seed=1)

    def size(gap: torch.Tensor) -> float:
        return float(gap.abs().mean() if loss == "l1" else gap.square().mean())

    figures = baseline_losses(targets, loss)
    assert figures["predict_mean_loss"] == pytest.approx(size(targets - targets.mean(dim=(0, 1))), rel=1e-5)
    gaps = []
    for clip in range(5):
        others = torch.cat([targets[:clip], targets[clip + 1 :]])
        gaps.append(targets[clip] - others.mean(dim=0))
    assert figures["position_mean_loss"] == pytest.approx(size(torch.stack(gaps)), rel=1e-5)
    # These targets are mostly position: saying the global mean is worse.
    assert figures["position_mean_loss"] < 0.5 * figures["predict_mean_loss"]
    assert baseline_losses(targets[:1], loss).keys() == {"predict_mean_loss"}


def test_the_weight_gap_is_relative() -> None:
    average = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    online = copy.deepcopy(average)
    assert weight_gap(online, average) == 0
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.mul_(1.5)
    assert weight_gap(online, average) == pytest.approx(0.5, rel=1e-5)


def test_the_output_gap_of_equal_and_of_unrelated_features() -> None:
    a, b = noise(4, 100, 8), noise(4, 100, 8, seed=1)
    assert output_gap(a, a) == 0
    assert output_gap(a, b) == pytest.approx(2**0.5, rel=0.05)
    assert output_gap(a + 5, b + 5) == pytest.approx(output_gap(a, b), rel=1e-4)


def test_gradient_norms_of_each_part() -> None:
    encoder, predictor, target = (nn.Linear(3, 3) for _ in range(3))
    parts = {"encoder": encoder, "predictor": predictor, "target_encoder": target.requires_grad_(False)}
    predictor(encoder(noise(5, 3))).square().sum().backward()
    norms = gradient_norms(parts)
    assert norms.keys() == {"grad_norm_encoder", "grad_norm_predictor"}
    assert encoder.weight.grad is not None and encoder.bias.grad is not None
    whole = torch.cat([encoder.weight.grad.ravel(), encoder.bias.grad])
    assert norms["grad_norm_encoder"] == pytest.approx(float(whole.norm()), rel=1e-5)


def test_monitors_draw_no_random_numbers_and_change_nothing() -> None:
    tokens = noise(64, 64, 8)
    before, state = tokens.clone(), torch.get_rng_state()
    first = feature_monitors(tokens), baseline_losses(tokens, "l1")
    assert first == (feature_monitors(tokens), baseline_losses(tokens, "l1"))
    assert torch.equal(before, tokens)
    assert torch.equal(state, torch.get_rng_state())

"""Learning rate, weight decay and parameter groups, with the papers' numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from worldmodel.training.loop import LoopConfig
from worldmodel.training.rates import learning_rate, make_optimizer, set_rates, weight_decay

#: V-JEPA ViT-L/16 (2404.08471): 90,000 steps, 12,000 of them warm-up, schedules stretched by 1.25.
VJEPA = LoopConfig(
    steps=90_000,
    lr=6.25e-4,
    start_lr=0.32,
    final_lr=1e-6 / 6.25e-4,
    warmup=12 / 90,
    weight_decay=0.04,
    final_weight_decay=10.0,
    stretch=1.25,
)


def test_vjepa_s_schedules_end_where_the_paper_s_code_ends() -> None:
    assert learning_rate(VJEPA, 0) == pytest.approx(2e-4, rel=1e-3)
    assert learning_rate(VJEPA, 11_999) == pytest.approx(6.25e-4)
    assert learning_rate(VJEPA, 89_999) == pytest.approx(7.5e-5, rel=0.02)
    assert weight_decay(VJEPA, 0) == pytest.approx(0.04)
    assert weight_decay(VJEPA, 89_999) == pytest.approx(0.366, rel=0.01)


def test_vjepa_2_s_cooldown_is_cut_off_before_its_final_rate() -> None:
    """5.25e-4 to 1e-6, linear, over 1.25 times the 12,000 steps that are made."""
    cooldown = LoopConfig(
        steps=12_000, lr=5.25e-4, final_lr=1e-6 / 5.25e-4, warmup=0.0, decay="linear", stretch=1.25
    )
    assert learning_rate(cooldown, 0) == pytest.approx(5.25e-4)
    assert learning_rate(cooldown, 11_999) == pytest.approx(1.06e-4, rel=0.01)


def test_constant_stays() -> None:
    config = LoopConfig(steps=100, lr=1.0, warmup=0.1, decay="constant")
    assert [learning_rate(config, step) for step in (0, 9, 10, 99)] == pytest.approx([0.1, 1.0, 1.0, 1.0])


def test_groups_and_what_is_set_in_them() -> None:
    model = nn.Module()
    model.linear = nn.Linear(3, 2)
    model.norm = nn.LayerNorm(3)
    model.mask_tokens = nn.Parameter(torch.zeros(2, 1, 3))
    model.frozen = nn.Parameter(torch.zeros(3, 3), requires_grad=False)
    config = LoopConfig(
        steps=10, lr=1.0, weight_decay=0.1, final_weight_decay=2.0, betas=[0.9, 0.95], eps=1e-6
    )
    optimizer = make_optimizer(model, config)
    decayed, free = optimizer.param_groups
    assert [p.shape for p in decayed["params"]] == [(2, 1, 3), (2, 3)]
    assert [tuple(p.shape) for p in free["params"]] == [(2,), (3,), (3,)]
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert optimizer.defaults["eps"] == 1e-6
    rates = set_rates(optimizer, config, 5)
    assert rates["weight_decay"] == decayed["weight_decay"] == pytest.approx(0.15)
    assert free["weight_decay"] == 0.0
    assert rates["lr"] == decayed["lr"] == free["lr"] == learning_rate(config, 5)


@pytest.mark.parametrize(
    "bad",
    [
        {"stretch": 0.5},
        {"betas": [0.9]},
        {"betas": [0.9, 1.0]},
        {"eps": 0.0},
        {"decay": "step"},
        {"strategy": "zero"},
        {"accumulate": 0},
        {"final_weight_decay": -1.0},
        {"start_lr": 2.0},
        {"checkpoint_steps": -1},
    ],
)
def test_bad_settings_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="loop"):
        LoopConfig(**bad)

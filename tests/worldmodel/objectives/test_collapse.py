"""Collapse: prediction alone ends in it, regularisers prevent it, and a collapsed batch is left again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.worldmodel.objectives.moving_points import draw, world_model
from worldmodel.models.heads import TokenHeadConfig
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.latent_dynamics import LatentDynamics, LatentDynamicsConfig

OFF = {"sigreg": 0.0}
SIGREG = {"sigreg": 0.1}
VICREG = {"sigreg": 0.0, "variance": 2.0, "covariance": 2.0}


def train(
    model: WorldModel, settings: dict[str, Any], steps: int, bf16: bool = False, lr: float = 3e-3
) -> LatentDynamics:
    objective = LatentDynamics(model, LatentDynamicsConfig(**settings), seed=0).train()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=5e-3)
    for step in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses = objective(draw(step))
        optimizer.zero_grad()
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        assert torch.isfinite(losses["loss"]) and torch.isfinite(norm)
        optimizer.step()
    return objective


def spread(objective: LatentDynamics) -> dict[str, float]:
    """Std and effective rank of a batch's latents, as in training."""
    with torch.no_grad():
        return objective.train().monitor(draw(10**6))


def without_norm() -> WorldModel:
    """A head that does not end in a batch norm, so that its latents can shrink."""
    model = world_model()
    model.head.norm = nn.Identity()
    return model


@pytest.mark.parametrize("settings", [SIGREG, VICREG], ids=["sigreg", "vicreg"])
def test_without_a_regulariser_latents_collapse_and_with_one_they_do_not(settings: dict[str, Any]) -> None:
    collapsed, kept = (spread(train(without_norm(), config, 150)) for config in (OFF, settings))
    assert collapsed["latent_std"] < 0.1
    assert kept["latent_std"] > 0.7
    assert kept["latent_rank"] > 4
    assert kept["open_loop_ratio"] < 0.7


def collapse(model: WorldModel, size: float) -> WorldModel:
    """Make a head put everything at one point, but for ``size``."""
    last = model.head.mlp[2]
    with torch.no_grad():
        last.weight.mul_(size / 0.1)
        last.bias.zero_()
    return model


@pytest.mark.parametrize("size", [1e-4, 0.0])
@pytest.mark.parametrize("settings", [SIGREG, VICREG], ids=["sigreg", "vicreg"])
def test_a_collapsed_batch_is_left_behind(settings: dict[str, Any], size: float) -> None:
    """With next to nothing left of the spread, or nothing: all of it is there again after 100 steps."""
    model = collapse(world_model(), size)
    before = spread(LatentDynamics(model, LatentDynamicsConfig(**settings), seed=0))
    assert before["latent_std"] < 0.1
    after = spread(train(model, settings, 100))
    assert after["latent_std"] > 0.8
    assert after["latent_rank"] > 5


def test_the_batch_norm_is_what_saves_the_rank() -> None:
    """From one point, a head without it gets back fewer directions (here 3 of 8 against 6 or more)."""
    without, with_norm = (
        spread(train(collapse(model, 0.0), SIGREG, 100))["latent_rank"]
        for model in (without_norm(), world_model())
    )
    assert with_norm > without + 1.5


def test_exactly_at_one_point_nothing_pulls() -> None:
    """Zero spread is a stationary point of SIGReg and VICReg, with a batch norm or without: what leads out of it is the
    prediction's error, which differs from sample to sample because the actions do."""
    for model in (collapse(world_model(), 0.0), collapse(without_norm(), 0.0)):
        objective = LatentDynamics(
            model, LatentDynamicsConfig(**SIGREG, variance=1.0, covariance=1.0), seed=0
        )
        losses = objective(draw(0))
        (losses["sigreg"] + losses["variance"] + losses["covariance"]).backward()
        gradients = [p.grad for p in model.head.parameters() if p.grad is not None]
        assert all(float(gradient.abs().max()) < 1e-6 for gradient in gradients)
        objective(draw(0))["teacher_forcing"].backward()
        last = model.head.mlp[2].weight.grad
        assert last is not None and float(last.abs().max()) > 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "settings",
    [
        {"sigreg": 0.1, "sigreg_per_step": True, "straightening": 0.1},
        {
            **VICREG,
            "time_similarity": 0.1,
            "time_variance": 0.1,
            "inverse_dynamics": 1.0,
            "inverse_hidden": 32,
        },
    ],
    ids=["lewm", "pldm"],
)
def test_bf16_stays_finite(settings: dict[str, Any], seed: int) -> None:
    """``train`` checks every loss and gradient; the latents keep their spread."""
    model = world_model()
    torch.manual_seed(seed)
    for part in (model.head, model.dynamics):
        for layer in part.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
    assert spread(train(model, settings, 80, bf16=True))["latent_std"] > 0.5


def test_inverse_dynamics_keep_what_actions_change() -> None:
    """Where a slow drift is easier to predict, the actions are read off the latents better with the term."""

    def r2(weight: float) -> float:
        settings = {"sigreg": 0.02, "time_similarity": 1.0, "inverse_dynamics": weight, "inverse_hidden": 32}
        narrow = TokenHeadConfig(per_token=4, hidden=32, width=6)  # room for the drift, or for what moves
        objective = train(world_model(head=narrow), settings, 150).eval()
        with torch.no_grad():
            rows = []
            for step in (10**6, 10**6 + 1):
                batch = draw(step, size=256)
                z = objective.model.latents(batch.views[0]).flatten(2)
                pairs = torch.cat([z[:, :-1], z[:, 1:]], dim=-1).flatten(0, 1)
                products = (pairs[:, :, None] * pairs[:, None, :]).flatten(1)
                assert batch.actions is not None
                rows.append(
                    (torch.cat([pairs, products, torch.ones(len(pairs), 1)], 1), batch.actions.flatten(0, 2))
                )
            (x, y), (x_test, y_test) = rows
            x, y, x_test, y_test = x.double(), y.double(), x_test.double(), y_test.double()
            fitted = torch.linalg.solve(x.T @ x + 1e-3 * torch.eye(x.shape[1]), x.T @ y)
            return float(1 - (x_test @ fitted - y_test).square().mean() / y_test.square().mean())

    without, with_term = r2(0.0), r2(1.0)
    assert with_term > without + 0.25
    assert with_term > 0.3

"""Settings of the world model's objective, against losses written out step by step, with every kind of dynamics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.worldmodel.objectives.moving_points import draw, world_model
from worldmodel.models.dynamics import DYNAMICS, Ensemble, build_dynamics
from worldmodel.models.dynamics.prefix import PrefixDynamicsConfig
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.latent_dynamics import LatentDynamics, LatentDynamicsConfig
from worldmodel.objectives.predictions import latent_distance, rolled_out


def with_dynamics(kind: str, members: int = 1) -> WorldModel:
    model = world_model()
    torch.manual_seed(1)
    config = DYNAMICS[kind][0]()
    model.dynamics = build_dynamics(config, 1, 8, 1, 2, members)
    for parameter in model.dynamics.parameters():  # so that what begins at zero does something, too
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def make(model: WorldModel, **settings: Any) -> LatentDynamics:
    return LatentDynamics(model, LatentDynamicsConfig(**{"sigreg": 0.0, **settings}), seed=0).eval()


def known(model: WorldModel) -> tuple[Tensor, Tensor]:
    batch = draw(0)
    assert batch.actions is not None
    return model.latents(batch.views[0]), batch.actions


@pytest.mark.parametrize("kind", [*DYNAMICS, "ensemble"])
def test_every_kind_of_dynamics_trains(kind: str) -> None:
    """All parameters get a finite gradient, with the rollout's gradient through or stopped."""
    model = with_dynamics("mlp", members=2) if kind == "ensemble" else with_dynamics(kind)
    for through in ("through", "stop"):
        objective = make(model, rollout_gradient=through, rollout_context=2, sigreg=0.1).train()
        objective.zero_grad()
        objective(draw(0))["loss"].backward()
        for name, parameter in objective.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    figures = objective.eval().monitor(draw(0))
    assert all(torch.isfinite(torch.tensor(value)) for value in figures.values())


@pytest.mark.parametrize("kind", ["mlp", "adaln", "block_causal", "gru"])
@pytest.mark.parametrize("through", ["through", "stop"])
def test_the_rollout_begins_where_it_is_told_and_has_as_many_steps(kind: str, through: str) -> None:
    model = with_dynamics(kind).eval()
    z, actions = known(model)
    found = make(model, teacher_forcing=0.0, rollout_steps=2, rollout_context=2, rollout_gradient=through)
    # By teacher forcing on its own predictions: z0 z1 -> 2 -> 3.
    window, longest = z[:, :2], model.dynamics.context
    for now in (1, 2):
        first = max(0, now + 1 - longest)
        ahead = model.dynamics(window[:, first:], actions[:, first : now + 1])[:, -1:]
        window = torch.cat([window, ahead], dim=1)
    wanted = F.mse_loss(window[:, 2:], z[:, 2:4])
    torch.testing.assert_close(found(draw(0))["loss"], wanted)


def test_a_stopped_rollout_has_the_same_loss_and_the_gradient_of_single_steps() -> None:
    model = with_dynamics("mlp").eval()
    z, actions = known(model)
    through, stop = (rolled_out(model.dynamics, z, actions, 1, 4, on) for on in (True, False))
    torch.testing.assert_close(through, stop)
    last = stop[:, -1].square().sum()
    given = torch.autograd.grad(last, z, allow_unused=True)[0]
    assert given is None or not given.any()  # it came by way of predictions only
    assert torch.autograd.grad(through[:, -1].square().sum(), z)[0][:, 0].any()


def test_a_rollout_that_may_begin_anywhere_is_keyed_by_the_step() -> None:
    config = LatentDynamicsConfig(rollout_context=0, rollout_steps=2)
    spans = [config.span(8, seed=3, step=step) for step in range(100)]
    assert {start for start, _ in spans} == set(range(1, 8))
    assert all(steps == 2 for _, steps in spans)
    assert spans == [config.span(8, seed=3, step=step) for step in range(100)]
    free = LatentDynamicsConfig(rollout_context=0)
    assert {sum(free.span(8, 0, step)) for step in range(50)} == {9}  # always to the window's end
    assert LatentDynamicsConfig().span(8, 0, 0) == (1, 8)


def test_prefixes_are_all_predicted_from_what_was_observed() -> None:
    """Fast-LeWM: the mean over prefixes of their squared errors, none made from another prediction."""
    model = with_dynamics("prefix").eval()
    z, actions = known(model)
    wanted = F.mse_loss(model.dynamics.predict_prefixes(z[:, 0], actions), z[:, 1:])
    for through in ("through", "stop"):
        found = make(model, teacher_forcing=0.0, rollout_gradient=through)(draw(0))["loss"]
        torch.testing.assert_close(found, wanted)
    torch.manual_seed(0)
    model.dynamics = build_dynamics(PrefixDynamicsConfig(prefix=3), 1, 8, 1, 2).eval()
    through, stop = (rolled_out(model.dynamics, z, actions, 1, 4, on) for on in (True, False))
    torch.testing.assert_close(through, stop)  # 3 at once, then 1 from the third


def test_each_member_of_an_ensemble_has_a_loss_of_its_own() -> None:
    model = with_dynamics("mlp", members=3).eval()
    ensemble = model.dynamics
    assert isinstance(ensemble, Ensemble)
    z, actions = known(model)
    found = make(model, rollout=0.0)(draw(0))["loss"]
    own = [F.mse_loss(member(z[:, :-1], actions), z[:, 1:]) for member in ensemble.members]
    torch.testing.assert_close(found, torch.stack(own).mean())
    of_the_mean = F.mse_loss(ensemble(z[:, :-1], actions), z[:, 1:])
    assert float(found.detach()) > float(of_the_mean.detach()) + 1e-3


@pytest.mark.parametrize("kind", ["l1", "l2", "smooth_l1", "cosine"])
def test_distances(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (2 * torch.randn(5, 3, 4, 8, generator=generator) for _ in range(2))
    gap = (a - b).double()
    plain = {
        "l1": gap.abs().mean(),
        "l2": gap.square().mean(),
        "smooth_l1": torch.where(gap.abs() < 1, gap.square() / 2, gap.abs() - 0.5).mean(),
        "cosine": 1 - ((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).double().mean(),
    }[kind]
    with torch.autocast("cpu", torch.bfloat16):
        found = latent_distance(a, b, kind)
    torch.testing.assert_close(found.double(), plain, rtol=1e-5, atol=1e-6)
    assert float(latent_distance(a, a, kind)) == pytest.approx(0, abs=1e-6)


def test_targets_with_and_without_gradient_and_norm() -> None:
    model = with_dynamics("mlp").eval()
    z, actions = known(model)
    predicted = model.dynamics(z[:, :-1], actions)
    found = make(model, rollout=0.0, target_norm="layer", loss="l1")(draw(0))["loss"]
    torch.testing.assert_close(found, (predicted - F.layer_norm(z[:, 1:], (8,))).abs().mean())

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, model.head.mlp[2].weight, retain_graph=True)[0]

    for reaches in (True, False):
        wanted = z[:, 1:] if reaches else z[:, 1:].detach()
        objective = make(model, rollout=0.0, target_gradient=reaches)
        torch.testing.assert_close(
            gradient(objective(draw(0))["loss"]), gradient(F.mse_loss(predicted, wanted))
        )


def test_what_has_no_weight_is_not_computed() -> None:
    losses = make(with_dynamics("mlp"), rollout=0.0, variance=1.0)(draw(0))
    assert set(losses) == {"loss", "teacher_forcing", "variance"}


def test_the_inverse_network_belongs_to_the_objective() -> None:
    model = with_dynamics("mlp")
    objective = make(model, inverse_dynamics=0.5, inverse_hidden=16)
    assert set(objective.parts()) == {"model", "inverse"}
    assert not any("inverse" in name for name in model.state_dict())
    batch = draw(0)
    assert batch.actions is not None
    losses = objective(batch)
    z = model.latents(batch.views[0])
    dynamics = model.dynamics
    guess = objective.inverse.mlp(torch.cat([z[:, :-1], z[:, 1:]], dim=-1).flatten(2))
    scaled = (batch.actions - dynamics.action_mean) / dynamics.action_std
    torch.testing.assert_close(losses["inverse_dynamics"], F.mse_loss(guess, scaled.flatten(2)))


def test_monitors_tell_whether_actions_matter() -> None:
    model = world_model()
    objective = make(model, sigreg=0.1)
    figures = objective.monitor(draw(0))
    assert figures["action_sensitivity"] > 0.01
    assert figures["open_loop_ratio"] == pytest.approx(
        figures["open_loop_error"] / figures["copy_last_error"]
    )
    with torch.no_grad():
        model.dynamics.mlp[0].weight[:, 8:] = 0  # the columns of the actions
    assert objective.monitor(draw(0))["action_sensitivity"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "l3"}, r"objective.loss='l3' is unknown; choose one of l1, l2, smooth_l1, cosine"),
        ({"target_norm": "batch"}, "objective.target_norm='batch' is unknown"),
        ({"rollout_gradient": "some"}, "objective.rollout_gradient='some' is unknown"),
        ({"variance": -1.0}, "weights must not be negative"),
        ({"rollout_steps": -1}, "must not be negative"),
        ({"directions": 0}, "must be positive"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentDynamicsConfig(**settings)


def test_a_window_that_is_too_short_is_refused() -> None:
    objective = make(with_dynamics("mlp"), rollout_steps=4, rollout_context=3)
    with pytest.raises(ValueError, match="need a longer window than 4; set window=6 or more"):
        objective(draw(0))

"""Ensembles of dynamics, and the slow level."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from worldmodel.models import dynamics as D

_spec = importlib.util.spec_from_file_location("contracts", Path(__file__).with_name("contracts.py"))
assert _spec is not None and _spec.loader is not None
contracts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(contracts)

CONFIGS: dict[str, Any] = {
    "mlp": D.MLPDynamicsConfig(hidden=16),
    "adaln": D.AdaLNDynamicsConfig(width=16, depth=2, heads=2, head_width=8, mlp_hidden=24),
}
N_Z_K_A = (5, 4, 2, 3)


def shaken(module: nn.Module) -> Any:
    """Far from its initialisation, at which adaptive norms ignore the action."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


# Ensembles


def test_members_of_an_ensemble_are_initialised_apart_and_share_statistics() -> None:
    torch.manual_seed(0)
    ensemble = D.build_dynamics(D.MLPDynamicsConfig(hidden=8), *N_Z_K_A, members=3)
    assert isinstance(ensemble, D.Ensemble)
    members: list[Any] = list(ensemble.members)
    first, second = members[:2]
    assert not torch.equal(first.mlp[0].weight, second.mlp[0].weight)
    ensemble.set_statistics(torch.randn(50, 3) * 2 + 1)
    assert torch.equal(first.action_mean, ensemble.action_mean)
    assert ensemble.action_mean.abs().min() > 0.1


@pytest.mark.parametrize("name", ["mlp", "adaln"])
def test_each_member_keeps_the_contract_and_the_ensemble_is_their_mean(name: str) -> None:
    torch.manual_seed(0)
    ensemble = shaken(D.build_dynamics(CONFIGS[name], *N_Z_K_A, members=3))
    for member in ensemble.members:
        contracts.check_dynamics(member, 5, 4, block=2, action_dim=3, context=member.context)
    contracts.check_rollout_details(ensemble, 5, 4, block=2, action_dim=3, context=ensemble.context)
    context, past, plans = torch.randn(2, 2, 5, 4), torch.randn(2, 1, 2, 3), torch.randn(2, 3, 4, 2, 3)
    with torch.no_grad():
        rolled = ensemble.rollout_members(context, past, plans)
        assert rolled.shape == (3, 2, 3, 4, 5, 4)
        torch.testing.assert_close(rolled[1], ensemble.members[1].rollout(context, past, plans))
        torch.testing.assert_close(rolled.mean(dim=0), ensemble.rollout(context, past, plans))
        forced = ensemble.forward_members(context, plans[:, 0, :2])
        torch.testing.assert_close(forced.mean(dim=0), ensemble(context, plans[:, 0, :2]))


def test_disagreement() -> None:
    apart = torch.stack([torch.full((2, 3, 1, 4), value) for value in (0.0, 2.0)])
    torch.testing.assert_close(D.Ensemble.disagreement(apart), torch.ones(2, 3))
    same = torch.randn(1, 2, 3, 1, 4).expand(5, -1, -1, -1, -1).clone().requires_grad_()
    value = D.Ensemble.disagreement(same)
    assert value.max() < 1e-5
    value.sum().backward()
    assert same.grad is not None and torch.isfinite(same.grad).all()
    with pytest.raises(ValueError, match="at least 2 members"):
        D.build_dynamics(D.MLPDynamicsConfig(), *N_Z_K_A, members=0)


# The slow level


def test_the_slow_level_is_causal_and_rolls_out_macro_actions() -> None:
    torch.manual_seed(0)
    slow = shaken(D.build_slow(D.SlowConfig(steps=3, macro_dim=2), CONFIGS["adaln"], *N_Z_K_A))
    latents, actions = D.slow_steps(torch.randn(2, 12, 5, 4), torch.randn(2, 11, 2, 3), steps=3)
    assert latents.shape == (2, 4, 5, 4) and actions.shape == (2, 3, 3, 2, 3)
    slow.encoder.set_statistics(actions)
    with torch.no_grad():
        predicted = slow(latents[:, :-1], actions)
        for changed in range(3):
            other = actions.clone()
            other[:, changed, 2] += 1
            change = (slow(latents[:, :-1], other) - predicted).abs().amax(dim=(0, 2, 3)) > 1e-6
            assert change.tolist() == [row >= changed for row in range(3)]
        macro = slow.encode_actions(actions)
        assert macro.shape == (2, 3, 1, 2) and macro.abs().max() <= 1
        rolled = slow.rollout(latents[:, :2], macro[:, :1], macro[:, None, 1:])
        torch.testing.assert_close(rolled[:, 0, 0], predicted[:, 1], atol=1e-5, rtol=1e-5)
    contracts.check_rollout_details(slow.dynamics, 5, 4, block=1, action_dim=2, context=3)


def test_slow_steps_take_every_kth_latent_and_the_actions_between() -> None:
    times = torch.arange(9.0)
    latents, actions = times[None, :, None, None], times[None, :8, None, None]
    slow, blocks = D.slow_steps(latents, actions, steps=3)
    assert slow.flatten().tolist() == [0, 3, 6]
    assert blocks.flatten(1).tolist() == [[0, 1, 2, 3, 4, 5]]
    with pytest.raises(ValueError, match="shorter than a slow step"):
        D.slow_steps(latents, actions, steps=9)


def test_macro_statistics_say_where_macro_actions_of_the_data_are() -> None:
    torch.manual_seed(0)
    encoder = D.MacroActionEncoder(D.SlowConfig(steps=2, macro_dim=3), actions_per_step=1, action_dim=2)
    actions = torch.randn(400, 2, 1, 2) * 3 + 1
    encoder.set_statistics(actions)
    encoder.set_macro_statistics(actions)
    macro = encoder(actions)
    torch.testing.assert_close(encoder.macro_mean, macro.mean(dim=0))
    torch.testing.assert_close(encoder.macro_std, macro.std(dim=0))
    with pytest.raises(ValueError, match=r"\(k, K, A\) = \(2, 1, 2\)"):
        encoder(torch.randn(4, 3, 1, 2))


def test_settings_of_the_slow_level_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"slow.steps=1"):
        D.SlowConfig(steps=1)
    with pytest.raises(ValueError, match="macro_dim"):
        D.SlowConfig(macro_dim=0)

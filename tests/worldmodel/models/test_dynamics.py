"""Every kind of dynamics: causality, rollouts, what is shared and what is remembered, sizes, mistakes."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from worldmodel.models import dynamics as D
from worldmodel.models.dynamics import causal
from worldmodel.models.files import from_dict
from worldmodel.nn import causal as nn_causal
from worldmodel.nn.causal import CausalBlock, Memory, attend_to_repeated, attend_to_shared, frame_causal_mask

_spec = importlib.util.spec_from_file_location("contracts", Path(__file__).with_name("contracts.py"))
assert _spec is not None and _spec.loader is not None
contracts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(contracts)

SMALL: dict[str, Any] = {"depth": 2, "heads": 2, "head_width": 8, "mlp_hidden": 24}
CONFIGS: dict[str, Any] = {
    "mlp": D.MLPDynamicsConfig(hidden=16),
    "mlp of two": D.MLPDynamicsConfig(hidden=16, context=2),
    "gru": D.GRUDynamicsConfig(),
    "gru embedded": D.GRUDynamicsConfig(action_width=4),
    "adaln": D.AdaLNDynamicsConfig(width=16, **SMALL),
    "adaln rope": D.AdaLNDynamicsConfig(width=5, positions="rope", projection=12, context=2, **SMALL),
    "adaln batch norm": D.AdaLNDynamicsConfig(width=16, projection=12, projection_norm="batch", **SMALL),
    "adaln context 1": D.AdaLNDynamicsConfig(width=16, context=1, **SMALL),
    "concat": D.ConcatDynamicsConfig(**SMALL),
    "concat rope": D.ConcatDynamicsConfig(width=16, positions="rope", **SMALL),
    "block_causal": D.BlockCausalDynamicsConfig(width=16, context=3, **SMALL),
    "block_causal compat": D.BlockCausalDynamicsConfig(
        width=16, context=4, positions="rope_compat", checkpoint_blocks=True, **SMALL
    ),
    "block_causal learned": D.BlockCausalDynamicsConfig(width=16, context=3, positions="learned", **SMALL),
    "prefix": D.PrefixDynamicsConfig(
        width=16, heads=2, head_width=8, mlp_hidden=24, hidden=24, fusion=8, prefix=1
    ),
}
N_Z_K_A = (5, 4, 2, 3)


def make(config: Any, tokens: int = 1, width: int = 4, members: int = 1) -> Any:
    """Dynamics that are far from their initialisation, at which adaptive norms ignore the action."""
    torch.manual_seed(0)
    built = D.build_dynamics(config, tokens, width, 2, 3, members).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("name", CONFIGS)
def test_contract(name: str, tokens: int) -> None:
    dynamics = make(CONFIGS[name], tokens)
    contracts.check_dynamics(dynamics, tokens, 4, block=2, action_dim=3, context=dynamics.context)
    contracts.check_rollout_details(dynamics, tokens, 4, block=2, action_dim=3, context=dynamics.context)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_prediction_depends_on_the_last_context_steps_and_nothing_else(name: str) -> None:
    dynamics = make(CONFIGS[name], tokens=5)
    tokens, actions = torch.randn(2, 7, 5, 4), torch.randn(2, 7, 2, 3)
    with torch.no_grad():
        predicted = dynamics(tokens, actions)
        for source in (0, 1):
            inputs = [tokens.clone(), actions.clone()]
            inputs[source][:, 1] += 1.0
            change = (dynamics(*inputs) - predicted).abs().amax(dim=(0, 2, 3)) > 1e-6
            # Of several latents, the MLP sees the last action only.
            seen = 1 if source and name == "mlp of two" else dynamics.context
            assert change.tolist() == [1 <= row < 1 + seen for row in range(7)]
        # Each row is what the window that ends there gives, so a model of longer context is not asked for more.
        for row in range(7):
            window = slice(max(0, row + 1 - dynamics.context), row + 1)
            alone = dynamics(tokens[:, window], actions[:, window])[:, -1]
            torch.testing.assert_close(alone, predicted[:, row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["adaln", "adaln rope", "concat", "block_causal"])
@pytest.mark.parametrize("m", [1, 3])
def test_rollouts_compute_the_context_once_and_new_steps_only(name: str, m: int) -> None:
    config = dataclasses.replace(CONFIGS[name], context=m + 4)
    dynamics = make(config, tokens=5)
    runs: list[tuple[int, int]] = []
    run = dynamics._through

    def counted(tokens: Tensor, actions: Tensor, memory: Memory | None = None) -> Any:
        runs.append((tokens.shape[0], tokens.shape[1]))
        return run(tokens, actions, memory)

    dynamics._through = counted
    with torch.no_grad():
        dynamics.rollout(torch.randn(2, m, 5, 4), torch.randn(2, m - 1, 2, 3), torch.randn(2, 6, 4, 2, 3))
    # The shared context for 2 environments, then one step at a time for 12 candidates.
    assert runs == [(2, m - 1)] * (m > 1) + [(12, 1)] * 4


def test_a_sliding_window_computes_again_what_remains_of_the_context_once_per_environment() -> None:
    dynamics = make(dataclasses.replace(CONFIGS["adaln"], context=3))
    runs: list[tuple[int, int]] = []
    run = dynamics._through

    def counted(tokens: Tensor, actions: Tensor, memory: Memory | None = None) -> Any:
        runs.append((tokens.shape[0], tokens.shape[1]))
        return run(tokens, actions, memory)

    dynamics._through = counted
    with torch.no_grad():
        dynamics.rollout(torch.randn(2, 3, 1, 4), torch.randn(2, 2, 2, 3), torch.randn(2, 5, 4, 2, 3))
    assert runs == [(2, 2), (10, 1), (2, 1), (10, 2), (10, 3), (10, 3)]


def test_attention_to_shared_keys_is_attention_to_repeated_ones() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 6, 2, 4, 8).unbind(0)
    shared = (torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8))
    mask = frame_causal_mask(new=2, known=0, group=2, device=q.device)
    repeated = [part.repeat_interleave(3, dim=0) for part in shared]
    assert mask is not None
    everything = torch.cat([torch.ones(4, 5, dtype=torch.bool), mask], dim=1)
    expected = nn.functional.scaled_dot_product_attention(
        q, torch.cat([repeated[0], k], dim=2), torch.cat([repeated[1], v], dim=2), everything
    )
    for attend in (attend_to_shared, attend_to_repeated):
        torch.testing.assert_close(attend(q, k, v, shared, mask, 0.0), expected, atol=1e-6, rtol=1e-5)


def test_rollouts_of_few_and_of_many_tokens_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics = make(CONFIGS["block_causal"], tokens=5)
    given = torch.randn(2, 3, 5, 4), torch.randn(2, 2, 2, 3), torch.randn(2, 3, 4, 2, 3)
    with torch.no_grad():
        few = dynamics.rollout(*given)
        monkeypatch.setattr(nn_causal, "FEW_QUERIES", 0)
        torch.testing.assert_close(dynamics.rollout(*given), few, atol=1e-5, rtol=1e-5)


def test_the_mask_lets_steps_see_themselves_and_earlier_ones() -> None:
    mask = frame_causal_mask(new=2, known=1, group=2, device=torch.device("cpu"))
    assert mask is not None
    first, second = [True] * 4 + [False] * 2, [True] * 6
    assert mask.tolist() == [first, first, second, second]
    assert frame_causal_mask(new=1, known=3, group=2, device=torch.device("cpu")) is None


@pytest.mark.parametrize("name", ["adaln rope", "concat rope", "block_causal"])
def test_rotary_positions_tell_tokens_of_a_step_apart(name: str) -> None:
    """Tokens that swap places are not predicted as the same tokens in other places."""
    dynamics = make(CONFIGS[name], tokens=5)
    tokens, actions = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 2, 3)
    with torch.no_grad():
        for order in ([1, 0, 2, 3, 4], [0, 2, 1, 3, 4]):
            swapped = dynamics(tokens[:, :, order], actions)
            assert (swapped - dynamics(tokens, actions)[:, :, order]).abs().max() > 1e-5


def test_dropout_is_for_training_only() -> None:
    dynamics = make(dataclasses.replace(CONFIGS["adaln"], dropout=0.5))
    given = torch.randn(2, 3, 1, 4), torch.randn(2, 2, 2, 3), torch.randn(2, 5, 4, 2, 3)
    with torch.no_grad():
        assert torch.equal(dynamics.rollout(*given), dynamics.rollout(*given))
        dynamics.train()
        assert not torch.equal(dynamics.rollout(*given), dynamics.rollout(*given))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_is_trained(name: str) -> None:
    """By teacher forcing alone, since a parameter without a gradient stops DDP."""
    dynamics = make(CONFIGS[name], tokens=5).train()
    steps = min(3, dynamics.context)
    tokens, actions = torch.randn(4, steps, 5, 4), torch.randn(4, steps, 2, 3)
    dynamics(tokens, actions).square().sum().backward()
    assert [n for n, p in dynamics.named_parameters() if p.grad is None] == []


def test_checkpointing_changes_memory_and_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        config = dataclasses.replace(CONFIGS["block_causal"], checkpoint_blocks=recompute)
        dynamics = make(config, tokens=5).train()
        torch.manual_seed(1)
        dynamics(torch.randn(2, 3, 5, 4), torch.randn(2, 3, 2, 3)).square().sum().backward()
        gradients.append([p.grad for p in dynamics.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_adaptive_norms_begin_as_the_identity() -> None:
    torch.manual_seed(0)
    dynamics = D.AdaLNDynamics(D.AdaLNDynamicsConfig(), *N_Z_K_A)
    tokens, actions = torch.randn(1, 3, 5, 4), torch.randn(1, 3, 2, 3)
    torch.testing.assert_close(dynamics(tokens, actions), dynamics(tokens, actions + 1))
    dynamics(tokens, actions).square().sum().backward()
    first = dynamics.blocks[0]
    assert isinstance(first, CausalBlock) and first.modulation is not None
    assert first.modulation.weight.grad is not None and first.modulation.weight.grad.abs().max() > 0


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_lewms_predictor_has_its_published_size() -> None:
    """11,584,128 in an independent audit of the released checkpoint: predictor and its projection.

    18,042,672 tensors' elements in the checkpoint are these, the action embedding (156,206), a ViT-Tiny/14 (5,501,376),
    the encoder's projection (792,768), and twice 4,097 statistics of a batch norm.
    """
    published: dict[str, Any] = {"width": 192, "depth": 6, "heads": 16, "head_width": 64, "mlp_hidden": 2048}
    config = D.AdaLNDynamicsConfig(
        **published, dropout=0.1, context=3, action_width=10, projection=2048, projection_norm="batch"
    )
    with torch.device("meta"):
        dynamics = D.AdaLNDynamics(config, tokens=1, width=192, actions_per_step=5, action_dim=2)
    assert count(dynamics.embed_action) == 156_206
    assert count(dynamics) - 156_206 == 11_584_128
    assert 11_584_128 + 156_206 + 5_501_376 + count(dynamics.leave) + 2 * 4_097 == 18_042_672


def test_vjepa2_acs_predictor_has_its_published_size() -> None:
    config = D.BlockCausalDynamicsConfig(width=1024, depth=24, heads=16, head_width=64, mlp_hidden=4096)
    with torch.device("meta"):
        dynamics = D.BlockCausalDynamics(config, tokens=256, width=1408, actions_per_step=1, action_dim=7)
    embeddings_of_state_and_camera = 8 * 1024 + 7 * 1024
    assert round((count(dynamics) + embeddings_of_state_and_camera) / 1e6, 1) == 305.2


# Prefixes


def prefixes(prefix: int) -> Any:
    return make(dataclasses.replace(CONFIGS["prefix"], prefix=prefix), tokens=5)


def test_a_prefix_depends_on_its_own_actions_only() -> None:
    dynamics = prefixes(4)
    tokens, actions = torch.randn(2, 5, 4), torch.randn(2, 4, 2, 3)
    with torch.no_grad():
        predicted = dynamics.predict_prefixes(tokens, actions)
        assert predicted.shape == (2, 4, 5, 4)
        for changed in range(4):
            other = actions.clone()
            other[:, changed] += 1
            change = (dynamics.predict_prefixes(tokens, other) - predicted).abs().amax(dim=(0, 2, 3)) > 1e-6
            assert change.tolist() == [row >= changed for row in range(4)]
        shorter = dynamics.predict_prefixes(tokens, actions[:, :2])
        torch.testing.assert_close(shorter, predicted[:, :2], atol=1e-5, rtol=1e-5)
        forced = dynamics(tokens[:, None], actions[:, :1])
        torch.testing.assert_close(forced[:, 0], predicted[:, 0], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="L at most 4"):
        dynamics.predict_prefixes(tokens, torch.randn(2, 5, 2, 3))


def test_rollouts_of_prefixes_take_one_call_per_prefix_and_go_on_from_its_end() -> None:
    dynamics = prefixes(4)
    context, plans = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 6, 2, 3)
    with torch.no_grad():
        rolled = dynamics.rollout(context, torch.randn(2, 2, 2, 3), plans)
        for candidate in range(3):
            first = dynamics.predict_prefixes(context[:, -1], plans[:, candidate, :4])
            then = dynamics.predict_prefixes(first[:, -1], plans[:, candidate, 4:])
            expected = torch.cat([first, then], dim=1)
            torch.testing.assert_close(rolled[:, candidate], expected, atol=1e-5, rtol=1e-5)
    contracts.check_rollout_details(dynamics, 5, 4, block=2, action_dim=3, context=1)


# Building and mistakes


def test_every_kind_is_built_from_its_configuration() -> None:
    for kind, (config_class, module_class) in D.DYNAMICS.items():
        config: Any = config_class()
        assert D.kind_of(config) == kind
        built: Any = D.build_dynamics(config, *N_Z_K_A)
        assert type(built) is module_class
        assert (built.tokens, built.width) == N_Z_K_A[:2]
        assert built.config == config
        # A node of the settings, and back from a model file.
        assert OmegaConf.to_object(OmegaConf.structured(config)) == config
        assert from_dict(config_class, dataclasses.asdict(config), "config.json") == config
    with pytest.raises(ValueError, match="int is no configuration of dynamics; there are MLPDynamicsConfig"):
        D.kind_of(3)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("mlp", {"layers": 1}, "dynamics.layers=1"),
        ("gru", {"action_width": -1}, "dynamics.action_width=-1"),
        ("adaln", {"depth": 0}, "dynamics.depth=0"),
        ("adaln", {"dropout": 1.0}, "dynamics.dropout=1.0"),
        ("adaln", {"positions": "sincos"}, "choose one of learned, rope, rope_compat"),
        ("adaln", {"positions": "rope", "head_width": 4}, "dynamics.head_width=4"),
        ("adaln", {"projection_norm": "group"}, "dynamics.projection_norm='group'"),
        ("adaln", {"width": 0}, "width must be positive"),
        ("adaln", {"projection_norm": "batch"}, "needs dynamics.projection"),
        ("prefix", {"projection": -1}, "dynamics.projection=-1"),
        ("concat", {"action_width": 0}, "action_width at least 1"),
        ("concat", {"rows": -1}, "dynamics.rows=-1"),
        ("block_causal", {"width": 0}, "dynamics.width=0"),
        ("block_causal", {"context": 0}, "dynamics.context=0"),
        ("prefix", {"prefix": 0}, "dynamics.prefix=0"),
        ("prefix", {"dropout": -0.1}, "dynamics.dropout=-0.1"),
    ],
)
def test_settings_that_cannot_be(kind: str, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        D.DYNAMICS[kind][0](**wrong)


def test_places_of_tokens_on_a_grid() -> None:
    row, column = causal.places(6, rows=2)
    assert row.tolist() == [0, 0, 0, 1, 1, 1] and column.tolist() == [0, 1, 2, 0, 1, 2]
    row, column = causal.places(5, rows=0)
    assert row.tolist() == [0, 0, 1, 1, 0] and column.tolist() == [0, 1, 0, 1, 0]  # the last: proprioception
    for tokens, rows in ((3, 0), (8, 3), (2, 3)):
        with pytest.raises(ValueError, match=f"{tokens} tokens per step are not"):
            causal.places(tokens, rows)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "prefix"])
def test_one_action_is_not_broadcast_to_all_steps(name: str) -> None:
    with pytest.raises(ValueError, match="one block of K actions for each step"):
        make(CONFIGS[name])(torch.randn(2, 3, 1, 4), torch.randn(2, 1, 2, 3))

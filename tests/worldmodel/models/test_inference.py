"""Rollouts for planning: what they compute, in which precision, and how much memory they take."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from worldmodel.models.dynamics import (
    DYNAMICS,
    RolloutConfig,
    build_dynamics,
    candidates_within,
    fast_rollout,
)
from worldmodel.models.dynamics.base import Dynamics
from worldmodel.models.dynamics.inference import candidate_bytes

KINDS = [kind for kind in DYNAMICS if kind != "slow"]
N, Z, K, A = 4, 12, 2, 2


def make(kind: str, tokens: int = N, members: int = 1) -> Dynamics:
    torch.manual_seed(0)
    dynamics = build_dynamics(DYNAMICS[kind][0](), tokens, Z, K, A, members).eval()
    for parameter in dynamics.parameters():  # what begins at zero counts as well
        torch.nn.init.normal_(parameter, std=0.1)
    return dynamics


def inputs(dynamics: Dynamics, steps: int, envs: int = 2, count: int = 5, length: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((envs, steps, dynamics.tokens, Z), (envs, steps - 1, K, A), (envs, count, length, K, A))
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("kind", KINDS)
def test_fast_rollout_is_the_rollout(kind: str) -> None:
    dynamics = make(kind)
    for steps in {1, dynamics.context + 1}:
        given = inputs(dynamics, steps)
        with torch.no_grad():
            expected = dynamics.rollout(*given)
            exact = fast_rollout(dynamics, RolloutConfig())(*given)
            half = fast_rollout(dynamics, RolloutConfig("bf16"))(*given)
        assert exact.dtype == half.dtype == torch.float32
        scale = float(expected.square().mean().sqrt())
        assert (exact - expected).abs().max() < 1e-4 * scale
        assert (half - expected).square().mean().sqrt() < 0.05 * scale
    assert any(
        isinstance(layer, torch.nn.Linear) for layer in dynamics.modules()
    )  # the model is left as it was


def test_members_and_gradients() -> None:
    dynamics = make("adaln", members=2)
    context, past, plans = inputs(dynamics, 1)
    rollout = fast_rollout(dynamics, RolloutConfig("bf16"), members=True)
    with torch.no_grad():
        assert rollout(context, past, plans).shape == (2, *plans.shape[:3], N, Z)
    asked = plans.clone().requires_grad_()
    result = fast_rollout(dynamics, RolloutConfig("bf16"))(context, past, asked)
    torch.testing.assert_close(result, dynamics.rollout(context, past, plans), atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(result.sum(), asked)
    assert gradient.abs().max() > 0


class Live(TorchDispatchMode):
    """The bytes of tensors that are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: list[int] = []  # of every storage that was made
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.see(value.untyped_storage())
        return result

    def see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.sizes.append(size)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.gone, key, size)

    def gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_on_memory_holds(kind: str) -> None:
    dynamics, count = make(kind), 32
    context, past, plans = inputs(dynamics, dynamics.context, 1, count)
    with torch.no_grad(), Live() as live:
        dynamics.rollout(context, past, plans)
    bound = count * candidate_bytes(dynamics, plans.shape[2])
    assert live.peak < bound


def test_a_shared_context_is_not_expanded() -> None:
    """Twice the candidates leave the context's keys and values as they are: one row for each environment."""
    dynamics = make("adaln", tokens=1)
    seen: list[Any] = []
    through = dynamics._through  # type: ignore[operator]

    def watched(tokens: Tensor, actions: Tensor, memory: Any = None) -> Any:
        seen.append(memory)
        return through(tokens, actions, memory)

    dynamics._through = watched  # type: ignore[assignment]
    with torch.no_grad():
        dynamics.rollout(*inputs(dynamics, 3, envs=2, count=64, length=1))
    shared = [memory.shared for memory in seen if memory is not None and memory.shared]
    assert shared and all(len(part) == 2 for pairs in shared for pair in pairs for part in pair)


def test_candidates_within_a_limit() -> None:
    dynamics = make("adaln")
    assert candidates_within(dynamics, 5, 0.0) is None
    assert candidates_within(dynamics, 5, 1e-9) == 1
    some, twice = (candidates_within(dynamics, 5, gib) for gib in (0.01, 0.02))
    assert some is not None and twice is not None and 1.9 < twice / some < 2.1


def test_compiled_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile traces gives what the model gives; without a compiler of kernels, which takes minutes."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, mode: compile_(function, backend="eager"))
    dynamics = make("adaln", tokens=1)
    given = inputs(dynamics, 2, count=3, length=3)
    with torch.no_grad():
        result = fast_rollout(dynamics, RolloutConfig(compile=True))(*given)
        torch.testing.assert_close(result, dynamics.rollout(*given), atol=1e-5, rtol=1e-5)


def test_nothing_is_kept_for_a_backward_pass_that_plans_do_not_ask_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, mode: function)
    dynamics = make("adaln", tokens=1)
    given = inputs(dynamics, 2, count=3, length=3)
    for config in (RolloutConfig(), RolloutConfig(compile=True)):
        rollout = fast_rollout(dynamics, config)
        assert not rollout(*given).requires_grad
        assert rollout(*given[:2], given[2].requires_grad_()).requires_grad
        given[2].requires_grad_(False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "fp16"}, "fp32 or bf16"),
        ({"cuda_graphs": True}, "compile=true"),
        ({"memory": -1.0}, "GiB"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RolloutConfig(**settings)


def test_graphs_need_a_gpu() -> None:
    with pytest.raises(ValueError, match="device=cuda"):
        fast_rollout(make("mlp"), RolloutConfig(compile=True, cuda_graphs=True))

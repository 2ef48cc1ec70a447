"""Contracts that every encoder, dynamics and objective must pass; tests call them for each implementation.

Add a new one to the lists in ``test_contracts.py``.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn


def check_encoder(encoder: nn.Module, clip: Tensor, windows: tuple[int, ...]) -> None:
    """``clip (B, T, C, H, W)`` uint8; ``windows`` are those that ``encode_steps`` must support."""
    b, t = clip.shape[:2]
    with torch.no_grad():
        tokens = encoder.encode(clip)
        assert tokens.ndim == 4
        assert tokens.shape[0] == b
        assert tokens.shape[2:] == (encoder.tokens_per_step, encoder.width)
        torch.testing.assert_close(encoder.encode(clip.float() / 255), tokens, atol=1e-5, rtol=1e-5)

        # Rows do not see each other.
        torch.testing.assert_close(encoder.encode(clip[1:]), tokens[1:], atol=1e-5, rtol=1e-5)

        # Keeping all tokens is no mask; keeping some gives those, computed without the others.
        count = tokens.shape[1] * tokens.shape[2]
        everything = torch.arange(count).expand(b, -1)
        torch.testing.assert_close(
            encoder.encode(clip, keep=everything), tokens.flatten(1, 2), atol=1e-5, rtol=1e-5
        )
        some = everything[:, ::3]
        kept = encoder.encode(clip, keep=some)
        assert kept.shape == (b, some.shape[1], encoder.width)

        for window in windows:
            _check_steps_are_causal(encoder, clip, window)


def _check_steps_are_causal(encoder: nn.Module, clip: Tensor, window: int) -> None:
    t = clip.shape[1]
    steps = encoder.encode_steps(clip, window=window)
    assert steps.shape == (clip.shape[0], t, encoder.tokens_per_step, encoder.width)
    for changed in range(t):
        other = clip.clone()
        other[:, changed] = 255 - other[:, changed]
        difference = (encoder.encode_steps(other, window=window) - steps).abs().amax(dim=(0, 2, 3))
        affected = [step for step in range(t) if difference[step] > 1e-6]
        # A step sees the last `window` frames, and no later one.
        assert affected == list(range(changed, min(t, changed + window)))


def check_dynamics(
    dynamics: nn.Module, tokens: int, width: int, block: int, action_dim: int, context: int
) -> None:
    """In evaluation mode; ``context``: the longest context ``M`` that the dynamics sees."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    b, t = 3, max(5, context + 2)
    history, actions = draw(b, t, tokens, width), draw(b, t, block, action_dim)
    with torch.no_grad():
        predicted = dynamics(history, actions)
        assert predicted.shape == history.shape

        # Causality: a token or action at step c changes no prediction before row c.
        for c in range(t):
            for source in (0, 1):
                inputs = [history.clone(), actions.clone()]
                inputs[source][:, c] += 1.0
                difference = (dynamics(*inputs) - predicted).abs().amax(dim=(0, 2, 3))
                assert (difference[:c] < 1e-6).all()
                assert difference[c] > 1e-6

        # From an episode's first step to a history that is longer than what the dynamics sees.
        for m in range(1, context + 2):
            _check_rollout(dynamics, draw(2, m, tokens, width), draw(2, m - 1, block, action_dim),
                           draw(2, 4, 6, block, action_dim))  # fmt: skip


def _check_rollout(dynamics: nn.Module, context: Tensor, past: Tensor, plans: Tensor) -> None:
    """Rollout equals teacher forcing on its own predictions, for each candidate by itself."""
    e, s, length = plans.shape[:3]
    rolled = dynamics.rollout(context, past, plans)
    assert rolled.shape == (e, s, length, *context.shape[2:])
    for candidate in range(s):
        tokens, actions = context, past
        for step in range(length):
            actions = torch.cat([actions, plans[:, candidate, step : step + 1]], dim=1)
            following = dynamics(tokens, actions)[:, -1:]
            torch.testing.assert_close(rolled[:, candidate, step], following[:, 0], atol=1e-5, rtol=1e-5)
            tokens = torch.cat([tokens, following], dim=1)


def check_rollout_details(
    dynamics: nn.Module, tokens: int, width: int, block: int, action_dim: int, context: int
) -> None:
    """Histories of different lengths, gradients, lower precision and mistakes."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    m = context + 1
    history, past = draw(4, m, tokens, width), draw(4, m - 1, block, action_dim)
    plans = draw(4, 3, 4, block, action_dim)

    # Episodes that have just begun: what stands to the left of them is not looked at.
    lengths = torch.tensor([m, 1, m, max(1, m - 1)])
    rolled = dynamics.rollout(history, past, plans, lengths)
    for row, length in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        alone = dynamics.rollout(history[one, m - length :], past[one, m - length :], plans[one])
        torch.testing.assert_close(rolled[one], alone, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        same = torch.full((4,), m)
        torch.testing.assert_close(
            dynamics.rollout(history, past, plans, same), dynamics.rollout(history, past, plans)
        )
    for wrong in ([0, 1, 1, 1], [m + 1, 1, 1, 1], [1]):
        with pytest.raises(ValueError, match="length"):
            dynamics.rollout(history, past, plans, torch.tensor(wrong))

    # A planner may follow gradients: a step's action moves that step and later ones, and no earlier one.
    asked = plans.clone().requires_grad_()
    for step in range(4):
        (gradient,) = torch.autograd.grad(dynamics.rollout(history, past, asked)[:, :, step].sum(), asked)
        moved = gradient.abs().amax(dim=(0, 1, 3, 4)) > 0
        assert moved.tolist() == [earlier <= step for earlier in range(4)]

    # bfloat16: the latent keeps its type, and the result is close.
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = dynamics.rollout(history, past, plans)
        forced = dynamics(history[:, 1:], past)
    assert half.dtype == forced.dtype == torch.float32
    assert torch.isfinite(half).all()
    full = dynamics.rollout(history, past, plans).detach()
    assert (half - full).square().mean().sqrt() < 0.05 * full.square().mean().sqrt()

    # Mistakes are named, and nothing is broadcast.
    with pytest.raises(ValueError, match=f"actions have {action_dim + 1} dimensions, .*{action_dim}"):
        dynamics.rollout(history, past, draw(4, 3, 4, block, action_dim + 1))
    with pytest.raises(ValueError, match=f"{block + 1} actions per step"):
        dynamics(history, draw(4, m, block + 1, action_dim))
    with pytest.raises(ValueError, match="plans have shape"):
        dynamics.rollout(history, past, plans[:1])
    with pytest.raises(ValueError, match="past_actions have shape"):
        dynamics.rollout(history, past[:, 1:], plans)
    with pytest.raises(ValueError, match="context has shape"):
        dynamics.rollout(draw(4, m, tokens, width + 1), past, plans)


def check_objective(objective: nn.Module, batch: Any) -> None:
    """What the training loop relies on."""
    objective.train()
    losses = objective(batch)
    assert losses["loss"].ndim == 0
    assert all(torch.isfinite(value) for value in losses.values())
    losses["loss"].backward()
    trained = [p for p in objective.parameters() if p.requires_grad]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trained)
    assert all(p.grad is None for p in objective.parameters() if not p.requires_grad)

    # The batch decides everything: no hidden generator advances, so a step can be drawn and done again.
    before = copy.deepcopy(objective.state_dict())
    first = {name: float(value.detach()) for name, value in objective(batch).items()}
    objective.load_state_dict(before)
    assert {name: float(value.detach()) for name, value in objective(batch).items()} == first

    # Monitors leave no trace.
    objective.eval()
    before = copy.deepcopy(objective.state_dict())
    figures = objective.monitor(batch)
    assert all(isinstance(value, float) for value in figures.values())
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    objective.after_step(0.5)
    objective.after_step(1.0)

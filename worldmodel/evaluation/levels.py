"""What is trained on top of a world model, measured on held-out episodes: a value head, a slow level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.plannability import sample_pairs
from worldmodel.evaluation.resampling import interval, spearman
from worldmodel.evaluation.trajectories import Imagination, Trajectory, distance
from worldmodel.models.dynamics.slow import SlowDynamics

#: Steps to go of latents ``(L, N, Z)`` and goals ``(L, N, Z)``: ``(L,)``.
Value = Callable[[Tensor, Tensor], Tensor]
_ROWS = 4096  # pairs at once
_DRAWS = 300


@torch.inference_mode()
def steps_to_go(
    value: Value, episodes: Sequence[Trajectory], window: int, pairs: int = 3000, seed: int = 0
) -> dict[str, Any]:
    """Whether a value head puts moments in the order of the steps that an episode took from one to the other.

    Args:
        value: The value head.
        episodes: That training never saw.
        window: Steps of the training's windows: distances beyond them were never shown.
        pairs: Pairs of moments, both of the same episode.
        seed: Of the pairs.

    Returns:
        For ``window`` (pairs at most so far apart) and ``all``: ``pairs``; Spearman's rank correlation ``rho`` with its
        95% ``interval`` (bootstrap over episodes); ``latent_rho``, that of the latents' distance, which needs no
        training; and ``error``, the mean absolute error in steps.

    Raises:
        ValueError: No held-out episode has a step.
    """
    usable = [episode for episode in episodes if episode.steps]
    if not usable:
        raise ValueError("no held-out episode has a single step of the model; collect longer episodes")
    chosen = sample_pairs([len(episode.latents) for episode in usable], pairs, True, seed)
    groups = chosen[:, 0]
    first, last = np.sort(chosen[:, [1, 3]], axis=1).T
    here, goals = (
        torch.stack([usable[e].latents[t] for e, t in zip(groups, side, strict=True)])
        for side in (first, last)
    )
    guesses = [value(a, b) for a, b in zip(here.split(_ROWS), goals.split(_ROWS), strict=True)]
    predicted = torch.cat(guesses).double().cpu().numpy()
    apart, cost = (last - first).astype(np.float64), distance(here, goals).double().numpy()
    found = {}
    for name, rows in (("window", apart <= window), ("all", np.ones(len(apart), dtype=bool))):
        true, guess, places = apart[rows], predicted[rows], groups[rows]

        def rho(
            counts: np.ndarray,
            true: np.ndarray = true,
            guess: np.ndarray = guess,
            places: np.ndarray = places,
        ) -> float:
            return spearman(true, guess, counts[places])

        found[name] = {
            "pairs": len(true),
            "rho": spearman(true, guess),
            "interval": interval(rho, len(usable), _DRAWS),
            "latent_rho": spearman(true, cost[rows]),
            "error": float(np.abs(guess - true).mean()),
        }
    return {"episodes": len(usable), "longest": int(apart.max()), **found}


@torch.inference_mode()
def slow_open_loop(
    slow: SlowDynamics,
    flat: Imagination,
    episodes: Sequence[Trajectory],
    horizon: int = 4,
    starts: int = 4,
) -> dict[str, Any]:
    """Open-loop error of the slow level beside that of the model below, after the same steps from the same moments.

    Args:
        slow: The slow level, on ``flat.device``; it is given the macro-actions of what was really done.
        flat: The world model below, which is given the actions themselves.
        episodes: That training never saw.
        horizon: Slow steps, or fewer where episodes are shorter.
        starts: Moments per episode, evenly spread; each with as much context as there is before it.

    Returns:
        ``steps``, in steps of the model below; ``slow``, ``flat`` and ``copy_last`` (nothing moves), root mean square
        errors after each of them; ``ratio`` of slow to flat after the last, with a paired 95% ``interval``;
        ``episodes`` and ``starts``. Nothing, where no episode holds a slow step.
    """
    k = slow.encoder.config.steps
    length = min(horizon, max(episode.steps for episode in episodes) // k)
    moments = [
        (place, int(start))
        for place, episode in enumerate(episodes)
        if episode.steps >= length * k
        for start in np.unique(np.linspace(0, episode.steps - length * k, starts).round().astype(int))
    ]
    if length < 1 or not moments:
        return {}
    plans = torch.stack([episodes[e].actions[t : t + length * k] for e, t in moments])
    real = torch.stack([episodes[e].latents[t + k : t + length * k + 1 : k] for e, t in moments])
    first = torch.stack([episodes[e].latents[t] for e, t in moments])
    level = Imagination(flat.encode, slow.rollout, slow.context, flat.device, flat.chunk)
    contexts, past = [], []
    for e, t in moments:
        begin = t - k * min(t // k, slow.context - 1)
        contexts.append(episodes[e].latents[begin : t + 1 : k])
        past.append(_macro(slow, episodes[e].actions[begin:t], flat.device))
    predictions = {
        "slow": level.imagine(contexts, past, _macro(slow, plans, flat.device)),
        "flat": flat.from_moments(episodes, moments, plans)[:, k - 1 :: k],
        "copy_last": first[:, None].expand_as(real),
    }
    groups = np.unique([e for e, _ in moments], return_inverse=True)[1]
    squared = {
        name: (found - real).square().mean(dim=(2, 3)).double().numpy() for name, found in predictions.items()
    }

    def ratio(counts: np.ndarray) -> float:
        weight = counts[groups]
        return float(np.sqrt((weight @ squared["slow"][:, -1]) / max(weight @ squared["flat"][:, -1], 1e-30)))

    count = int(groups.max()) + 1
    return {
        "steps": [k * step for step in range(1, length + 1)],
        **{name: np.sqrt(values.mean(axis=0)).tolist() for name, values in squared.items()},
        "ratio": {"value": ratio(np.ones(count)), "interval": interval(ratio, count, _DRAWS)},
        "episodes": count,
        "starts": len(moments),
    }


def _macro(slow: SlowDynamics, actions: Tensor, device: str) -> Tensor:
    """Actions ``(..., n * k, K, A)`` of whole slow steps to macro-actions ``(..., n, 1, m)``, on the CPU."""
    blocks = actions.unflatten(-3, (-1, slow.encoder.config.steps)) if actions.shape[-3] else None
    if blocks is None:
        return actions.new_zeros((*actions.shape[:-3], 0, 1, slow.encoder.config.macro_dim))
    return slow.encode_actions(blocks.to(device)).float().cpu()

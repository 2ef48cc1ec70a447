"""Plannability: does the latent cost put states in the order of their true distance to a goal?

A planner searches for small latent distance to the goal's latent. It can only find what this distance orders rightly,
however well the model predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from worldmodel.evaluation.resampling import interval, spearman
from worldmodel.evaluation.trajectories import Imagination, Trajectory, distance
from worldmodel.seeding import keyed_rng

#: What a planner would pay at latents ``(n, N, Z)`` for goals ``(n, N, Z)``: ``(n,)``.
Cost = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: True distances of states ``(n, S)`` and ``(n, S)``: ``(n,)``.
Distances = Callable[[np.ndarray, np.ndarray], np.ndarray]
BINS = 5
#: Resamplings of an interval; each ranks all pairs anew.
DRAWS = 300
KEPT = 1500  # points of a scatter plot
_ROWS = 4096  # pairs whose cost is asked for at once


def euclidean(dims: Sequence[int]) -> Distances:
    """The Euclidean distance of some dimensions of the state."""
    chosen = list(dims)
    return lambda a, b: np.linalg.norm(a[..., chosen] - b[..., chosen], axis=-1)


def sample_pairs(lengths: Sequence[int], count: int, within: bool, seed: int) -> np.ndarray:
    """``(count, 4)``: episode and step of the one, episode and step of the other; never a moment with itself.

    Raises:
        ValueError: Pairs across episodes need two of them.
    """
    rng = keyed_rng("plannability", seed, int(within))
    sizes = np.asarray(lengths)
    if not within and len(sizes) < 2:
        raise ValueError("pairs across episodes need two held-out episodes at least; hold out more")
    first = rng.integers(len(sizes), size=count)
    second = first if within else (first + rng.integers(1, max(2, len(sizes)), size=count)) % len(sizes)
    a = rng.integers(sizes[first])
    b = (a + rng.integers(1, sizes[first])) % sizes[first] if within else rng.integers(sizes[second])
    return np.stack([first, a, second, b], axis=1)


def plannability(
    episodes: Sequence[Trajectory],
    distances: Distances,
    pairs: int = 3000,
    seed: int = 0,
    pixels: bool = False,
    model: Imagination | None = None,
    horizon: int = 0,
    cost_of: Cost = distance,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Spearman's rank correlation of cost and true distance, over pairs of moments of held-out episodes.

    Args:
        episodes: With states.
        distances: The true distance, as a function of states.
        pairs: Within the same episode, and as many across episodes.
        seed: Of the pairs: two models see the same ones.
        pixels: The cost is the root mean square difference of the frames instead: what needs no model.
        model, horizon: If given, the first moment of each pair is reached in imagination, ``horizon`` steps after a
            true one: the cost as a planner meets it, the errors of the dynamics included.
        cost_of: The cost of two latents: their distance, or what a value head says.

    Returns:
        For ``within``, ``across`` and ``all``: ``rho`` with its 95% ``interval`` (bootstrap over episodes) and, of
        equally filled ``bins`` of the true distance: ``low``, ``high``, ``pairs``, ``rho`` inside the bin, and
        ``cost``, its quartiles. And arrays for pictures: ``true``, ``cost`` and ``within`` of some pairs.

    Raises:
        ValueError: There are no states, or a distance is not finite.
    """
    if any(episode.states is None for episode in episodes):
        raise ValueError("the data have no states, which the true distance needs")
    lengths = [len(episode.latents) for episode in episodes]
    if model is not None and max(lengths) <= horizon + 1:
        raise ValueError(f"no held-out episode has more than {horizon} steps")
    kinds = (True, False) if len(lengths) > 1 else (True,)  # one episode has no others
    chosen = np.concatenate([sample_pairs(lengths, pairs, kind, seed) for kind in kinds])
    if model is not None:
        chosen = chosen[chosen[:, 1] >= horizon]  # the imagined moment has a true one so many steps before
    states = [episode.states for episode in episodes if episode.states is not None]
    true = distances(
        np.stack([states[e][t] for e, t, _, _ in chosen]), np.stack([states[e][t] for _, _, e, t in chosen])
    )
    if not np.isfinite(true).all():
        raise ValueError("a true distance is not finite; check the data's states")
    cost = _costs(episodes, chosen, pixels, model, horizon, cost_of)
    within = chosen[:, 0] == chosen[:, 2]
    results = {}
    for name, rows in (("within", within), ("across", ~within), ("all", np.ones(len(chosen), dtype=bool))):
        if rows.sum() > BINS:
            results[name] = _correlation(true[rows], cost[rows], chosen[rows], len(episodes))
    some = keyed_rng("scatter", seed).permutation(len(chosen))[:KEPT]
    return results, {"true": true[some], "cost": cost[some], "within": within[some]}


def _costs(
    episodes: Sequence[Trajectory],
    chosen: np.ndarray,
    pixels: bool,
    model: Imagination | None,
    horizon: int,
    cost_of: Cost,
) -> np.ndarray:
    if pixels:
        found = []
        for e, t, f, u in chosen:
            gap = episodes[e].frames[t].astype(np.float32) - episodes[f].frames[u]
            found.append(float(np.sqrt(np.square(gap).mean())))
        return np.array(found)
    goals = torch.stack([episodes[e].latents[t] for _, _, e, t in chosen])
    if model is None:
        reached = torch.stack([episodes[e].latents[t] for e, t, _, _ in chosen])
    else:
        moments = [(int(e), int(t) - horizon) for e, t, _, _ in chosen]
        plans = torch.stack([episodes[e].actions[t : t + horizon] for e, t in moments])
        reached = model.from_moments(episodes, moments, plans)[:, -1]
    with torch.inference_mode():
        parts = [
            cost_of(a, b).double() for a, b in zip(reached.split(_ROWS), goals.split(_ROWS), strict=True)
        ]
    found_cost: np.ndarray = torch.cat(parts).cpu().numpy()
    return found_cost


def _correlation(true: np.ndarray, cost: np.ndarray, pairs: np.ndarray, episodes: int) -> dict[str, Any]:
    same = pairs[:, 0] == pairs[:, 2]

    def weights(counts: np.ndarray) -> np.ndarray:
        """How often each pair is there when episodes are drawn ``counts`` times."""
        found: np.ndarray = np.where(same, counts[pairs[:, 0]], counts[pairs[:, 0]] * counts[pairs[:, 2]])
        return found

    edges = np.quantile(true, np.linspace(0, 1, BINS + 1))
    place = np.clip(np.searchsorted(edges, true, side="right") - 1, 0, BINS - 1)
    bins = []
    for i in range(BINS):
        inside = place == i
        if inside.sum() > 2:
            bins.append(
                {
                    "low": float(edges[i]),
                    "high": float(edges[i + 1]),
                    "pairs": int(inside.sum()),
                    "rho": spearman(true[inside], cost[inside]),
                    "cost": np.quantile(cost[inside], (0.25, 0.5, 0.75)).tolist(),
                }
            )
    return {
        "rho": spearman(true, cost),
        "interval": interval(lambda counts: spearman(true, cost, weights(counts)), episodes, DRAWS),
        "pairs": len(true),
        "bins": bins,
    }

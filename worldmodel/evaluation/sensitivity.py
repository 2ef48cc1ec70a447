"""Does the model listen to actions, and to the right ones?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from worldmodel.evaluation.resampling import interval
from worldmodel.evaluation.trajectories import Imagination, Trajectory, distance
from worldmodel.seeding import keyed_rng

CANDIDATES = 16


def action_sensitivity(
    model: Imagination,
    held_out: Sequence[Trajectory],
    std: Sequence[float],
    names: Sequence[str] = (),
    moments: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """One step ahead from true latents, with the true action and with others.

    Args:
        model: The world model.
        held_out: Episodes.
        std: Standard deviation ``(A,)`` of the actions in training, in their own units.
        names: Of the action's dimensions.
        moments: How many, spread evenly over the episodes' steps.
        seed: Of the other actions.

    Returns:
        ``identified``: the share of steps whose true action's prediction is nearer to what followed than those of 15
        actions of other moments, against ``chance`` = 1/16; ``error_ratio``: error with another moment's action over
        the error with the true one (1: the model does not listen); ``effect``: how far predictions of different actions
        lie apart, over how far the latent moves in a step; ``dimensions``: the same for a change of each dimension by 2
        standard deviations. Intervals are 95%, bootstrap over episodes.

    Raises:
        ValueError: There is no action to compare with.
    """
    steps = [(e, t) for e, episode in enumerate(held_out) for t in range(episode.steps)]
    steps = steps[:: max(1, len(steps) // moments)]
    if len(steps) < 2:
        raise ValueError("action sensitivity needs two steps at least; hold out longer episodes")
    count = min(CANDIDATES, len(steps))
    true = torch.stack([held_out[e].actions[t] for e, t in steps])
    rng = keyed_rng("sensitivity", seed)
    others = np.stack(
        [(i + 1 + rng.permutation(len(steps) - 1)[: count - 1]) % len(steps) for i in range(len(steps))]
    )
    plans = torch.cat([true[:, None], true[torch.from_numpy(others)]], dim=1)
    predicted = model.from_moments(held_out, steps, plans[:, :, None])[:, :, 0]
    now = torch.stack([held_out[e].latents[t] for e, t in steps])
    follows = torch.stack([held_out[e].latents[t + 1] for e, t in steps])
    errors = distance(predicted, follows[:, None]).double().numpy()
    moved = distance(follows, now).double().numpy()
    apart = distance(predicted[:, :1], predicted[:, 1:]).double().numpy()
    groups = np.array([e for e, _ in steps])
    # An action that equals the true one, or a model that does not listen, ties: half of a tie counts.
    better = (errors[:, 1:] < errors[:, :1]).sum(axis=1)
    equal = (errors[:, 1:] == errors[:, :1]).sum(axis=1)
    first = np.where(better == 0, 1.0 / (1 + equal), 0.0)
    size = len(held_out)

    def share(values: np.ndarray, under: np.ndarray | None = None, root: bool = False) -> dict[str, Any]:
        below = np.ones(len(values)) if under is None else under
        tops, bottoms = (np.bincount(groups, part, size) for part in (values, below))

        def figure(counts: np.ndarray) -> float:
            bottom = float(counts @ bottoms)
            ratio = float(counts @ tops) / bottom if bottom > 0 else float("nan")
            return ratio**0.5 if root else ratio

        return {"value": figure(np.ones(size)), "interval": interval(figure, size)}

    dimensions = []
    for i, scale in enumerate(std):
        low, high = true.clone(), true.clone()
        low[..., i] -= scale
        high[..., i] += scale
        pair = model.from_moments(held_out, steps, torch.stack([low, high], dim=1)[:, :, None])[:, :, 0]
        effect = share(distance(pair[:, 0], pair[:, 1]).double().numpy() ** 2, moved**2, root=True)
        dimensions.append({"name": names[i] if i < len(names) else f"action {i}", **effect})
    return {
        "identified": {**share(first), "chance": 1 / count},
        "error_ratio": share((errors[:, 1:] ** 2).mean(axis=1), errors[:, 0] ** 2, root=True),
        "effect": share((apart**2).mean(axis=1), moved**2, root=True),
        "dimensions": dimensions,
        "steps": len(steps),
    }

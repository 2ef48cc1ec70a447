"""Open-loop prediction: how far imagined latents drift from the real ones, beside what knows less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.linear_maps import LinearMap, fit_linear_map
from worldmodel.evaluation.resampling import draw_counts, interval
from worldmodel.evaluation.trajectories import Imagination, Trajectory

HORIZONS = (1, 5, 10, 25)
#: What the model is compared with, in the order of tables.
BASELINES = ("copy_last", "linear", "mean")


@dataclass(frozen=True)
class LinearDynamics:
    """``z[t+1] = z[t] + W [z[t], a[t], 1]`` fitted to training latents, one ``W`` for all tokens of a latent.

    Of several tokens each sees itself and their mean. With a single token, this is any linear dynamics.
    """

    change: LinearMap

    @classmethod
    def fit(
        cls, episodes: Sequence[Trajectory], select_share: float = 0.25, rows: int = 20_000
    ) -> LinearDynamics:
        """Least squares on all steps of ``episodes``; the penalty is chosen on the last ``select_share`` of them."""
        apart = len(episodes) - max(1, round(select_share * len(episodes)))
        x, y, select = [], [], []
        for place, episode in enumerate(episodes):
            x.append(_inputs(episode.latents[:-1], episode.actions).flatten(0, 1))
            y.append((episode.latents[1:] - episode.latents[:-1]).flatten(0, 1))
            select.append(torch.full((len(y[-1]),), len(episodes) > 1 and place >= apart))
        every = slice(None, None, max(1, sum(map(len, y)) // rows))
        return cls(fit_linear_map(torch.cat(x)[every], torch.cat(y)[every], torch.cat(select)[every]))

    def rollout(self, latents: Tensor, plans: Tensor) -> Tensor:
        """From latents ``(E, N, Z)`` under ``plans (E, L, K, A)`` to ``(E, L, N, Z)``."""
        steps = []
        for t in range(plans.shape[1]):
            latents = latents + self.change(_inputs(latents, plans[:, t]))
            steps.append(latents)
        return torch.stack(steps, dim=1)


def _inputs(latents: Tensor, actions: Tensor) -> Tensor:
    """``(L, N, Z)`` and ``(L, K, A)`` to the regression's inputs ``(L, N, F)``."""
    tokens = latents.shape[1]
    parts = [latents, actions.flatten(1)[:, None].expand(-1, tokens, -1)]
    if tokens > 1:
        parts.append(latents.mean(dim=1, keepdim=True).expand(-1, tokens, -1))
    return torch.cat(parts, dim=-1)


def starts_of(steps: int, context: int, horizon: int, count: int) -> list[int]:
    """At most ``count`` steps, evenly spread, with ``context`` frames up to them and ``horizon`` steps after them."""
    first, last = context - 1, steps - horizon
    if last < first:
        return []
    return np.unique(np.linspace(first, last, min(count, last - first + 1)).round().astype(int)).tolist()


def open_loop(
    model: Imagination,
    held_out: Sequence[Trajectory],
    train: Sequence[Trajectory],
    horizons: Sequence[int] = HORIZONS,
    starts: int = 4,
) -> dict[str, Any]:
    """Root mean square error of imagined latents after 1 to ``max(horizons)`` steps; 0 is the true frame's own latent.

    The predictions, each from the same starts: the model's, ``copy_last`` (nothing moves), ``linear`` (a linear
    dynamics, fitted to the training latents) and ``mean`` (of the training latents: knows nothing about the episode).

    Args:
        model: The world model.
        held_out: Episodes that training never saw.
        train: Episodes of the training, for the baselines.
        horizons: Steps that tables show; those that no episode is long enough for are left out.
        starts: Per episode, evenly spread.

    Returns:
        ``steps``; ``error``: by predictor, ``rms`` and its 95% ``interval`` (bootstrap over episodes) per step;
        ``at``: by horizon, each predictor's error, and the ``ratio`` of the model's to each baseline's with a paired
        interval; ``episodes``, ``starts`` and ``missing`` horizons.

    Raises:
        ValueError: No held-out episode is long enough for the shortest horizon.
    """
    longest = max(episode.steps for episode in held_out) + 1 - model.context
    possible = sorted(h for h in set(horizons) if h <= longest)
    if not possible:
        raise ValueError(
            f"the longest held-out episode has {longest + model.context - 1} model steps, too few for horizons "
            f"{list(horizons)} after {model.context} frames of context; choose shorter horizons"
        )
    length = possible[-1]
    linear = LinearDynamics.fit(train)
    mean = torch.cat([episode.latents for episode in train]).mean(dim=0)
    moments = [
        (place, start)
        for place, episode in enumerate(held_out)
        for start in starts_of(episode.steps, model.context, length, starts)
    ]
    plans = torch.stack([held_out[e].actions[t : t + length] for e, t in moments])
    first = torch.stack([held_out[e].latents[t] for e, t in moments])
    real = torch.stack([held_out[e].latents[t + 1 : t + 1 + length] for e, t in moments])
    predictions = {
        "model": model.from_moments(held_out, moments, plans),
        "copy_last": first[:, None].expand_as(real),
        "linear": linear.rollout(first, plans),
        "mean": mean.expand_as(real),
    }
    groups = np.unique([e for e, _ in moments], return_inverse=True)[1]
    squared = {
        name: _by_group((found - real).square().mean(dim=(2, 3)).double().numpy(), groups)
        for name, found in predictions.items()
    }
    return {
        "steps": list(range(1, length + 1)),
        "error": {name: _with_interval(values) for name, values in squared.items()},
        "at": {str(h): _compared(squared, h - 1) for h in possible},
        "episodes": int(groups.max()) + 1,
        "starts": len(moments),
        "missing": sorted(set(horizons) - set(possible)),
    }


def _by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Means ``(episodes, L)`` of rows ``(n, L)``."""
    sums = np.zeros((int(groups.max()) + 1, values.shape[1]))
    np.add.at(sums, groups, values)
    means: np.ndarray = sums / np.bincount(groups)[:, None]
    return means


def _with_interval(squared: np.ndarray) -> dict[str, Any]:
    count = len(squared)
    found: dict[str, Any] = {"rms": np.sqrt(squared.mean(axis=0)).tolist(), "interval": None}
    if count > 1:
        resampled = np.sqrt(draw_counts(count) @ squared / count)
        found["interval"] = np.quantile(resampled, (0.025, 0.975), axis=0).T.tolist()
    return found


def _compared(squared: Mapping[str, np.ndarray], step: int) -> dict[str, Any]:
    """Errors at one step, and how they compare."""
    columns = {name: values[:, step] for name, values in squared.items()}
    found: dict[str, Any] = {name: float(np.sqrt(column.mean())) for name, column in columns.items()}
    found["ratio"] = {}
    for name in BASELINES:
        ours, theirs = columns["model"], columns[name]

        def ratio(counts: np.ndarray, ours: np.ndarray = ours, theirs: np.ndarray = theirs) -> float:
            return float(np.sqrt((counts @ ours) / max(counts @ theirs, 1e-30)))

        found["ratio"][name] = {"value": ratio(np.ones(len(ours))), "interval": interval(ratio, len(ours))}
    return found

"""Plannability while a world model trains: does latent distance put moments of held-out episodes in their order?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.data.episodes import EpisodeStore
from worldmodel.data.windows import Windows
from worldmodel.evaluation.resampling import spearman

EPISODES, EACH = 6, 12


@dataclass(frozen=True)
class Moments:
    """Moments of held-out episodes, for monitors only: nothing of them, states least of all, reaches a loss.

    Attributes:
        view: ``(L, F, ...)``: frames or cached tokens, the moments' own last.
        proprio: ``(L, F, Q)``, or None.
        episodes: ``(L,)``: which episode each moment is of.
        steps: ``(L,)``: its step in it, in steps of the data.
        true: True distances ``(L, L)`` from each moment to each, or None where they are not known.
    """

    view: Tensor
    proprio: Tensor | None
    episodes: np.ndarray
    steps: np.ndarray
    true: np.ndarray | None = None

    @torch.no_grad()
    def figures(self, model: Any) -> dict[str, float]:
        """Spearman's rank correlation of latent distance, the planners' usual cost, with what it should order.

        ``plannability_steps``: with the steps between moments of an episode, which go to and fro, so that it does not
        come near 1. ``plannability_true``: with the true distance between them; ``plannability_across``: between
        moments of different episodes. What is not known is left out.

        Args:
            model: The world model, or what has its ``latents(view, proprio)``, and parameters.
        """
        device = next(model.parameters()).device
        body = None if self.proprio is None else self.proprio.to(device)
        latents = model.latents(self.view.to(device), body)[:, -1].flatten(1).float()
        # Not by matrix products: their rounding would order what is equally far.
        cost = torch.cdist(latents, latents, compute_mode="donot_use_mm_for_euclid_dist").cpu().numpy()
        first, second = np.triu_indices(len(cost), 1)
        same = self.episodes[first] == self.episodes[second]
        found = {}
        pairs = {"true": same, "across": ~same}
        if same.sum() > 2:
            apart = np.abs(self.steps[first] - self.steps[second])[same]
            found["plannability_steps"] = spearman(apart, cost[first, second][same])
        for name, chosen in pairs.items():
            if self.true is not None and chosen.sum() > 2:
                true = self.true[first, second][chosen]
                found[f"plannability_{name}"] = spearman(true, cost[first, second][chosen])
        return found


def read_moments(
    store: EpisodeStore, positions: range, array: str, frames: int = 1, stride: int = 1, proprio: bool = False
) -> Moments | None:
    """Moments that are evenly spread over evenly spread episodes, without true distances.

    Args:
        store: The episodes, or their cached tokens.
        positions: Those to choose from.
        array: ``"frames"`` or ``"tokens"``.
        frames: That each moment's encoding sees.
        stride: Steps of the data between them.
        proprio: Also read proprioception.

    Returns:
        None, where all episodes are too short.
    """
    views, bodies, owners, steps = [], [], [], []
    for episode in (positions[i] for i in _evenly(len(positions), EPISODES)):
        if store.steps[episode] < (frames - 1) * stride:
            continue
        windows = Windows(store, range(episode, episode + 1), frames - 1, array, stride)
        items = _evenly(len(windows), EACH).tolist()
        views.append(windows.frames(items))
        bodies += [windows.proprio(items)] if proprio else []
        owners += [episode] * len(items)
        steps += [windows.locate(item).start + (frames - 1) * stride for item in items]
    if not views:
        return None
    return Moments(
        view=torch.from_numpy(np.concatenate(views)),
        proprio=torch.from_numpy(np.concatenate(bodies)) if proprio else None,
        episodes=np.array(owners),
        steps=np.array(steps),
    )


def _evenly(size: int, count: int) -> np.ndarray:
    """At most ``count`` positions of ``size``, the first and the last among them."""
    return np.unique(np.linspace(0, size - 1, min(size, count)).round().astype(int))

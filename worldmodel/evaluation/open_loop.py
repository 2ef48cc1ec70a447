"""Open-loop prediction: how far imagined latents drift from the real ones."""

from __future__ import annotations

import torch

from worldmodel.data.episodes import EpisodeStore
from worldmodel.models.world_model import WorldModel


@torch.inference_mode()
def open_loop_errors(
    model: WorldModel, store: EpisodeStore, episodes: range, horizon: int
) -> dict[str, list[float]]:
    """RMS distance between imagined and real latents after 1..horizon steps, from each episode's first frame.

    Args:
        model: The world model.
        store: Episodes with ``frames`` and ``actions``.
        episodes: Positions of held-out episodes; shorter ones than ``horizon`` are left out.
        horizon: Steps to imagine.

    Returns:
        ``{"model": [...], "copy_last": [...]}``, each of ``horizon`` values; ``copy_last`` predicts that nothing moves.

    Raises:
        ValueError: No episode is long enough.
    """
    usable = [position for position in episodes if store.steps[position] >= horizon]
    if not usable:
        raise ValueError(f"{store.path}: no held-out episode has {horizon} steps; ask for a shorter horizon")
    model_errors, copy_errors = [], []
    for position in usable:
        episode = store[position]
        real = model.encode(torch.from_numpy(episode["frames"][: horizon + 1])[None])
        actions = torch.from_numpy(episode["actions"][:horizon])[None, None]
        imagined = model.rollout(real[:, :1], actions[:, 0, :0], actions)[:, 0]
        model_errors.append((imagined - real[:, 1:]).square().mean(dim=(0, 2, 3)))
        copy_errors.append((real[:, :1] - real[:, 1:]).square().mean(dim=(0, 2, 3)))
    return {
        "model": torch.stack(model_errors).mean(dim=0).sqrt().tolist(),
        "copy_last": torch.stack(copy_errors).mean(dim=0).sqrt().tolist(),
    }

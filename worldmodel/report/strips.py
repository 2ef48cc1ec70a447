"""Pictures of episodes: which frames to show, masks laid over a clip, features as colours, imagined steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worldmodel.data.episodes import EpisodeStore
from worldmodel.masks import Grid, MaskConfig, draw_masks
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.models.world_model import WorldModel


def spread(length: int, count: int) -> list[int]:
    """At most ``count`` indices below ``length``, evenly spread, with the first and the last."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()


def activity(frames: np.ndarray) -> float:
    """How much of the picture ``frames (T, C, H, W)`` changes at some time: mean range of a pixel's values."""
    return float((frames.max(axis=0).astype(float) - frames.min(axis=0)).mean())


def most_active(
    store: EpisodeStore, positions: Sequence[int], count: int, frames: int = 0, look_at: int = 60
) -> list[int]:
    """The ``count`` episodes, of the first ``look_at`` in ``positions``, in which most of the picture changes.

    Args:
        store: Episodes with ``frames``.
        positions: Where to look.
        count: How many to choose.
        frames: Only the first so many frames count; 0: all.
        look_at: Episodes that are read.
    """
    looked = list(positions)[:look_at]
    scores = {i: activity(store[i]["frames"][: frames or None]) for i in looked}
    return sorted(looked, key=lambda i: (-scores[i], i))[:count]


def blank_hidden(clip: np.ndarray, mask: MaskConfig, grid: Grid, seed: int) -> np.ndarray:
    """What the context encoder sees of a clip: what is hidden becomes transparent.

    Args:
        clip: ``(T, 3, H, W)`` uint8, of ``grid.steps`` tubelets.
        mask: How masks are drawn.
        grid: The clip's token grid.
        seed: Of the mask.

    Returns:
        ``(T, 4, H, W)`` uint8; alpha is 0 where tokens are hidden.

    Raises:
        ValueError: The clip has no whole number of frames per token step.
    """
    if len(clip) % grid.steps:
        raise ValueError(
            f"a clip of {len(clip)} frames does not fill {grid.steps} token steps; collect longer episodes"
        )
    hidden = np.ones(grid.steps * grid.rows * grid.columns, dtype=bool)
    hidden[draw_masks({"mask": mask}, grid, seed, range(1))[0].context[0].numpy()] = False
    t, _, height, width = clip.shape
    cells = hidden.reshape(grid.steps, grid.rows, grid.columns)
    cells = cells.repeat(t // grid.steps, axis=0)
    cells = cells.repeat(height // grid.rows, axis=1).repeat(width // grid.columns, axis=2)
    alpha = np.where(cells, 0, 255).astype(np.uint8)
    return np.concatenate([clip, alpha[:, None]], axis=1)


@torch.inference_mode()
def feature_colors(encoder: VideoEncoder, sample: np.ndarray, clip: np.ndarray) -> np.ndarray:
    """Patch features of a clip as colours: their first three principal components as red, green and blue.

    The mean over ``sample`` is subtracted at each place first, because what all frames share there (the position, the
    walls) would fill the components. Components and scale come from ``sample``, too.

    Args:
        encoder: The encoder; each frame is encoded by itself, as world models do.
        sample: ``(L, C, H, W)`` uint8: frames that the components are computed from.
        clip: ``(T, C, H, W)`` uint8.

    Returns:
        ``(T, 3, rows, columns)`` uint8.
    """
    tokens = encoder.encode_steps(torch.from_numpy(sample)[None])[0].float()
    mean = tokens.mean(dim=0)
    flat = (tokens - mean).flatten(0, 1)
    axes = torch.linalg.eigh(flat.T @ flat).eigenvectors[:, -3:].flip(1)
    # eigh leaves the sign open: point each axis to the side where its values reach further.
    values = flat @ axes
    axes = axes * torch.where(values.amax(dim=0) < -values.amin(dim=0), -1.0, 1.0)
    limit = (flat @ axes).abs().quantile(0.99).clamp_min(1e-6)
    shown = encoder.encode_steps(torch.from_numpy(clip)[None])[0].float() - mean
    colors = (0.5 + 0.5 * (shown @ axes) / limit).clamp(0, 1).mul(255).round().byte()
    grid = encoder.grid
    return colors.reshape(len(clip), grid.rows, grid.columns, 3).permute(0, 3, 1, 2).numpy()


@dataclass(frozen=True)
class Imagined:
    """True frames ``(L+1, C, H, W)`` of a held-out episode, and what the model imagined from the first of them.

    Attributes:
        position: The episode's position in the store.
        true: The true frames, the first included.
        retrieved: ``(L, C, H, W)``: for each imagined latent the real frame, of training episodes, whose latent is
            nearest.
    """

    position: int
    true: np.ndarray
    retrieved: np.ndarray


class FrameBank:
    """Real frames with their latents, to show a latent as the frame whose latent is nearest.

    Args:
        model: The world model.
        store: Episodes with ``frames``.
        positions: Episodes to take frames from.
    """

    @torch.inference_mode()
    def __init__(self, model: WorldModel, store: EpisodeStore, positions: list[int]) -> None:
        self.model, self.store = model, store
        self.frames = np.concatenate([store[i]["frames"][:] for i in positions])
        chunks = torch.from_numpy(self.frames).split(256)
        self.latents = torch.cat([model.encode(chunk).flatten(1) for chunk in chunks])

    def nearest(self, latents: torch.Tensor) -> np.ndarray:
        """Latents ``(L, N, Z)`` to the frames ``(L, C, H, W)`` whose latents are nearest."""
        found: np.ndarray = self.frames[torch.cdist(latents.flatten(1), self.latents).argmin(dim=1).numpy()]
        return found

    @torch.inference_mode()
    def imagine(self, position: int, horizon: int) -> Imagined:
        """Imagine ``horizon`` steps of an episode from its first frame and its actions."""
        episode = self.store[position]
        true = episode["frames"][: horizon + 1]
        actions = torch.from_numpy(episode["actions"][:horizon])[None, None]
        start = self.model.encode(torch.from_numpy(true[:1])[None])
        imagined = self.model.rollout(start, actions[:, 0, :0], actions)[0, 0]
        return Imagined(position, true, self.nearest(imagined))

"""Which clips are near each other in feature space: a picture, and a figure with controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.models.video_encoder import VideoEncoder


@dataclass(frozen=True)
class ClipBank:
    """Clips of known origin.

    Attributes:
        frames: ``(n, T, 3, H, W)`` uint8.
        names: The video that each was cut from.
        starts: Second of that video at which each begins.
        fps: Frames per second within the clips; 0: unknown.
        lengths: Seconds that each lasts, where that is not frames / fps.

    Raises:
        ValueError: The lengths differ.
    """

    frames: np.ndarray
    names: tuple[str, ...]
    starts: tuple[float, ...]
    fps: float = 0.0
    lengths: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.frames.ndim != 5 or self.frames.dtype != np.uint8:
            raise ValueError(
                f"clips must be (n, T, 3, H, W) uint8, not {self.frames.shape} {self.frames.dtype}"
            )
        if not len(self.frames) == len(self.names) == len(self.starts):
            raise ValueError(
                f"{len(self.frames)} clips have {len(self.names)} names and {len(self.starts)} start times"
            )
        if self.lengths and len(self.lengths) != len(self.frames):
            raise ValueError(f"{len(self.frames)} clips have {len(self.lengths)} lengths")

    def __len__(self) -> int:
        return len(self.names)

    def apart(self) -> np.ndarray:
        """``(n, n)`` bool: whether two clips share no moment of one video."""
        names, starts = np.array(self.names), np.array(self.starts)
        usual = self.frames.shape[1] / self.fps if self.fps else 0.0
        ends = starts + np.maximum(self.lengths or usual, 1e-9)
        meet = (starts[:, None] < ends[None]) & (starts[None] < ends[:, None])
        return ~((names[:, None] == names[None]) & meet)


@torch.inference_mode()
def clip_vectors(encoder: VideoEncoder, clips: np.ndarray) -> Tensor:
    """One unit vector per clip: its mean token, less the mean over all clips: ``(n, D)``.

    Raises:
        ValueError: A feature is not finite.
    """
    device = next(encoder.parameters()).device
    tokens = [
        encoder.encode(torch.from_numpy(clip[None]).to(device)).float().mean(dim=(1, 2)) for clip in clips
    ]
    vectors = torch.cat(tokens).cpu()
    if not torch.isfinite(vectors).all():
        raise ValueError("the features are not finite; the encoder diverged or its file is damaged")
    return _unit(vectors)


def pixel_vectors(clips: np.ndarray, side: int = 8) -> Tensor:
    """A control that learns nothing: each clip's mean frame, shrunk to ``side x side``: ``(n, 3 * side * side)``."""
    means = torch.from_numpy(clips.mean(axis=1, dtype=np.float32))
    return _unit(F.adaptive_avg_pool2d(means, side).flatten(1))


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors - vectors.mean(dim=0), dim=1)


@dataclass(frozen=True)
class Match:
    """A clip that was found: its position in the bank, and the cosine of its angle to the query."""

    index: int
    cosine: float


def nearest(vectors: Tensor, bank: ClipBank, count: int) -> list[list[Match]]:
    """For each clip the ``count`` nearest that share no moment with it, nearest first; fewer where there are fewer."""
    cosines = (vectors @ vectors.T).numpy()
    cosines[~bank.apart()] = -np.inf
    found = []
    for row in cosines:
        order = np.argsort(-row, kind="stable")[:count]
        found.append([Match(int(i), float(row[i])) for i in order if np.isfinite(row[i])])
    return found


@dataclass(frozen=True)
class SameVideo:
    """How often the nearest clip comes from the query's own video.

    Attributes:
        hits, queries: Only clips count whose video has another clip, apart from them.
        chance: What a random choice would reach, as a share.
    """

    hits: int
    queries: int
    chance: float


def same_video(vectors: Tensor, bank: ClipBank) -> SameVideo | None:
    """None if no video has two clips apart from each other, or there is only one video."""
    names, apart = np.array(bank.names), bank.apart()
    same = (names[:, None] == names[None]) & apart
    asked = [i for i in range(len(bank)) if same[i].any() and (apart[i] & ~same[i]).any()]
    if not asked:
        return None
    matches = nearest(vectors, bank, 1)
    hits = sum(bool(same[i, matches[i][0].index]) for i in asked)
    chance = float(np.mean([same[i].sum() / apart[i].sum() for i in asked]))
    return SameVideo(hits, len(asked), chance)


def choose_queries(bank: ClipBank, count: int) -> list[int]:
    """``count`` clips, from as many videos as there are, not looking at the features."""
    by_name: dict[str, list[int]] = {}
    for i, name in enumerate(bank.names):
        by_name.setdefault(name, []).append(i)
    chosen: list[int] = []
    lists: Sequence[list[int]] = list(by_name.values())
    depth = 0
    while len(chosen) < min(count, len(bank)):
        chosen += [group[depth] for group in lists if depth < len(group)]
        depth += 1
    return sorted(chosen[:count])

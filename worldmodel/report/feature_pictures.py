"""Patch features of a video as colours: the first three principal components as red, green and blue.

All frames share one basis, so a colour means the same everywhere in a video and does not flicker. Tokens of a trained
encoder say *what* is at a place, but also *where* the place is. The second fills the first components of a small
model; what all clips share at a place (``place_mean``) can therefore be subtracted first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.models.video_encoder import VideoEncoder

#: Tokens that a basis is computed from, at most: more change nothing that one could see.
_FIT_TOKENS = 60_000
#: Brightness of what is not foreground.
_BACKGROUND = 0.08


@dataclass(frozen=True)
class FeatureBasis:
    """Three directions in feature space, and the range of values that is shown on each.

    Attributes:
        mean: ``(D,)``, subtracted first.
        axes: ``(D, 3)``, orthonormal, by falling variance.
        low, high: ``(3,)``: values shown as 0 and as 1 (percentiles: a few extreme tokens do not dull the rest).
        foreground: ``(D,)`` direction along which foreground is positive, or None: everything is shown.
    """

    mean: Tensor
    axes: Tensor
    low: Tensor
    high: Tensor
    foreground: Tensor | None = None

    def colors(self, tokens: Tensor) -> Tensor:
        """Tokens ``(..., D)`` to colours ``(..., 3)`` from 0 to 1."""
        centred = tokens.float() - self.mean
        shown = ((centred @ self.axes - self.low) / (self.high - self.low).clamp_min(1e-6)).clamp(0, 1)
        if self.foreground is not None:
            shown = torch.where((centred @ self.foreground > 0)[..., None], shown, _BACKGROUND)
        return shown


def fit_basis(tokens: Tensor, *, foreground: bool = False, percentile: float = 1.0) -> FeatureBasis:
    """Principal components of tokens, with signs that do not depend on the linear algebra library.

    Args:
        tokens: ``(..., rows, columns, D)``: all tokens of the clips that are to share their colours.
        foreground: Split the tokens by the sign of the first component, as DINO's pictures do (Oquab et al. 2023,
            2304.07193, figure 1), call the side that touches the frame's border less the foreground, and compute the
            colours from that side alone.
        percentile: This share of the tokens, in percent, is cut off at both ends of each component.

    Raises:
        ValueError: A feature is not finite.
    """
    if not torch.isfinite(tokens).all():
        raise ValueError("the features are not finite; the encoder diverged or its file is damaged")
    rows = tokens.float().flatten(0, -2)
    rows = rows[:: max(1, len(rows) // _FIT_TOKENS)]
    mean = rows.mean(dim=0)
    if not foreground:
        return _basis(rows, mean, percentile, None)
    first = _axes(rows - mean)[:, 0]
    inside = (tokens.float() - mean) @ first > 0
    border = torch.ones_like(inside)
    border[..., 1:-1, 1:-1] = False
    if inside[border].float().mean() > inside[~border].float().mean():
        first = -first
    kept = rows[(rows - mean) @ first > 0]
    return _basis(kept, mean, percentile, first) if len(kept) > 3 else _basis(rows, mean, percentile, None)


def _basis(rows: Tensor, mean: Tensor, percentile: float, foreground: Tensor | None) -> FeatureBasis:
    axes = _axes(rows - rows.mean(dim=0))
    values = np.percentile(((rows - mean) @ axes).numpy(), [percentile, 100 - percentile], axis=0)
    low, high = torch.from_numpy(values).float()
    return FeatureBasis(mean, axes, low, high, foreground)


def _axes(centred: Tensor) -> Tensor:
    """The first three principal axes ``(D, 3)``, each pointing to the side where its values reach further."""
    double = centred.double()
    axes = torch.linalg.eigh(double.T @ double).eigenvectors.flip(1)[:, :3]
    if axes.shape[1] < 3:  # fewer than three features
        axes = F.pad(axes, (0, 3 - axes.shape[1]))
    skew = (double @ axes).pow(3).sum(dim=0)
    return (axes * torch.where(skew < 0, -1.0, 1.0)).float()


def pca_features(tokens: Tensor, grid: tuple[int, int], *, foreground: bool = False) -> np.ndarray:
    """Tokens of one video as colours, with one basis for all of it.

    Args:
        tokens: ``(P, N, D)``.
        grid: Rows and columns, ``N`` in all.
        foreground: See ``fit_basis``.

    Returns:
        ``(P, rows, columns, 3)`` float32 from 0 to 1.

    Raises:
        ValueError: The tokens do not fill the grid, or are not finite.
    """
    if tokens.ndim != 3 or tokens.shape[1] != grid[0] * grid[1]:
        raise ValueError(f"tokens {tuple(tokens.shape)} do not fill a grid of {grid[0]} x {grid[1]} places")
    places = tokens.detach().cpu().float().unflatten(1, grid)
    return fit_basis(places, foreground=foreground).colors(places).numpy()


@torch.inference_mode()
def encode_video(
    encoder: VideoEncoder,
    frames: np.ndarray,
    *,
    scale: float = 1.0,
    overlap: float = 0.5,
    place_mean: Tensor | None = None,
) -> Tensor:
    """Tokens of a video of any length, from overlapping clips that are as long as the encoder's.

    A token at the edge of a clip has seen only one side of its surroundings in time; where clips overlap, their tokens
    are averaged, those in a clip's middle weighing more.

    Args:
        encoder: In evaluation mode.
        frames: ``(L, C, H, W)`` uint8; the last one is repeated until the tubelets are full.
        scale: Size that the encoder gets, as a multiple of the frames' size. 2 gives a grid twice as fine, where the
            encoder's positions allow sizes that it was not trained with.
        overlap: Share of a clip that the next one covers again, from 0 to less than 1.
        place_mean: What ``place_mean`` returned, to be subtracted.

    Returns:
        ``(P, rows, columns, D)`` float32 on the CPU; ``P = ceil(L / tubelet)``.

    Raises:
        ValueError: The frames do not fit the encoder.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap={overlap} must be at least 0 and less than 1")
    config, tubelet = encoder.config, encoder.config.tubelet
    padded = np.concatenate([frames, frames[-1:].repeat(-len(frames) % tubelet, axis=0)])
    steps, window = len(padded) // tubelet, min(len(padded), config.frames) // tubelet
    hop = max(1, round(window * (1 - overlap)))
    starts = sorted({*range(0, steps - window, hop), steps - window})
    weights = torch.minimum(torch.arange(1, window + 1), torch.arange(window, 0, -1)).float()
    total, count = None, torch.zeros(steps)
    for start in starts:
        tokens = _encode_clip(encoder, padded[start * tubelet : (start + window) * tubelet], scale)
        if place_mean is not None:
            tokens = tokens - _fit_places(place_mean, tokens.shape)
        if total is None:
            total = torch.zeros(steps, *tokens.shape[1:])
        total[start : start + window] += weights[:, None, None, None] * tokens
        count[start : start + window] += weights
    assert total is not None  # there is at least one clip
    return total / count[:, None, None, None]


@torch.inference_mode()
def place_mean(
    encoder: VideoEncoder, clips: Sequence[np.ndarray] | np.ndarray, *, scale: float = 1.0
) -> Tensor:
    """What the clips' tokens share at each place, mostly the position: ``(P, rows, columns, D)``.

    Args:
        encoder: In evaluation mode.
        clips: ``(T, C, H, W)`` uint8 each, of one shape. Their mirror images count, too. With fewer than about 16 of
            them, what they show leaves a ghost in the mean.
        scale: See ``encode_video``.
    """
    total, count = torch.zeros(()), 0
    for clip in clips:
        for view in (clip, clip[..., ::-1]):
            total, count = total + _encode_clip(encoder, np.ascontiguousarray(view), scale), count + 1
    return total / max(count, 1)


def _encode_clip(encoder: VideoEncoder, clip: np.ndarray, scale: float) -> Tensor:
    """``(T, C, H, W)`` uint8 to tokens ``(P, rows, columns, D)`` float32 on the CPU."""
    device, patch = next(encoder.parameters()).device, encoder.config.patch_size
    pixels = torch.from_numpy(clip).to(device)
    if scale != 1:
        size = [max(patch, round(side * scale / patch) * patch) for side in clip.shape[-2:]]
        bigger = F.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True)
        pixels = bigger.round().clamp(0, 255).byte()
    tokens = encoder.encode(pixels[None])[0].float().cpu()
    return tokens.unflatten(1, (pixels.shape[-2] // patch, pixels.shape[-1] // patch))


def _fit_places(mean: Tensor, shape: torch.Size) -> Tensor:
    """A place mean of another grid, stretched to ``shape (P, rows, columns, D)``."""
    if mean.shape == shape:
        return mean
    stretched = F.interpolate(
        mean.movedim(-1, 0)[None], size=shape[:3], mode="trilinear", align_corners=False
    )
    return stretched[0].movedim(0, -1)


def upsample(colors: np.ndarray, frames: int, size: tuple[int, int], *, smooth: bool = True) -> np.ndarray:
    """Colours of tokens as pictures of a video's size.

    Args:
        colors: ``(P, rows, columns, 3)`` from 0 to 1.
        frames: Frames wanted; token step ``p`` lies over its ``frames / P`` frames.
        size: Height and width wanted.
        smooth: Interpolate in space and time; otherwise each token is a block.

    Returns:
        ``(frames, 3, height, width)`` uint8.
    """
    volume = torch.from_numpy(np.ascontiguousarray(colors)).float().movedim(-1, 0)[None]
    if smooth:
        shown = F.interpolate(volume, size=(frames, *size), mode="trilinear", align_corners=False)
    else:
        shown = F.interpolate(volume, size=(frames, *size), mode="nearest")
    return shown[0].movedim(0, 1).mul(255).round().clamp(0, 255).byte().numpy()

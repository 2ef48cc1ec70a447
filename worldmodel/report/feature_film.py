"""A real video and its patch features, as a strip and a small video: frames beside what encoders make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from worldmodel.data.videos import open_video
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.report.feature_pictures import encode_video, fit_basis, place_mean, upsample
from worldmodel.report.theme import LIGHT, SCALE, drawing, new_figure, to_png

#: Clips whose mean at each place is worth subtracting.
ENOUGH = 8
#: Pixels between panels, and their colour.
_GUTTER, _PAPER = 8, 255


@dataclass(frozen=True)
class Film:
    """Frames of one video at a steady rate.

    Attributes:
        name: What it is called.
        frames: ``(L, 3, H, W)`` uint8.
        fps: Frames per second; 0: unknown.
        start: Seconds from the video's begin.
    """

    name: str
    frames: np.ndarray
    fps: float = 0.0
    start: float = 0.0


def read_film(
    path: str | Path,
    side: int,
    *,
    fps: float = 8.0,
    count: int = 48,
    start: float | None = None,
    multiple: int = 0,
) -> Film:
    """Read a piece of a video, resized for an encoder.

    Args:
        path: The file.
        side: Length of the shorter side, in pixels.
        fps: Frames per second to take, at most the file's own.
        count: Frames at most.
        start: Seconds from the first frame; None: the middle of the file.
        multiple: Keep the picture's shape and make both sides multiples of this (the patch size); 0: cut out the square
            in the centre, for encoders whose positions fit no other shape.

    Raises:
        OSError: There is no such file.
        ValueError: It is not a video.
    """
    video = open_video(path)
    times = video.timestamps - video.timestamps[0]
    step = 1 / min(fps, video.fps)
    length = min(count, int(times[-1] / step) + 1)
    first = (float(times[-1]) - (length - 1) * step) / 2 if start is None else start
    wanted = first + step * np.arange(length)
    # The frame on show at a time: the last one that began before it (half a millisecond for rounded time stamps).
    indices = np.clip(np.searchsorted(times, wanted + 5e-4, side="right") - 1, 0, len(times) - 1)
    frames = np.stack([_resize(video.frames([i])[0], side, multiple) for i in indices])
    video.close()
    return Film(Path(path).stem, frames, 1 / step, first)


def _resize(frame: np.ndarray, side: int, multiple: int) -> np.ndarray:
    height, width = frame.shape[-2:]
    if multiple:
        scale = side / min(height, width)
        size = [max(1, round(length * scale / multiple)) * multiple for length in (width, height)]
        box = (0, 0, width, height)
    else:
        short = min(height, width)
        left, top = (width - short) // 2, (height - short) // 2
        size, box = [side, side], (left, top, left + short, top + short)
    picture = Image.fromarray(np.moveaxis(frame, 0, -1))
    return np.moveaxis(np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=box)), -1, 0)


@dataclass(frozen=True)
class Painter:
    """Makes feature pictures of one encoder: remembers what all clips share at each place.

    Attributes:
        encoder: In evaluation mode.
        mean: ``place_mean`` of a bank of clips, or None.
        scale: See ``encode_video``.
        foreground: See ``fit_basis``.
    """

    encoder: VideoEncoder
    mean: Tensor | None = None
    scale: float = 1.0
    foreground: bool = False

    @classmethod
    def of(
        cls,
        encoder: VideoEncoder,
        bank: Sequence[np.ndarray] | np.ndarray,
        *,
        scale: float = 1.0,
        foreground: bool = False,
    ) -> Painter:
        """With the mean over a bank of clips ``(T, C, H, W)``; fewer than ``ENOUGH`` leave ghosts, so none is used."""
        mean = place_mean(encoder, bank, scale=scale) if len(bank) >= ENOUGH else None
        return cls(encoder, mean, scale, foreground)

    def paint(self, films: Sequence[Film], *, smooth: bool = True) -> list[np.ndarray]:
        """Each film's features as pictures ``(L, 3, H, W)`` uint8, all in one basis."""
        tokens = [
            encode_video(self.encoder, film.frames, scale=self.scale, place_mean=self.mean) for film in films
        ]
        if not tokens:
            return []
        # Grids may differ, so the basis is fitted on rows of tokens; the border matters for the foreground only.
        whole = (
            tokens[0] if len(tokens) == 1 or self.foreground else torch.cat([t.flatten(0, 2) for t in tokens])
        )
        basis = fit_basis(whole if whole.ndim > 2 else whole[None, :, None], foreground=self.foreground)
        return [
            upsample(
                basis.colors(t).numpy(),
                len(f.frames),
                (f.frames.shape[-2], f.frames.shape[-1]),
                smooth=smooth,
            )
            for t, f in zip(tokens, films, strict=True)
        ]


def side_by_side(panels: Sequence[np.ndarray], height: int = 288) -> np.ndarray:
    """Videos ``(L, 3, H, W)`` of one length beside each other, enlarged: ``(L, 3, height, W')``, even sides."""
    shown = [_enlarge(panel, height) for panel in panels]
    gutter = np.full((*shown[0].shape[:3], _GUTTER), _PAPER, dtype=np.uint8)
    pieces = [piece for panel in shown for piece in (gutter, panel)][1:]
    joined = np.concatenate(pieces, axis=-1)
    return joined[..., : joined.shape[-1] // 2 * 2]


def _enlarge(frames: np.ndarray, height: int) -> np.ndarray:
    size = (round(frames.shape[-1] * height / frames.shape[-2]), height)
    pictures = [
        Image.fromarray(np.moveaxis(frame, 0, -1)).resize(size, Image.Resampling.BICUBIC) for frame in frames
    ]
    return np.stack([np.moveaxis(np.asarray(picture), -1, 0) for picture in pictures])


def strip_png(film: Film, rows: Mapping[str, np.ndarray], count: int = 8) -> bytes:
    """A strip for a paper or a page: frames on top, features below them, names on the left, seconds above.

    Args:
        film: The frames.
        rows: Name and pictures ``(L, 3, H, W)`` of each further row.
        count: Columns.

    Returns:
        A PNG with a white background.
    """
    shown = np.unique(np.linspace(0, len(film.frames) - 1, min(count, len(film.frames))).round().astype(int))
    height, width = film.frames.shape[-2:]
    cell = 108
    tall = round(cell * height / width)
    table = {"Video": film.frames, **rows}
    with drawing(LIGHT):
        figure = new_figure(96 + len(shown) * (cell + 4), 20 + len(table) * (tall + 4), layout=None)
        figure.set_facecolor("white")
        wide, high = figure.get_size_inches() * 100
        for r, (name, frames) in enumerate(table.items()):
            top = 18 + r * (tall + 4)
            figure.text(8 / wide, 1 - (top + tall / 2) / high, name, va="center", linespacing=1.4)
            for c, index in enumerate(shown):
                left = 92 + c * (cell + 4)
                axes = figure.add_axes((left / wide, 1 - (top + tall) / high, cell / wide, tall / high))
                axes.imshow(
                    np.moveaxis(_enlarge(frames[index : index + 1], SCALE * tall)[0], 0, -1), aspect="auto"
                )
                axes.set_axis_off()
                if r == 0:
                    label = f"{film.start + index / film.fps:.1f} s" if film.fps else f"frame {index}"
                    axes.set_title(
                        label, loc="center", fontsize=7.5, weight="normal", pad=3, color=LIGHT.muted
                    )
        return to_png(figure)

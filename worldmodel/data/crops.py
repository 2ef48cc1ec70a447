"""Boxes cut out of pictures: one at random for a whole clip, or fixed ones to evaluate on; and flips.

A worker cuts and resizes to uint8, which is a tenth of the bytes to hand over; flips run on the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from worldmodel.seeding import keyed_rng

if TYPE_CHECKING:
    import torch


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: Sequence[float] = (0.3, 1.0),
    ratio: Sequence[float] = (0.75, 1.35),
) -> Box:
    """A random box, as V-JEPA crops (its appendix; the sampling is that of Inception, 1409.4842).

    Args:
        scale: Smallest and largest share of the picture's area.
        ratio: Smallest and largest width / height, drawn uniformly in the logarithm.

    Returns:
        A box inside the picture. Where ten draws do not fit into it, the largest centred box of an allowed shape.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * rng.uniform(scale[0], scale[1])
        shape = math.exp(rng.uniform(low, high))
        h, w = round(math.sqrt(area / shape)), round(math.sqrt(area * shape))
        if 0 < h <= height and 0 < w <= width:
            return Box(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
    shape = min(max(width / height, ratio[0]), ratio[1])
    h, w = min(height, round(width / shape)), min(width, round(height * shape))
    return Box((height - h) // 2, (width - w) // 2, max(h, 1), max(w, 1))


def centre_box(height: int, width: int, share: float = 1.0) -> Box:
    """The square in the middle; its side is ``share`` of the picture's shorter one."""
    side = max(1, round(share * min(height, width)))
    return Box((height - side) // 2, (width - side) // 2, side, side)


def three_boxes(height: int, width: int) -> tuple[Box, Box, Box]:
    """Three squares along the longer side: at its beginning, in its middle, at its end."""
    side = min(height, width)
    down, right = height - side, width - side
    first, middle, last = (Box(down * k // 2, right * k // 2, side, side) for k in range(3))
    return first, middle, last


def crop_resize_picture(picture: np.ndarray, box: Box, size: int) -> np.ndarray:
    """One picture ``(H, W, 3)`` uint8: its box as ``(3, size, size)`` uint8.

    Bilinear, and widened where it shrinks (antialiased). Pillow computes it in integers: the same on every machine.
    """
    top, left, height, width = box
    part = picture[top : top + height, left : left + width]
    if (height, width) != (size, size):
        part = np.asarray(Image.fromarray(part).resize((size, size), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(part.transpose(2, 0, 1))


def crop_resize(frames: np.ndarray, box: Box, size: int) -> np.ndarray:
    """The same box of all frames: ``(T, 3, H, W)`` uint8 -> ``(T, 3, size, size)`` uint8."""
    return np.stack([crop_resize_picture(frame.transpose(1, 2, 0), box, size) for frame in frames])


def flip_flags(seed: int, indices: range, share: float = 0.5) -> np.ndarray:
    """``(B,)`` bool: which of the samples with these global indices are mirrored."""
    return np.array([keyed_rng("flip", seed, index).random() < share for index in indices], dtype=bool)


def flip_clips(clips: torch.Tensor, flags: torch.Tensor) -> torch.Tensor:
    """Mirror left and right those of ``clips (B, T, C, H, W)`` that ``flags (B,)`` bool marks."""
    return clips.flip(-1).where(flags.to(clips.device).view(-1, *[1] * (clips.ndim - 1)), clips)

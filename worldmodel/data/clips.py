"""Which frames of a video make a clip: so many, so far apart, by the times at which they are shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHORT = ("repeat", "tighten", "skip")


class ShortVideoError(ValueError):
    """A video is shorter than a clip, and the configuration says to leave such videos out."""


@dataclass(frozen=True)
class ClipShape:
    """The frames of a clip.

    Attributes:
        frames: How many.
        fps: How many per second of the video, by timestamps. Above the video's own rate, frames repeat.
        stride: If not 0, every ``stride``-th frame instead, whatever the rate.
        short: Videos shorter than a clip: ``repeat`` their last frame, ``tighten`` the steps so that the clip spans the
            video, or ``skip`` them.
    """

    frames: int
    fps: float
    stride: int = 0
    short: str = "repeat"

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames={self.frames} is no clip; choose at least 1")
        if self.stride < 0 or (self.stride == 0 and not self.fps > 0):
            raise ValueError(
                f"fps={self.fps} stride={self.stride}: choose fps above 0, or a stride of at least 1"
            )
        if self.short not in SHORT:
            raise ValueError(f"short={self.short} is unknown; choose one of {', '.join(SHORT)}")


def frame_interval(timestamps: np.ndarray) -> float:
    """The usual time from one frame to the next, in seconds; 1 for a single frame."""
    return float(np.median(np.diff(timestamps))) if len(timestamps) > 1 else 1.0


def duration(timestamps: np.ndarray) -> float:
    """Seconds from the first frame to the end of the last."""
    return float(timestamps[-1] - timestamps[0]) + frame_interval(timestamps)


def split_at(timestamps: np.ndarray, share: float) -> int:
    """The first frame of the last ``share`` of a video's time; at least one frame is left on either side."""
    cut = timestamps[0] + (1 - share) * duration(timestamps)
    return int(np.clip(np.searchsorted(timestamps, cut), 1, max(len(timestamps) - 1, 1)))


def clip_indices(timestamps: np.ndarray, shape: ClipShape, draw: float) -> np.ndarray:
    """The frames of one clip.

    The clip begins at a frame, so that at the video's own rate every frame comes once, and shows at each of its times
    the frame that the video shows then. A frame that begins less than a quarter of a frame later counts as shown:
    containers round their times.

    Args:
        timestamps: ``(len,)`` increasing seconds, of the video or of the part to draw from.
        draw: In ``[0, 1]``; where among the possible starts, in time, the clip begins.

    Returns:
        ``(frames,)`` int64 indices into ``timestamps``, not decreasing.

    Raises:
        ShortVideoError: No clip fits, and ``shape.short`` is ``"skip"``.
    """
    count, steps = len(timestamps), np.arange(shape.frames)
    interval = frame_interval(timestamps)
    if shape.stride:
        starts = count - shape.stride * (shape.frames - 1)
        if starts > 0:
            return min(int(draw * starts), starts - 1) + shape.stride * steps
    else:
        span = (shape.frames - 1) / shape.fps
        starts = int(np.searchsorted(timestamps, timestamps[-1] + 0.75 * interval - span))
        if starts > 0:
            time = timestamps[0] + draw * (timestamps[starts - 1] + interval - timestamps[0])
            start = min(int(np.searchsorted(timestamps, time, side="right")) - 1, starts - 1)
            return _shown_at(timestamps, timestamps[start] + steps / shape.fps + 0.25 * interval)
    if shape.short == "skip":
        length = f"{duration(timestamps):.2f} s, {count} frames"
        raise ShortVideoError(f"shorter than a clip ({length})")
    if shape.short == "tighten":
        step = duration(timestamps) / shape.frames
        return _shown_at(timestamps, timestamps[0] + steps * step + 0.25 * min(step, interval))
    if shape.stride:
        return np.minimum(shape.stride * steps, count - 1)
    return _shown_at(timestamps, timestamps[0] + steps / shape.fps + 0.25 * interval)


def _shown_at(timestamps: np.ndarray, times: np.ndarray) -> np.ndarray:
    indices: np.ndarray = np.searchsorted(timestamps, times, side="right") - 1
    return indices.clip(0, len(timestamps) - 1)

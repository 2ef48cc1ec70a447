"""Small videos, made by code, whose every frame carries its own index as black and white bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10
HEIGHT, WIDTH = 64, 96


def draw(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """The picture of one frame, ``(H, W, C)`` uint8: ten bars for the index above, ten inverted ones below.

    A square that moves over the line between them gives the encoder real motion.
    """
    picture = np.empty((height, width, 3), dtype=np.uint8)
    edges = np.linspace(0, width, BITS + 1).astype(int)
    for bit in range(BITS):
        bright = bool(index >> bit & 1)
        picture[: height // 2, edges[bit] : edges[bit + 1]] = 235 if bright else 20
        picture[height // 2 :, edges[bit] : edges[bit + 1]] = 20 if bright else 235
    left = index * 3 % (width - 12)
    picture[height // 2 - 4 : height // 2 + 4, left : left + 8] = (200, 60, 40)
    return picture


def read(frame: np.ndarray) -> int | None:
    """The index that a decoded frame ``(C, H, W)`` shows, or None where its bars contradict each other."""
    grey = frame.astype(np.float32).mean(axis=0)
    height, width = grey.shape
    edges = np.linspace(0, width, BITS + 1).astype(int)
    index = 0
    for bit in range(BITS):
        inner = slice(edges[bit] + 2, edges[bit + 1] - 2)
        above, below = grey[4 : height // 2 - 8, inner], grey[height // 2 + 8 : -4, inner]
        contrast = above.mean() - below.mean()
        if abs(contrast) < 120 or max(above.std(), below.std()) > 40:
            return None
        index |= int(contrast > 0) << bit
    return index


def shown(frames: np.ndarray) -> list[int | None]:
    """The index that each frame shows."""
    return [read(frame) for frame in frames]


@dataclass(frozen=True)
class Recipe:
    """How one test video is made: the file's name, the encoder, its options, and the frames' times."""

    name: str
    codec: str
    frames: int = 120
    rate: int = 25
    gop: int | None = None
    options: dict[str, str] = field(default_factory=dict)
    start: int = 0  # pts of the first frame, in frames
    variable: bool = False  # every third frame lasts two to four times as long
    b_frames: int | None = None


RECIPES = [
    Recipe("h264_plain.mp4", "libx264", gop=30, options={"bf": "0"}),
    Recipe(
        "h264_b_gop250.mp4", "libx264", frames=300, gop=250, options={"bf": "3", "x264-params": "scenecut=0"}
    ),
    Recipe(
        "h264_open_gop.mp4",
        "libx264",
        frames=200,
        gop=20,
        options={"bf": "3", "x264-params": "open-gop=1:scenecut=0:b-adapt=0"},
    ),
    Recipe("h264_start.mp4", "libx264", gop=25, options={"bf": "2"}, start=125),
    Recipe("h264_variable.mp4", "libx264", gop=40, options={"bf": "3"}, variable=True),
    Recipe("h264_variable.mkv", "libx264", gop=40, options={"bf": "3"}, variable=True),
    Recipe("h264_stream.ts", "libx264", gop=25, options={"bf": "3", "x264-params": "scenecut=0"}),
    Recipe("hevc.mp4", "libx265", gop=30, options={"x265-params": "log-level=none:open-gop=1:pools=1"}),
    Recipe("vp9.webm", "libvpx-vp9", gop=30, options={"cpu-used": "8", "deadline": "realtime"}),
    Recipe("vp9_altref.webm", "libvpx-vp9", gop=60, options={"cpu-used": "5", "lag-in-frames": "16"}),
    Recipe("av1.mp4", "libsvtav1", gop=30, options={"preset": "10", "crf": "25", "svtav1-params": "lp=1"}),
    Recipe("mpeg2_program.mpg", "mpeg2video", gop=15, b_frames=2),
    Recipe("mpeg2_stream.ts", "mpeg2video", gop=15, b_frames=2),
    Recipe("mpeg4.avi", "mpeg4", gop=12),
    Recipe("mpeg4_b.avi", "mpeg4", gop=24, b_frames=2),
]


def frame_times(recipe: Recipe) -> np.ndarray:
    """When each frame of a recipe is shown, in units of ``1 / (4 rate)`` seconds."""
    lengths = np.full(recipe.frames, 4)
    if recipe.variable:
        lengths[::3] = 4 * (2 + np.arange(recipe.frames)[::3] % 3)
    return 4 * recipe.start + np.concatenate([[0], np.cumsum(lengths[:-1])])


def encode(folder: Path, recipe: Recipe, container_options: dict[str, str] | None = None) -> Path:
    """Make one video in ``folder``.

    Raises:
        av.codec.codec.UnknownCodecError: This build of FFmpeg has no such encoder.
    """
    path = folder / recipe.name
    codec = av.Codec(recipe.codec, "w").name
    coarse = not recipe.variable and recipe.codec in ("mpeg2video", "mpeg4")  # these want one tick per frame
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=recipe.rate, options=dict(recipe.options))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if "crf" not in recipe.options:
            stream.bit_rate = 1_000_000
        context = stream.codec_context
        context.time_base = Fraction(1, recipe.rate if coarse else 4 * recipe.rate)
        context.thread_count = 1
        if recipe.gop is not None:
            context.gop_size = recipe.gop
        if recipe.b_frames is not None:
            context.max_b_frames = recipe.b_frames
        for index, time in enumerate(frame_times(recipe)):
            frame = av.VideoFrame.from_ndarray(draw(index), format="rgb24")
            frame.pts = int(time) // 4 if coarse else int(time)
            frame.time_base = context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def damage(path: Path, target: Path, fractions: Sequence[float], length: int = 64) -> Path:
    """Copy a file with ``length`` bytes inverted at each given fraction of its size."""
    content = bytearray(path.read_bytes())
    for fraction in fractions:
        start = int(fraction * len(content))
        content[start : start + length] = bytes(255 - byte for byte in content[start : start + length])
    target.write_bytes(content)
    return target

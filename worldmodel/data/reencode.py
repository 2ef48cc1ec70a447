"""Small copies of videos from which random clips are read fast: few pixels, and a keyframe every few frames.

A clip is decoded from the keyframe before it, so a file with one keyframe costs a decode of half the file per clip.
Copies keep each frame's time; frames that cannot be decoded are left out of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from worldmodel.atomic import write_atomic
from worldmodel.data.corpus_damage import one_line
from worldmodel.data.video_decoder import FrameError, VideoError
from worldmodel.data.videos import Video, open_video

BLOCK = 32  # frames that are decoded at once


@dataclass(frozen=True)
class Copy:
    """What became of one file.

    Attributes:
        source, target: Where it was and where its copy is.
        frames: Frames of the copy; 0 if there is none.
        lost: Frames that could not be decoded.
        reason: Why there is no copy.
    """

    source: str
    target: str
    frames: int = 0
    lost: int = 0
    reason: str = ""


def reencode(source: str, target: str, height: int = 256, gop: int = 8, crf: int = 18) -> Copy:
    """Write an H.264 copy of a video (mp4, no B frames, no sound); does nothing if ``target`` is there.

    Args:
        source: The video.
        target: The file to write, atomically.
        height: The shorter side in pixels; a smaller video keeps its size.
        gop: Frames from one keyframe to the next.
        crf: Quality, lower is better; 18 is hard to tell from the original.

    Raises:
        OSError: ``target`` cannot be written.
    """
    path = Path(target)
    try:
        opened = open_video(source)
    except (VideoError, OSError) as error:
        return Copy(source, target, reason=one_line(source, error))
    try:
        with opened as video:
            if path.exists():
                with open_video(target) as copy:
                    return Copy(source, target, len(copy), len(video) - len(copy))
            path.parent.mkdir(parents=True, exist_ok=True)
            count = 0

            def write(temporary: Path) -> None:
                nonlocal count
                count = _encode(video, temporary, height, gop, crf)

            write_atomic(path, write)
            return Copy(source, target, count, len(video) - count)
    except (VideoError, FrameError, av.FFmpegError) as error:
        if isinstance(error, OSError):  # a full disk
            raise
        return Copy(source, target, reason=one_line(source, error))


def _encode(video: Video, path: Path, height: int, gop: int, crf: int) -> int:
    """Write all frames that can be had; returns their number."""
    index = video.index
    scale = min(1.0, height / min(index.height, index.width))
    count, base = 0, Fraction(*index.time_base)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(video.fps).limit_denominator(1001))
        stream.width, stream.height = (_even(side * scale) for side in (index.width, index.height))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = base
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, 0
        stream.options = {"crf": str(crf), "preset": "veryfast", "x264-params": "scenecut=0"}
        for number, picture in _pictures(video):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(stream.width, stream.height, "yuv420p", interpolation="AREA")
            frame.pts, frame.time_base = index.pts[number] - index.pts[0], base
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
    if not count:
        raise VideoError("none of its frames can be decoded")
    return count


def _pictures(video: Video) -> Iterator[tuple[int, np.ndarray]]:
    """Each frame that can be had, with its number: ``(H, W, 3)`` uint8."""
    for start in range(0, len(video), BLOCK):
        block = [i for i in range(start, min(start + BLOCK, len(video))) if i not in video.damaged]
        try:
            yield from zip(block, video.frames(block).transpose(0, 2, 3, 1), strict=True)
        except FrameError:
            yield from _one_by_one(video, block)


def _one_by_one(video: Video, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    for number in numbers:
        try:
            yield number, video.frames([number])[0].transpose(1, 2, 0)
        except FrameError:
            continue


def _even(side: float) -> int:
    return max(2, 2 * round(side / 2))

"""Frames to small H.264 videos and PNG pictures, as bytes and as data URIs."""

from __future__ import annotations

import base64
import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image


def upscale(frames: np.ndarray, side: int = 256) -> np.ndarray:
    """Repeat pixels until the frames are about ``side`` pixels wide, with crisp edges.

    Args:
        frames: ``(..., C, H, W)`` uint8.
        side: Wanted width. The factor is a whole number, at least 1; the result has even height and width, as video
            with halved chroma needs.

    Returns:
        ``(..., H', W', C)`` uint8, channels last.
    """
    factor = max(1, round(side / frames.shape[-1]))
    if (frames.shape[-1] * factor) % 2 or (frames.shape[-2] * factor) % 2:
        factor += 1
    return np.moveaxis(frames, -3, -1).repeat(factor, axis=-3).repeat(factor, axis=-2)


def encode_mp4(frames: np.ndarray, fps: int = 8, side: int = 256, hold: int = 0) -> bytes:
    """Encode frames as H.264 in MP4, which browsers play inline.

    Args:
        frames: ``(T, C, H, W)`` uint8 RGB.
        fps: Frames per second.
        side: Width of the video in pixels, about; pixels are repeated, not interpolated.
        hold: How often the last frame is repeated, so that a loop shows how it ended.

    Returns:
        The file's bytes; it has ``T + hold`` frames.

    Raises:
        ValueError: The frames are not ``(T, 3, H, W)`` uint8.
        OSError: This build of PyAV has no libx264.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"a video needs frames (T, 3, H, W) uint8, not {frames.shape} {frames.dtype}")
    pictures = upscale(np.concatenate([frames, frames[-1:].repeat(hold, axis=0)]), side)
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        try:
            stream = container.add_stream("libx264", rate=Fraction(fps))
        except ValueError as error:  # av's UnknownCodecError
            raise OSError("this PyAV cannot encode H.264 (libx264 is missing); pip install av") from error
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # Say which YUV this is (BT.601, limited range: what the conversion makes), or players guess by the size.
        stream.codec_context.colorspace, stream.codec_context.color_range = 6, 1
        # One thread makes the same bytes on every machine. Flat pictures stay small at this quality.
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "20", "preset": "slow", "tune": "animation"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
        container.mux(stream.encode())
    return memory.getvalue()


def encode_png(picture: np.ndarray) -> bytes:
    """``(H, W, 3 or 4)`` uint8 to the bytes of a PNG file."""
    memory = io.BytesIO()
    Image.fromarray(picture).save(memory, "PNG", optimize=True)
    return memory.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """``content`` of media type ``kind`` (``image/png``, ``video/mp4``) as a URI that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

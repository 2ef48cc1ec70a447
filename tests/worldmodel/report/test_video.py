"""Videos and pictures decode to what went in."""

from __future__ import annotations

import base64
import io

import av
import numpy as np
import pytest
from PIL import Image

from worldmodel.report.video import data_uri, encode_mp4, encode_png, upscale


def moving_square(steps: int, size: int = 32) -> np.ndarray:
    frames = np.full((steps, 3, size, size), 230, dtype=np.uint8)
    for t, frame in enumerate(frames):
        frame[:, 10:20, t : t + 10] = np.array([220, 30, 40])[:, None, None]
    return frames


def decode(content: bytes) -> np.ndarray:
    with av.open(io.BytesIO(content)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("steps", [1, 7])
def test_a_video_decodes_to_its_frames_with_the_last_one_held(steps: int) -> None:
    frames = moving_square(steps)
    decoded = decode(encode_mp4(frames, fps=5, side=128, hold=3))
    assert decoded.shape == (steps + 3, 128, 128, 3)
    wanted = upscale(np.concatenate([frames, frames[-1:].repeat(3, axis=0)]), 128)
    # 4:2:0 softens the edges of colour; areas must keep theirs.
    assert np.abs(decoded.astype(int) - wanted).mean() < 3
    assert np.abs(decoded[-1, 60, 4 * (steps - 1) + 20].astype(int) - [220, 30, 40]).max() < 12


def test_a_video_says_how_fast_it_is_and_which_colours_it_has() -> None:
    with av.open(io.BytesIO(encode_mp4(moving_square(4), fps=5))) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.codec_context.name, stream.codec_context.pix_fmt) == (
            5,
            "h264",
            "yuv420p",
        )
        assert stream.codec_context.colorspace == 6


def test_the_same_frames_make_the_same_bytes() -> None:
    assert encode_mp4(moving_square(5)) == encode_mp4(moving_square(5))


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 1, 8, 8), np.uint8),
        np.zeros((2, 3, 8, 8)),
        np.zeros((0, 3, 8, 8), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
    ],
)
def test_what_is_no_video_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"frames \(T, 3, H, W\) uint8"):
        encode_mp4(frames)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [(64, 256, 256), (64, 96, 128), (100, 256, 300), (5, 25, 30), (400, 256, 400)],
)
def test_upscaling_repeats_pixels_to_an_even_size(size: int, side: int, expected: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, size, size), dtype=np.uint8)
    large = upscale(frames, side)
    assert large.shape == (2, expected, expected, 3)
    factor = expected // size
    assert (large[:, ::factor, ::factor] == np.moveaxis(frames, 1, -1)).all()
    assert (large[:, factor - 1 :: factor, factor - 1 :: factor] == np.moveaxis(frames, 1, -1)).all()


def test_a_picture_survives_with_its_holes() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    uri = data_uri(encode_png(picture), "image/png")
    with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))) as decoded:
        assert (np.asarray(decoded) == picture).all()

"""How the frames of an episode are stored: as they are, as JPEG pictures, or as an H.264 video.

========  ==========================================  =====================================================
codec     on disk                                     reading ``n`` frames from anywhere
========  ==========================================  =====================================================
raw       the array                                   ``n`` frames' bytes
jpeg:95   each picture by itself, quality 1 to 100    ``n`` frames' bytes, ``n`` decodings
mp4:18:4  H.264, quantiser (crf) 0 to 51, lower is    ``n`` decodings, and at most ``gop - 1`` from the
          better; a keyframe every 4 frames; no B     keyframe before them
========  ==========================================  =====================================================

Raw and JPEG frames lie in the episode's safetensors file. A video lies beside it; the safetensors file holds its
hash, so that one hash stands for both. Nothing in here needs torch; Pillow and PyAV are loaded when they are used.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.atomic import write_atomic

DEFAULT_FPS = 10.0  # of videos whose dataset does not say; the frames are addressed by number anyway
_KINDS = {"raw": (0, 0), "jpeg": (95, 0), "mp4": (18, 4)}


@dataclass(frozen=True)
class Codec:
    """How an array of frames is stored: ``kind`` raw, jpeg or mp4, ``quality`` (of JPEG, or crf), keyframe distance."""

    kind: str = "raw"
    quality: int = 0
    gop: int = 0

    @classmethod
    def parse(cls, text: str) -> Codec:
        """Read ``raw``, ``jpeg``, ``jpeg:90``, ``mp4``, ``mp4:18`` or ``mp4:18:4`` (crf, then keyframe distance).

        Raises:
            ValueError: It is none of these.
        """
        kind, *numbers = text.split(":")
        wanted = "raw, jpeg:QUALITY (1 to 100) or mp4:CRF:GOP (0 to 51, 1 to 8)"
        if kind not in _KINDS or not all(number.isdecimal() for number in numbers):
            raise ValueError(f"codec {text!r} is unknown; choose {wanted}")
        quality, gop = _KINDS[kind]
        given = [int(number) for number in numbers]
        allowed = {"raw": 0, "jpeg": 1, "mp4": 2}[kind]
        if kind != "raw" and given:
            quality = given[0]
        if kind == "mp4" and len(given) == 2:
            gop = given[1]
        low, high = {"raw": (0, 0), "jpeg": (1, 100), "mp4": (0, 51)}[kind]
        if len(given) > allowed or not low <= quality <= high or (kind == "mp4" and not 1 <= gop <= 8):
            raise ValueError(f"codec {text!r} is out of range; choose {wanted}")
        return cls(kind, quality, gop)

    def __str__(self) -> str:
        return ":".join(
            [
                self.kind,
                *(str(n) for n in (self.quality, self.gop)[: {"jpeg": 1, "mp4": 2}.get(self.kind, 0)]),
            ]
        )


@dataclass(frozen=True)
class Encoded:
    """Frames as they are stored: arrays of the episode's file, and what its header says of them."""

    arrays: dict[str, np.ndarray]
    header: dict[str, Any]


def encode_frames(
    name: str, frames: np.ndarray, codec: Codec, folder: Path, stem: str, fps: float
) -> Encoded:
    """Encode ``frames (T+1, 3, H, W)`` uint8; a video is written to ``folder`` at once, atomically.

    Raises:
        ValueError: The array is not one of pictures.
        OSError: The disk is full.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(
            f"codec {codec} takes frames (T+1, 3, H, W) uint8; {name} is {frames.shape} {frames.dtype}: store it raw"
        )
    header: dict[str, Any] = {"codec": str(codec), "shape": list(frames.shape)}
    if codec.kind == "jpeg":
        pictures = [_to_jpeg(frame, codec.quality) for frame in frames]
        offsets = np.cumsum([0, *map(len, pictures)], dtype=np.int64)
        return Encoded(
            {name: np.frombuffer(b"".join(pictures), np.uint8), f"{name}.offsets": offsets}, header
        )
    from worldmodel.data.video_index import build_index

    path = folder / f"{stem}.{name}.mp4"
    index = None

    def write(temporary: Path) -> None:
        nonlocal index
        encode_video(temporary, [frames], fps or DEFAULT_FPS, codec.quality, codec.gop)
        index = build_index(temporary)

    write_atomic(path, write)
    assert index is not None
    step = index.pts[1] - index.pts[0]
    if index.pts != list(range(0, step * len(frames), step)) or index.keyframes != index.pts[:: codec.gop]:
        raise RuntimeError(f"{path} was encoded with other times or keyframes than were asked for")
    content = path.read_bytes()
    header |= {
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "time_base": list(index.time_base),
        "step": step,
        "gop": codec.gop,
        "coded": [index.height, index.width],
    }
    return Encoded({}, header)


def _to_jpeg(frame: np.ndarray, quality: int) -> bytes:
    from PIL import Image

    memory = io.BytesIO()
    # Without halved chroma: in small pictures colours are as fine as shapes.
    Image.fromarray(np.moveaxis(frame, 0, -1)).save(memory, "JPEG", quality=quality, subsampling=0)
    return memory.getvalue()


def encode_video(path: Path, parts: Iterable[np.ndarray], fps: float, crf: int = 18, gop: int = 4) -> int:
    """Write parts ``(n, 3, H, W)`` uint8 one after another as H.264 in mp4; each part begins with a keyframe.

    Frame ``i`` of the file is shown at ``i / fps`` seconds. Odd sides are filled up to even ones by repeating the last
    row or column.

    Returns:
        The number of frames.

    Raises:
        OSError: This PyAV cannot encode H.264, or the disk is full.
    """
    import av
    from av.video.frame import PictureType

    count = 0
    # An absolute path: FFmpeg would take what stands before a colon for a protocol.
    with av.open(str(path.absolute()), "w", format="mp4") as container:
        stream = None
        for part in parts:
            for number, frame in enumerate(part):
                picture = np.moveaxis(frame, 0, -1)
                height, width = picture.shape[:2]
                picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                if stream is None:
                    try:
                        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                    except ValueError as error:  # av's UnknownCodecError
                        raise OSError(
                            "this PyAV cannot encode H.264 (libx264 is missing); pip install av"
                        ) from error
                    stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
                    context = stream.codec_context
                    # Which YUV this is (BT.601, limited range: what the conversion makes), or readers guess.
                    context.colorspace, context.color_range = 6, 1
                    context.gop_size, context.max_b_frames, context.thread_count = gop, 0, 1
                    stream.options = {
                        "crf": str(crf),
                        "preset": "veryfast",
                        "forced-idr": "1",
                        # No thread that looks ahead: on a busy machine one file in 200 had other bytes.
                        "x264-params": "scenecut=0:threads=1:lookahead-threads=1:sync-lookahead=0:"
                        "rc-lookahead=0:mbtree=0",
                    }
                shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                shown.pts, shown.time_base = count, 1 / Fraction(fps).limit_denominator(1001)
                if number == 0:
                    shown.pict_type = PictureType.I
                container.mux(stream.encode(shown))
                count += 1
        if stream is not None:
            container.mux(stream.encode(None))
    return count

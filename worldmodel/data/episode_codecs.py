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
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel.atomic import write_atomic

if TYPE_CHECKING:
    from worldmodel.data.videos import Video

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
                        "x264-params": "scenecut=0",
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


@dataclass(frozen=True)
class StoredArray:
    """An array inside an episode file. Slicing its first axis reads those rows.

    The file is opened for each read: that costs microseconds, while maps kept open would run out of file descriptors
    after a thousand episodes and must not be shared across forks.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = _rows(self.path, rows, self.shape[0])
        count = max(stop - start, 0)
        row_items = math.prod(self.shape[1:])
        with open(self.path, "rb") as file:
            file.seek(self.offset + start * row_items * self.dtype.itemsize)
            flat = np.fromfile(file, self.dtype, count * row_items)
        if flat.size != count * row_items:
            raise ValueError(
                f"episode file {self.path} is cut short; delete the dataset and collect it again"
            )
        return flat.reshape(count, *self.shape[1:])[::step]


@dataclass(frozen=True)
class StoredJpeg:
    """Frames that are stored as JPEG pictures; slicing reads and decodes those frames only."""

    blob: StoredArray
    offsets: StoredArray
    shape: tuple[int, ...]
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.uint8))

    @property
    def path(self) -> Path:
        """The episode's file."""
        return self.blob.path

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        from PIL import Image

        start, stop, step = _rows(self.path, rows, self.shape[0])
        chosen = range(start, stop, step)
        out = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        places = self.offsets[start : stop + 1] if len(chosen) else np.empty(0, np.int64)
        with open(self.path, "rb") as file:
            for row, number in enumerate(chosen):
                begin, end = int(places[number - start]), int(places[number - start + 1])
                try:
                    if not 0 <= begin <= end <= len(self.blob):
                        raise ValueError("its place is outside the file")
                    file.seek(self.blob.offset + begin)
                    with Image.open(io.BytesIO(file.read(end - begin)), formats=("JPEG",)) as image:
                        out[row] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
                except Exception as error:  # Pillow fails in many ways
                    reason = " ".join(str(error).split())[:120]
                    raise ValueError(
                        f"frame {number} of episode file {self.path} is damaged ({reason})"
                    ) from error
        return out


class StoredVideo:
    """Frames that are stored as a video; slicing decodes those frames, from the keyframe before them.

    Where its frames are was noted when it was written, so that a video is not searched when it is opened.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.shape: tuple[int, ...] = tuple(header["shape"])
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.sha256 = str(header["sha256"])
        self._times = (int(header["step"]), int(header["gop"]), tuple(header["time_base"]))
        self._coded = tuple(header["coded"])
        self._video: Video | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = _rows(self.path, rows, self.shape[0])
        chosen = range(start, stop, step)
        if not len(chosen):
            return np.empty((0, *self.shape[1:]), np.uint8)
        frames = self._open().frames(chosen)
        return frames[:, :, : self.shape[2], : self.shape[3]]

    def _open(self) -> Video:
        if self._video is None:
            from worldmodel.data.videos import Video, VideoIndex

            status = self.path.stat()
            step, gop, (numerator, denominator) = self._times
            pts = list(range(0, step * self.shape[0], step))
            self._video = Video(
                VideoIndex(
                    path=str(self.path.absolute()),
                    size=status.st_size,
                    mtime_ns=status.st_mtime_ns,
                    codec="h264",
                    width=int(self._coded[1]),
                    height=int(self._coded[0]),
                    time_base=(int(numerator), int(denominator)),
                    pts=pts,
                    keyframes=pts[::gop],
                )
            )
        return self._video


#: What an episode's array looks like to its reader: ``shape``, ``dtype``, ``len`` and slices of rows.
Stored = StoredArray | StoredJpeg | StoredVideo


def read_header(path: Path, arrays: dict[str, StoredArray], metadata: dict[str, str]) -> dict[str, Stored]:
    """The arrays of an episode by name, encoded ones included; ``metadata`` is that of the file's header.

    Raises:
        ValueError, KeyError, TypeError: The header contradicts itself.
    """
    found: dict[str, Stored] = dict(arrays)
    for name, header in json.loads(metadata.get("codecs", "{}")).items():
        kind = Codec.parse(header["codec"]).kind
        if kind == "jpeg":
            blob, offsets = arrays[name], arrays[f"{name}.offsets"]
            if len(offsets) != header["shape"][0] + 1:
                raise ValueError(f"{name} has {header['shape'][0]} frames and {len(offsets)} offsets")
            found[name] = StoredJpeg(blob, offsets, tuple(header["shape"]))
            del found[f"{name}.offsets"]
        else:
            file = Path(header["file"])
            if file.name != header["file"]:
                raise ValueError(f"its video {header['file']} is not beside it")
            found[name] = StoredVideo(path.parent / file, header)
    return found


def _rows(path: Path, rows: slice, count: int) -> tuple[int, int, int]:
    if not isinstance(rows, slice):
        raise TypeError(f"a stored array is read by slices of rows, [a:b] or [:], not by [{rows!r}]")
    start, stop, step = rows.indices(count)
    if step < 1:
        raise ValueError(f"rows of {path} are read forwards; the slice has step {step}")
    return start, stop, step

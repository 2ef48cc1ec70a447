"""Arrays of an episode as its reader sees them: shape, type, and slices of rows that read no more than those rows."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel.data.episode_codecs import Codec

if TYPE_CHECKING:
    from worldmodel.data.videos import Video


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

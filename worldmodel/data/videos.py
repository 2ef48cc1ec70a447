"""Frame-exact random access to video files.

Frames are found by their presentation time, never by a header's count or a computed position: after each seek, where
decoding really began is checked, and a frame that cannot be had exactly is an error, never its neighbour.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

import av
import numpy as np

from worldmodel.data.video_backends import READERS, reader_for, why_unavailable
from worldmodel.data.video_decoder import FrameError, VideoError
from worldmodel.data.video_index import VideoIndex, build_index, load_index
from worldmodel.data.video_reader import Reader

__all__ = [
    "FrameError",
    "Video",
    "VideoError",
    "VideoIndex",
    "build_index",
    "check_backend",
    "load_index",
    "open_video",
]

BACKENDS = ("auto", "pyav", "decord", "torchcodec")
OPEN_FILES = 8  # per process and thread


def open_video(
    path: str | os.PathLike[str],
    backend: str = "auto",
    *,
    verify: bool = False,
    threads: int = 1,
    cache: str | os.PathLike[str] | None = None,
) -> Video:
    """A video file as an array of frames that is read on demand.

    The file's index is made on first use and cached (see ``load_index``). The file itself is opened by the thread
    that first reads a frame, so a ``Video`` may be passed to threads, forked and spawned workers.

    Args:
        path: The file, or a member of a tar file: ``shard.tar::name``.
        backend: ``"auto"`` is PyAV, unless ``prove_backends`` has recorded that another library is exact and faster on
            this file. ``"decord"`` and ``"torchcodec"`` imply ``verify``; each of their frames must have its checksum,
            and from the first that has not PyAV takes over. So all backends give the same frames.
        verify: Decode the whole file once, unless an earlier call has: the frames that cannot be had are then known
            (``Video.damaged``), and each frame that is read must have its checksum.
        threads: Decoding threads. More than one rarely helps where many workers read.
        cache: Folder of the cached indices.

    Raises:
        VideoError: The file is not a video, or has no frames.
        OSError: There is no such file, or it may not be read.
    """
    check_backend(backend)
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    return Video(load_index(path, verify or backend in READERS, cache), threads, backend)


def check_backend(backend: str) -> None:
    """See that a backend is one, and can be used on this machine.

    Raises:
        ValueError: It is not, or cannot.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
    reason = why_unavailable(backend)
    if reason:
        raise ValueError(f"backend={backend} cannot be used: {reason}; or use backend=pyav")


class Video:
    """One video stream, addressed by frame index.

    Pictures are as coded: rotation metadata is not applied, and pixels are not made square.

    Attributes:
        index: What is known of the file.
        fps: Frames per second on average.
        timestamps: ``(len,)`` float64 seconds at which each frame is shown, as the file says: the first need not be
            zero, nor the steps equal.
        damaged: Indices of the frames that are known to be impossible to read: all of them if the index was verified,
            otherwise those that have failed so far.
    """

    def __init__(self, index: VideoIndex, threads: int = 1, backend: str = "pyav") -> None:
        self.index, self.threads, self.backend = index, threads, backend
        self.path = index.path
        numerator, denominator = index.time_base
        self.timestamps = np.array(index.pts, dtype=np.int64) * (numerator / denominator)
        span = float(self.timestamps[-1] - self.timestamps[0])
        self.fps = (len(self) - 1) / span if span > 0 else 1.0
        self.damaged = set(index.damaged)
        self._closed = False

    def __len__(self) -> int:
        return len(self.index.pts)

    def __repr__(self) -> str:
        shape = f"{len(self)} frames, {self.index.width}x{self.index.height}"
        return f"Video({self.path!r}, {shape}, {self.fps:.3g} fps, {self.index.codec})"

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The frames at ``indices``, in that order, repeated where an index is: ``(T, C, H, W)`` uint8 RGB.

        Raises:
            FrameError: An index is out of range, or its frame cannot be had exactly.
            VideoError: The file has changed since it was opened, or is closed.
        """
        wanted = list(indices)
        out = np.empty((len(wanted), 3, self.index.height, self.index.width), dtype=np.uint8)
        for rows, picture in self._pictures(wanted):
            out[rows] = picture.transpose(2, 0, 1)
        return out

    def map(
        self, indices: Sequence[int] | np.ndarray, work: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """What ``work`` makes of each picture ``(H, W, 3)``, stacked; one that is wanted repeatedly is made once.

        To cut and resize one frame after another takes less memory, and less time, than to hold all of them whole.

        Raises:
            FrameError, VideoError: As for ``frames``.
        """
        wanted = list(indices)
        made: dict[int, np.ndarray] = {}
        for rows, picture in self._pictures(wanted):
            made.update(dict.fromkeys(rows, work(picture)))
        return np.stack([made[row] for row in range(len(wanted))])

    def _pictures(self, wanted: Sequence[int]) -> Iterator[tuple[list[int], np.ndarray]]:
        """The pictures in the file's order, each with its places in ``wanted``."""
        if self._closed:
            raise VideoError(f"{self.path} is closed; open it again")
        rows: dict[int, list[int]] = {}
        for row, index in enumerate(map(int, wanted)):
            if not 0 <= index < len(self):
                raise FrameError(f"{self.path} has no frame {index}, only 0 to {len(self) - 1}")
            if index in self.damaged:
                raise self._missing(index)
            rows.setdefault(index, []).append(row)
        reader = _pool().get(self)
        for index in sorted(rows):
            try:
                picture = reader.read(index)
            except VideoError:
                raise
            except (av.FFmpegError, ValueError):  # such as a pixel format that cannot be converted
                picture = None
            if picture is None:
                self.damaged.add(index)
                raise self._missing(index)
            yield rows[index], picture

    def _missing(self, index: int) -> FrameError:
        return FrameError(
            f"{self.path}: frame {index} (at {self.timestamps[index]:.3f} s) cannot be decoded exactly; "
            "leave it out, or replace the file"
        )

    def close(self) -> None:
        """Close the file in this thread, and refuse further use; other threads close theirs as they end."""
        self._closed = True
        _pool().drop(self)

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Pool:
    """The open readers of each process and thread, the longest unused of which is closed for a new one.

    Two threads in one container crash, and a container that is used on both sides of a fork hangs or reads from the
    wrong place, so none is ever shared. What a process inherits through a fork it neither uses nor closes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.local = threading.local()

    def _mine(self) -> OrderedDict[int, tuple[Video, Reader]]:
        if getattr(self.local, "pid", None) != os.getpid():
            self.local.pid, self.local.readers = os.getpid(), OrderedDict()
        readers: OrderedDict[int, tuple[Video, Reader]] = self.local.readers
        return readers

    def get(self, video: Video) -> Reader:
        readers = self._mine()
        if id(video) not in readers:
            while len(readers) >= self.limit:
                readers.popitem(last=False)[1][1].close()
            # With the video, which so stays alive and keeps its id.
            readers[id(video)] = (video, reader_for(video.index, video.backend, video.threads))
        readers.move_to_end(id(video))
        return readers[id(video)][1]

    def drop(self, video: Video) -> None:
        entry = self._mine().pop(id(video), None)
        if entry is not None:
            entry[1].close()


@functools.cache
def _pool() -> _Pool:
    return _Pool(OPEN_FILES)

"""Other decoders than PyAV, held to the checksums of a verified index: each frame is right, or PyAV reads it.

Decord and torchcodec never say that a frame is wrong: decord gives wrong ones for open GOPs, MPEG-TS and MPEG-PS,
torchcodec for the latter two, and its approximate mode also for varying frame rates. Where they are right, they give
the same bytes as PyAV. So they may be used, where they are faster, without changing what is read.
"""

from __future__ import annotations

import importlib
import os
import time
import zlib
from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from worldmodel.data.tar_shards import locate
from worldmodel.data.video_index import VideoIndex, load_index, save_index
from worldmodel.data.video_reader import Reader

WORTH_IT = 1.25  # how much faster than PyAV another library must be: timings vary


class CheckedReader(Reader):
    """Another library, as long as every frame that it gives has its checksum; PyAV from the first that has not.

    On a container that claims too many frames decord can spin for ever, holding the interpreter's lock, so nothing but
    PyAV is tried on files that did not decode without a fault.
    """

    name: ClassVar[str]
    inherited: ClassVar[list[object]] = []

    def __init__(self, index: VideoIndex, threads: int = 1) -> None:
        super().__init__(index, threads)
        self.process = os.getpid()
        self.video: Any = None
        whole = locate(index.path).offset is None  # they cannot read a part of a file
        self.trusted = whole and index.verified and not index.damaged and not index.counted

    def read(self, number: int) -> np.ndarray | None:
        picture = self.fetch(number)
        return super().read(number) if picture is None else picture

    def fetch(self, number: int) -> np.ndarray | None:
        """The frame ``(H, W, C)`` from the library; None if it is not exact, and ever after."""
        if not self.trusted:
            return None
        picture = None
        try:
            if self.video is None:
                self._check_unchanged()
                self.video = self._load()
            if len(self.video) == len(self.index.pts):
                picture = np.ascontiguousarray(self._get(number))
        except self._errors():
            picture = None
        self.trusted = picture is not None and self._is_exact(number, picture)
        return picture if self.trusted else None

    @abstractmethod
    def _load(self) -> Any: ...

    @abstractmethod
    def _get(self, number: int) -> np.ndarray: ...

    def _errors(self) -> tuple[type[Exception], ...]:
        return (RuntimeError, IndexError, ValueError)

    def close(self) -> None:
        super().close()
        self.video = None

    def __del__(self) -> None:
        if getattr(self, "video", None) is not None and self.process != os.getpid():
            CheckedReader.inherited.append(self.video)  # its threads stayed in the parent: never to be freed


class DecordReader(CheckedReader):
    """Decord 0.6: old, and without AV1."""

    name = "decord"

    def _load(self) -> Any:
        import decord

        return decord.VideoReader(self.index.path, num_threads=self.threads)

    def _get(self, number: int) -> np.ndarray:
        return np.asarray(self.video.get_batch([number]).asnumpy()[0])

    def _errors(self) -> tuple[type[Exception], ...]:
        import decord

        return (decord.DECORDError, RuntimeError)


class TorchcodecReader(CheckedReader):
    """torchcodec in its exact mode; it needs FFmpeg's shared libraries on the machine."""

    name = "torchcodec"

    def _load(self) -> Any:
        from torchcodec.decoders import VideoDecoder

        return VideoDecoder(
            self.index.path, dimension_order="NHWC", num_ffmpeg_threads=self.threads, seek_mode="exact"
        )

    def _get(self, number: int) -> np.ndarray:
        return np.asarray(self.video.get_frame_at(number).data.numpy())


READERS: dict[str, type[CheckedReader]] = {"decord": DecordReader, "torchcodec": TorchcodecReader}


def why_unavailable(backend: str) -> str:
    """Why a backend cannot be used on this machine; empty if it can."""
    if backend not in READERS:
        return ""
    try:
        importlib.import_module("torchcodec.decoders" if backend == "torchcodec" else backend)
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except (ImportError, OSError, RuntimeError) as error:
        text = str(error)
        if "FFmpeg" in text:
            return "it cannot load FFmpeg's shared libraries (Debian: apt install ffmpeg)"
        return " ".join(text.split())[:200]
    return ""


def reader_for(index: VideoIndex, backend: str, threads: int = 1) -> Reader:
    """The reader that a backend's name stands for; ``auto`` is PyAV, or one clearly faster that was proved exact."""
    if backend == "auto":
        enough = index.backends.get("pyav", 0.0) / WORTH_IT
        names = sorted(index.backends, key=lambda name: index.backends[name])
        worth_it = (name for name in names if index.backends[name] < enough and not why_unavailable(name))
        backend = next(worth_it, "pyav")
    return READERS.get(backend, Reader)(index, threads)


def prove_backends(
    path: str | os.PathLike[str], accesses: int = 48, cache: str | os.PathLike[str] | None = None
) -> VideoIndex:
    """The verified index of a file, in which ``backends`` says which libraries were exact on it, and how fast.

    Each library that is installed reads some frames at random places, half of them one by one and half in runs; it is
    proved if it gave all of them with their checksums. (Each frame that it reads later is checked all the same.) The
    result is cached.

    Args:
        accesses: How many frames.

    Raises:
        VideoError, OSError: As for ``build_index``.
    """
    index = load_index(path, verify=True, cache=cache)
    if index.accesses >= accesses:
        return index
    rng, count, damaged = np.random.default_rng(zlib.crc32(b"backends")), len(index.pts), set(index.damaged)
    single = rng.integers(0, count, (accesses + 1) // 2).tolist()
    runs = [min(start + k, count - 1) for start in single[: (accesses + 15) // 16] for k in range(8)]
    numbers = [number for number in [*single, *runs] if number not in damaged]
    backends = {}
    for name in ("pyav", *READERS):
        if why_unavailable(name):
            continue
        reader = reader_for(index, name)
        read = reader.fetch if isinstance(reader, CheckedReader) else reader.read
        try:
            read(numbers[0] if numbers else 0)  # opening a file is not what is to be measured
            began = time.perf_counter()
            exact = all(read(number) is not None for number in numbers)
            if exact:
                backends[name] = round(1000 * (time.perf_counter() - began) / max(len(numbers), 1), 3)
        finally:
            reader.close()
    index = replace(index, backends=backends, accesses=accesses)
    save_index(index, cache)
    return index

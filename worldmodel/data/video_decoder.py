"""One video file, opened with FFmpeg through PyAV: packets in, frames out, each with whether it can be trusted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import ClassVar

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from worldmodel.data.tar_shards import locate

TEXT_CODECS = ("ansi", "bintext", "xbin", "idf")  # FFmpeg draws text files as video
MAX_DEMUX_ERRORS = 8


class VideoError(ValueError):
    """A file that cannot be read as a video."""


class FrameError(ValueError):
    """A frame that cannot be had exactly."""


class Decoder:
    """One open file: frames in presentation order from the last keyframe that was sought.

    A frame counts as damaged if FFmpeg says so, and also if anything since the keyframe that it depends on failed to
    decode: FFmpeg conceals such faults in the frames that follow, without a word.

    Raises:
        VideoError: The file is not a video.
    """

    inherited: ClassVar[list[object]] = []

    def __init__(self, path: str, threads: int = 1) -> None:
        self._process = os.getpid()
        try:
            # Only plain files: a damaged or hostile playlist must not reach for the network.
            self.container = av.open(
                locate(path).url,
                container_options={"protocol_whitelist": "file,subfile"},
                metadata_errors="replace",
            )
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise VideoError(f"{path} cannot be read as a video ({reason}); replace or remove it") from error
        try:
            self.stream = self._find_stream(path)
        except VideoError:
            self.container.close()
            raise
        context = self.stream.codec_context
        context.thread_count = threads
        # A picture with a fault in it is an error, instead of being patched up from its neighbours.
        context.options = {"err_detect": "explode"}
        context.thread_type = "AUTO" if threads != 1 else "SLICE"
        self._reformatter = VideoReformatter()
        self._places = self._known_places()
        self.landed: int | None = None  # pts of the keyframe at which decoding began
        self.faults = 0
        self._waiting = False
        self._damaged = False
        self._clean_from: int | None = None
        self._key: int | None = None

    def _find_stream(self, path: str) -> VideoStream:
        for stream in self.container.streams.video:
            cover = "attached_pic" in str(getattr(stream, "disposition", ""))
            if cover or stream.codec_context is None or stream.codec_context.name in TEXT_CODECS:
                continue
            if stream.codec_context.width > 0 and stream.codec_context.height > 0 and stream.time_base:
                return stream
        raise VideoError(f"{path} has no video that this FFmpeg can decode; re-encode or remove it")

    def _known_places(self) -> dict[int, int]:
        """For AVI, which frame begins at which byte, as the table at the file's end says.

        Packets of an AVI carry no time: FFmpeg counts them, so behind a lost one every time would be wrong.
        PyAV before it had ``index_entries`` cannot tell.
        """
        if self.container.format.name != "avi":
            return {}
        return {entry.pos + 8: entry.timestamp for entry in getattr(self.stream, "index_entries", None) or ()}

    def seek(self, pts: int) -> None:
        """Go near ``pts``; the next frames start at whichever keyframe comes first in the file from there."""
        self.container.seek(pts, stream=self.stream, backward=True)
        self._restart()

    def _restart(self) -> None:
        self.landed, self._waiting, self._damaged = None, True, False
        self._clean_from = self._key = None

    def packets(self) -> Iterator[av.Packet]:
        """The stream's packets from here to the end of the file, then an empty one that flushes the decoder."""
        errors = 0
        while True:
            try:
                for packet in self.container.demux(self.stream):
                    true = self._places.get(packet.pos) if packet.pos is not None else None
                    if true is not None and packet.dts is not None and packet.dts != true:
                        self._fault()
                        if packet.pts is not None:
                            packet.pts += true - packet.dts
                        packet.dts = true
                    yield packet
                return
            except (
                av.FFmpegError,
                ValueError,
            ):  # a damaged container: FFmpeg goes on behind the fault, or ends
                errors += 1
                self._fault()
                if errors >= MAX_DEMUX_ERRORS:
                    return

    def frames(self) -> Iterator[tuple[VideoFrame, bool]]:
        """Decoded frames, each with whether it is damaged."""
        for packet in self.packets():
            if packet.size:
                if self._waiting:
                    if not packet.is_keyframe or packet.pts is None:
                        continue
                    self._waiting, self.landed = False, packet.pts
                if packet.is_keyframe:
                    self._key = packet.pts
                    if self._damaged and self._clean_from is None:
                        self._clean_from = packet.pts
                if packet.is_corrupt:
                    self._fault()
            try:
                frames = packet.decode()
            except av.FFmpegError:
                # Behind the keyframe that was sought may come frames that are shown before it and need what is
                # before it. Nothing that is shown after it depends on them.
                leading = self.landed is not None and packet.pts is not None and packet.pts < self.landed
                if packet.size == 0 or not leading:
                    self._fault()
                continue
            for frame in frames:
                if isinstance(frame, VideoFrame):
                    yield frame, self._is_damaged(frame)

    def _fault(self) -> None:
        self.faults += 1
        self._damaged, self._clean_from = True, None

    def _is_damaged(self, frame: VideoFrame) -> bool:
        pts = frame.pts
        if frame.is_corrupt:
            self._fault()
            # The keyframe behind a damaged frame may already be in the decoder.
            if self._key is not None and pts is not None and self._key > pts:
                self._clean_from = self._key
        elif self._damaged and self._clean_from is not None and pts is not None and pts >= self._clean_from:
            self._damaged = False
        return self._damaged

    def rgb(self, frame: VideoFrame) -> np.ndarray:
        """``(H, W, C)`` uint8, as coded: rotation metadata is not applied."""
        try:
            # By default a thread per core, for each frame; and they would be missing behind a fork.
            picture = self._reformatter.reformat(frame, format="rgb24", threads=1)
        except TypeError:  # a PyAV in which there is one thread anyway
            picture = self._reformatter.reformat(frame, format="rgb24")
        return np.ascontiguousarray(picture.to_ndarray())

    def close(self) -> None:
        self.container.close()

    def __del__(self) -> None:
        # Containers refer to themselves, so that without this files would stay open until the next collection.
        # One that came through a fork must not be closed, or freed: its decoding threads stayed in the parent.
        container = getattr(self, "container", None)
        if container is None:
            return
        if self._process == os.getpid():
            container.close()
        else:
            Decoder.inherited.append(container)

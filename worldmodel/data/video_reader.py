"""Random access in one open video."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import av
import numpy as np
from av.video.frame import VideoFrame

from worldmodel.data.tar_shards import locate
from worldmodel.data.video_decoder import Decoder, VideoError
from worldmodel.data.video_index import VideoIndex

STEP_OVER = 8  # up to so many frames it is cheaper to decode on than to seek
GRACE = 32  # frames to wait for one that comes later than its time says, in files with disordered times
LANDINGS = 3  # keyframes from which a frame must fail before it is given up


class Reader:
    """One container of one thread, and where it stands."""

    def __init__(self, index: VideoIndex, threads: int = 1) -> None:
        self.index, self.threads = index, threads
        self.numbers = {pts: number for number, pts in enumerate(self.index.pts)}
        self.keys = np.array(self.index.keyframes, dtype=np.int64)
        self.decoder: Decoder | None = None
        self.stream: Iterator[tuple[VideoFrame, bool]] = iter(())
        self.position = -1  # number of the last frame decoded; -1 where that is unknown
        self.last: tuple[int, np.ndarray] | None = None
        # Of the one pass from the start of the file: how far it went, and what came out undamaged.
        self.scanned, self.clean = -1, set[int]()

    def read(self, number: int) -> np.ndarray | None:
        """The picture ``(H, W, C)``, or None if it cannot be had."""
        if self.last is not None and self.last[0] == number:
            return self.last[1]
        picture = self._count_to(number) if self.index.counted else self._find(number)
        if picture is not None and self._is_exact(number, picture):
            self.last = (number, picture)
            return picture
        return None

    def _is_exact(self, number: int, picture: np.ndarray) -> bool:
        if picture.shape[:2] != (self.index.height, self.index.width):
            return False
        return not self.index.crc or zlib.crc32(picture.data) == self.index.crc[number]

    def _find(self, number: int) -> np.ndarray | None:
        pts = self.index.pts[number]
        key = int(np.searchsorted(self.keys, pts, side="right")) - 1
        if 0 <= self.position < number:
            ahead = number - self.position <= STEP_OVER
            if ahead or (key >= 0 and self.keys[key] <= self.index.pts[self.position]):
                picture = self._decode_to(number)
                if picture is not None:
                    return picture
        back, landings = 0, 0
        while key - back >= 0 and landings < LANDINGS:
            if self._seek(int(self.keys[key - back])):
                picture = self._decode_to(number)
                if picture is not None:
                    return picture
                landed = self._open().landed
                landings += landed is not None and landed <= pts
            back = max(1, 2 * back)
        return self._scan_to(number)

    def _seek(self, pts: int) -> bool:
        decoder = self._open()
        self.position, self.stream = -1, decoder.frames()
        try:
            decoder.seek(pts)
        except (av.FFmpegError, ValueError):
            return False
        return True

    def _decode_to(self, number: int) -> np.ndarray | None:
        """Decode on until the frame comes, or should have come long since."""
        pts, decoder = self.index.pts[number], self._open()
        late = 0
        for frame, damaged in self.stream:
            if decoder.landed is not None and decoder.landed > pts:
                break  # the seek came out behind the frame
            if frame.pts is None:
                continue
            self.position = self.numbers.get(frame.pts, -1)
            if frame.pts == pts:
                return None if damaged else decoder.rgb(frame)
            late += frame.pts > pts
            if late > GRACE:
                break
        else:
            self.position = -1
        return None

    def _scan_to(self, number: int) -> np.ndarray | None:
        """Open the file anew and decode from its start.

        One pass is enough to learn what is sound in the part that it covers, so that a file with many damaged frames
        does not cost a pass for each.
        """
        if number <= self.scanned and number not in self.clean:
            return None
        self.close()
        decoder = self._open()
        pts, late, picture = self.index.pts[number], 0, None
        for frame, damaged in decoder.frames():
            seen = self.numbers.get(frame.pts, -1) if frame.pts is not None else -1
            if seen >= 0 and not damaged:
                self.clean.add(seen)
                if seen == number:
                    picture = decoder.rgb(frame)
            late += frame.pts is not None and frame.pts > pts
            if late > GRACE:
                break
        self.scanned = max(self.scanned, number)
        self.position = -1
        return picture

    def _count_to(self, number: int) -> np.ndarray | None:
        """Decode the frames one by one, from the start of the file if the wanted one is behind."""
        if self.decoder is None or self.position >= number:
            self.close()
            self.stream = self._open().frames()
        decoder = self._open()
        for frame, damaged in self.stream:
            self.position += 1
            if self.position == number:
                return None if damaged else decoder.rgb(frame)
        self.close()
        return None

    def _check_unchanged(self) -> None:
        place = locate(self.index.path)
        if (place.size, place.mtime_ns) != (self.index.size, self.index.mtime_ns):
            raise VideoError(f"{self.index.path} has changed since it was opened; open it again")

    def _open(self) -> Decoder:
        if self.decoder is None:
            self._check_unchanged()
            self.decoder = Decoder(self.index.path, self.threads)
        return self.decoder

    def close(self) -> None:
        if self.decoder is not None:
            self.decoder.close()
        self.decoder, self.stream, self.position = None, iter(()), -1

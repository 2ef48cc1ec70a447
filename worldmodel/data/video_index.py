"""What is known about one video file before a frame is read: the time of every frame, and where decoding can begin.

Headers are not trusted: their frame counts and rates are often wrong. The file is demuxed once, and with ``verify``
also decoded once; the result is cached.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from bisect import bisect_left
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from worldmodel.atomic import write_bytes
from worldmodel.data.tar_shards import Place, locate
from worldmodel.data.video_decoder import Decoder, VideoError

FORMAT = 2  # of the cached files; others are made again
MAX_UNTIMED = 0.05


@dataclass
class VideoIndex:
    """Every frame of one video stream, in presentation order.

    Attributes:
        size, mtime_ns: Of the file that was indexed; another file under the same name is indexed again.
        pts: Presentation time of each frame, in units of ``time_base`` seconds, increasing. Without ``verified``
            these are the file's packets, some of which may turn out not to be decodable.
        keyframes: The ``pts`` of the frames at which decoding can begin.
        counted: Some packets have no time of their own, or share one. Frames are then found by counting decoded
            frames from the start of the file, which is exact but slow.
        verified: The whole file was decoded; ``damaged`` (frame indices) and ``crc`` (of each frame's RGB bytes)
            are known. A frame read later must have the same checksum.
        backends: Libraries that gave so many ``accesses`` to random frames exactly, and their milliseconds for one.
    """

    path: str
    size: int
    mtime_ns: int
    codec: str
    width: int
    height: int
    time_base: tuple[int, int]
    pts: list[int]
    keyframes: list[int]
    counted: bool = False
    verified: bool = False
    damaged: list[int] = field(default_factory=list)
    crc: list[int] = field(default_factory=list)
    backends: dict[str, float] = field(default_factory=dict)
    accesses: int = 0
    reader: str = f"PyAV {av.__version__}"
    format: int = FORMAT


def build_index(path: str | os.PathLike[str], verify: bool = False) -> VideoIndex:
    """Read a file from end to end and list its frames.

    Args:
        verify: Also decode it. Frames that cannot be had exactly are then known beforehand; packets that never were
            frames (invisible reference frames, second fields) are left out, which can shorten the video.

    Raises:
        VideoError: The file is not a video, or has no frames.
        OSError: There is no such file, or it may not be read.
    """
    name = os.fspath(path)
    status = _status(name)
    decoder = Decoder(name)
    try:
        context, base = decoder.stream.codec_context, decoder.stream.time_base
        assert base is not None  # Decoder has seen to it
        index = VideoIndex(
            os.path.abspath(name),
            status.size,
            status.mtime_ns,
            context.name,
            context.width,
            context.height,
            (base.numerator, base.denominator),
            [],
            [],
        )
        # Packets that an edit list hides (is_discard) are decoded, for the others' sake, but never shown.
        times: list[int | None] = []
        for packet in decoder.packets():
            if packet.size and not packet.is_discard:
                times.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    index.keyframes.append(packet.pts)
            if len(times) > max(status.size, 1):
                raise VideoError(f"{name} claims more frames than it has bytes; it is damaged, remove it")
    finally:
        decoder.close()
    known = sorted({time for time in times if time is not None})
    index.pts, index.keyframes = known, sorted(set(index.keyframes))
    # A few packets without a time of their own, or with that of another, are damage; many, the file's kind.
    index.counted = len(known) < (1 - MAX_UNTIMED) * len(times) or not index.keyframes
    index.damaged = [] if index.counted else sorted({bisect_left(known, time) for time in _repeated(times)})
    if times and (verify or index.counted):
        _decode_all(index, checksums=verify)
    if not index.pts:
        raise VideoError(f"{name} has no frames; it is empty or truncated, replace or remove it")
    return index


def _repeated(times: list[int | None]) -> list[int]:
    ordered = sorted(time for time in times if time is not None)
    return [a for a, b in zip(ordered, ordered[1:], strict=False) if a == b]


def _decode_all(index: VideoIndex, checksums: bool) -> None:
    """Replace what the packets claim by what the decoder puts out."""
    decoder = Decoder(index.path)
    seen: dict[int, tuple[bool, int]] = {}  # by pts, or by count
    times = []
    try:
        for count, (frame, damaged) in enumerate(decoder.frames()):
            crc = zlib.crc32(decoder.rgb(frame).data) if checksums else 0
            address = count if index.counted else frame.pts
            times.append(frame.pts)
            if address is not None:
                seen[address] = (damaged or address in seen, crc)
    except MemoryError as error:
        raise VideoError(f"{index.path} asks for pictures that do not fit into memory; remove it") from error
    finally:
        decoder.close()
    if index.counted:
        index.pts, index.time_base = _counted_times(times, index, decoder.stream.average_rate)
        index.keyframes = []
        addresses = list(range(len(times)))
    else:
        # Where nothing failed, a packet without a frame never was one. Where something did, the frame is missing,
        # but keeps its place, so that those behind it keep their numbers.
        if decoder.faults == 0:
            index.pts = [pts for pts in index.pts if pts in seen]
        addresses = index.pts
    lost = (True, 0)
    index.damaged = [i for i, address in enumerate(addresses) if seen.get(address, lost)[0]]
    index.crc = [seen.get(address, lost)[1] for address in addresses] if checksums else []
    index.verified = checksums


def _counted_times(
    times: list[int | None], index: VideoIndex, rate: Fraction | None
) -> tuple[list[int], tuple[int, int]]:
    """The decoder's own times where they are complete and increase; else an even rate from zero."""
    known = [time for time in times if time is not None]
    if len(known) == len(times) and all(a < b for a, b in zip(known, known[1:], strict=False)):
        return known, index.time_base
    rate = rate or Fraction(25)
    return list(range(len(times))), (rate.denominator, rate.numerator)


def load_index(
    path: str | os.PathLike[str], verify: bool = False, cache: str | os.PathLike[str] | None = None
) -> VideoIndex:
    """The cached index of a file; made, and cached, if there is none or the file has changed since.

    Args:
        verify: An index that was made without is not enough.
        cache: Folder of the cached indices; by default ``$XDG_CACHE_HOME/worldmodel/index``. One that cannot be
            written is no error: the index is then made each time.

    Raises:
        VideoError, OSError: As for ``build_index``.
    """
    name = os.fspath(path)
    status = _status(name)
    place = _cache_file(name, cache)
    cached = _read_cached(place)
    fresh = cached is not None and (cached.size, cached.mtime_ns) == (status.size, status.mtime_ns)
    if cached is not None and fresh and (cached.verified or not verify):
        return cached
    index = build_index(name, verify)
    save_index(index, cache)
    return index


def save_index(index: VideoIndex, cache: str | os.PathLike[str] | None = None) -> None:
    """Cache an index where ``load_index`` looks for it; a folder that cannot be written is no error."""
    place = _cache_file(index.path, cache)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(place, json.dumps(asdict(index), separators=(",", ":")).encode())
    except OSError:
        pass


def _cache_file(path: str, cache: str | os.PathLike[str] | None) -> Path:
    default = os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "worldmodel", "index"
    )
    key = hashlib.sha256(os.path.abspath(path).encode(errors="surrogateescape")).hexdigest()[:32]
    return Path(default if cache is None else cache) / f"{key}.json"


def _read_cached(place: Path) -> VideoIndex | None:
    try:
        value: dict[str, Any] = json.loads(place.read_bytes())
        if value["format"] != FORMAT or value["reader"] != f"PyAV {av.__version__}":
            return None
        index = VideoIndex(**value)
        index.time_base = (index.time_base[0], index.time_base[1])
        return index
    except (OSError, ValueError, TypeError, KeyError):
        return None  # missing, or not ours to read: made again


def _status(path: str) -> Place:
    try:
        place = locate(path)
    except ValueError as error:
        raise VideoError(str(error)) from error
    if place.size == 0:
        raise VideoError(f"{path} is empty; replace or remove it")
    return place

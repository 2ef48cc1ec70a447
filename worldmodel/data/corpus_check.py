"""Checks of a corpus's files before anything is trained on them: which can be read, and what they are like."""

from __future__ import annotations

import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice

import numpy as np

from worldmodel.data.clips import duration
from worldmodel.data.corpus_damage import one_line
from worldmodel.data.images import is_image, read_image
from worldmodel.data.video_backends import prove_backends
from worldmodel.data.videos import Video, load_index

LONG_GOP = 48  # frames between keyframes, above which most of the decoding is for frames that are not used
TALL = 480  # pixels of the shorter side, above which decoding costs more than a crop of the usual sizes needs
SHOWN = 4  # kinds that a row of the summary lists


@dataclass(frozen=True)
class FileFacts:
    """What is known of one file after a check; for a file that cannot be read, only ``path`` and ``reason``.

    Attributes:
        reason: What is wrong with it; empty if nothing was found.
        fps: Frames per second on average.
        keyframe_interval: Frames from one keyframe to the next, the median; 0 where frames have to be counted from the
            file's start, because its packets have no times.
        damaged_frames: How many frames cannot be had exactly; only counted by a full decode.
        backend: The libraries that gave random frames exactly, the fastest first; only from a full decode.
    """

    path: str
    reason: str = ""
    seconds: float = 0.0
    frames: int = 0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    codec: str = ""
    keyframe_interval: float = 0.0
    damaged_frames: int = 0
    backend: str = ""


def check_file(path: str, verify: bool = False, accesses: int = 48) -> FileFacts:
    """Index one file and read its first, middle and last frame, or, with ``verify``, all, and some again at random."""
    try:
        if is_image(path):
            height, width = read_image(path).shape[:2]
            codec = path.rpartition(".")[2].lower()
            return FileFacts(path, frames=1, width=width, height=height, codec=codec)
        index = prove_backends(path, accesses) if verify else load_index(path)
        with Video(index) as video:
            times, count = video.timestamps, len(video)
            reason = ""
            if index.damaged:
                reason = f"{len(index.damaged)} of {count} frames cannot be decoded exactly"
            elif verify and "pyav" not in index.backends:
                reason = "frames at random places differ from those of a full decode"
            try:
                good = np.setdiff1d([0, count // 2, count - 1], index.damaged)
                video.map(good if len(good) else [], lambda picture: picture[:1, :1])
            except ValueError as error:
                reason = reason or one_line(path, error)
        keys = np.searchsorted(index.pts, index.keyframes)
        interval = float(np.median(np.diff([*keys, count]))) if len(keys) else 0.0
        backend = " ".join(sorted(index.backends, key=lambda name: index.backends[name]))
        return FileFacts(
            path, reason, round(duration(times), 3), count, index.width, index.height, round(video.fps, 3),
            index.codec, interval, len(index.damaged), backend,
        )  # fmt: skip
    except (ValueError, OSError, MemoryError) as error:
        return FileFacts(path, one_line(path, error))


def check_files(
    paths: Sequence[str],
    verify: bool = False,
    accesses: int = 48,
    workers: int = 2,
    check: Callable[[str, bool, int], FileFacts] = check_file,
) -> Iterator[FileFacts]:
    """``check`` of many files, in several processes, in the order of ``paths``.

    A file on which the decoder crashes is a damaged file: it is tried again by itself, so that the others that were in
    hand do not suffer. What was decoded is cached, so that an interrupted check goes on where it was.

    Args:
        workers: Processes; 0 checks in this one.
        check: What is done to each file; it must be picklable.
    """
    if workers < 0:
        raise ValueError(f"workers={workers} must not be negative")
    if workers == 0:
        yield from (check(path, verify, accesses) for path in paths)
        return
    waiting, pending = iter(paths), deque[tuple[str, Future[FileFacts]]]()
    pool = _pool(workers)

    def submit(path: str) -> tuple[str, Future[FileFacts]]:
        try:
            return path, pool.submit(check, path, verify, accesses)
        except BrokenProcessPool as error:  # since one of those before: what came of them is asked first
            future: Future[FileFacts] = Future()
            future.set_exception(error)
            return path, future

    try:
        while True:
            pending.extend(map(submit, islice(waiting, 4 * workers - len(pending))))
            if not pending:
                return
            path, future = pending.popleft()
            try:
                facts = future.result()
            except BrokenProcessPool:
                facts = _check_alone(check, path, verify, accesses)
                pool.shutdown(wait=False, cancel_futures=True)
                pool = _pool(workers)
                pending = deque([submit(path) for path, _ in pending])
            yield facts
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _check_alone(
    check: Callable[[str, bool, int], FileFacts], path: str, verify: bool, accesses: int
) -> FileFacts:
    with _pool(1) as pool:
        try:
            return pool.submit(check, path, verify, accesses).result()
        except BrokenProcessPool:
            return FileFacts(path, "the decoder crashed")


def summarise(facts: Iterable[FileFacts]) -> list[tuple[str, str]]:
    """Rows of a table: what there is, and how much of it."""
    facts = list(facts)
    good = [fact for fact in facts if fact.frames > 0]
    damaged = sum(bool(fact.reason) for fact in facts)
    rows = [
        ("files", f"{len(facts):,}"),
        ("damaged", f"{damaged:,} ({damaged / max(len(facts), 1):.1%})"),
        ("hours", f"{sum(fact.seconds for fact in good) / 3600:,.2f}"),
        ("frames", f"{sum(fact.frames for fact in good):,}"),
        ("resolutions", _shares(f"{fact.width}x{fact.height}" for fact in good)),
        ("frames/s", _shares(f"{fact.fps:.4g}" for fact in good if fact.fps)),
        ("codecs", _shares(fact.codec for fact in good)),
    ]
    intervals = [fact.keyframe_interval for fact in good if fact.keyframe_interval]
    if intervals:
        rows.append(
            ("keyframes", f"every {np.median(intervals):.0f} frames (median; at most {max(intervals):.0f})")
        )
    proved = [fact.backend.split()[0] for fact in good if fact.backend]
    if proved:
        rows.append(("fastest exact", _shares(proved)))
    return rows


def _shares(kinds: Iterable[str]) -> str:
    counts = Counter(kinds).most_common()
    text = ", ".join(f"{kind} ({count:,})" for kind, count in counts[:SHOWN])
    return text + (f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else "")


def advise(facts: Iterable[FileFacts]) -> list[str]:
    """What would make reading faster, if anything."""
    good = [fact for fact in facts if fact.frames > 1]
    advice = []
    long = [fact for fact in good if fact.keyframe_interval > LONG_GOP]
    if len(long) > len(good) / 4:
        typical = float(np.median([fact.keyframe_interval for fact in long]))
        advice.append(
            f"{len(long):,} files have keyframes {typical:.0f} frames apart: a random clip first decodes about "
            f"{typical / 2:.0f} frames that it does not use"
        )
    tall = [fact for fact in good if min(fact.width, fact.height) > TALL]
    if len(tall) > len(good) / 4:
        typical = float(np.median([min(fact.width, fact.height) for fact in tall]))
        advice.append(
            f"{len(tall):,} files have a shorter side of {typical:.0f} pixels, mostly cut or shrunk away"
        )
    counted = [fact for fact in good if not fact.keyframe_interval]
    if counted:
        advice.append(
            f"{len(counted):,} files have packets without times, such as {counted[0].path}: each frame is decoded "
            "from the start"
        )
    if advice:
        advice.append(
            "copy such files once: worldmodel reencode data=... out=FOLDER, or ffmpeg -i IN -an -vf "
            "\"scale=-2:'min(ih,360)'\" -c:v libx264 -crf 18 -g 12 -bf 0 OUT.mp4"
        )
    return advice

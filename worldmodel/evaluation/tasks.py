"""Tasks whose answers are known without labels: how fast a video is played, in which direction, and which one it is.

All classes of a task are cut out of the same windows of the same videos, so that what is seen tells nothing about the
answer, and how often each answer is right is fixed by chance alone:

- ``speed``: every ``strides[i]``-th frame, beginning anywhere in a window that the largest stride fills. So where and
  when clips begin and end, and how many frames they have, is alike in all classes.
- ``order``: the frames of a window forward, and the same frames backward. Windows that fade are left out, since
  brightness would give the direction away.
- ``source``: which video; each gives equally many windows. Logos, borders and colours are fair here, which makes it the
  easiest of the three.

Still windows are left out of ``speed`` and ``order``: they have no answer. Compression leaves traces that depend on
time (the first frame of a group is sharper than the last, and decoders smear along the motion, forward only); clips are
far smaller than the files' pictures, which weakens them, but only the untrained control shows how much they give away.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.clips import frame_interval, split_at
from worldmodel.data.corpus_files import SourceConfig, find_files
from worldmodel.data.crops import centre_box, crop_resize_picture
from worldmodel.data.images import is_image
from worldmodel.data.videos import Video, VideoError, open_video
from worldmodel.evaluation.labelled import Sample
from worldmodel.seeding import keyed_rng

TASKS = ("speed", "order", "source")
THUMBNAIL = 32
USUALLY_HELD_OUT = 0.3


@dataclass
class TaskConfig:
    """Clips of a task with a known answer; the held-out part is defined as in pretraining."""

    #: Share of the videos, or of each video's time, that is the test; 0: what the encoder's pretraining held out, where
    #: it was on the same videos, else 0.3.
    held_out: float = 0.0
    #: What is held out: the last part of each video (time), or whole videos (file).
    held_out_by: str = "time"
    #: Share of the training part, at its end, that hyper-parameters are chosen on.
    select: float = 0.25
    #: Seconds between two parts of a video that nothing uses.
    gap: float = 0.5
    #: Windows of each video to train on; they overlap where the video is short.
    windows: int = 24
    #: Windows of each video to test on; likewise.
    test_windows: int = 12
    #: speed: frames from one of a clip's frames to the next, one class each.
    strides: list[int] = field(default_factory=lambda: [1, 2, 4])
    #: order and source: frames from one of a clip's frames to the next.
    stride: int = 2
    #: Windows whose mean brightness (0 to 255) changes by more are left out of order.
    max_fade: float = 12.0
    #: Windows whose first and last frames differ by less (mean over pixels, 0 to 255) are left out of speed and order.
    min_change: float = 2.0

    def __post_init__(self) -> None:
        if self.held_out_by not in ("time", "file"):
            raise ValueError(f"task_clips.held_out_by={self.held_out_by!r} is unknown; choose time or file")
        if not 0 <= self.held_out < 1 or not 0 < self.select < 1 or self.gap < 0:
            raise ValueError(
                "task_clips.held_out and select are shares below 1; select is above 0, gap not negative"
            )
        if (
            min([self.windows, self.test_windows, self.stride, *self.strides]) < 1
            or len(set(self.strides)) < 2
        ):
            raise ValueError(
                "task_clips.windows, test_windows and strides must be at least 1, and strides must differ"
            )


def as_in_pretraining(config: TaskConfig, path: str | Path, pretraining: Mapping[str, Any]) -> TaskConfig:
    """The task's settings with ``held_out`` decided.

    Args:
        path: Folder or list of videos.
        pretraining: ``config.json`` of the encoder's model directory: ``data``, ``held_out`` and ``held_out_by``.

    Raises:
        ValueError: The encoder was pretrained on a part of these videos that would be the test.
    """
    digest = find_files(SourceConfig(path=str(path))).digest
    if pretraining.get("data") != hashlib.sha256(digest.encode()).hexdigest():
        return replace(config, held_out=config.held_out or USUALLY_HELD_OUT)
    share, by = float(pretraining.get("held_out") or 0.0), pretraining.get("held_out_by", config.held_out_by)
    if not share or config.held_out > share or by != config.held_out_by:
        raise ValueError(
            f"the encoder was pretrained on {path} with held_out={share:g} held_out_by={by}, so it has seen what "
            "would be the test; pretrain with a larger held_out, or hold out the same here (task_clips.held_out)"
        )
    return replace(config, held_out=config.held_out or share)


def task_samples(
    path: str | Path, task: str, config: TaskConfig, frames: int, seed: int, unreadable: float = 0.0
) -> list[Sample]:
    """The clips of a task, with their splits.

    Args:
        path: Folder or list of videos, as for pretraining.
        task: ``speed``, ``order`` or ``source``.
        config: Parts, windows and strides.
        frames: Frames of a clip.
        seed: Of the places of clips in their windows.
        unreadable: Share of the videos that may be damaged; they are left out.

    Raises:
        ValueError: The task is unknown, or the videos are too few or too short.
        OSError: A video cannot be read.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r} is unknown; choose labels, {', '.join(TASKS)}")
    if task == "source" and config.held_out_by == "file":
        raise ValueError(
            "task=source asks which video it is: the test must be other parts of them, held_out_by=time"
        )
    listing = find_files(SourceConfig(path=str(path)))
    files = [(number, file) for number, file in enumerate(listing.paths) if not is_image(file)]
    stride = max(config.strides) if task == "speed" else config.stride
    span = (frames - 1) * stride + 1
    held_out = listing.keys < np.uint64(min(int(config.held_out * 2**64), 2**64 - 1))
    stems = [Path(file).stem for _, file in files]
    # As a class, a video is called by its name, or, where two have the same, by its path.
    names = {
        file: stem if stems.count(stem) == 1 else file for stem, (_, file) in zip(stems, files, strict=True)
    }
    per_video, damaged = [], []
    for number, file in files:
        try:
            found = _video_samples(
                file, names[file], number, task, config, frames, span, bool(held_out[number]), seed
            )
        except VideoError as error:
            damaged.append(str(error))
            continue
        per_video.append(found)
    if len(damaged) > unreadable * len(files):
        raise ValueError(
            f"{len(damaged)} of {len(files)} videos cannot be read ({damaged[0]}); remove them, or set unreadable="
            f"{math.ceil(100 * len(damaged) / len(files)) / 100:g}"
        )
    if task == "source":
        per_video = _equal_numbers(per_video)
    samples = [sample for some in per_video for sample in some]
    for split in ("train", "test"):
        if not any(sample.split == split for sample in samples):
            raise ValueError(
                f"{path}: no window of {span} frames for the {split} part; give longer or more videos, "
                "smaller strides, or another task_clips.held_out"
            )
    if task == "source" and len({sample.label for sample in samples}) < 2:
        raise ValueError(f"{path}: task=source needs at least two videos that are long enough")
    return samples


def _video_samples(
    file: str,
    name: str,
    number: int,
    task: str,
    config: TaskConfig,
    frames: int,
    span: int,
    held_out: bool,
    seed: int,
) -> list[Sample]:
    samples: list[Sample] = []
    with open_video(file) as video:
        for split, first, stop in _parts(video, config, held_out):
            count = config.test_windows if split == "test" else config.windows
            count = max(1, round(count * (config.select if split == "val" else 1.0)))
            starts = _window_starts(first, stop - span + 1, count)
            if task != "source":
                starts = _fair(video, starts, span, task, config)
            for start in starts:
                window = np.arange(start, start + span, (span - 1) // (frames - 1) if frames > 1 else 1)
                # Windows that overlap are in one group, or in two that lie side by side.
                group = (
                    f"{number}"
                    if config.held_out_by == "file"
                    else f"{number} {split} {(start - first) // span}"
                )
                rng = keyed_rng("task clip", seed, number, start)
                for label, chosen in _classes(task, config, window, span, frames, name, rng):
                    samples.append(Sample(f"{Path(file).name}", file, label, split, group, frames=chosen))
    return samples


def _parts(video: Video, config: TaskConfig, held_out: bool) -> Iterator[tuple[str, int, int]]:
    """Split, first frame and end of each part of a video, with a gap between them."""
    times = video.timestamps
    if config.held_out_by == "file":
        yield ("test" if held_out else "train"), 0, len(times)
        return
    gap = round(config.gap / frame_interval(times))
    cut = split_at(times, config.held_out)
    select = split_at(times[:cut], config.select)
    yield "train", 0, select
    yield "val", select + gap, cut
    yield "test", cut + gap, len(times)


def _window_starts(first: int, stop: int, count: int) -> list[int]:
    """At most ``count`` starts, evenly spread from ``first`` to before ``stop``."""
    if stop <= first:
        return []
    return np.unique(np.linspace(first, stop - 1, count).round().astype(np.int64)).tolist()


def _fair(video: Video, starts: list[int], span: int, task: str, config: TaskConfig) -> list[int]:
    """The windows in which something moves and, for order, nothing fades."""
    if not starts:
        return []
    box = centre_box(video.index.height, video.index.width)
    wanted = np.unique([starts, [start + span - 1 for start in starts]])
    small = video.map(wanted, partial(crop_resize_picture, box=box, size=THUMBNAIL)).astype(np.float32)
    pictures = dict(zip(wanted.tolist(), small, strict=True))
    fair = []
    for start in starts:
        first, last = pictures[start], pictures[start + span - 1]
        fades = abs(float(last.mean() - first.mean())) > config.max_fade
        if np.abs(last - first).mean() >= config.min_change and not (task == "order" and fades):
            fair.append(start)
    return fair


def _classes(
    task: str,
    config: TaskConfig,
    window: np.ndarray,
    span: int,
    frames: int,
    name: str,
    rng: np.random.Generator,
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The classes of one window: label and frames."""
    if task == "speed":
        for stride in config.strides:
            begin = int(window[0] + rng.integers(span - (frames - 1) * stride))
            yield f"x{stride}", tuple(range(begin, begin + (frames - 1) * stride + 1, stride))
    elif task == "order":
        yield "forward", tuple(window.tolist())
        yield "backward", tuple(window[::-1].tolist())
    else:
        yield name, tuple(window.tolist())


def _equal_numbers(per_video: list[list[Sample]]) -> list[list[Sample]]:
    """Equally many windows of each video in each split; videos without windows to train or to test on are left out."""
    counts = [Counter(sample.split for sample in some) for some in per_video]
    usable = [row for row, count in enumerate(counts) if count["train"] and count["test"]]
    # Where one has nothing to choose hyper-parameters on, none has: they are then chosen on a part of train.
    fewest = {
        split: min((counts[row][split] for row in usable), default=0) for split in ("train", "val", "test")
    }
    kept = []
    for row in usable:
        chosen: list[Sample] = []
        for split, count in fewest.items():
            members = [sample for sample in per_video[row] if sample.split == split]
            chosen += [members[i] for i in np.linspace(0, len(members) - 1, count).round().astype(int)]
        kept.append(chosen)
    return kept

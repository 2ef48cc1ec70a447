"""Corpora: clips for pretraining out of many video files, damaged ones among them.

``corpus[i]`` depends on the files, the seed and ``i`` only: not on the process that asks, on what was read before, or
on the batch. So any number of workers gives the same samples, and a resumed run goes on with those that come next.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np

from worldmodel.data.clips import ClipShape, ShortVideoError, clip_indices, duration, split_at
from worldmodel.data.corpus_damage import one_line
from worldmodel.data.corpus_files import CorpusError, Listing, SourceConfig, find_files
from worldmodel.data.corpus_order import MixedOrder
from worldmodel.data.crops import crop_resize_picture, random_box
from worldmodel.data.images import ImageError, is_image, read_image
from worldmodel.data.strings import Strings
from worldmodel.data.video_decoder import FrameError, VideoError
from worldmodel.data.videos import Video, check_backend, open_video
from worldmodel.seeding import keyed_rng

SPLITS = ("all", "train", "held_out")
HELD_OUT_BY = ("file", "time")
CANDIDATES = 64  # files that are tried for one sample
OPEN_VIDEOS = 32  # per process
LISTED = 5  # files that an error names


@dataclass
class CorpusConfig:
    """Which videos, and what a clip of them is."""

    #: Folder, list (.txt, .csv), tar shard, or a pattern of these; or name several under sources.
    data: str = ""
    #: Several sources by name, each with path and, for fixed shares of the samples, weight.
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    #: Frames of a clip.
    frames: int = 16
    #: Frames per second of a clip, by timestamps; a slower video's frames repeat.
    fps: float = 4.0
    #: If not 0, every stride-th frame instead, whatever a video's rate.
    stride: int = 0
    #: Samples of each video in an epoch, each from another part of it.
    clips_per_video: int = 1
    #: Videos shorter than a clip: repeat (the last frame), tighten (take frames closer together) or skip.
    short: str = "repeat"
    #: Shorter videos are left out.
    min_seconds: float = 0.0
    #: Height and width of a clip in pixels.
    size: int = 224
    #: Smallest and largest share of a picture's area that a random crop takes.
    crop_scale: list[float] = field(default_factory=lambda: [0.3, 1.0])
    #: Smallest and largest width / height of a random crop.
    crop_ratio: list[float] = field(default_factory=lambda: [0.75, 1.35])
    #: Share that is held out.
    held_out: float = 0.0
    #: What is held out: whole files (a file stays where it is as others are added), or the last part of each, by time.
    held_out_by: str = "file"
    #: Above this share of damaged files a run stops with their list.
    max_damaged: float = 0.05
    #: Decode each file once in full before it is used, and check each frame that is read against that.
    verify: bool = False
    #: auto, pyav, decord or torchcodec.
    backend: str = "auto"

    def __post_init__(self) -> None:
        if self.held_out_by not in HELD_OUT_BY:
            raise ValueError(f"held_out_by={self.held_out_by} is unknown; choose {' or '.join(HELD_OUT_BY)}")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out} must be a share from 0 to below 1")
        if not 0 <= self.max_damaged <= 1:
            raise ValueError(f"max_damaged={self.max_damaged} must be a share from 0 to 1")
        if self.clips_per_video < 1 or self.size < 1:
            raise ValueError("clips_per_video and size must be at least 1")
        for name, value in (("crop_scale", self.crop_scale), ("crop_ratio", self.crop_ratio)):
            if len(value) != 2 or not 0 < value[0] <= value[1]:
                raise ValueError(f"{name}={list(value)} must be [smallest, largest], above 0")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale={list(self.crop_scale)} is a share of the picture, at most 1")
        self.shape  # noqa: B018  (checks frames, fps, stride and short)

    @property
    def shape(self) -> ClipShape:
        """The frames of a clip."""
        return ClipShape(self.frames, self.fps, self.stride, self.short)

    def named_sources(self) -> dict[str, SourceConfig]:
        """The sources; ``data`` is one without a weight.

        Raises:
            ValueError: There is none, ``data`` and ``sources`` are both given, or only some have a weight.
        """
        if bool(self.data) == bool(self.sources):
            raise ValueError("give either data=FOLDER_OR_LIST, or sources by name, each with a path")
        if self.data:
            return {"data": SourceConfig(path=self.data)}
        given = [source.weight is not None for source in self.sources.values()]
        if any(given) and not all(given):
            raise ValueError("give every source a weight, or none: without, each file counts the same")
        return dict(self.sources)


class Corpus:
    """Samples without end: ``corpus[global_index]`` for every index from 0.

    An epoch has ``len(corpus)`` samples: every file ``clips_per_video`` times, in an order drawn anew for each epoch.
    Sources with weights have their exact shares instead, and each goes through its own files in epochs.

    Args:
        config: Which files, and what a clip is.
        seed: Of the order, the clips' starts and the crops.
        split: ``"train"`` and ``"held_out"`` are disjoint and together all; ``"all"`` ignores ``held_out``.

    Attributes:
        files: Number of files.
        classes: Names of the labels; a sample's ``label`` is a position in it. Empty where all labels are whole
            numbers, which stay what they are, and where there are no labels (``label`` -1).
        hash: Of names, sizes and labels of all files; two runs on equal corpora have equal hashes wherever they lie.

    Raises:
        CorpusError: Nothing was found, or nothing is left in the split.
        OSError, ValueError: A source cannot be read.
    """

    def __init__(self, config: CorpusConfig, seed: int = 0, split: str = "all") -> None:
        if split not in SPLITS:
            raise ValueError(f"split={split} is unknown; choose one of {', '.join(SPLITS)}")
        check_backend(config.backend)
        self.config, self.seed, self.split = config, seed, split
        sources = config.named_sources()
        self.listings = [find_files(source) for source in sources.values()]
        self.hash = sha256("".join(listing.digest for listing in self.listings).encode()).hexdigest()
        self._chosen = [self._choose(listing) for listing in self.listings]
        self.files = sum(len(chosen) for chosen in self._chosen)
        self._check_found(sources)
        self.classes, self._labels = _number_labels(self.listings)
        weights = [source.weight for source in sources.values()]
        counts = [len(chosen) * config.clips_per_video for chosen in self._chosen]
        self._order = MixedOrder(counts, None if None in weights else [w for w in weights if w], seed)
        self._videos: dict[str, Video] = {}

    def _choose(self, listing: Listing) -> np.ndarray:
        """Positions of a source's files that belong to the split."""
        positions = np.arange(len(listing.paths))
        share = self.config.held_out
        if self.split == "all" or share == 0:
            return positions
        held_out = listing.keys < np.uint64(min(int(share * 2**64), 2**64 - 1))
        if self.config.held_out_by == "time":  # of what has no time, files are held out all the same
            still = np.fromiter((is_image(path) for path in listing.paths), dtype=bool)
            return positions[~still | (held_out == (self.split == "held_out"))]
        return positions[held_out if self.split == "held_out" else ~held_out]

    def _check_found(self, sources: dict[str, SourceConfig]) -> None:
        config, total = self.config, sum(len(listing.paths) for listing in self.listings)
        if self.split == "held_out" and config.held_out == 0:
            raise CorpusError("nothing is held out; set held_out=0.05 or another share")
        for source, listing, chosen in zip(sources.values(), self.listings, self._chosen, strict=True):
            # A source that has no share of its own may be missing.
            if not len(chosen) and (source.weight is not None or not self.files):
                raise CorpusError(
                    f"none of the {len(listing.paths)} files of {source.path} fall into split {self.split} with "
                    f"held_out={config.held_out}; choose another share, or held_out_by=time"
                )
        missing = [path for listing in self.listings for path in listing.missing]
        if len(missing) > config.max_damaged * total:
            shown = ", ".join(missing[:LISTED]) + (", ..." if len(missing) > LISTED else "")
            lists = ", ".join(
                source.path
                for source, listing in zip(sources.values(), self.listings, strict=True)
                if listing.missing
            )
            share = math.ceil(100 * len(missing) / total) / 100  # rounded up, so that it is enough
            raise CorpusError(
                f"{lists}: {len(missing)} of {total} listed files do not exist ({shown}); paths are relative to the "
                f"list's folder, or to the working directory; mend the list, or set max_damaged={share:g}"
            )

    def __len__(self) -> int:
        return self.files * self.config.clips_per_video

    def paths(self) -> Strings:
        """The files of the split, source after source."""
        return Strings(
            listing.paths[position]
            for listing, chosen in zip(self.listings, self._chosen, strict=True)
            for position in chosen.tolist()
        )

    def label_texts(self) -> Strings:
        """Their labels as written; empty where there is none."""
        return Strings(
            listing.labels[position]
            for listing, chosen in zip(self.listings, self._chosen, strict=True)
            for position in chosen.tolist()
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_videos": {}}  # each worker opens its own

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample with a global index.

        Returns:
            ``frames (T, 3, size, size)`` uint8, ``source`` (the path), ``start`` (seconds from the video's first
            frame), ``label``, and ``skipped``: ``(path, reason)`` of the files that should have come, but could not
            be used. Another one, keyed by the index, has taken their place.

        Raises:
            CorpusError: None of the files that were tried can be used.
        """
        if index < 0:
            raise IndexError(f"sample {index}: indices begin at 0")
        source, item = self._order[index]
        planned, clip = divmod(item, self.config.clips_per_video)
        skipped: list[tuple[str, str]] = []
        for attempt, row in enumerate(self._candidates(index, source, planned)):
            position = int(self._chosen[source][row])
            path = self.listings[source].paths[position]
            rng = keyed_rng("clip", self.seed, index, attempt)
            try:
                frames, start = self._read(path, (clip + rng.random()) / self.config.clips_per_video, rng)
            except (VideoError, FrameError, ImageError, OSError, ShortVideoError, MemoryError) as error:
                skipped.append((path, one_line(path, error)))
                continue
            label = int(self._labels[source][position])
            return {"frames": frames, "source": path, "start": start, "label": label, "skipped": skipped}
        raise CorpusError(
            f"none of {len(skipped)} files that were tried for sample {index} can be used; the first: "
            f"{skipped[0][0]}: {skipped[0][1]}"
        )

    def _candidates(self, index: int, source: int, row: int) -> Iterator[int]:
        """The file that the order gives, then others of its source, each once."""
        yield row
        count, rng = len(self._chosen[source]), keyed_rng("candidate", self.seed, index)
        others = rng.permutation(count) if count <= 4 * CANDIDATES else rng.integers(count, size=CANDIDATES)
        for other in list(dict.fromkeys(others.tolist()))[: CANDIDATES - 1]:
            if other != row:
                yield other

    def _read(self, path: str, draw: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        config = self.config
        if is_image(path):
            picture = read_image(path)
            height, width = picture.shape[:2]
            box = random_box(rng, height, width, config.crop_scale, config.crop_ratio)
            still = crop_resize_picture(picture, box, config.size)
            return np.repeat(still[None], config.frames, axis=0), 0.0
        video = self._open(path)
        indices, start = self._clip(video, draw)
        box = random_box(rng, video.index.height, video.index.width, config.crop_scale, config.crop_ratio)
        return video.map(indices, partial(crop_resize_picture, box=box, size=config.size)), start

    def _clip(self, video: Video, draw: float) -> tuple[np.ndarray, float]:
        """Frames of a clip within this split's part of the video, and when it begins."""
        config, times = self.config, video.timestamps
        if duration(times) < config.min_seconds:
            raise ShortVideoError(
                f"shorter than min_seconds={config.min_seconds:g} ({duration(times):.2f} s)"
            )
        first, stop = 0, len(times)
        if config.held_out_by == "time" and config.held_out > 0 and self.split != "all":
            if len(times) == 1 and self.split == "held_out":
                raise ShortVideoError("shorter than two frames, of which one could be held out")
            cut = split_at(times, config.held_out)
            first, stop = (cut, stop) if self.split == "held_out" else (0, cut)
        indices = first + clip_indices(times[first:stop], config.shape, draw)
        return indices, float(times[indices[0]] - times[0])

    def _open(self, path: str) -> Video:
        video = self._videos.pop(path, None)
        if video is None:
            video = open_video(path, self.config.backend, verify=self.config.verify)
        self._videos[path] = video
        if len(self._videos) > OPEN_VIDEOS:
            self._videos.pop(next(iter(self._videos))).close()
        return video


def _number_labels(listings: list[Listing]) -> tuple[list[str], list[np.ndarray]]:
    """Names of the classes, and each source's labels as int64."""
    names = sorted({label for listing in listings for label in listing.labels if label})
    if all(re.fullmatch(r"-?\d{1,15}", name) for name in names):
        numbers = {name: int(name) for name in names}
        names = []
    else:
        numbers = {name: number for number, name in enumerate(names)}
    numbers[""] = -1
    return names, [
        np.fromiter((numbers[label] for label in listing.labels), dtype=np.int64) for listing in listings
    ]

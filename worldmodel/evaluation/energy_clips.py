"""Clips of videos for energies: several moments of each video, none of them seen in pretraining."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.data.clips import ClipShape, duration, split_at
from worldmodel.data.corpus import Corpus, CorpusConfig
from worldmodel.data.corpus_damage import one_line
from worldmodel.data.images import is_image
from worldmodel.data.video_decoder import FrameError, VideoError
from worldmodel.data.videos import open_video
from worldmodel.evaluation.labelled import Sample
from worldmodel.evaluation.views import ClipSamples, ViewConfig, segment_indices


@dataclass(frozen=True)
class Part:
    """The part of videos that is looked at: the last ``share`` (of each one's time, or of the files); 0: all."""

    share: float
    by: str
    text: str


def unseen_part(path: str, share: float, by: str, pretraining: Mapping[str, Any]) -> Part:
    """What to compare energies on.

    Args:
        path: Folder or list of videos.
        share: Held out, as the user wants it; 0: as pretraining had it, or all of videos that it did not have.
        by: ``"file"`` or ``"time"``.
        pretraining: ``config.json`` of the model directory: ``data``, ``held_out`` and ``held_out_by``.

    Raises:
        ValueError: The pretraining was on these very videos, and has seen what would be looked at.
    """
    if pretraining.get("data") != Corpus(CorpusConfig(data=path)).hash:
        text = "pretraining was on others"
        return Part(share, by, f"{_named(share, by)}, since {text}" if not share else _named(share, by))
    seen_from, seen_by = (
        float(pretraining.get("held_out") or 0.0),
        str(pretraining.get("held_out_by", "file")),
    )
    if not seen_from or share > seen_from or (share and by != seen_by):
        raise ValueError(
            f"the model was pretrained on {path} with held_out={seen_from:g} held_out_by={seen_by}, so it has seen "
            "what would be looked at; pretrain with a larger held_out, leave held_out out here, or give other videos"
        )
    share = share or seen_from
    return Part(share, seen_by, f"{_named(share, seen_by)}, held out in pretraining")


def _named(share: float, by: str) -> str:
    if not share:
        return "all of the videos"
    return f"the last {share:.0%} of each video" if by == "time" else f"{share:.0%} of the videos"


@dataclass(frozen=True)
class VideoMoments:
    """Clips of one video in the order of time, no two of which overlap.

    Attributes:
        path: The video.
        starts: First frame of each clip.
        clips: ``(n, T, C, H, W)`` uint8.
    """

    path: str
    starts: tuple[int, ...]
    clips: Tensor

    @property
    def elsewhere(self) -> Tensor:
        """For each clip another one of the same video, about half of the video away; each stands for one other."""
        return self.clips.roll(len(self.clips) // 2, dims=0)


class Moments:
    """Iterates over videos, each with at least ``fewest`` and at most ``most`` clips.

    Args:
        path: Folder or list of videos.
        part: Of the videos.
        shape: Frames of a clip.
        size: Height and width of a clip in pixels; the centre is cut out as in probes with ``views=one``.
        most: Clips of a video; they lie in the middle of as many equal parts of it.
        fewest: A video that is too short for so many clips side by side is left out.
        unreadable: Largest share of the videos that may be damaged; they are left out.

    Raises:
        CorpusError, OSError, ValueError: There are no videos. While iterating, after the last one: too many of them are
            damaged, or none is long enough.

    Attributes:
        paths: The videos of the part.
        hash: As of a ``Corpus``.
        short: Videos that were too short, known after iterating.
        damaged: Videos that cannot be read, with the reason; likewise.
    """

    def __init__(
        self,
        path: str,
        part: Part,
        shape: ClipShape,
        size: int,
        most: int,
        fewest: int,
        unreadable: float = 0.0,
    ) -> None:
        corpus = Corpus(
            CorpusConfig(data=path, held_out=part.share, held_out_by=part.by),
            split="held_out" if part.share else "all",
        )
        self.paths: Sequence[str] = [file for file in corpus.paths() if not is_image(file)]
        if not self.paths:
            raise ValueError(f"{path} holds pictures only; an energy is of videos")
        self.hash, self.part, self.shape, self.size = corpus.hash, part, shape, size
        self.most, self.fewest, self.unreadable = most, fewest, unreadable
        self.short: list[str] = []
        self.damaged: dict[str, str] = {}

    def __iter__(self) -> Iterator[VideoMoments]:
        self.short, self.damaged = [], {}
        for path in self.paths:
            try:
                chosen = self._frames(path)
                if len(chosen) < self.fewest:
                    self.short.append(path)
                    continue
                yield VideoMoments(path, tuple(int(row[0]) for row in chosen), self._read(path, chosen))
            except (VideoError, FrameError, OSError) as error:
                self.damaged[path] = one_line(path, error)
        self._check()

    def _check(self) -> None:
        total, damaged = len(self.paths), len(self.damaged)
        if damaged > self.unreadable * total:
            path, reason = next(iter(self.damaged.items()))
            raise ValueError(
                f"{damaged} of {total} videos cannot be read ({path}: {reason}); remove them, or set unreadable="
                f"{math.ceil(100 * damaged / total) / 100:g}"
            )
        if len(self.short) + damaged == total:
            raise ValueError(
                f"none of {total} videos is long enough for {self.fewest} clips of {self.shape.frames} frames in "
                f"{self.part.text}; give longer videos, a higher fps or a smaller stride"
            )

    def _frames(self, path: str) -> np.ndarray:
        """Frames ``(n, T)`` of the clips; none where the video is shorter than one."""
        with open_video(path) as video:
            times = video.timestamps
        first = split_at(times, self.part.share) if self.part.share and self.part.by == "time" else 0
        times, shape = times[first:], self.shape
        length = len(times) if shape.stride else duration(times)
        span = (shape.frames - 1) * shape.stride + 1 if shape.stride else shape.frames / shape.fps
        for count in range(min(self.most, int(length / span + 1e-6)), 0, -1):
            chosen = first + segment_indices(times, shape, count)
            if (chosen[1:, 0] > chosen[:-1, -1]).all():  # times are rounded: neighbours may share a frame
                return chosen
        return np.empty((0, shape.frames), dtype=np.int64)

    def _read(self, path: str, chosen: np.ndarray) -> Tensor:
        samples = [Sample(path, path, "", frames=tuple(row.tolist())) for row in chosen]
        reader, known = ClipSamples(samples, self.shape, self.size, ViewConfig()), dict[int, np.ndarray]()
        return torch.from_numpy(np.stack([reader.read(sample, known=known)[0, 0] for sample in samples]))

"""Energies of likely and unlikely futures on the same clips, for a pretrained model and for its untrained control."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.energy import ClipEnergy
from worldmodel.evaluation.energy_clips import VideoMoments
from worldmodel.evaluation.paired import paired_test
from worldmodel.evaluation.probe_results import verdict
from worldmodel.evaluation.scores import compare, resampled_interval

#: What is unlikely beside a clip with its own future.
COMPARISONS = {
    "reversed": "the clip played backwards",
    "shuffled": "the future of a clip of another video",
    "elsewhere": "the future of the same video at another time",
}


@dataclass
class Energies:
    """Energies of one model, a number for each clip.

    Attributes:
        likely: Of clips with their own futures.
        unlikely: By comparison, of the same clips' twins.
        videos, starts: Which video a clip is of, and its first frame.
        independent: What is one observation. ``video``: results speak of videos like these. ``clip``: of other moments
            of these very videos.
    """

    likely: list[float] = field(default_factory=list)
    unlikely: dict[str, list[float]] = field(default_factory=dict)
    videos: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    independent: str = "video"

    def differences(self, comparison: str) -> np.ndarray:
        """Unlikely - likely, ``(n,)``."""
        return np.array(self.unlikely[comparison]) - np.array(self.likely)

    @property
    def groups(self) -> np.ndarray:
        """What is drawn as a whole when resampling ``(n,)``; with a single video each clip is its own group."""
        names = np.unique(self.videos, return_inverse=True)[1].ravel()
        return names if names.any() and self.independent == "video" else np.arange(len(names))


def score(
    models: Mapping[str, ClipEnergy],
    videos: Iterable[VideoMoments],
    comparisons: Sequence[str],
    batch_size: int,
    device: str,
    precision: str = "fp32",
    independent: str = "video",
) -> dict[str, Energies]:
    """Energies of every model on the same clips; each video is read once.

    Args:
        models: By name, on ``device``.
        videos: For ``shuffled`` at least two, for ``elsewhere`` with at least two clips each. The future of another
            video's clip is that of the next video, the last one's that of the first.
        comparisons: Some of ``COMPARISONS``.
        batch_size: Clips that are encoded together.
        device: cpu or cuda.
        precision: fp32 or bf16.
        independent: video or clip, see ``Energies``.

    Raises:
        ValueError: There are too few videos.
    """
    found = {
        name: Energies(unlikely={key: [] for key in comparisons}, independent=independent) for name in models
    }
    for video, following in _with_next(videos):
        if video is following and "shuffled" in comparisons:
            raise ValueError(
                f"shuffled needs clips of two videos; there are those of {video.path} only: give more videos, or "
                f"comparisons=[{','.join(key for key in comparisons if key != 'shuffled')}]"
            )
        others = following.clips[torch.arange(len(video.clips)) % len(following.clips)]
        twins = {
            "reversed": (video.clips.flip(1), None),
            "shuffled": (video.clips, others),
            "elsewhere": (video.clips, video.elsewhere),
        }
        for name, energy in models.items():
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                own = _batched(energy, video.clips, None, batch_size, device)
                for key in comparisons:
                    found[name].unlikely[key] += _batched(energy, *twins[key], batch_size, device)
            found[name].likely += own
            found[name].videos += [video.path] * len(own)
            found[name].starts += video.starts
    return found


def _batched(
    energy: ClipEnergy, clips: Tensor, futures: Tensor | None, size: int, device: str
) -> list[float]:
    values: list[float] = []
    for at in range(0, len(clips), size):
        future = None if futures is None else futures[at : at + size].to(device)
        values += energy(clips[at : at + size].to(device), future).tolist()
    return values


def _with_next(videos: Iterable[VideoMoments]) -> Iterator[tuple[VideoMoments, VideoMoments]]:
    """Each with the one that follows, the last with the first."""
    first = last = None
    for video in videos:
        if first is None:
            first = video
        if last is not None:
            yield last, video
        last = video
    if first is not None and last is not None:
        yield last, first


def summarise(found: Mapping[str, Energies]) -> dict[str, dict[str, Any]]:
    """``{"energy, reversed": {"pretrained": figures, "untrained": figures, "comparison": ...}}`` as probes have it.

    The figures are those of ``paired_test``, and ``interval`` and ``group_interval`` (a bootstrap over videos) of the
    accuracy, the share of clips whose unlikely twin has the higher energy. The comparison is that of the two models'
    answers on the same clips.

    Args:
        found: By model: ``pretrained`` and, with a control, ``untrained``.
    """
    first = found["pretrained"]
    groups, probes = first.groups, dict[str, dict[str, Any]]()
    for key in first.unlikely:
        entry: dict[str, Any] = {}
        for name, energies in found.items():
            result = paired_test(np.array(energies.likely), np.array(energies.unlikely[key]), groups)
            difference = energies.differences(key)
            right = (np.sign(difference) + 1) / 2  # a tie is half right
            shared = len(np.unique(groups)) < len(groups)
            entry[name] = {
                **result,
                "interval": result["accuracy_interval"],
                "group_interval": list(resampled_interval(right, groups)) if shared else None,
            }
        if "untrained" in found:
            answers = [found[name].differences(key) > 0 for name in ("pretrained", "untrained")]
            entry["comparison"] = compare(answers[0], answers[1], groups)
        probes[f"energy, {key}"] = entry
    return probes


def table(probes: Mapping[str, Mapping[str, Any]]) -> str:
    """The results as a table for a terminal, with a verdict where there is a control."""
    head = ("unlikely", "model", "accuracy", "95%", "95% over videos", "AUC", "difference", "95%", "p")
    rows: list[tuple[str, ...]] = [
        head,
        *(
            (kind.removeprefix("energy, "), name, *_cells(entry[name]))
            for kind, entry in probes.items()
            for name in ("pretrained", "untrained")
            if name in entry
        ),
    ]
    if all(len(row[4]) == 0 for row in rows[1:]):  # each clip is its own group
        rows = [(*row[:4], *row[5:]) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    verdicts = [verdict(kind, dict(entry)) for kind, entry in probes.items()]
    return "\n".join([*(line.rstrip() for line in lines), "", *verdicts])


def _cells(result: Mapping[str, Any]) -> tuple[str, ...]:
    def span(bounds: Sequence[float] | None, show: Callable[[float], str]) -> str:
        return f"{show(bounds[0])} to {show(bounds[1])}" if bounds else ""

    return (
        f"{result['accuracy']:.1%}",
        span(result["interval"], "{:.1%}".format),
        span(result["group_interval"], "{:.1%}".format),
        f"{result['auc']:.3f}",
        f"{result['difference']:+.3g}",
        span(result["difference_interval"], "{:+.3g}".format),
        f"{result['p']:.2g}",
    )


def as_csv(found: Mapping[str, Energies]) -> bytes:
    """A row for each clip and model: video, first frame, model, and its energies."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    keys = list(found["pretrained"].unlikely)
    writer.writerow(["video", "first_frame", "model", "likely", *keys])
    for name, energies in found.items():
        columns = (energies.likely, *(energies.unlikely[key] for key in keys))
        for video, start, *values in zip(energies.videos, energies.starts, *columns, strict=True):
            writer.writerow([video, start, name, *(f"{value:.6g}" for value in values)])
    return file.getvalue().encode("utf-8", "surrogateescape")

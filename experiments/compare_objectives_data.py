"""Labelled clips for probes, cut out of held-out episodes of a world whose states are known."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from experiments.label_probes import visible_targets
from worldmodel.atomic import write_bytes
from worldmodel.data.episodes import EpisodeStore
from worldmodel.report.video import encode_mp4
from worldmodel.seeding import keyed_rng

#: Share of the held-out episodes whose clips are the probes' training set.
TRAINING = 0.5
#: Cells of the place along each of the first two coordinates, which are equally often.
CELLS = 3
DIRECTIONS = ("left", "right", "up", "down")
_FPS = 8


def write_labelled_clips(path: Path, data: Path, held_out: int, count: int, length: int, seed: int) -> None:
    """Write ``place.csv`` and ``motion.csv`` with clips of the last episodes, once.

    ``place`` is which cell of a grid over the first two visible coordinates the middle of the clip is in; ``motion``
    which coordinate changes most from the first frame to the last, and in which direction. Episodes are on one side of
    the split or the other, and are the groups of intervals.

    Args:
        path: Directory of the lists and of ``clips/*.mp4``.
        data: Dataset directory with ``states``.
        held_out: Its last so many episodes are taken.
        count: Clips of each.
        length: Frames of a clip's file.
        seed: Of which.

    Raises:
        ValueError: The world shows fewer than two coordinates, or its episodes are too short.
    """
    if (path / "motion.csv").exists():
        return
    store = EpisodeStore(data)
    held = range(len(store) - held_out, len(store))
    names, columns = visible_targets(store, range(held.start))
    if len(names) < 2 or int(store.steps[held.start :].min()) + 1 < length:
        raise ValueError(
            f"{data}: labels need two visible coordinates ({', '.join(names) or 'none'} found) and episodes of "
            f"{length - 1} steps; give data=... and labels=... of your own"
        )
    (path / "clips").mkdir(parents=True, exist_ok=True)
    files, groups, tracks = list[str](), list[int](), []
    for episode in held:
        frames, where = store[episode]["frames"], columns(np.asarray(store[episode]["states"][:]))[:, :2]
        starts = len(where) - length + 1
        for start in np.sort(keyed_rng("labelled clip", seed, episode).permutation(starts)[:count]).tolist():
            name = f"clips/{episode:06d}_{start:03d}.mp4"
            part = np.asarray(frames[start : start + length])
            write_bytes(path / name, encode_mp4(part, _FPS, part.shape[-1]))
            files.append(name)
            groups.append(episode)
            tracks.append(where[start : start + length])
    track = np.stack(tracks)
    split = ["train" if group < held.start + TRAINING * held_out else "test" for group in groups]
    for name, labels in (("place", places(track[:, length // 2])), ("motion", motions(track))):
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "split", "group"])
        writer.writerows(zip(files, labels, split, groups, strict=True))
        write_bytes(path / f"{name}.csv", file.getvalue().encode())


def places(where: np.ndarray) -> list[str]:
    """Cells ``column row`` of points ``(n, 2)``; each coordinate is cut where the points are equally many."""
    inner = np.linspace(0, 1, CELLS + 1)[1:-1]
    cells = [np.searchsorted(np.quantile(axis, inner), axis, side="right") for axis in where.T]
    return [f"column {x} row {y}" for x, y in zip(*cells, strict=True)]


def motions(tracks: np.ndarray) -> list[str]:
    """Main directions of tracks ``(n, T, 2)``; y points down."""
    gone = tracks[:, -1] - tracks[:, 0]
    vertical = np.abs(gone[:, 1]) > np.abs(gone[:, 0])
    forward = np.where(vertical, gone[:, 1], gone[:, 0]) > 0
    return [DIRECTIONS[2 * int(v) + int(f)] for v, f in zip(vertical, forward, strict=True)]

"""Statistics that actions and proprioception are normalised with: once, exactly, over the training episodes.

They are computed in one pass over the episodes, in float64, and kept in a JSON file that names the data and the
episodes it is about. Observations of held-out episodes never enter them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.atomic import read_json, write_json
from worldmodel.data.episodes import EpisodeStore

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Statistics:
    """Of one array, for each of its features (its last axis).

    Attributes:
        count: Rows: of actions ``(T, K, A)``, every one of the K counts.
        mean: Per feature, in the data's own units.
        std: Standard deviation with ``count - 1`` in the denominator; 0 where a feature never changes.
        low: Smallest value.
        high: Largest value.
    """

    count: int
    mean: list[float]
    std: list[float]
    low: list[float]
    high: list[float]


class Moments:
    """Mean and variance of rows that come in parts, as exact as if they were all there at once.

    Values are counted from the first row, which loses nothing, so that a mean that is large beside the deviation costs
    no digits. A part's moments are computed in two passes and merged by the formula of Chan, Golub and LeVeque (1979).

    Args:
        width: Features per row.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.low, self.high = np.full(width, np.inf), np.full(width, -np.inf)
        self._origin = np.zeros(width)
        self._mean = np.zeros(width)  # counted from the origin
        self._squares = np.zeros(width)  # sum of squared deviations from the mean

    def add(self, rows: np.ndarray) -> None:
        """Take in ``rows (..., width)``.

        Raises:
            ValueError: They have another width, or are not finite.
        """
        width = len(self._origin)
        if rows.shape[-1] != width:
            raise ValueError(f"rows have {rows.shape[-1]} features, those before {width}")
        values = rows.reshape(-1, width).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("some values are not finite")
        if not len(values):
            return
        self.low = np.minimum(self.low, values.min(axis=0))
        self.high = np.maximum(self.high, values.max(axis=0))
        if not self.count:
            self._origin = values[0].copy()
        values -= self._origin
        mean = values.mean(axis=0)
        total = self.count + len(values)
        apart = mean - self._mean
        self._squares += ((values - mean) ** 2).sum(axis=0) + apart**2 * (self.count * len(values) / total)
        self._mean = self._mean + apart * (len(values) / total)
        self.count = total

    def statistics(self) -> Statistics:
        """What has been found so far.

        Raises:
            ValueError: Fewer than two rows were given.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} rows have no standard deviation")
        std = np.sqrt(self._squares / (self.count - 1))
        return Statistics(
            self.count, *(array.tolist() for array in (self._origin + self._mean, std, self.low, self.high))
        )


def compute(
    store: EpisodeStore, episodes: Iterable[int], names: Sequence[str] = ("actions", "proprio")
) -> dict[str, Statistics]:
    """Statistics of arrays over episodes, one episode in memory at a time.

    Args:
        store: The data.
        episodes: Positions of the episodes to use: those of the training.
        names: Which arrays; of these, what the data do not have is left out.

    Raises:
        ValueError: Values are not finite, or an episode has another number of features; the message names the episode.
    """
    moments: dict[str, Moments] = {}
    for position in episodes:
        arrays = store[position]
        for name in names:
            if name in arrays:
                rows = arrays[name][:]
                found = moments.setdefault(name, Moments(rows.shape[-1]))
                try:
                    found.add(rows)
                except ValueError as error:
                    index = store.entries[position]["index"]
                    raise ValueError(
                        f"{name} of episode {index} of {store.path}: {error}; leave it out"
                    ) from error
    return {name: found.statistics() for name, found in moments.items()}


def load_or_compute(
    path: str | Path,
    store: EpisodeStore,
    episodes: Iterable[int],
    names: Sequence[str] = ("actions", "proprio"),
) -> dict[str, Statistics]:
    """The statistics kept in a file, or computed and written there if there is none.

    Raises:
        ValueError: The file is about other data, other episodes or other arrays, or is damaged; or as for ``compute``.
        OSError: It cannot be written.
    """
    path, positions = Path(path), list(episodes)
    about = _about(store, positions, names)
    if path.is_file():
        return _read(path, about)
    found = compute(store, positions, names)
    arrays = {name: vars(statistics) for name, statistics in found.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format_version": FORMAT_VERSION, **about, "arrays": arrays})
    return found


def _about(store: EpisodeStore, positions: list[int], names: Sequence[str]) -> dict[str, Any]:
    """Names what statistics are of."""
    indices = ",".join(str(store.entries[position]["index"]) for position in positions)
    return {
        "data": store.hash,
        "episodes": len(positions),
        "episodes_hash": hashlib.sha256(indices.encode()).hexdigest(),
        "names": sorted(names),
    }


def _read(path: Path, about: dict[str, Any]) -> dict[str, Statistics]:
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path} is no file of statistics of format {FORMAT_VERSION}; delete it")
    for key, value in about.items():
        if content.get(key) != value:
            raise ValueError(
                f"{path} holds statistics of {key}={content.get(key)!r}, now {key}={value!r} is asked for; delete it "
                "to compute them again"
            )
    try:
        return {name: Statistics(**values) for name, values in content["arrays"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to compute the statistics again") from error

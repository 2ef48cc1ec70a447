"""Random access to what training reads from an episode store: windows of frames and actions, and clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldmodel.data.episodes import EpisodeStore


class Windows:
    """All windows of ``steps`` steps (``steps + 1`` frames) in a store, addressed by one integer.

    Args:
        store: The episodes.
        episodes: Positions of the episodes to use; those left out can be held out for evaluation.
        steps: Model steps ``T`` per window; 0 addresses single frames.
        array: What stands for the frames: ``"frames"`` (pixels) or ``"tokens"`` (a latent cache).
        stride: Environment steps from one frame of the window to the next.

    Raises:
        ValueError: No episode is long enough, or the store has no such array.
    """

    def __init__(
        self, store: EpisodeStore, episodes: range, steps: int, array: str = "frames", stride: int = 1
    ) -> None:
        if array not in store[0]:
            raise ValueError(f"{store.path} has no array {array!r}, only {sorted(store[0])}")
        self.store, self.episodes, self.steps, self.array, self.stride = store, episodes, steps, array, stride
        starts = np.maximum(store.steps[episodes.start : episodes.stop] + 1 - steps * stride, 0)
        if not starts.any():
            raise ValueError(
                f"{store.path}: no episode has the {steps * stride} steps that a window needs (the longest has "
                f"{store.steps.max()}); use shorter windows or collect longer episodes"
            )
        self._ends = np.cumsum(starts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, item: int) -> tuple[int, int]:
        """The episode's position in the store and the window's first frame."""
        episode = int(np.searchsorted(self._ends, item, side="right"))
        return self.episodes[episode], item - int(self._ends[episode - 1] if episode else 0)

    def frames(self, items: Sequence[int]) -> np.ndarray:
        """The windows' frames (or tokens): ``(B, T+1, ...)`` in the store's type."""
        return np.stack([self._slice(self.array, item) for item in items])

    def actions(self, items: Sequence[int]) -> np.ndarray:
        """The windows' actions ``(B, T, K, A)`` float32: ``[:, t]`` leads from frame ``t`` to ``t+1``.

        With ``stride > 1`` the stored actions in between join along ``K``.
        """
        rows = []
        for item in items:
            episode, start = self.locate(item)
            chosen = self.store[episode]["actions"][start : start + self.steps * self.stride]
            rows.append(chosen.reshape(self.steps, -1, chosen.shape[-1]))
        return np.stack(rows)

    def _slice(self, array: str, item: int) -> np.ndarray:
        episode, start = self.locate(item)
        return self.store[episode][array][start : start + self.steps * self.stride + 1 : self.stride]

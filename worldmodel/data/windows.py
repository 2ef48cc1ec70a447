"""Random access to what training reads from an episode store: windows of frames and actions, and clips."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from worldmodel.data.episodes import EpisodeStore, StoredArray

if TYPE_CHECKING:
    from worldmodel.data.episodes import Stored

_LARGE_ROW = 4096  # bytes; rows of this size are worth a call of their own where a stride leaves some out
_MAPS = 2**14  # episodes whose files are mapped at a time; Linux allows a process 2^16 maps
_KEPT_BYTES = 2**28  # of actions and proprioception, which are small, whole episodes are kept in memory


class Place(NamedTuple):
    """Where a window lies.

    Attributes:
        episode: The episode's position in the store.
        start: The window's first frame; negative where the episode began later, and rows are padded.
    """

    episode: int
    start: int


class Windows:
    """All windows in a store, addressed by one integer.

    A window has ``F = history + 1 + steps`` frames, ``stride`` environment steps apart, and the ``F - 1`` actions (or
    blocks of actions) between them. The present is frame ``history``: what comes before is context.

    Reads share no state but caches, so several threads may read at once, and forked processes may too. Frames that are
    stored raw are copied out of maps of the episodes' files, which hold no file open and whose memory is the system's
    file cache. Episodes are immutable, as maps need them to be: a file that is cut while it is mapped ends the process.

    Args:
        store: The episodes.
        episodes: Positions of the episodes to use; those left out can be held out for evaluation.
        steps: Model steps ``T`` after the present; 0 with no history addresses single frames.
        array: What stands for the frames: ``"frames"`` (pixels) or ``"tokens"`` (a latent cache).
        stride: Environment steps from one frame of the window to the next.
        history: Frames before the present, ``M - 1`` for a context of ``M``.
        pad: Also give windows at the beginnings of episodes, where fewer than ``history`` frames have been. They are
            filled up from the left with the first frame that has been and with actions of zero; see ``lengths``.
        mapped: Map raw files; otherwise they are read by system calls, a third as fast where the data are in memory.

    Raises:
        ValueError: No episode is long enough, or the store has no such array.
    """

    def __init__(
        self,
        store: EpisodeStore,
        episodes: range,
        steps: int,
        array: str = "frames",
        stride: int = 1,
        *,
        history: int = 0,
        pad: bool = False,
        mapped: bool = True,
    ) -> None:
        if array not in store[0]:
            raise ValueError(f"{store.path} has no array {array!r}, only {sorted(store[0])}")
        if steps < 0 or history < 0 or stride < 1:
            raise ValueError(
                f"steps={steps} history={history} must not be negative, and stride={stride} at least 1"
            )
        self.store, self.episodes, self.steps, self.array, self.stride = store, episodes, steps, array, stride
        self.history, self._padded = history, history * stride if pad else 0
        needed = (history + steps) * stride - self._padded
        starts = np.maximum(store.steps[episodes.start : episodes.stop] + 1 - needed, 0)
        if not starts.any():
            raise ValueError(
                f"{store.path}: no episode has the {needed} steps that a window needs (the longest has "
                f"{store.steps.max()}); use shorter windows or collect longer episodes"
            )
        self._ends = np.cumsum(starts)
        self._mapped = mapped and os.name == "posix"
        self._maps: dict[int, np.ndarray] = {}
        self._kept: dict[tuple[str, int], np.ndarray] = {}
        self._kept_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it makes maps and keeps arrays of its own."""
        return {**vars(self), "_maps": {}, "_kept": {}, "_kept_bytes": 0}

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def frames_per_window(self) -> int:
        """``F``."""
        return self.history + 1 + self.steps

    def locate(self, item: int) -> Place:
        """The episode's position in the store and the window's first frame.

        Raises:
            IndexError: There is no such window.
        """
        if not 0 <= item < len(self):
            raise IndexError(f"{self.store.path} has no window {item}, only 0 to {len(self) - 1}")
        episode = int(np.searchsorted(self._ends, item, side="right"))
        first = item - int(self._ends[episode - 1] if episode else 0)
        return Place(self.episodes[episode], first - self._padded)

    def shape(self, array: str | None = None) -> tuple[tuple[int, ...], np.dtype]:
        """Shape ``(F, ...)`` and type of one window's frames (or tokens), or of another array by name."""
        stored = self._array(self.episodes[0], array or self.array)
        return (self.frames_per_window, *stored.shape[1:]), _given(stored.dtype)

    def frames(self, items: Sequence[int], out: np.ndarray | None = None) -> np.ndarray:
        """The windows' frames (or tokens): ``(B, F, ...)`` in the store's type; float16 is given as float32.

        Args:
            items: Which windows.
            out: Contiguous memory of this shape and type to fill; new by default.

        Raises:
            ValueError: An episode's frames are of another shape than the first one's, or its file is damaged.
        """
        shape, dtype = self.shape()
        filled = np.empty((len(items), *shape), dtype) if out is None else out
        if filled.shape != (len(items), *shape) or filled.dtype != dtype or not filled.flags.c_contiguous:
            raise ValueError(f"out must be contiguous {dtype} of shape {(len(items), *shape)}")
        for row, item in zip(filled, items, strict=True):
            self._read(self.locate(item), row)
        return filled

    def actions(self, items: Sequence[int]) -> np.ndarray:
        """The windows' actions ``(B, F-1, K, A)`` float32: ``[:, t]`` leads from frame ``t`` to ``t+1``.

        With ``stride > 1`` the stored actions in between join along ``K``. Before the episode began they are zero.
        """
        count = self.frames_per_window - 1
        rows = []
        for item in items:
            episode, start = self.locate(item)
            stored = self._whole(episode, "actions")
            chosen = stored[max(start, 0) : start + count * self.stride]
            # A first frame that is not a multiple of the stride away leaves part of a block: no part of the window.
            chosen = chosen[len(chosen) % self.stride :]
            lacking = count * self.stride - len(chosen)
            if lacking:
                chosen = np.concatenate([np.zeros((lacking, *chosen.shape[1:]), chosen.dtype), chosen])
            rows.append(chosen.reshape(count, self.stride * chosen.shape[1], chosen.shape[2]))
        return np.stack(rows)

    def proprio(self, items: Sequence[int]) -> np.ndarray:
        """The windows' proprioception ``(B, F, Q)`` float32, in the data's own units.

        Raises:
            ValueError: The store has none.
        """
        rows = [
            self._whole(episode, "proprio")[self._frame_numbers(start)]
            for episode, start in map(self.locate, items)
        ]
        return np.stack(rows).astype(np.float32, copy=False)

    def lengths(self, items: Sequence[int]) -> np.ndarray:
        """How many of each window's ``history + 1`` context frames, counted from the present, are real: ``(B,)``."""
        lacking = [-(min(self.locate(item).start, 0) // self.stride) for item in items]
        return self.history + 1 - np.array(lacking, dtype=np.int64)

    def _frame_numbers(self, start: int) -> np.ndarray:
        """The frames of a window; those before the episode began are the first of the window's frames that has been."""
        numbers = start + self.stride * np.arange(self.frames_per_window)
        return np.maximum(numbers, start if start >= 0 else start % self.stride)

    def _array(self, episode: int, name: str) -> Stored:
        arrays = self.store[episode]
        if name not in arrays:
            index = self.store.entries[episode]["index"]
            raise ValueError(
                f"episode {index} of {self.store.path} has no array {name!r}, only {sorted(arrays)}"
            )
        return arrays[name]

    def _whole(self, episode: int, name: str) -> np.ndarray:
        """A small array of an episode, kept in memory while there is room."""
        found = self._kept.get((name, episode))
        if found is None:
            found = self._array(episode, name)[:]
            if self._kept_bytes + found.nbytes <= _KEPT_BYTES:
                self._kept[name, episode] = found
                self._kept_bytes += found.nbytes
        return found

    def _read(self, place: Place, out: np.ndarray) -> None:
        """Fill ``out (F, ...)`` with a window's frames."""
        stored, stride = self._array(place.episode, self.array), self.stride
        if stored.shape[1:] != out.shape[1:] or _given(stored.dtype) != out.dtype:
            index = self.store.entries[place.episode]["index"]
            raise ValueError(
                f"{self.array} of episode {index} of {self.store.path} are {stored.dtype} {stored.shape[1:]}, those of "
                f"the first episode {out.dtype} {out.shape[1:]}; convert the dataset to one size and type"
            )
        lacking = -(min(place.start, 0) // stride)
        first = place.start + lacking * stride
        real = out[lacking:]
        raw = stored if type(stored) is StoredArray and stored.dtype == out.dtype else None
        if raw is not None and self._mapped:
            real[...] = self._map(place.episode, raw)[first : first + (len(real) - 1) * stride + 1 : stride]
        elif raw is not None and hasattr(os, "preadv"):
            read_rows(raw, first, stride, real)
        else:
            real[...] = stored[first : first + (len(real) - 1) * stride + 1 : stride]
        out[:lacking] = real[0]

    def _map(self, episode: int, stored: StoredArray) -> np.ndarray:
        found = self._maps.get(episode)
        if found is None:
            if len(self._maps) >= _MAPS:
                self._maps.clear()
            found = self._maps[episode] = map_array(stored)
        return found


def map_array(stored: StoredArray) -> np.ndarray:
    """An array inside an episode's file, mapped for reading; the file does not stay open.

    Raises:
        ValueError: The file is shorter than the array.
        OSError: It cannot be read.
    """
    end = stored.offset + math.prod(stored.shape) * stored.dtype.itemsize
    if os.stat(stored.path).st_size < end:
        raise _cut_short(stored)
    try:
        # Python's own mmap keeps a file descriptor for each map, of which there are often 1,024.
        whole = torch.from_file(str(stored.path), shared=False, size=end, dtype=torch.uint8).numpy()
    except RuntimeError as error:
        raise OSError(f"{stored.path} cannot be mapped ({error}); use Windows(..., mapped=False)") from error
    whole.flags.writeable = False
    return whole[stored.offset :].view(stored.dtype).reshape(stored.shape)


def read_rows(stored: StoredArray, first: int, stride: int, out: np.ndarray) -> None:
    """Read every ``stride``-th row from ``first`` on straight into contiguous memory, without a copy in between.

    The file is opened for each call: see ``StoredArray``.

    Raises:
        ValueError: The file ends before the rows do.
        OSError: It cannot be read.
    """
    row_bytes = out[0].nbytes
    begin = stored.offset + first * row_bytes
    flat = out.reshape(len(out), -1).view(np.uint8)
    descriptor = os.open(stored.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        if stride == 1:
            _read_exactly(stored, descriptor, flat.reshape(-1), begin)
        elif row_bytes >= _LARGE_ROW:
            for number, row in enumerate(flat):
                _read_exactly(stored, descriptor, row, begin + number * stride * row_bytes)
        else:
            span = np.empty(((len(out) - 1) * stride + 1, row_bytes), np.uint8)
            _read_exactly(stored, descriptor, span.reshape(-1), begin)
            flat[...] = span[::stride]
    finally:
        os.close(descriptor)


def _read_exactly(stored: StoredArray, descriptor: int, into: np.ndarray, offset: int) -> None:
    done = 0
    while done < into.nbytes:  # a call reads 2 GiB at most
        count = os.preadv(descriptor, [into.data[done:]], offset + done)
        if count == 0:
            raise _cut_short(stored)
        done += count


def _cut_short(stored: StoredArray) -> ValueError:
    return ValueError(f"episode file {stored.path} is cut short; delete the dataset and collect it again")


def _given(dtype: np.dtype) -> np.dtype:
    """The type in which an array is handed out: half precision is for the disk, networks compute in float32."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype

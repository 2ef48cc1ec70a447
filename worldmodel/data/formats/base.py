"""What all formats of recordings share: options, how actions are aligned to frames, and the contracts.

The convention of this toolkit: ``actions[t]`` leads from frame ``t`` to frame ``t + 1``. So ``T`` actions go with
``T + 1`` frames. Formats with one row per frame hold one action too many; ``docs/data.md`` shows who does what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Episode = dict[str, np.ndarray]


class FormatError(ValueError):
    """A recording that cannot be read as what it should be; the message names file, episode and key."""


@dataclass(frozen=True)
class ImportOptions:
    """What a recording does not say by itself, or says otherwise than is wanted.

    Attributes:
        camera: Key of the pictures; needed where there are several.
        action: Key of the actions; for CSV files the columns' prefix.
        proprio: Keys that are joined to the proprioception, in this order.
        action_shift: The row, counted from a frame's own, that holds the action which leads on from that frame: 0 if
            each row holds what was done next, 1 if it holds what had been done before.
        fps: Frames per second.
        env_id: Name of the environment or robot.
        action_low, action_high: Bounds of the actions; otherwise those of the recording, or its smallest and largest.
    """

    camera: str = ""
    action: str = ""
    proprio: Sequence[str] = ()
    action_shift: int = 0
    fps: float = 0.0
    env_id: str = ""
    action_low: Sequence[float] = ()
    action_high: Sequence[float] = ()


class Reader(Protocol):
    """A recording: episodes by position, and what is common to them."""

    path: Path
    meta: dict[str, Any]

    def __len__(self) -> int: ...

    def index(self, position: int) -> int:
        """The episode's number in a dataset that is made from all of them."""

    def read(self, position: int) -> Episode:
        """An episode's arrays as ``EpisodeWriter`` takes them.

        Raises:
            FormatError: The message names the file, the episode and the key.
        """


class Writer(Protocol):
    """Makes a dataset; episodes come in the order of their numbers."""

    def wants(self, index: int) -> bool:
        """Whether an episode is still to be written; False for what an interrupted call has done."""

    def write(self, index: int, episode: Episode) -> None:
        """Add an episode."""

    def finish(self) -> None:
        """Make the dataset whole."""


def align(where: str, frames: int, actions: int, shift: int = 0) -> tuple[slice, slice]:
    """The rows of the frames, and of the actions, that make an episode of ours.

    Args:
        where: Names the file and the episode in errors.
        frames, actions: How many there are: as many actions as frames (the last leads to a frame that is not there, and
            is left out), or one fewer.
        shift: ``ImportOptions.action_shift``.

    Raises:
        FormatError: The numbers do not fit, or nothing is left.
    """
    if actions not in (frames, frames - 1):
        raise FormatError(
            f"{where} has {frames} frames and {actions} actions; there must be one action per frame or one fewer"
        )
    first, last = max(0, -shift), min(frames - 1, actions - shift)
    if last - first < 1:
        said = f" with action_shift={shift}" if shift else ""
        raise FormatError(f"{where} is too short: {frames} frames and {actions} actions{said} make no step")
    return slice(first, last + 1), slice(first + shift, last + shift)


def assemble(
    where: str,
    frames: np.ndarray,
    actions: np.ndarray,
    others: dict[str, np.ndarray],
    meta: dict[str, Any],
    shift: int = 0,
) -> Episode:
    """An episode from rows: ``frames (F, 3, H, W)``, ``actions (R, K * A)``, others ``(F, ...)``.

    Raises:
        FormatError: Lengths do not fit, or the actions have another width than the metadata say.
    """
    if actions.ndim == 1:
        actions = actions[:, None]
    per_step, wanted = int(meta.get("actions_per_step", 1)), len(meta.get("action_low") or ())
    actions = actions.reshape(len(actions), -1)
    if wanted and actions.shape[1] != per_step * wanted:
        raise FormatError(
            f"actions of {where} have {actions.shape[1]} dimensions, those of the dataset {per_step * wanted}"
        )
    for name, array in others.items():
        if len(array) != len(frames):
            raise FormatError(f"{where} has {len(frames)} frames and {len(array)} rows of {name}")
    proprio = others.get("proprio")
    if proprio is not None and not np.isfinite(proprio).all():
        raise FormatError(
            f"proprio of {where} is not finite in row {int(np.argwhere(~np.isfinite(proprio))[0][0])}"
        )
    shown, done = align(where, len(frames), len(actions), shift)
    chosen = np.ascontiguousarray(actions[done], dtype=np.float32)
    if not np.isfinite(chosen).all():
        row = int(np.argwhere(~np.isfinite(chosen))[0][0])
        hint = "; does the first action lead to the first frame? Then use action_shift=1" if row == 0 else ""
        raise FormatError(f"actions of {where} are not finite in row {row}{hint}")
    return {
        "frames": np.ascontiguousarray(frames[shown]),
        "actions": chosen.reshape(len(chosen), per_step, -1),
        **{name: np.ascontiguousarray(array[shown]) for name, array in others.items()},
    }


def rows_of(episode: Episode) -> tuple[np.ndarray, Episode]:
    """An episode as formats with one row per frame hold it.

    Returns:
        Actions ``(T+1, K * A)``, the last one repeated since no frame follows it, and the other arrays but the frames.
    """
    actions = episode["actions"].reshape(len(episode["actions"]), -1)
    others = {name: array for name, array in episode.items() if name not in ("frames", "actions")}
    return np.concatenate([actions, actions[-1:]]), others


def choose(where: str, what: str, wanted: str, available: Sequence[str], option: str) -> str:
    """The key that is wanted, or the only one there is.

    Raises:
        FormatError: There is none, or there are several and none was chosen.
    """
    if wanted and wanted in available:
        return wanted
    there = ", ".join(available) or "none"
    if wanted:
        raise FormatError(f"{where} has no {what} {wanted!r}; there are: {there}; name it with {option}=KEY")
    if len(available) != 1:
        verb = "choose one with" if available else "name it with"
        raise FormatError(f"{where} has {len(available)} {what}s ({there}); {verb} {option}=KEY")
    return available[0]


@dataclass
class Bounds:
    """Smallest and largest action of a recording, collected episode by episode."""

    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def add(self, actions: np.ndarray) -> None:
        """Take in ``actions (R, D)``; rows that are not finite do not count."""
        actions = actions.reshape(len(actions), -1)
        actions = actions[np.isfinite(actions).all(axis=1)]
        if len(actions):
            low, high = actions.min(axis=0), actions.max(axis=0)
            self.low = low if self.low is None else np.minimum(self.low, low)
            self.high = high if self.high is None else np.maximum(self.high, high)


@dataclass
class Described:
    """What a foreign recording says of itself, before the options are applied."""

    env_id: str
    fps: float | None = None
    action_low: list[float] | None = None
    action_high: list[float] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def make_meta(
    path: Path, name: str, said: Described, options: ImportOptions, bounds: Bounds | None = None
) -> dict[str, Any]:
    """The metadata of a dataset that is made from a foreign recording.

    Raises:
        FormatError: There are no actions to take bounds from, or those given have another width.
    """
    low, high, origin = said.action_low, said.action_high, "recording"
    if options.action_low or options.action_high:
        low, high, origin = list(options.action_low), list(options.action_high), "given"
    elif low is None or high is None:
        if bounds is None or bounds.low is None or bounds.high is None:
            raise FormatError(f"{path} has no finite action")
        low, high, origin = bounds.low.tolist(), bounds.high.tolist(), "smallest and largest of the recording"
    if len(low) != len(high or ()):
        raise FormatError(f"{path}: action_low has {len(low)} numbers and action_high {len(high or ())}")
    return {
        "env_id": options.env_id or said.env_id,
        "fps": options.fps or said.fps,
        "action_low": [float(x) for x in low],
        "action_high": [float(x) for x in high or ()],
        "action_bounds": origin,
        **said.extra,
        "source": {"format": name, "name": path.name},
    }


def own_meta(meta: dict[str, Any]) -> dict[str, Any]:
    """Metadata as they travel: without what is about our files."""
    return {key: value for key, value in meta.items() if key not in ("format_version", "codecs")}


def inside(root: Path, name: str) -> Path:
    """A file that a recording names.

    Raises:
        FormatError: It lies outside the recording's folder.
    """
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise FormatError(f"{root} names {name}, which lies outside of it")
    return path


def require_even(index: int, frames: np.ndarray) -> None:
    """See that frames can be a video that others read.

    Raises:
        FormatError: A side is odd, or they are not RGB.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.shape[2] % 2 or frames.shape[3] % 2:
        raise FormatError(
            f"frames of episode {index} are {frames.shape}; a video needs three channels and even sides: use size="
        )

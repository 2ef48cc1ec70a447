"""What is in a dataset, and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.episode_files import files_of
from worldmodel.data.episodes import EpisodeStore

BEYOND = 1e-6  # of an action's range: how far outside the bounds rounding may put it


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where, and what."""

    episode: int | None
    file: str
    key: str
    what: str

    def __str__(self) -> str:
        place = "" if self.episode is None else f"episode {self.episode}, "
        return f"{place}{self.file}{f', {self.key}' if self.key else ''}: {self.what}"


def check_episodes(store: EpisodeStore) -> Iterator[list[Finding]]:
    """What is wrong with each episode, one after another; empty lists for sound ones.

    Each file must have its hash, each array its length, the type and shape of the first episode's and, if it is not one
    of pictures, finite numbers; actions lie inside the bounds. Frames are decoded.
    """
    expected: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for position in range(len(store)):
        findings = list(_check_episode(store, position, expected))
        yield findings


def check_rest(store: EpisodeStore) -> list[Finding]:
    """What is wrong beside the episodes: files that no line of the manifest names."""
    named = {store.path / entry["file"] for entry in store.entries}
    for position in range(len(store)):
        try:
            named |= set(files_of(store[position]))
        except (OSError, ValueError):
            continue  # found out already
    named = {path.resolve() for path in named}
    folder = store.path / "episodes"
    there = [*folder.glob("*.safetensors"), *folder.glob("*.mp4"), *folder.glob(".*.tmp")]
    return [
        Finding(
            None,
            str(path.relative_to(store.path)),
            "",
            "no line of the manifest names it; a writer was interrupted",
        )
        for path in sorted(there)
        if path.resolve() not in named
    ]


def _check_episode(
    store: EpisodeStore, position: int, expected: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
) -> Iterator[Finding]:
    entry = store.entries[position]
    index, name = int(entry["index"]), str(entry["file"])
    try:
        stored = store[position]
    except (OSError, ValueError) as error:
        yield Finding(index, name, "", _line(error))
        return
    for path, sha256 in {store.path / name: entry["sha256"], **files_of(stored)}.items():
        if _sha256(path) != sha256:
            yield Finding(index, str(path.relative_to(store.path.resolve() if path.is_absolute() else store.path)), "",
                          "its content is not what was written (sha256 differs)")  # fmt: skip
    if not expected:
        expected.update({key: (array.shape[1:], array.dtype) for key, array in stored.items()})
    for key in sorted(expected.keys() | stored.keys()):
        if key not in stored or key not in expected:
            what = (
                "is missing here and not in the first episode"
                if key in expected
                else "is not in the first episode"
            )
            yield Finding(index, name, key, what)
            continue
        array, (shape, dtype) = stored[key], expected[key]
        length = int(entry["steps"]) + (key != "actions")
        if len(array) != length:
            yield Finding(index, name, key, f"has {len(array)} rows, {entry['steps']} steps need {length}")
        if array.shape[1:] != shape or array.dtype != dtype:
            yield Finding(
                index,
                name,
                key,
                f"has rows {array.shape[1:]} {array.dtype}, the first episode {shape} {dtype}",
            )
        try:
            content = array[:]
        except (OSError, ValueError) as error:
            yield Finding(index, name, key, _line(error))
            continue
        if content.dtype.kind == "f" and not np.isfinite(content).all():
            row = int(np.argwhere(~np.isfinite(content))[0][0])
            yield Finding(index, name, key, f"is not finite in row {row}")
        elif key == "actions":
            yield from _check_actions(store.meta, index, name, content)


def _check_actions(meta: dict[str, Any], index: int, name: str, actions: np.ndarray) -> Iterator[Finding]:
    low, high = meta.get("action_low"), meta.get("action_high")
    if actions.ndim != 3:
        yield Finding(index, name, "actions", f"are {actions.shape}, not (T, K, A)")
    elif actions.shape[1] != meta.get("actions_per_step", actions.shape[1]):
        yield Finding(
            index, name, "actions", f"K is {actions.shape[1]}, the metadata say {meta['actions_per_step']}"
        )
    elif low and high:
        if actions.shape[2] != len(low):
            yield Finding(
                index, name, "actions", f"have {actions.shape[2]} dimensions, their bounds {len(low)}"
            )
            return
        least, most = np.array(low), np.array(high)
        slack = BEYOND * np.maximum(1, np.where(np.isfinite(most - least), most - least, 1))
        outside = (actions < least - slack) | (actions > most + slack)
        if outside.any():
            row, _, column = np.argwhere(outside)[0]
            value = f"{actions[tuple(np.argwhere(outside)[0])]:.6g}, not {low[column]:g} to {high[column]:g}"
            what = f"{int(outside.sum())} are outside the bounds; in row {row}, dimension {column} is {value}"
            yield Finding(index, name, "actions", what)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def describe_store(store: EpisodeStore) -> list[tuple[str, str]]:
    """What is in a dataset, as rows of a table: names and values."""
    meta, first = store.meta, store[0]
    shape = first["frames"].shape[1:] if "frames" in first else ()
    files = [store.path / name for name in ("meta.json", "manifest.jsonl")]
    files += list((store.path / "episodes").glob("[!.]*"))
    size = sum(file.stat().st_size for file in files if file.is_file())
    steps, frames = int(store.steps.sum()), int((store.steps + 1).sum())
    fps = meta.get("fps")
    rows = [("dataset", str(store.path)), ("environment", str(meta.get("env_id", "not said")))]
    if meta.get("env_args"):
        rows.append(("with", str(meta["env_args"])))
    rows.append(("episodes", f"{len(store)}, of {store.steps.min()} to {store.steps.max()} steps"))
    rows.append(("steps", f"{steps:,}" + (f" ({steps / fps / 60:.1f} minutes)" if fps else "")))
    rows.append(("pictures", f"{frames:,} of {' x '.join(map(str, shape)) or 'no size'}"))
    rows.append(("per second", f"{fps:g} frames" if fps else "not said"))
    codecs = meta.get("codecs") or {}
    for name in sorted(first):
        array = first[name]
        rows.append((name, f"({'T' if name == 'actions' else 'T+1'}{''.join(f', {n}' for n in array.shape[1:])}) "
                     f"{array.dtype}, {codecs.get(name, 'raw')}"))  # fmt: skip
    rows += _dimensions("action", meta, first["actions"].shape[-1] if "actions" in first else 0)
    rows += _dimensions("proprio", meta, first["proprio"].shape[-1] if "proprio" in first else 0)
    rows.append(("on disk", f"{size / 1e6:,.1f} MB, {size / max(frames, 1):,.0f} bytes per frame"))
    rows.append(("hash", store.hash))
    return rows


def _dimensions(group: str, meta: dict[str, Any], width: int) -> list[tuple[str, str]]:
    """A row for each dimension of the actions or the proprioception: name, bounds, unit."""
    rows = []
    for i in range(width):
        parts = {
            key: (meta.get(f"{group}_{key}") or [None] * width) for key in ("names", "low", "high", "units")
        }
        name, low, high, unit = (
            parts[key][i] if i < len(parts[key]) else None for key in ("names", "low", "high", "units")
        )
        bounds = f"{low:g} to {high:g}" if low is not None and high is not None else ""
        said = " ".join(str(part) for part in (name, bounds, unit) if part)
        rows.append((f"{group} {i}", said or "nothing is said of it"))
    return rows

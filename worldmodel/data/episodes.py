"""The episode store: one immutable file per episode, and a manifest with one line for each.

Layout of a dataset directory::

    meta.json            format version, environment, fps, action bounds, ...
    manifest.jsonl       {"index": 0, "file": "episodes/000000.safetensors", "steps": 40, "sha256": "..."}
    episodes/*.safetensors
    episodes/*.mp4       the frames, with the codec mp4

An episode is a set of named arrays. Those of a collected episode are ``frames (T+1, C, H, W)`` uint8,
``actions (T, K, A)`` float32 in the environment's own units (``actions[t]`` leads from frame ``t`` to ``t+1``) and
``states (T+1, S)`` float64, which serve probes and pictures, never training. Recordings of robots also have
``proprio (T+1, Q)`` float32, and ``timestamps (T+1,)`` float64 seconds where frames are not evenly spaced.

Metadata, all optional but the first three, which training and planning need: ``env_id``, ``action_low`` and
``action_high`` (A numbers each), ``env_args``, ``fps``, ``frame_shape``, ``actions_per_step`` (K), ``action_names``,
``action_units``, ``proprio_names``, ``proprio_units``, and whatever says where the episodes come from.

A file is written under a temporary name, flushed, renamed, and only then named in the manifest: a killed writer loses
the episode in hand, and a reader never sees half of one. This module needs NumPy and safetensors, not torch.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as to_safetensors

from worldmodel.atomic import read_json, write_bytes, write_json
from worldmodel.data.episode_arrays import Stored, StoredArray
from worldmodel.data.episode_codecs import Codec, encode_frames
from worldmodel.data.episode_files import (
    CODEC_VERSION,
    DESCRIBING,
    RAW_VERSION,
    check_arrays,
    check_meta,
    read_manifest,
    remove_dataset,
    remove_temporary,
    require_same_meta,
    stored_arrays,
)

__all__ = ["EpisodeStore", "EpisodeWriter", "Stored", "StoredArray"]

MODES = ("create", "resume", "append", "overwrite")


class EpisodeWriter:
    """Adds episodes to a dataset directory.

    Args:
        path: The dataset directory; made if there is none.
        meta: What is common to all episodes (environment, fps, bounds); JSON values only.
        mode: What becomes of a dataset that is there:

            - ``"resume"`` continues it if it has the same ``meta``, or begins one;
            - ``"create"`` fails if there is one;
            - ``"append"`` adds episodes to it, and fails if there is none. Its metadata stay. What the arrays are must
              agree; where the new episodes come from (any other key) may differ, and is noted with each of them;
            - ``"overwrite"`` removes it first. A directory that holds anything but a dataset is left alone.
        codecs: How arrays of frames are stored: ``{"frames": "jpeg:95"}``, see ``worldmodel.data.episode_codecs``. By
            default as in the dataset, or raw in a new one.

    Raises:
        ValueError: The directory holds a dataset with other metadata, or ``mode`` or a codec is unknown.
        FileExistsError: There is a dataset (``create``), or something else (``overwrite``).
        FileNotFoundError: There is no dataset (``append``).
    """

    def __init__(
        self,
        path: str | Path,
        meta: dict[str, Any],
        mode: str = "resume",
        codecs: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        if mode not in MODES:
            raise ValueError(f"episode writer mode {mode!r} is unknown; choose {', '.join(MODES)}")
        check_meta(self.path, meta)
        if mode == "overwrite":
            remove_dataset(self.path)
        meta_path = self.path / "meta.json"
        found: dict[str, Any] | None = read_json(meta_path) if meta_path.exists() else None
        if found is not None and mode == "create":
            raise FileExistsError(f"{self.path} already holds a dataset; use mode 'resume' or another path")
        if found is None and mode == "append":
            raise FileNotFoundError(f"no dataset at {self.path} to append to; use mode 'create'")
        meta = _whole_meta(meta, codecs if codecs is not None or found is None else found.get("codecs"))
        self._origin: dict[str, Any] = {}
        if found is not None and mode == "append":
            require_same_meta(self.path, found, meta, set(DESCRIBING) & (found.keys() | meta.keys()))
            self._origin = {key: value for key, value in meta.items() if found.get(key) != value}
        elif found is not None:
            require_same_meta(self.path, found, meta)
        (self.path / "episodes").mkdir(parents=True, exist_ok=True)
        if found is None:
            write_json(meta_path, meta)
        remove_temporary(self.path)
        self.meta: dict[str, Any] = meta if found is None else found
        self._codecs = {name: Codec.parse(text) for name, text in self.meta.get("codecs", {}).items()}
        self._manifest = self.path / "manifest.jsonl"
        self.entries = read_manifest(self._manifest, repair=True)
        self.indices = {entry["index"] for entry in self.entries}

    def write(self, index: int, arrays: dict[str, np.ndarray]) -> None:
        """Store one episode.

        Raises:
            ValueError: The index is taken, or the arrays disagree about the episode's length, do not fit the metadata,
                or are not finite.
            OSError: The disk is full; the dataset stays as it was.
        """
        if index in self.indices:
            raise ValueError(f"{self.path} already has an episode {index}; episodes are never overwritten")
        steps = check_arrays(index, arrays, self.meta)
        stored = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        headers = {}
        for name, codec in self._codecs.items():
            if name in stored:
                encoded = encode_frames(
                    name,
                    stored.pop(name),
                    codec,
                    self.path / "episodes",
                    f"{index:06d}",
                    self.meta.get("fps") or 0,
                )
                headers[name] = encoded.header
                stored |= encoded.arrays
        metadata = {"codecs": json.dumps(headers, sort_keys=True)} if headers else None
        content = to_safetensors(stored, metadata)
        name = f"episodes/{index:06d}.safetensors"
        write_bytes(self.path / name, content)
        entry = {"index": index, "file": name, "steps": steps, "sha256": hashlib.sha256(content).hexdigest()}
        if self._origin:
            entry["meta"] = self._origin
        line = (json.dumps(entry, sort_keys=True) + "\n").encode()
        with open(self._manifest, "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.entries.append(entry)
        self.indices.add(index)

    def append(self, arrays: dict[str, np.ndarray]) -> int:
        """Store one episode behind the last one, and return its index.

        Raises:
            ValueError, OSError: As for ``write``.
        """
        index = max(self.indices, default=-1) + 1
        self.write(index, arrays)
        return index


class EpisodeStore:
    """Reads a dataset directory; opening is cheap, and slices of an array read only the rows that they take.

    Raises:
        FileNotFoundError: There is no dataset at ``path``.
        ValueError: It was written in another format version, or is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if not (self.path / "meta.json").is_file():
            raise FileNotFoundError(
                f"no dataset at {self.path} (meta.json is missing); make one with: worldmodel collect"
            )
        self.meta: dict[str, Any] = read_json(self.path / "meta.json")
        version = self.meta.get("format_version") if isinstance(self.meta, dict) else None
        if version not in (RAW_VERSION, CODEC_VERSION):
            raise ValueError(
                f"{self.path}/meta.json has format_version {version}, "
                f"this version reads {RAW_VERSION} and {CODEC_VERSION}; collect the data again"
            )
        self.entries = read_manifest(self.path / "manifest.jsonl")
        if not self.entries:
            raise ValueError(f"{self.path} holds no finished episode yet; let worldmodel collect finish")
        self.steps = np.array([entry["steps"] for entry in self.entries])
        self._open: dict[int, dict[str, Stored]] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, position: int) -> dict[str, Stored]:
        """The episode at a position of the manifest: its arrays by name, read when they are sliced."""
        if position not in self._open:
            self._open[position] = stored_arrays(self.path, self.entries[position])
        return self._open[position]

    @property
    def hash(self) -> str:
        """Names the content: sha256 over metadata and the episodes' own hashes."""
        text = json.dumps(
            [self.meta, [[entry["index"], entry["sha256"]] for entry in self.entries]], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def part(self, positions: Sequence[int]) -> EpisodeStore:
        """The same dataset with only the episodes at these positions, in this order; its hash names them alone."""
        found = copy.copy(self)
        found.entries = [self.entries[position] for position in positions]
        found.steps, found._open = self.steps[list(positions)], {}
        return found

    def gather(self, name: str, positions: Iterable[int] | None = None) -> np.ndarray:
        """One array of the episodes at these positions (all by default), concatenated over time, in memory."""
        return np.concatenate(
            [self[i][name][:] for i in (range(len(self)) if positions is None else positions)]
        )


def _whole_meta(meta: dict[str, Any], codecs: Mapping[str, str] | None) -> dict[str, Any]:
    """Metadata as they are stored: with the format version, and codecs in full where there are any."""
    parsed = {name: Codec.parse(text) for name, text in (codecs or {}).items()}
    used = {name: str(codec) for name, codec in parsed.items() if codec.kind != "raw"}
    whole = {**meta, "format_version": CODEC_VERSION if used else RAW_VERSION}
    whole.pop("codecs", None)
    if used:
        whole["codecs"] = used
    # As JSON makes them, so that they compare equal to what is read.
    result: dict[str, Any] = json.loads(json.dumps(whole))
    return result

"""The episode store: one immutable file per episode, and a manifest with one line for each.

Layout of a dataset directory::

    meta.json            format version, environment, fps, action bounds, ...
    manifest.jsonl       {"index": 0, "file": "episodes/000000.safetensors", "steps": 40, "sha256": "..."}
    episodes/*.safetensors

An episode is a set of named arrays. Those of a collected episode are ``frames (T+1, C, H, W)`` uint8,
``actions (T, K, A)`` float32 in the environment's own units (``actions[t]`` leads from frame ``t`` to ``t+1``) and
``states (T+1, S)`` float64, which serve probes and pictures, never training.

A file is written under a temporary name, flushed, renamed, and only then named in the manifest: a killed writer loses
the episode in hand, and a reader never sees half of one. This module needs NumPy and safetensors, not torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as to_safetensors

from worldmodel.atomic import read_json, write_bytes, write_json

FORMAT_VERSION = 1
_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}


class EpisodeWriter:
    """Adds episodes to a dataset directory, in index order.

    Args:
        path: The dataset directory; made if there is none.
        meta: What is common to all episodes (environment, fps, bounds); JSON values only.
        mode: ``"resume"`` continues a dataset with the same ``meta`` or begins one, ``"create"`` fails if there is one.

    Raises:
        ValueError: The directory holds a dataset with other metadata, or ``mode`` is unknown.
        FileExistsError: ``mode="create"`` and there is a dataset.
    """

    def __init__(self, path: str | Path, meta: dict[str, Any], mode: str = "resume") -> None:
        self.path = Path(path)
        if mode not in ("resume", "create"):
            raise ValueError(f"episode writer mode {mode!r} is unknown; choose 'resume' or 'create'")
        meta = json.loads(json.dumps({**meta, "format_version": FORMAT_VERSION}))
        meta_path = self.path / "meta.json"
        (self.path / "episodes").mkdir(parents=True, exist_ok=True)
        if meta_path.exists():
            if mode == "create":
                raise FileExistsError(
                    f"{self.path} already holds a dataset; use mode 'resume' or another path"
                )
            _require_same_meta(self.path, read_json(meta_path), meta)
        else:
            write_json(meta_path, meta)
        self._manifest = self.path / "manifest.jsonl"
        self.entries = _read_manifest(self._manifest, repair=True)
        self.indices = {entry["index"] for entry in self.entries}

    def write(self, index: int, arrays: dict[str, np.ndarray]) -> None:
        """Store one episode.

        Raises:
            ValueError: The index is taken, or the arrays disagree about the episode's length.
            OSError: The disk is full; the dataset stays as it was.
        """
        if index in self.indices:
            raise ValueError(f"{self.path} already has an episode {index}; episodes are never overwritten")
        steps = _steps(index, arrays)
        content = to_safetensors({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        name = f"episodes/{index:06d}.safetensors"
        write_bytes(self.path / name, content)
        entry = {"index": index, "file": name, "steps": steps, "sha256": hashlib.sha256(content).hexdigest()}
        line = (json.dumps(entry, sort_keys=True) + "\n").encode()
        with open(self._manifest, "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.entries.append(entry)
        self.indices.add(index)


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
        if self.meta.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{self.path}/meta.json has format_version {self.meta.get('format_version')}, "
                f"this version reads {FORMAT_VERSION}; collect the data again"
            )
        self.entries = _read_manifest(self.path / "manifest.jsonl")
        if not self.entries:
            raise ValueError(f"{self.path} holds no finished episode yet; let worldmodel collect finish")
        self.steps = np.array([entry["steps"] for entry in self.entries])
        self._open: dict[int, dict[str, StoredArray]] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, position: int) -> dict[str, StoredArray]:
        """The episode at a position of the manifest: its arrays by name, read when they are sliced."""
        if position not in self._open:
            self._open[position] = _stored_arrays(self.path, self.entries[position])
        return self._open[position]

    @property
    def hash(self) -> str:
        """Names the content: sha256 over metadata and the episodes' own hashes."""
        text = json.dumps(
            [self.meta, [[entry["index"], entry["sha256"]] for entry in self.entries]], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def gather(self, name: str, positions: Iterable[int] | None = None) -> np.ndarray:
        """One array of the episodes at these positions (all by default), concatenated over time, in memory."""
        return np.concatenate(
            [self[i][name][:] for i in (range(len(self)) if positions is None else positions)]
        )


@dataclass(frozen=True)
class StoredArray:
    """An array inside an episode file. Slicing its first axis reads those rows.

    The file is opened for each read: that costs microseconds, while maps kept open would run out of file descriptors
    after a thousand episodes and must not be shared across forks.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        if not isinstance(rows, slice):
            raise TypeError(f"a stored array is read by slices of rows, [a:b] or [:], not by [{rows!r}]")
        start, stop, step = rows.indices(self.shape[0])
        if step < 1:
            raise ValueError(f"rows of {self.path} are read forwards; the slice has step {step}")
        count = max(stop - start, 0)
        row_items = math.prod(self.shape[1:])
        with open(self.path, "rb") as file:
            file.seek(self.offset + start * row_items * self.dtype.itemsize)
            flat = np.fromfile(file, self.dtype, count * row_items)
        if flat.size != count * row_items:
            raise ValueError(
                f"episode file {self.path} is cut short; delete the dataset and collect it again"
            )
        return flat.reshape(count, *self.shape[1:])[::step]


def _steps(index: int, arrays: dict[str, np.ndarray]) -> int:
    lengths = {name: len(array) for name, array in arrays.items()}
    steps = lengths.get("actions", max(lengths.values()) - 1)
    wrong = [f"{name} has {n}" for name, n in lengths.items() if n != steps + (name != "actions")]
    if wrong or steps < 1:
        raise ValueError(
            f"episode {index} with {steps} actions needs {steps + 1} rows of all else: {', '.join(wrong)}"
        )
    return steps


def _require_same_meta(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            raise ValueError(
                f"{path} was made with {key}={found.get(key)!r}, now {key}={wanted.get(key)!r} is asked for; "
                "choose another directory"
            )


def _read_manifest(path: Path, repair: bool = False) -> list[dict[str, Any]]:
    """The manifest's whole lines. A last line without its newline is an interrupted write: ignored, or cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if repair and len(whole) < len(content):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); collect the data again") from error


def _stored_arrays(root: Path, entry: dict[str, Any]) -> dict[str, StoredArray]:
    path = (root / entry["file"]).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ValueError(f"{root}/manifest.jsonl names {entry['file']}, which lies outside the dataset")
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size < 2**20:
                raise ValueError("no header")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        return {
            name: StoredArray(
                path, 8 + size + spec["data_offsets"][0], _DTYPES[spec["dtype"]], tuple(spec["shape"])
            )
            for name, spec in header.items()
        }
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"episode {entry['index']} of {root} is missing its file {entry['file']}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"episode file {path} is damaged ({error}); delete the dataset and collect it again"
        ) from error

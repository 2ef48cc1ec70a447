"""HDF5 with one dataset per column over all episodes, and ``ep_len``/``ep_offset`` (as stable-worldmodel writes it).

A row per frame: pictures, the action that was taken there, and the like. No frame follows the last row of an episode,
so its action is left out; we repeat the one before it when we write.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldmodel.data.episodes import EpisodeStore
from worldmodel.data.formats.base import (
    Bounds,
    Described,
    Episode,
    FormatError,
    ImportOptions,
    assemble,
    choose,
    make_meta,
    rows_of,
)
from worldmodel.data.formats.hdf5_items import (
    META,
    StagedFile,
    attribute,
    is_pictures,
    numbers,
    open_file,
    pictures,
    require_raw,
    whole,
)

#: Our names and those of the columns.
NAMES = {"frames": "pixels", "actions": "action", "proprio": "proprio", "states": "state"}
INDEX = ("ep_len", "ep_offset")


def detect(path: Path) -> bool:
    """Whether an HDF5 file has the index of episodes."""
    with open_file(path) as file:
        return all(key in file for key in INDEX)


class _Reader:
    def __init__(self, path: Path, options: ImportOptions) -> None:
        self.path, self.options = path, options
        with open_file(path) as file:
            self.lengths, self.offsets = (
                numbers(str(path), file, key).astype(np.int64).ravel() for key in INDEX
            )
            if len(self.lengths) != len(self.offsets) or not len(self.lengths):
                raise FormatError(f"{path} has {len(self.lengths)} ep_len and {len(self.offsets)} ep_offset")
            columns = {name: node for name, node in file.items() if name not in INDEX}
            cameras = [name for name, node in columns.items() if is_pictures(node)]
            self.camera = choose(str(path), "camera", options.camera, cameras, "camera")
            usual = [name for name in ("action", "actions") if name in columns]
            self.action = choose(
                str(path),
                "action column",
                options.action or (usual or ["action"])[0],
                list(columns),
                "action_key",
            )
            self.proprio = list(options.proprio) or [name for name in ("proprio",) if name in columns]
            self.states = "state" if "state" in columns and "state" not in self.proprio else ""
            rows = len(columns[self.camera])
            ends = self.offsets + self.lengths
            wrong = np.flatnonzero((self.offsets < 0) | (self.lengths < 0) | (ends > rows))
            if len(wrong):
                raise FormatError(
                    f"episode {wrong[0]} of {path} ends at row {ends[wrong[0]]}, there are {rows}"
                )
            own = attribute(path, file, META)
            self.extra = [] if not own else sorted(columns.keys() - NAMES.values())
            if own:
                self.meta = own
                return
            bounds = Bounds()
            bounds.add(numbers(str(path), file, self.action))
            self.meta = make_meta(path, "columns", Described(path.stem), options, bounds)

    def __len__(self) -> int:
        return len(self.lengths)

    def index(self, position: int) -> int:
        return position

    def read(self, position: int) -> Episode:
        where = f"episode {position} of {self.path}"
        rows = slice(int(self.offsets[position]), int(self.offsets[position] + self.lengths[position]))
        with open_file(self.path) as file:
            frames = pictures(where, file, self.camera, rows)
            actions = numbers(where, file, self.action, rows)
            others = {name: numbers(where, file, name, rows) for name in self.extra}
            if self.proprio:
                parts = [numbers(where, file, key, rows) for key in self.proprio]
                others["proprio"] = np.concatenate(
                    [p.reshape(len(p), -1) for p in parts], axis=1, dtype=np.float32
                )
            if self.states:
                states = numbers(where, file, self.states, rows)
                others["states"] = states.reshape(len(states), -1).astype(np.float64)
        return assemble(where, frames, actions, others, self.meta, self.options.action_shift)


def _build(file: h5py.File, store: EpisodeStore) -> None:
    lengths = store.steps[np.argsort([entry["index"] for entry in store.entries])] + 1
    file["ep_len"], file["ep_offset"] = lengths.astype(np.int32), np.cumsum(lengths) - lengths
    start = 0
    for number, episode in enumerate(whole(store)):
        actions, others = rows_of(episode)
        columns = {"frames": np.moveaxis(episode["frames"], 1, -1), "actions": actions, **others}
        columns = {NAMES.get(name, name): array for name, array in columns.items()}
        for name, array in columns.items():
            if number == 0:
                picture = array.ndim == 4
                file.create_dataset(
                    name,
                    shape=(int(lengths.sum()), *array.shape[1:]),
                    dtype=array.dtype,
                    chunks=(1, *array.shape[1:]) if picture else None,
                    **({"compression": "gzip", "compression_opts": 1} if picture else {}),
                )
        different = columns.keys() ^ (file.keys() - set(INDEX))
        different |= {
            name for name in columns if name in file and file[name].shape[1:] != columns[name].shape[1:]
        }
        if different:
            raise FormatError(
                f"episode {number} has another {', '.join(sorted(different))} than those before it"
            )
        for name, array in columns.items():
            file[name][start : start + len(array)] = array
        start += len(actions)


def open_reader(path: Path, options: ImportOptions) -> _Reader:
    """Open a file of columns."""
    return _Reader(path, options)


def open_writer(path: Path, meta: dict[str, Any], mode: str, codecs: dict[str, str]) -> StagedFile:
    """Write a file of columns; pictures are stored without loss."""
    require_raw(codecs)
    return StagedFile(path, meta, mode, _build)

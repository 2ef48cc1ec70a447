"""HDF5 as robomimic and its kin have it: ``data/demo_0/actions``, ``data/demo_0/obs/KEY``, one row per step.

Where there is ``next_obs``, its last picture is the frame that the last action leads to. Otherwise the last action has
no frame after it and is left out. We write a row per frame, and repeat the last action.
"""

from __future__ import annotations

import json
import re
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
    item,
    leaves,
    numbers,
    open_file,
    pictures,
    put,
    require_raw,
    whole,
)

EXTRA = "worldmodel/"  # the group, in each demo, of our arrays that robomimic has no name for


def detect(path: Path) -> bool:
    """Whether an HDF5 file has demos."""
    with open_file(path) as file:
        return isinstance(file.get("data"), h5py.Group) and bool(_demos(file["data"]))


def _demos(group: h5py.Group) -> list[str]:
    names = [name for name in group if re.fullmatch(r"demo_\d+", name)]
    return sorted(names, key=lambda name: int(name[5:]))


class _Reader:
    def __init__(self, path: Path, options: ImportOptions) -> None:
        self.path, self.options = path, options
        with open_file(path) as file:
            data = item(str(path), file, "data")
            assert isinstance(data, h5py.Group)
            self.demos = _demos(data)
            if not self.demos:
                raise FormatError(f"{path} has no data/demo_0")
            first, where = data[self.demos[0]], self._where(0)
            cameras = [key for key, node in leaves(item(where, first, "obs"), "obs/") if is_pictures(node)]
            camera = options.camera and "obs/" + options.camera.removeprefix("obs/")
            self.camera = choose(where, "camera", camera, cameras, "camera")
            self.action = options.action or "actions"
            own = attribute(path, file, META)
            self.proprio = [f"obs/{key.removeprefix('obs/')}" for key in options.proprio]
            if not self.proprio and own and "proprio" in first["obs"]:
                self.proprio = ["obs/proprio"]
            if own:
                self.meta = own
                return
            bounds = Bounds()
            for position, name in enumerate(self.demos):
                bounds.add(numbers(self._where(position), data[name], self.action))
            args = attribute(path, data, "env_args")
            extra: dict[str, Any] = {"env_args": args} if args else {}
            fps = (args.get("env_kwargs") or {}).get("control_freq")
            said = Described(str(args.get("env_name") or path.stem), fps, extra=extra)
            self.meta = make_meta(path, "robomimic", said, options, bounds)

    def __len__(self) -> int:
        return len(self.demos)

    def index(self, position: int) -> int:
        return position

    def _where(self, position: int) -> str:
        return f"{self.demos[position]} of {self.path}"

    def read(self, position: int) -> Episode:
        where = self._where(position)
        with open_file(self.path) as file:
            demo = item(where, file, f"data/{self.demos[position]}")
            assert isinstance(demo, h5py.Group)
            actions = numbers(where, demo, self.action)
            frames = pictures(where, demo, self.camera)
            others: dict[str, np.ndarray] = {}
            if self.proprio:
                parts = [numbers(where, demo, key) for key in self.proprio]
                others["proprio"] = np.concatenate(
                    [p.reshape(len(p), -1) for p in parts], axis=1, dtype=np.float32
                )
            after = "next_" + self.camera
            if len(frames) == len(actions) and after.split("/")[0] in demo and after in demo:
                frames = np.concatenate([frames, pictures(where, demo, after, slice(-1, None))])
                for name, keys in (("proprio", self.proprio),):
                    if name in others:
                        last = [
                            numbers(where, demo, f"next_{key}", slice(-1, None)).reshape(1, -1)
                            for key in keys
                        ]
                        others[name] = np.concatenate(
                            [others[name], np.concatenate(last, axis=1)], dtype=np.float32
                        )
            if EXTRA.strip("/") in demo:
                for key, _ in leaves(demo[EXTRA], EXTRA):
                    others[key.removeprefix(EXTRA)] = numbers(where, demo, key)
        return assemble(where, frames, actions, others, self.meta, self.options.action_shift)


def _build(file: h5py.File, store: EpisodeStore) -> None:
    data = file.create_group("data")
    kwargs = {"control_freq": store.meta.get("fps")}
    args = {"env_name": store.meta.get("env_id", ""), "type": 1, "env_kwargs": kwargs}
    data.attrs["env_args"] = json.dumps(args)
    data.attrs["total"] = int((store.steps + 1).sum())
    for number, episode in enumerate(whole(store)):
        demo = data.create_group(f"demo_{number}")
        actions, others = rows_of(episode)
        put(demo, "obs/frames", np.moveaxis(episode["frames"], 1, -1))
        if "proprio" in others:
            put(demo, "obs/proprio", others.pop("proprio"))
        for key, array in others.items():
            put(demo, EXTRA + key, array)
        put(demo, "actions", actions)
        put(demo, "rewards", np.zeros(len(actions), np.float32))
        put(demo, "dones", (np.arange(len(actions)) == len(actions) - 1).astype(np.int64))
        demo.attrs["num_samples"] = len(actions)


def open_reader(path: Path, options: ImportOptions) -> _Reader:
    """Open a file of demos."""
    return _Reader(path, options)


def open_writer(path: Path, meta: dict[str, Any], mode: str, codecs: dict[str, str]) -> StagedFile:
    """Write a file of demos; pictures are stored without loss."""
    require_raw(codecs)
    return StagedFile(path, meta, mode, _build)

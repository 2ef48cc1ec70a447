"""Minari's HDF5 layout (https://minari.farama.org): ``data/main_data.hdf5`` and ``data/metadata.json``.

``episode_0/observations`` has ``T + 1`` rows and ``episode_0/actions`` ``T``, so its convention is ours. Read and
written without the minari package. Pictures are one observation, or one entry of a dictionary of them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldmodel.atomic import read_json, write_json
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

VERSION = "0.5.3"  # whose layout we write
INFOS = "infos/worldmodel/"


def _folder(path: Path) -> Path:
    return path / "data" if (path / "data" / "main_data.hdf5").is_file() else path


def detect(path: Path) -> bool:
    """Whether a folder holds a Minari dataset."""
    return (_folder(path) / "main_data.hdf5").is_file()


def _episodes(file: h5py.File) -> list[str]:
    names = [name for name in file if re.fullmatch(r"episode_\d+", name)]
    return sorted(names, key=lambda name: int(name[8:]))


class _Reader:
    def __init__(self, path: Path, options: ImportOptions) -> None:
        self.path, self.options = path, options
        self.file = _folder(path) / "main_data.hdf5"
        about = read_json(_folder(path) / "metadata.json")
        with open_file(self.file) as file:
            self.names = _episodes(file)
            if not self.names:
                raise FormatError(f"{self.file} has no episode_0")
            first, where = file[self.names[0]], self._where(0)
            seen = item(where, first, "observations")
            nodes = (
                dict(leaves(seen, "observations/"))
                if isinstance(seen, h5py.Group)
                else {"observations": seen}
            )
            cameras = [key for key, node in nodes.items() if is_pictures(node)]
            camera = options.camera and f"observations/{options.camera.removeprefix('observations/')}"
            self.camera = choose(where, "camera", camera, cameras, "camera")
            self.proprio = [f"observations/{key.removeprefix('observations/')}" for key in options.proprio]
            self.proprio = self.proprio or [key for key in nodes if key == "observations/proprio"]
            self.action = options.action or "actions"
            own = attribute(self.file, file, META)
            self.meta = own or self._describe(about, file)

    def _describe(self, about: dict[str, Any], file: h5py.File) -> dict[str, Any]:
        bounds = Bounds()
        for position, name in enumerate(self.names):
            bounds.add(numbers(self._where(position), file[name], self.action))
        said = Described(self.path.resolve().name)
        try:
            spec = json.loads(about.get("env_spec") or "{}")
            space = json.loads(about.get("action_space") or "{}")
            said.env_id = str(spec.get("id") or about.get("dataset_id") or said.env_id)
            if spec.get("kwargs"):
                said.extra["env_args"] = spec["kwargs"]
            if space.get("type") == "Box" and np.isfinite([space["low"], space["high"]]).all():
                said.action_low = np.ravel(space["low"]).tolist()
                said.action_high = np.ravel(space["high"]).tolist()
            elif space.get("type") not in (None, "Box"):
                raise FormatError(
                    f"{self.path} has actions of type {space['type']}; only Box (numbers) can be read"
                )
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise FormatError(f"metadata.json of {self.path} is damaged ({error})") from error
        return make_meta(self.path, "minari", said, self.options, bounds)

    def __len__(self) -> int:
        return len(self.names)

    def index(self, position: int) -> int:
        return position

    def _where(self, position: int) -> str:
        return f"{self.names[position]} of {self.file}"

    def read(self, position: int) -> Episode:
        where = self._where(position)
        with open_file(self.file) as file:
            group = item(where, file, self.names[position])
            assert isinstance(group, h5py.Group)
            frames = pictures(where, group, self.camera)
            actions = numbers(where, group, self.action)
            others: dict[str, np.ndarray] = {}
            if self.proprio:
                parts = [numbers(where, group, key) for key in self.proprio]
                others["proprio"] = np.concatenate(
                    [p.reshape(len(p), -1) for p in parts], axis=1, dtype=np.float32
                )
            if INFOS.rstrip("/") in group:
                for key, _ in leaves(group[INFOS], INFOS):
                    others[key.removeprefix(INFOS)] = numbers(where, group, key)
        return assemble(where, frames, actions, others, self.meta, self.options.action_shift)


def _build(file: h5py.File, store: EpisodeStore) -> None:
    for number, episode in enumerate(whole(store)):
        group = file.create_group(f"episode_{number}")
        steps = len(episode["actions"])
        put(group, "observations/frames", np.moveaxis(episode["frames"], 1, -1))
        put(group, "actions", episode["actions"].reshape(steps, -1))
        if "proprio" in episode:
            put(group, "observations/proprio", episode["proprio"])
        for key in episode.keys() - {"frames", "actions", "proprio"}:
            put(group, INFOS + key, episode[key])
        put(group, "rewards", np.zeros(steps))
        put(group, "terminations", np.zeros(steps, bool))
        put(group, "truncations", np.arange(steps) == steps - 1)
        group.attrs["id"], group.attrs["total_steps"] = number, steps
    file.flush()
    _write_metadata(file, store)


def _write_metadata(file: h5py.File, store: EpisodeStore) -> None:
    seen, meta = file["episode_0/observations"], store.meta
    spaces = {"frames": _box(seen["frames"], 0, 255)}
    if "proprio" in seen:
        spaces["proprio"] = _box(seen["proprio"], -np.inf, np.inf)
    repeat = meta.get("actions_per_step", 1)
    low, high = list(meta["action_low"]) * repeat, list(meta["action_high"]) * repeat
    action = {"type": "Box", "dtype": "float32", "shape": [len(low)], "low": low, "high": high}
    name = re.sub(r"[^\w-]+", "-", str(meta.get("env_id") or "episodes").partition("-v")[0])
    path = Path(file.filename)
    about = {
        "total_episodes": len(store),
        "total_steps": int(store.steps.sum()),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": json.dumps({"type": "Dict", "subspaces": spaces}),
        "action_space": json.dumps(action),
        "dataset_id": f"worldmodel/{name}-v0",
        "minari_version": VERSION,
        "dataset_size": round(path.stat().st_size / 1e6, 1),
    }
    write_json(path.with_name("metadata.json"), about)


def _box(node: h5py.Dataset, low: float, high: float) -> dict[str, Any]:
    shape = node.shape[1:]
    bounds = {"low": np.full(shape, low).tolist(), "high": np.full(shape, high).tolist()}
    return {"type": "Box", "dtype": str(node.dtype), "shape": list(shape), **bounds}


def open_reader(path: Path, options: ImportOptions) -> _Reader:
    """Open a Minari dataset that is stored as HDF5."""
    return _Reader(path, options)


def open_writer(path: Path, meta: dict[str, Any], mode: str, codecs: dict[str, str]) -> StagedFile:
    """Write a Minari dataset; pictures are stored without loss."""
    require_raw(codecs)
    if not meta.get("action_low"):
        raise ValueError(f"the metadata for {path} have no bounds of the actions, which Minari needs")
    return StagedFile(path / "data" / "main_data.hdf5", meta, mode, _build)

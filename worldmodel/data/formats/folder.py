"""A folder of ``episode_*.mp4``, each with a ``.csv`` or ``.npz`` of the same name beside it.

CSV: a header line, then a row per frame, or one row fewer. Columns that begin with ``action`` are the actions, those
that begin with ``proprio`` the proprioception, and ``timestamp`` holds seconds, if it is there. Other prefixes can be
named.

NPZ: ``actions (T or T+1, A)`` or ``(T, K, A)``; ``proprio (T+1, Q)``, ``timestamps (T+1,)`` and other arrays with a row
per frame are optional.

``dataset.json`` may hold metadata: ``env_id``, ``fps``, ``action_low``, ``action_high``, ``action_names``, ...
"""

from __future__ import annotations

import csv
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.atomic import read_json, write_atomic, write_json
from worldmodel.data.episode_codecs import Codec, encode_video
from worldmodel.data.formats.base import (
    Bounds,
    Described,
    Episode,
    FormatError,
    ImportOptions,
    assemble,
    make_meta,
    own_meta,
    require_even,
)
from worldmodel.data.videos import FrameError, Video, VideoError, open_video

ABOUT = "dataset.json"
SAME_FPS = 0.01  # rates that differ by less than this share are the same


def detect(path: Path) -> bool:
    """Whether a folder holds episodes as videos."""
    return any(path.glob("episode_*.mp4"))


class _Reader:
    def __init__(self, path: Path, options: ImportOptions) -> None:
        self.path, self.options = path, options
        self.videos = sorted(path.glob("episode_*.mp4"))
        if not self.videos:
            raise FormatError(f"{path} has no episode_*.mp4")
        said = read_json(path / ABOUT) if (path / ABOUT).is_file() else {}
        if not isinstance(said, dict):
            raise FormatError(f"{path / ABOUT} is not a JSON object")
        self.fps = float(options.fps or said.get("fps") or 0) or self._video(0).fps
        self.exact = bool(said.pop("written_by_worldmodel", False))
        if self.exact:
            self.meta = said
            # A video without its arrays is what a killed writer left.
            self.videos = [video for video in self.videos if video.with_suffix(".npz").is_file()]
            return
        bounds = Bounds()
        if not (options.action_low or said.get("action_low")):
            for position in range(len(self)):
                bounds.add(self._table(position)["actions"])
        extra = {k: v for k, v in said.items() if k not in ("env_id", "fps", "action_low", "action_high")}
        described = Described(
            str(said.get("env_id") or path.resolve().name),
            self.fps,
            said.get("action_low"),
            said.get("action_high"),
            extra,
        )
        self.meta = make_meta(path, "folder", described, options, bounds)

    def __len__(self) -> int:
        return len(self.videos)

    def index(self, position: int) -> int:
        number = re.fullmatch(r"episode_(\d+)", self.videos[position].stem)
        return int(number.group(1)) if number and self.exact else position

    def _video(self, position: int) -> Video:
        try:
            return open_video(self.videos[position])
        except VideoError as error:
            raise FormatError(str(error)) from error

    def _table(self, position: int) -> dict[str, np.ndarray]:
        stem = self.videos[position].with_suffix("")
        for suffix, read in ((".npz", self._npz), (".csv", self._csv)):
            if stem.with_suffix(suffix).is_file():
                return read(stem.with_suffix(suffix))
        raise FormatError(
            f"{self.videos[position]} has neither {stem.name}.csv nor {stem.name}.npz beside it"
        )

    def _csv(self, path: Path) -> dict[str, np.ndarray]:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
        header = [name.strip() for name in rows[0]] if rows else []
        prefixes = {
            "actions": (self.options.action or "action",),
            "proprio": tuple(self.options.proprio) or ("proprio",),
        }
        prefixes["timestamps"] = ("timestamp",)
        found = {}
        for name, starts in prefixes.items():
            columns = [i for i, column in enumerate(header) if column.startswith(starts)]
            if columns:
                found[name] = np.array([[self._number(path, line, row, header, i) for i in columns]
                                        for line, row in enumerate(rows[1:], 2)])  # fmt: skip
                found[name] = found[name].reshape(len(rows) - 1, len(columns))
        if "actions" not in found:
            raise FormatError(f"{path} has no column that begins with {prefixes['actions'][0]!r}, only "
                              f"{', '.join(header) or 'an empty header'}; name it with action_key=")  # fmt: skip
        if "timestamps" in found:
            found["timestamps"] = found["timestamps"][:, 0]
        return found

    @staticmethod
    def _number(path: Path, line: int, row: list[str], header: list[str], column: int) -> float:
        try:
            return float(row[column])
        except (ValueError, IndexError) as error:
            value = row[column] if column < len(row) else "nothing"
            raise FormatError(f"{path}, line {line}: {header[column]} is {value!r}, not a number") from error

    def _npz(self, path: Path) -> dict[str, np.ndarray]:
        key = self.options.action or "actions"
        try:
            with np.load(path, allow_pickle=False) as content:
                found = {name: content[name] for name in content.files}
        except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
            reason = "it holds Python objects" if "pickle" in str(error).lower() else str(error)[:120]
            raise FormatError(f"{path} cannot be read as npz ({reason})") from error
        if key not in found:
            raise FormatError(
                f"{path} has no {key!r}, only {', '.join(found) or 'nothing'}; name it with action_key=KEY"
            )
        found["actions"] = found.pop(key)
        if self.options.proprio:
            missing = [name for name in self.options.proprio if name not in found]
            if missing:
                raise FormatError(f"{path} has no {missing[0]!r}, only {', '.join(found)}")
            parts = [found.pop(name) for name in self.options.proprio]
            found["proprio"] = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        kept = (
            found
            if self.exact
            else {k: v for k, v in found.items() if k in ("actions", "proprio", "timestamps", "states")}
        )
        for name, array in kept.items():
            if array.dtype.kind not in "biuf" or not array.ndim:
                raise FormatError(f"{name!r} of {path} is {array.dtype} {array.shape}, not rows of numbers")
        return kept

    def read(self, position: int) -> Episode:
        where = f"episode {self.videos[position].stem} of {self.path}"
        table = self._table(position)
        actions = table.pop("actions")
        others = {
            name: array.astype({"proprio": np.float32, "timestamps": np.float64}.get(name, array.dtype))
            for name, array in table.items()
        }
        with self._video(position) as video:
            if not self.options.fps and len(video) > 1 and abs(video.fps / self.fps - 1) > SAME_FPS:
                raise FormatError(
                    f"{where} has {video.fps:.4g} frames per second, the dataset {self.fps:.4g}; "
                    "re-encode it, or give fps= if the file is wrong"
                )
            try:
                frames = video.frames(range(len(video)))
            except FrameError as error:
                raise FormatError(str(error)) from error
        return assemble(where, frames, actions, others, self.meta, self.options.action_shift)


class _Writer:
    def __init__(self, path: Path, meta: dict[str, Any], mode: str, codec: Codec) -> None:
        self.path, self.codec = path, codec
        self.fps = float(meta.get("fps") or 0)
        if not self.fps:
            raise ValueError(f"the metadata of {path} have no fps, which a folder of videos needs; give fps=")
        about = {**own_meta(meta), "written_by_worldmodel": True}
        if (path / ABOUT).exists():
            if mode == "create" or read_json(path / ABOUT) != about:
                raise FileExistsError(
                    f"{path} holds another dataset already; remove it, or choose another path"
                )
        elif path.exists() and any(path.glob("episode_*")):
            raise FileExistsError(f"{path} has episodes that are not ours; choose another path")
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / ABOUT, about)

    def wants(self, index: int) -> bool:
        return not (self.path / f"episode_{index:06d}.npz").exists()

    def write(self, index: int, episode: Episode) -> None:
        require_even(index, episode["frames"])
        stem = self.path / f"episode_{index:06d}"
        arrays = {name: array for name, array in episode.items() if name != "frames"}
        codec = self.codec

        def video(temporary: Path) -> None:
            encode_video(temporary, [episode["frames"]], self.fps, codec.quality, codec.gop)

        def table(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]

        # The arrays last: an episode counts once they are there.
        write_atomic(stem.with_suffix(".mp4"), video)
        write_atomic(stem.with_suffix(".npz"), table)

    def finish(self) -> None:
        pass


def open_reader(path: Path, options: ImportOptions) -> _Reader:
    """Open a folder of videos."""
    return _Reader(path, options)


def open_writer(path: Path, meta: dict[str, Any], mode: str, codecs: dict[str, str]) -> _Writer:
    """Write a folder of videos, by default of good quality (``mp4:18:4``)."""
    codec = Codec.parse(codecs.get("frames", "mp4"))
    if codec.kind != "mp4":
        raise ValueError(f"a folder of videos holds mp4, not {codec}; use codec=mp4:CRF:GOP")
    return _Writer(path, meta, mode, codec)
